/* Redis's protocols RESP2 and RESP3: https://redis.io/docs/latest/develop/reference/protocol-spec/
 *
 * Each request is owed one reply, which may be nested; pushes are none. EXEC and DISCARD end a
 * transaction if their reply says so. A connection that has subscribed is so until its end. */
#ifndef TM_PROTOCOL_REDIS_H
#define TM_PROTOCOL_REDIS_H

#include <stddef.h>
#include <stdint.h>

#include "protocol/kept.h"
#include "protocol/moment.h"

#define TM_REDIS_WORD 12 /* characters of the longest command that matters */

struct tm_redis_talk {
    uint32_t owed;      /* replies */
    uint32_t until_end; /* of them, up to the one that ends a transaction; 0 = none does */
    uint32_t arguments; /* of the request that is being read, still to come */
    uint32_t values;    /* of the reply that is being read, still to come; 0 = none is */
    uint32_t number[2]; /* a length: as far as it has been read, or what is left of it */
    uint8_t state[2];
    uint8_t flags;
    uint8_t command;    /* the request's */
    uint8_t kind;       /* first byte of the reply */
    uint8_t matched;    /* as far as it is one of some words: redis_parts.h */
    uint8_t digits[2];  /* of a length */
    uint8_t word_size;  /* of an argument that is looked at; more than TM_REDIS_WORD: too long */
    unsigned char word[TM_REDIS_WORD];
    uint8_t type;       /* first byte of the value that is being read */
    uint8_t unused[2];
};

/* kept: gets what the endpoint knows of its client; NULL = nobody wants to know. */
void tm_redis_feed(struct tm_redis_talk *talk, struct tm_kept *kept, int side,
                   const unsigned char *bytes, size_t size);
enum tm_moment tm_redis_moment(const struct tm_redis_talk *talk);

/* --- to the next endpoint ---
 *
 *     size = tm_redis_tell(talk, kept, buffer)   requests that say what is kept, and PING: to be
 *                                                sent as the first ones of a connection
 *     tm_redis_told(talk, bytes, size)           what comes back; false: it was not taken
 *     tm_redis_moment(talk) == SAFE              all of it was
 */
#define TM_REDIS_TOLD_MOST 1024 /* bytes of these requests */

size_t tm_redis_tell(struct tm_redis_talk *talk, const struct tm_kept *kept,
                     unsigned char bytes[TM_REDIS_TOLD_MOST]);
bool tm_redis_told(struct tm_redis_talk *talk, const unsigned char *bytes, size_t size);

#endif
