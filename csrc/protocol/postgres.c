/* PostgreSQL's messages. Calls nothing but strchr(). */
#include "protocol/postgres.h"

#include <stdbool.h>
#include <string.h>

enum {
    STARTUP = 0, /* the client is to say what it wants */
    ANSWER,      /* it has asked for encryption: one byte comes back */
    SESSION,
    LOST, /* not understood */
};

/* Bits of flags. */
enum {
    UNSYNCED = 1, /* parts of an extended query have come without their Sync */
    COPYING = 2,  /* the server waits for CopyData */
    STREAMS = 4,  /* a replication connection */
    LISTENS = 8,
};

enum {
    START_MOST = 10000,       /* bytes of a start: MAX_STARTUP_PACKET_LENGTH */
    MESSAGE_MOST = 0x3fffffff, /* of any other: PQ_LARGE_MESSAGE_LIMIT */
    OWED_MOST = 1 << 30,
    SSL_REQUEST = 80877103,
    GSS_REQUEST = 80877104,
    CANCEL_REQUEST = 80877102,
};

static const char *const TYPES[] = {"BCDEFHPQSXcdfp", "123ACDEGHIKNRSTVWZcdnstv"}; /* by side */

/* Texts are compared with a word and its NUL. Beyond: it is another one. */
static const char LISTEN[] = "LISTEN", DISCARD[] = "DISCARD ALL", REPLICATION[] = "replication";
enum { OTHER = UINT8_MAX };

static void compare(uint8_t *matched, const char *word, size_t size, unsigned char byte)
{
    if (*matched < size && (unsigned char)word[*matched] == byte)
        ++*matched;
    else
        *matched = OTHER;
}

static void lose(struct tm_postgres_talk *talk)
{
    talk->phase = LOST;
}

/* --- starts --------------------------------------------------------------------------------- */

/* Its parameters: names and values, each with a NUL. */
static void parameter(struct tm_postgres_talk *talk, unsigned char byte)
{
    if (!talk->in_value)
        compare(&talk->matched[0], REPLICATION, sizeof(REPLICATION), byte);
    if (byte)
        return;
    if (!talk->in_value && talk->matched[0] == sizeof(REPLICATION))
        talk->flags |= STREAMS;
    talk->in_value = !talk->in_value;
    talk->matched[0] = 0;
}

static void start_body(struct tm_postgres_talk *talk, const unsigned char *bytes, size_t size)
{
    size_t at = talk->length[TM_FROM_CLIENT] - talk->left[TM_FROM_CLIENT];
    for (size_t i = 0; i < size; i++, at++) {
        if (at < 4)
            talk->code = talk->code << 8 | bytes[i];
        else
            parameter(talk, bytes[i]);
    }
}

static void start_ends(struct tm_postgres_talk *talk)
{
    if (talk->code == SSL_REQUEST || talk->code == GSS_REQUEST) {
        talk->phase = ANSWER;
        talk->matched[0] = talk->in_value = 0;
    } else if (talk->code >> 16 == 3 || talk->code == CANCEL_REQUEST) {
        talk->phase = SESSION;
        talk->owed = 1; /* a cancellation is never answered */
    } else {
        lose(talk);
    }
}

/* N: go on without. */
static void answer(struct tm_postgres_talk *talk, int side, unsigned char byte)
{
    talk->phase = side == TM_FROM_SERVER && byte == 'N' ? STARTUP : LOST;
}

/* --- messages ------------------------------------------------------------------------------- */

static void is_owed(struct tm_postgres_talk *talk, uint8_t type)
{
    if (talk->owed >= OWED_MOST)
        lose(talk);
    talk->owed++;
    talk->last = type;
}

static void client_begins(struct tm_postgres_talk *talk, uint8_t type)
{
    switch (type) {
    case 'Q': case 'F':
        is_owed(talk, type);
        break;
    case 'S':
        if (talk->flags & COPYING)
            break;
        is_owed(talk, type);
        talk->flags &= (uint8_t)~UNSYNCED;
        break;
    case 'P': case 'B': case 'E': case 'D': case 'C': case 'H':
        talk->flags |= UNSYNCED;
        break;
    case 'c': case 'f':
        talk->flags &= (uint8_t)~COPYING;
        break;
    case 'X': /* it leaves */
        lose(talk);
        break;
    default:
        break;
    }
}

/* A Sync that was sent along with the Execute is one of those that are ignored. */
static void copy_in(struct tm_postgres_talk *talk)
{
    if (talk->owed > 1) {
        lose(talk);
        return;
    }
    if (talk->owed == 0 || talk->last == 'S') {
        talk->owed = 0;
        talk->flags |= UNSYNCED;
    }
    talk->flags |= COPYING;
}

static void server_begins(struct tm_postgres_talk *talk, uint8_t type)
{
    if (type == 'Z' && (talk->length[TM_FROM_SERVER] != 1 || talk->owed == 0))
        lose(talk);
    else if (type == 'G')
        copy_in(talk);
    else if (type == 'W')
        talk->flags |= STREAMS;
    else if (type == 'E')
        talk->flags &= (uint8_t)~COPYING;
    else if (type == 'C')
        talk->matched[0] = talk->matched[1] = 0;
}

/* The few whose text matters: the status, and the names of commands that are done. */
static void server_body(struct tm_postgres_talk *talk, const unsigned char *bytes, size_t size)
{
    size_t at = talk->length[TM_FROM_SERVER] - talk->left[TM_FROM_SERVER];
    if (talk->type[TM_FROM_SERVER] == 'Z')
        talk->status = bytes[0];
    if (talk->type[TM_FROM_SERVER] != 'C')
        return;
    for (size_t i = 0; i < size && at + i <= sizeof(DISCARD); i++) {
        compare(&talk->matched[0], LISTEN, sizeof(LISTEN), bytes[i]);
        compare(&talk->matched[1], DISCARD, sizeof(DISCARD), bytes[i]);
    }
}

static void server_ends(struct tm_postgres_talk *talk)
{
    uint8_t type = talk->type[TM_FROM_SERVER];
    if (type == 'Z' && talk->owed)
        talk->owed--;
    else if (type == 'C' && talk->matched[0] == sizeof(LISTEN))
        talk->flags |= LISTENS;
    else if (type == 'C' && talk->matched[1] == sizeof(DISCARD))
        talk->flags &= (uint8_t)~LISTENS;
}

/* --- framing -------------------------------------------------------------------------------- */

static void message_ends(struct tm_postgres_talk *talk, int side)
{
    if (side == TM_FROM_SERVER)
        server_ends(talk);
    else if (talk->phase == STARTUP)
        start_ends(talk);
}

/* Type and length are there. */
static void message_begins(struct tm_postgres_talk *talk, int side, uint32_t length)
{
    bool is_start = talk->phase == STARTUP;
    if (length < (is_start ? 8 : 4) || length > (uint32_t)(is_start ? START_MOST : MESSAGE_MOST) ||
        (!is_start && (!talk->type[side] || !strchr(TYPES[side], talk->type[side])))) {
        lose(talk);
        return;
    }
    talk->length[side] = talk->left[side] = length - 4;
    if (side == TM_FROM_SERVER)
        server_begins(talk, talk->type[side]);
    else if (!is_start)
        client_begins(talk, talk->type[side]);
    if (talk->left[side] == 0)
        message_ends(talk, side);
}

static void head_byte(struct tm_postgres_talk *talk, int side, unsigned char byte)
{
    if (talk->phase == ANSWER) {
        answer(talk, side, byte);
    } else if (talk->phase == STARTUP && side == TM_FROM_SERVER) {
        lose(talk);
    } else if (talk->have[side] == 0 && talk->phase == SESSION) {
        talk->type[side] = byte;
        talk->length[side] = 0;
        talk->have[side] = 1;
    } else {
        if (talk->have[side] == 0) { /* a start has no type */
            talk->type[side] = 0;
            talk->length[side] = 0;
            talk->have[side] = 1;
        }
        talk->length[side] = talk->length[side] << 8 | byte;
        if (++talk->have[side] >= 5) {
            talk->have[side] = 0;
            message_begins(talk, side, talk->length[side]);
        }
    }
}

static void body(struct tm_postgres_talk *talk, int side, const unsigned char *bytes, size_t size)
{
    if (side == TM_FROM_SERVER)
        server_body(talk, bytes, size);
    else if (talk->phase == STARTUP)
        start_body(talk, bytes, size);
}

void tm_postgres_feed(struct tm_postgres_talk *talk, int side, const unsigned char *bytes,
                      size_t size)
{
    size_t at = 0;
    while (at < size && talk->phase < LOST) {
        size_t part = size - at < talk->left[side] ? size - at : talk->left[side];
        if (part == 0) {
            head_byte(talk, side, bytes[at++]);
            continue;
        }
        body(talk, side, bytes + at, part);
        at += part;
        talk->left[side] -= (uint32_t)part;
        if (talk->left[side] == 0)
            message_ends(talk, side);
    }
}

enum tm_moment tm_postgres_moment(const struct tm_postgres_talk *talk)
{
    if (talk->phase >= LOST)
        return TM_MOMENT_UNKNOWN;
    if (talk->flags & STREAMS)
        return TM_MOMENT_SUBSCRIBED;
    if (talk->phase != SESSION || talk->owed || talk->flags & (UNSYNCED | COPYING) ||
        talk->have[0] || talk->have[1] || talk->left[0] || talk->left[1])
        return TM_MOMENT_BUSY;
    if (talk->status == 'T' || talk->status == 'E')
        return TM_MOMENT_TRANSACTION;
    if (talk->flags & LISTENS)
        return TM_MOMENT_SUBSCRIBED;
    return talk->status == 'I' ? TM_MOMENT_SAFE : TM_MOMENT_UNKNOWN;
}
