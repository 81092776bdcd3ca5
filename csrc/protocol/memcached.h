/* memcached's text protocol, with its meta commands:
 * https://github.com/memcached/memcached/blob/master/doc/protocol.txt
 *
 * Each request is owed one reply, but those with noreply. Whether one with the flag q gets one is
 * not known before the reply to an mn behind it. */
#ifndef TM_PROTOCOL_MEMCACHED_H
#define TM_PROTOCOL_MEMCACHED_H

#include <stddef.h>
#include <stdint.h>

#include "protocol/moment.h"

#define TM_MEMCACHED_WORD 10

struct tm_memcached_line {
    uint32_t number; /* bytes of data: as far as it has been read, or what is left of them */
    uint8_t state;
    uint8_t field;   /* which word of the line */
    uint8_t size;    /* characters of it */
    uint8_t verb;    /* what the first one is */
    uint8_t matched; /* characters of noreply */
    char word[TM_MEMCACHED_WORD]; /* the first one */
};

struct tm_memcached_talk {
    struct tm_memcached_line line[2];
    uint16_t owed;   /* replies */
    uint16_t behind; /* of them, to requests behind the last mn */
    uint8_t noops;   /* mn without their replies */
    uint8_t flags;
};

void tm_memcached_feed(struct tm_memcached_talk *talk, int side, const unsigned char *bytes,
                       size_t size);
enum tm_moment tm_memcached_moment(const struct tm_memcached_talk *talk);

#endif
