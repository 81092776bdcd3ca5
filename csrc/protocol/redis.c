/* Redis's replies, and both sides. Calls nothing but memchr() and strchr(). */
#include <stdbool.h>
#include <string.h>

#include "protocol/redis_parts.h"

static const char ABORTED[] = "EXECABORT";

static void end_has_been_answered(struct tm_redis_talk *talk)
{
    bool is_error = talk->kind == '!' ||
                    (talk->kind == '-' && talk->matched != sizeof(ABORTED) - 1);
    if (!is_error && !(talk->flags & REOPENED))
        talk->flags &= (uint8_t)~(MULTI | WATCH);
    talk->flags &= (uint8_t)~REOPENED;
}

static void reply_ends(struct tm_redis_talk *talk)
{
    if (talk->kind == '>' || talk->flags & SUBSCRIBED)
        return;
    if (talk->owed == 0) {
        tm_redis_lose(talk);
        return;
    }
    talk->owed--;
    if (talk->until_end > 0 && --talk->until_end == 0)
        end_has_been_answered(talk);
}

static void value_ends(struct tm_redis_talk *talk)
{
    talk->state[TM_FROM_SERVER] = START;
    talk->values--;
    if (talk->values == 0)
        reply_ends(talk);
}

/* What is nested counts as so many values more. An attribute is none itself. */
static void count_of_values(struct tm_redis_talk *talk, uint32_t count)
{
    uint32_t more = talk->type == '%' || talk->type == '|' ? 2 * count : count;
    if (talk->type == '|')
        more++;
    if (more > NUMBER_MOST || talk->values > NUMBER_MOST) {
        tm_redis_lose(talk);
        return;
    }
    talk->values += more;
    value_ends(talk);
}

static void value_start(struct tm_redis_talk *talk, unsigned char byte)
{
    if (talk->values == 0) {
        talk->values = 1;
        talk->kind = byte;
        talk->matched = 0;
    }
    talk->type = byte;
    if (byte && strchr("+-:,#_(", byte))
        talk->state[TM_FROM_SERVER] = LINE;
    else if (byte && strchr("$!=", byte))
        tm_redis_number_begins(talk, TM_FROM_SERVER, LENGTH);
    else if (byte && strchr("*~>%|", byte))
        tm_redis_number_begins(talk, TM_FROM_SERVER, COUNT);
    else
        tm_redis_lose(talk);
}

/* Up to the end of a line, or all there is. Returns how many it has taken. */
static size_t line_bytes(struct tm_redis_talk *talk, const unsigned char *bytes, size_t size)
{
    const unsigned char *end = memchr(bytes, '\n', size);
    size_t part = end ? (size_t)(end - bytes) + 1 : size;
    for (size_t i = 0; talk->kind == '-' && i < part && talk->matched < sizeof(ABORTED) - 1; i++) {
        bool same = bytes[i] == (unsigned char)ABORTED[talk->matched];
        talk->matched = same ? (uint8_t)(talk->matched + 1) : UINT8_MAX;
    }
    if (end)
        value_ends(talk);
    return part;
}

static size_t value_bytes(struct tm_redis_talk *talk, size_t size)
{
    uint32_t left = talk->number[TM_FROM_SERVER];
    size_t part = size < left ? size : left;
    talk->number[TM_FROM_SERVER] = left - (uint32_t)part;
    if (talk->number[TM_FROM_SERVER] == 0)
        value_ends(talk);
    return part;
}

static void server_byte(struct tm_redis_talk *talk, unsigned char byte)
{
    uint8_t state = talk->state[TM_FROM_SERVER];
    if (state == START)
        value_start(talk, byte);
    else if (state == COUNT)
        tm_redis_number_byte(talk, TM_FROM_SERVER, byte, END_OF_COUNT);
    else if (state == LENGTH)
        tm_redis_number_byte(talk, TM_FROM_SERVER, byte, END_OF_LENGTH);
    else if (state == NEGATIVE)
        tm_redis_negative_byte(talk, TM_FROM_SERVER, byte);
    else if (state == END_OF_COUNT && byte == '\n')
        count_of_values(talk, talk->number[TM_FROM_SERVER]);
    else if (state == END_OF_NULL && byte == '\n')
        value_ends(talk);
    else if (state == END_OF_LENGTH && byte == '\n') {
        talk->number[TM_FROM_SERVER] += 2;
        talk->state[TM_FROM_SERVER] = BYTES;
    } else
        tm_redis_lose(talk);
}

/* --- both ----------------------------------------------------------------------------------- */

void tm_redis_feed(struct tm_redis_talk *talk, int side, const unsigned char *bytes, size_t size)
{
    size_t at = 0;
    while (at < size && talk->state[side] < LOST && !(talk->flags & SUBSCRIBED)) {
        if (talk->state[side] == BYTES && side == TM_FROM_CLIENT)
            at += tm_redis_argument_bytes(talk, bytes + at, size - at);
        else if (talk->state[side] == BYTES)
            at += value_bytes(talk, size - at);
        else if (talk->state[side] == LINE)
            at += line_bytes(talk, bytes + at, size - at);
        else if (side == TM_FROM_CLIENT)
            tm_redis_client_byte(talk, bytes[at++]);
        else
            server_byte(talk, bytes[at++]);
    }
}

enum tm_moment tm_redis_moment(const struct tm_redis_talk *talk)
{
    if (talk->state[0] >= LOST || talk->state[1] >= LOST)
        return TM_MOMENT_UNKNOWN;
    if (talk->flags & SUBSCRIBED)
        return TM_MOMENT_SUBSCRIBED;
    if (talk->owed || talk->values || talk->state[0] != START || talk->state[1] != START)
        return TM_MOMENT_BUSY;
    return talk->flags & (MULTI | WATCH) ? TM_MOMENT_TRANSACTION : TM_MOMENT_SAFE;
}
