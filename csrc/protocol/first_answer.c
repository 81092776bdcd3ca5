/* First answers. Calls nothing. */
#include "protocol/first_answer.h"

enum { PATTERNS = 2 };

/* What errors begin with. `*` is any byte, `!` any but 0. */
static const char *const errors[TM_PROTOCOLS][PATTERNS] = {
    [TM_PROTOCOL_POSTGRES] = {"E"},                      /* ErrorResponse */
    [TM_PROTOCOL_MYSQL] = {"****\xff"},                  /* a length, a number, ERR_Packet */
    [TM_PROTOCOL_REDIS] = {"-"},
    [TM_PROTOCOL_MEMCACHED] = {"ERROR", "SERVER_ERROR"},
    [TM_PROTOCOL_MQTT] = {"\x20**!"},                    /* CONNACK: flags, a reason */
    [TM_PROTOCOL_HTTP1] = {"HTTP/1.**5"},
};

static bool goes_with(char pattern, unsigned char byte)
{
    return pattern == '*' || (pattern == '!' ? byte != 0 : (unsigned char)pattern == byte);
}

uint8_t tm_first_answer_feed(uint8_t known, enum tm_protocol protocol, uint32_t at,
                             const unsigned char *bytes, size_t size)
{
    if (size && !(known & TM_FIRST_BEGUN)) {
        known = TM_FIRST_BEGUN;
        for (unsigned i = 0; i < PATTERNS; i++)
            known |= errors[protocol][i] ? 1u << i : 0;
    }
    for (size_t n = 0; n < size && known & ((1u << PATTERNS) - 1); n++, at++)
        for (unsigned i = 0; i < PATTERNS; i++) {
            if (!(known & 1u << i))
                continue;
            if (!goes_with(errors[protocol][i][at], bytes[n]))
                known &= (uint8_t)~(1u << i);
            else if (errors[protocol][i][at + 1] == '\0')
                known = TM_FIRST_BEGUN | TM_FIRST_ERROR;
        }
    return known;
}
