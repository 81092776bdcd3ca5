/* Redis's replies, and both sides. Calls nothing but memchr() and strchr(). */
#include <stdbool.h>
#include <string.h>

#include "protocol/redis_parts.h"

enum { WORD_BITS = 4, NO_WORD = UINT8_MAX };

/* No two begin with the same letter. `matched` has the number of one and, in its low bits, how much
 * of it was there. */
static const char WORDS[][1 << WORD_BITS] = {"EXECABORT", "NOPERM", "OK\r"};
enum { WORD_COUNT = sizeof(WORDS) / sizeof(WORDS[0]) };

static uint8_t match(uint8_t matched, unsigned char byte)
{
    uint8_t number = matched >> WORD_BITS, at = matched & ((1 << WORD_BITS) - 1);
    if (matched == 0)
        while (number < WORD_COUNT && byte != (unsigned char)WORDS[number][0])
            number++;
    if (number >= WORD_COUNT)
        return NO_WORD;
    if (WORDS[number][at] == '\0')
        return matched; /* a whole one */
    return byte == (unsigned char)WORDS[number][at] ? (uint8_t)(number << WORD_BITS | (at + 1))
                                                    : NO_WORD;
}

static void end_has_been_answered(struct tm_redis_talk *talk)
{
    bool is_error = talk->kind == '!' ||
                    (talk->kind == '-' && talk->matched != SAYS_ABORTED);
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
    for (size_t i = 0; talk->type == talk->kind && i < part; i++) {
        uint8_t matched = match(talk->matched, bytes[i]);
        if (matched == talk->matched)
            break;
        talk->matched = matched;
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

static size_t step(struct tm_redis_talk *talk, int side, const unsigned char *bytes, size_t size)
{
    if (talk->state[side] == BYTES && side == TM_FROM_CLIENT)
        return tm_redis_argument_bytes(talk, bytes, size);
    if (talk->state[side] == BYTES)
        return value_bytes(talk, size);
    if (talk->state[side] == LINE)
        return line_bytes(talk, bytes, size);
    if (side == TM_FROM_CLIENT)
        tm_redis_client_byte(talk, bytes[0]);
    else
        server_byte(talk, bytes[0]);
    return 1;
}

void tm_redis_feed(struct tm_redis_talk *talk, struct tm_kept *kept, int side,
                   const unsigned char *bytes, size_t size)
{
    size_t at = 0;
    while (at < size && talk->state[side] < LOST && !(talk->flags & SUBSCRIBED)) {
        if (kept) {
            struct tm_redis_talk before = *talk;
            size_t took = step(talk, side, bytes + at, size - at);
            tm_kept_seen(kept, &before, talk, side, bytes + at, took);
            at += took;
        } else {
            at += step(talk, side, bytes + at, size - at);
        }
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
