/* HTTP/1.1 with keep-alive: RFC 9112.
 *
 * Each request is owed one answer that is final. Where a body ends its head says; one that goes on
 * until the end of the connection is never between requests. */
#ifndef TM_PROTOCOL_HTTP1_H
#define TM_PROTOCOL_HTTP1_H

#include <stddef.h>
#include <stdint.h>

#include "protocol/moment.h"

struct tm_http1_side {
    uint64_t left;   /* bytes of a body or chunk still to come; a length, as far as it is read */
    uint8_t state;
    uint8_t flags;   /* of the head */
    uint8_t at;      /* characters of what is read, at most 255 */
    uint8_t matched; /* names that it may still be, a bit each */
};

struct tm_http1_talk {
    struct tm_http1_side side[2];
    uint32_t to_head; /* of those not answered, which ask by HEAD: a bit each, the first lowest */
    uint8_t owed;     /* answers */
    uint8_t method;   /* of the request that is being read: as matched */
    uint16_t status;  /* of the answer that is being read */
    uint64_t unused;
};

void tm_http1_feed(struct tm_http1_talk *talk, int side, const unsigned char *bytes, size_t size);
enum tm_moment tm_http1_moment(const struct tm_http1_talk *talk);

#endif
