#include "protocol/first_answer.h"

#include <string.h>

static bool begins_with(const unsigned char *bytes, size_t size, const char *word)
{
    size_t length = strlen(word);
    return size >= length && memcmp(bytes, word, length) == 0;
}

bool tm_is_error_answer(enum tm_protocol protocol, const unsigned char *bytes, size_t size)
{
    switch (protocol) {
    case TM_PROTOCOL_POSTGRES: /* ErrorResponse */
        return size >= 1 && bytes[0] == 'E';
    case TM_PROTOCOL_MYSQL: /* ERR_Packet, behind a length and a number */
        return size >= 5 && bytes[4] == 0xff;
    case TM_PROTOCOL_REDIS:
        return size >= 1 && bytes[0] == '-';
    case TM_PROTOCOL_MEMCACHED:
        return begins_with(bytes, size, "ERROR") || begins_with(bytes, size, "SERVER_ERROR");
    case TM_PROTOCOL_MQTT: /* CONNACK: flags, and a reason that is not 0 */
        return size >= 4 && bytes[0] == 0x20 && bytes[3] != 0;
    case TM_PROTOCOL_HTTP1:
        return size >= 10 && begins_with(bytes, size, "HTTP/1.") && bytes[9] == '5';
    case TM_PROTOCOL_NONE:
    case TM_PROTOCOLS:
        break;
    }
    return false;
}
