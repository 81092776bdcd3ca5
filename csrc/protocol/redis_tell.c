/* Telling the next server what the one before knows. Calls nothing but memcpy() and memset(). */
#include <string.h>

#include "protocol/kept_parts.h"
#include "protocol/redis_parts.h"

/* What an entry is called: what stands in front of its arguments. */
static const struct {
    const char *text;
    size_t words;
} NAMES[TM_KEPT_KINDS] = {
    [TM_KEPT_AUTH] = {"$4\r\nAUTH\r\n", 1},
    [TM_KEPT_HELLO] = {"$5\r\nHELLO\r\n", 1},
    [TM_KEPT_NAME] = {"$6\r\nCLIENT\r\n$7\r\nSETNAME\r\n", 2},
    [TM_KEPT_LIB_NAME] = {"$6\r\nCLIENT\r\n$7\r\nSETINFO\r\n$8\r\nLIB-NAME\r\n", 3},
    [TM_KEPT_LIB_VER] = {"$6\r\nCLIENT\r\n$7\r\nSETINFO\r\n$7\r\nLIB-VER\r\n", 3},
    [TM_KEPT_NO_EVICT] = {"$6\r\nCLIENT\r\n$8\r\nNO-EVICT\r\n", 2},
    [TM_KEPT_NO_TOUCH] = {"$6\r\nCLIENT\r\n$8\r\nNO-TOUCH\r\n", 2},
    [TM_KEPT_SELECT] = {"$6\r\nSELECT\r\n", 1},
};

/* Is answered whatever is kept: with an error where the server wants to be told more. */
static const char LAST[] = "*1\r\n$4\r\nPING\r\n";

/* Without the NUL at its end. */
static size_t put_text(unsigned char *to, const char *text)
{
    size_t size = 0;
    for (; text[size]; size++)
        to[size] = (unsigned char)text[size];
    return size;
}

/* `sign`, a number below 1,000, and an end of line. */
static size_t put_number(unsigned char *to, char sign, size_t number)
{
    size_t size = 0;
    to[size++] = (unsigned char)sign;
    if (number >= 100)
        to[size++] = (unsigned char)('0' + number / 100 % 10);
    if (number >= 10)
        to[size++] = (unsigned char)('0' + number / 10 % 10);
    to[size++] = (unsigned char)('0' + number % 10);
    return size + put_text(to + size, "\r\n");
}

static size_t put_entry(unsigned char *to, const struct tm_kept_entry *entry)
{
    struct tm_kept_argument argument;
    size_t size, count = NAMES[entry->kind].words;
    for (size_t at = 0; tm_kept_next_argument(entry, &at, &argument);)
        count++;
    size = put_number(to, '*', count);
    size += put_text(to + size, NAMES[entry->kind].text);
    for (size_t at = 0; tm_kept_next_argument(entry, &at, &argument);) {
        size += put_number(to + size, '$', argument.size);
        memcpy(to + size, argument.bytes, argument.size);
        size += argument.size;
        size += put_text(to + size, "\r\n");
    }
    return size;
}

/* Of each entry at most 64 bytes more than it has itself, and there are 8 kinds. */
_Static_assert(TM_REDIS_TOLD_MOST >= TM_KEPT_BYTES + (TM_KEPT_KINDS - 1) * 64 + sizeof(LAST),
               "room for all of it");

size_t tm_redis_tell(struct tm_redis_talk *talk, const struct tm_kept *kept,
                     unsigned char bytes[TM_REDIS_TOLD_MOST])
{
    struct tm_kept_entry entry;
    size_t size = 0;
    for (size_t at = 0; tm_kept_next_entry(kept, &at, &entry);)
        size += put_entry(bytes + size, &entry);
    size += put_text(bytes + size, LAST);
    memset(talk, 0, sizeof(*talk));
    tm_redis_feed(talk, NULL, TM_FROM_CLIENT, bytes, size);
    return size;
}

/* To the last one, PING, a client may have no right: it is logged in all the same. */
static bool is_taken(const struct tm_redis_talk *talk)
{
    if (talk->kind == '-')
        return talk->owed == 0 && talk->matched == SAYS_NOPERM;
    return talk->kind == '+' || talk->kind == '%' || talk->kind == '*';
}

bool tm_redis_told(struct tm_redis_talk *talk, const unsigned char *bytes, size_t size)
{
    for (size_t at = 0; at < size; at++) {
        uint32_t owed = talk->owed;
        tm_redis_feed(talk, NULL, TM_FROM_SERVER, bytes + at, 1);
        if (talk->state[TM_FROM_SERVER] == LOST)
            return false;
        if (talk->owed != owed && !is_taken(talk))
            return false;
    }
    return true;
}
