/* What a client of Redis has said of itself and its endpoint has taken: who it is, its name, which
 * database. It is told to the next endpoint when the connection moves there (conn/replay.h).
 *
 *     tm_kept_begin(kept)        before the first byte of a connection that may move
 *     tm_kept_seen(kept, ...)    for each step of redis.c
 *     tm_kept_seal(kept)         after the bytes of one call
 *
 * The bytes are, one behind the other:
 *
 *     size      what holds: entries by kind, each kind once, in the order in which they are told
 *     pending   requests whose answers have not come, in order
 *     taking    the arguments of the request that is being read
 *
 *     an entry    kind, size of the arguments (2 bytes), arguments
 *     a request   how many replies later than the one before it is answered (4 bytes), enum
 *                 tm_redis_command, size of the arguments (2 bytes), arguments
 *     an argument its size (1 byte), and itself
 *
 * The rest is 0: what is dropped is wiped. There are passwords in it. It is in memory that workers
 * share with control and is excluded from core files; nothing prints it.
 *
 * What can't be told again, or does not fit, makes the connection stay where it is (OTHER,
 * TOO_MUCH), and nothing is kept then. */
#ifndef TM_KEPT_H
#define TM_KEPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TM_KEPT_BYTES 296

enum tm_kept_state {
    TM_KEPT_NOT = 0,  /* nobody has listened from the start */
    TM_KEPT_WHOLE,
    TM_KEPT_OTHER,    /* the endpoint knows something that the next one can't be told */
    TM_KEPT_TOO_MUCH,
    TM_KEPT_STATES
};

/* In the order in which they are told. Nothing else may be said before AUTH. */
enum tm_kept_kind {
    TM_KEPT_AUTH = 1, /* a password, or a user and a password */
    TM_KEPT_HELLO,    /* version of the protocol */
    TM_KEPT_NAME,     /* CLIENT SETNAME */
    TM_KEPT_LIB_NAME, /* CLIENT SETINFO LIB-NAME */
    TM_KEPT_LIB_VER,
    TM_KEPT_NO_EVICT, /* CLIENT NO-EVICT */
    TM_KEPT_NO_TOUCH,
    TM_KEPT_SELECT,
    TM_KEPT_KINDS
};

struct tm_kept {
    uint32_t seal;     /* of all that follows; 0 = it is being changed */
    uint32_t left;     /* replies up to that to the first request that is pending; 0 = none is */
    uint32_t version;  /* of what holds: another number after each change */
    uint16_t size;
    uint16_t pending;
    uint16_t taking;
    uint16_t argument; /* bytes of the argument that is being read, the last ones of `taking` */
    uint8_t state;     /* enum tm_kept_state */
    uint8_t odd;       /* the request that is being read can't be told again */
    uint16_t unused;
    unsigned char bytes[TM_KEPT_BYTES];
};

_Static_assert(sizeof(struct tm_kept) == 320, "as long as what is known of TLS");

void tm_kept_begin(struct tm_kept *kept);
void tm_kept_wipe(struct tm_kept *kept);
void tm_kept_seal(struct tm_kept *kept);
bool tm_kept_is_sealed(const struct tm_kept *kept);

/* Whether the next endpoint can be told all of it. */
static inline bool tm_kept_is_whole(const struct tm_kept *kept)
{
    return kept->state == TM_KEPT_WHOLE && tm_kept_is_sealed(kept);
}

#endif
