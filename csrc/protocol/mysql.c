/* MySQL's packets. Calls nothing. */
#include <stdbool.h>

#include "protocol/mysql_parts.h"

static const uint8_t ANSWERS[] = {
    /* 0 */ NEVER,     NEVER,   ONE,       RESULTS, ROWS_ONLY, ONE,     ONE,     ONE,
    /* 8 */ NEVER,     TEXT,    RESULTS,   NEVER,   ONE,       ONE,     ONE,     NEVER,
    /* 16 */ NEVER,    USER,    REPLICA,   REPLICA, NEVER,     ONE,     PREPARED, RESULTS,
    /* 24 */ NOTHING,  NOTHING, ONE,       ONE,     ROWS_ONLY, NEVER,   REPLICA, ONE,
};
enum { BULK_EXECUTE = 250 };


/* Capabilities. */
enum {
    CAN_EXTEND_NOT = 1, /* MySQL; MariaDB has more of them instead */
    CAN_COMPRESS = 1 << 5,
    CAN_41 = 1 << 9,
    CAN_TLS = 1 << 11,
    CAN_END_BY_OK = 1 << 24,
    CAN_LEAVE_OUT = 1 << 25,
    CAN_COMPRESS_ZSTD = 1 << 26,
};
enum { MARIADB_CAN_CACHE = 1 << 4 }; /* of its own ones */

/* --- the start ------------------------------------------------------------------------------ */

static void greeting_byte(struct tm_mysql_talk *talk, uint32_t at, unsigned char byte)
{
    if (at == 0 && byte != 10) /* an error, or a version of the time before */
        tm_mysql_lose(talk);
    if (at == 0 || talk->field == 0) {
        talk->field = at > 0 && byte == '\0'; /* the server's version ends */
        talk->skip = 0;
        return;
    }
    uint8_t place = talk->skip < UINT8_MAX ? talk->skip++ : UINT8_MAX;
    if (place == 13 || place == 14)
        talk->capabilities |= (uint32_t)byte << 8 * (place - 13);
    else if (place == 18 || place == 19)
        talk->capabilities |= (uint32_t)byte << (16 + 8 * (place - 18));
    else if (place == 27 && !(talk->capabilities & CAN_EXTEND_NOT) && byte & MARIADB_CAN_CACHE)
        talk->flags |= CACHED;
}

static void login_byte(struct tm_mysql_talk *talk, uint32_t at, unsigned char byte)
{
    if (at == 0)
        talk->count = 0;
    if (at < 4)
        talk->count |= (uint32_t)byte << 8 * at;
    else if (at == 28 && (talk->count & CAN_EXTEND_NOT || !(byte & MARIADB_CAN_CACHE)))
        talk->flags &= (uint8_t)~CACHED;
}

static void login_ends(struct tm_mysql_talk *talk)
{
    uint32_t both = talk->capabilities & talk->count;
    talk->phase = PROOF;
    if (talk->size[TM_FROM_CLIENT] < LOGIN_LEAST || !(both & CAN_41) ||
        both & (CAN_TLS | CAN_COMPRESS | CAN_COMPRESS_ZSTD | CAN_LEAVE_OUT))
        tm_mysql_lose(talk);
    if (both & CAN_END_BY_OK)
        talk->flags |= NO_EOF;
    talk->capabilities = both;
    talk->count = 0;
}

/* --- commands ------------------------------------------------------------------------------- */

static void command(struct tm_mysql_talk *talk, unsigned char byte)
{
    uint8_t answer = byte < sizeof(ANSWERS) ? ANSWERS[byte] : NEVER;
    if (byte == BULK_EXECUTE)
        answer = RESULTS;
    if (answer == NEVER || (answer != NOTHING && talk->queued >= TM_MYSQL_QUEUE)) {
        tm_mysql_lose(talk);
    } else if (answer == REPLICA) {
        talk->flags |= STREAMS;
    } else if (answer != NOTHING) {
        talk->queue[talk->queued++] = answer;
        if (talk->queued == 1)
            talk->step = FIRST;
    }
}

/* Its head is there. Whether its first byte is a command. */
static bool client_begins(struct tm_mysql_talk *talk, uint8_t number)
{
    uint32_t size = talk->size[TM_FROM_CLIENT];
    bool continues = talk->flags & GOES_ON;
    talk->flags = (uint8_t)((talk->flags & ~GOES_ON) | (size == WHOLE ? GOES_ON : 0));
    if (talk->phase == GREETING)
        tm_mysql_lose(talk);
    if (talk->phase != SESSION || continues)
        return false;
    if (talk->flags & FILE_DATA) {
        if (size == 0)
            talk->flags &= (uint8_t)~FILE_DATA;
        return false;
    }
    if (talk->queued && talk->queue[0] == USER && number)
        return false;
    if (number || size == 0)
        tm_mysql_lose(talk);
    return true;
}

/* --- framing -------------------------------------------------------------------------------- */

static void packet_ends(struct tm_mysql_talk *talk, int side)
{
    if (side == TM_FROM_CLIENT) {
        if (talk->phase == LOGIN)
            login_ends(talk);
    } else if (talk->phase == GREETING) {
        talk->phase = LOGIN;
    } else if (!(talk->flags & SERVER_GOES_ON)) {
        tm_mysql_answer_packet_ends(talk);
    }
}

static void body_byte(struct tm_mysql_talk *talk, int side, unsigned char byte)
{
    uint32_t at = talk->size[side] - talk->left[side];
    if (side == TM_FROM_CLIENT && talk->phase == LOGIN)
        login_byte(talk, at, byte);
    else if (side == TM_FROM_SERVER && talk->phase == GREETING)
        greeting_byte(talk, at, byte);
    else if (side == TM_FROM_SERVER && talk->phase > LOGIN)
        tm_mysql_answer_byte(talk, at, byte);
    else if (side == TM_FROM_CLIENT && talk->is_command)
        command(talk, byte);
    else
        tm_mysql_lose(talk); /* it is the client's turn */
}

static void packet_begins(struct tm_mysql_talk *talk, int side, uint8_t number)
{
    uint32_t size = talk->size[side];
    talk->left[side] = size;
    if (side == TM_FROM_CLIENT) {
        talk->is_command = client_begins(talk, number);
    } else {
        bool continues = talk->flags & SERVER_GOES_ON;
        talk->flags = (uint8_t)((talk->flags & ~SERVER_GOES_ON) |
                                (size == WHOLE ? SERVER_GOES_ON : 0));
        talk->shape = continues ? CONTINUES : SKIPPED;
        if (size == 0 && !continues)
            tm_mysql_lose(talk);
    }
    if (size == 0)
        packet_ends(talk, side);
}

/* Three bytes of size, and a number. */
static void head_byte(struct tm_mysql_talk *talk, int side, unsigned char byte)
{
    uint8_t at = talk->have[side]++ & 3;
    if (at == 0)
        talk->size[side] = 0;
    if (at < 3) {
        talk->size[side] |= (uint32_t)byte << 8 * at;
    } else {
        talk->have[side] = 0;
        packet_begins(talk, side, byte);
    }
}

/* Whether the next byte of a packet matters. */
static bool is_looked_at(const struct tm_mysql_talk *talk, int side)
{
    uint32_t at = talk->size[side] - talk->left[side];
    if (side == TM_FROM_CLIENT)
        return talk->phase == LOGIN ? at < LOOKED_AT : at == 0 && talk->is_command;
    if (talk->phase == GREETING || at == 0)
        return true;
    return talk->shape != SKIPPED && talk->shape != CONTINUES && at < LOOKED_AT;
}

void tm_mysql_feed(struct tm_mysql_talk *talk, int side, const unsigned char *bytes, size_t size)
{
    size_t at = 0;
    while (at < size && talk->phase < LOST) {
        size_t part = size - at < talk->left[side] ? size - at : talk->left[side];
        if (part == 0) {
            head_byte(talk, side, bytes[at++]);
            continue;
        }
        if (is_looked_at(talk, side)) {
            part = 1;
            body_byte(talk, side, bytes[at]);
        }
        at += part;
        talk->left[side] -= (uint32_t)part;
        if (talk->left[side] == 0)
            packet_ends(talk, side);
    }
}

enum tm_moment tm_mysql_moment(const struct tm_mysql_talk *talk)
{
    if (talk->phase >= LOST)
        return TM_MOMENT_UNKNOWN;
    if (talk->flags & STREAMS)
        return TM_MOMENT_SUBSCRIBED;
    if (talk->phase != SESSION || talk->queued || talk->have[0] || talk->have[1] ||
        talk->left[0] || talk->left[1] || talk->flags & (GOES_ON | SERVER_GOES_ON | FILE_DATA))
        return TM_MOMENT_BUSY;
    if (talk->status & (IN_TRANSACTION | IN_READ_ONLY_TRANSACTION))
        return TM_MOMENT_TRANSACTION;
    return talk->flags & DOUBT ? TM_MOMENT_UNKNOWN : TM_MOMENT_SAFE;
}
