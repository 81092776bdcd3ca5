/* PostgreSQL's protocol 3: https://www.postgresql.org/docs/current/protocol.html
 *
 * Each Query, Sync and FunctionCall, and the start, is owed one ReadyForQuery, which says whether a
 * transaction is open. While a client copies data in, its Syncs are ignored by the server. */
#ifndef TM_PROTOCOL_POSTGRES_H
#define TM_PROTOCOL_POSTGRES_H

#include <stddef.h>
#include <stdint.h>

#include "protocol/moment.h"

struct tm_postgres_talk {
    uint32_t length[2]; /* of the message that is being read, without type and length */
    uint32_t left[2];   /* bytes of it that are still to come */
    uint32_t code;      /* of a start: the version that is asked for, or a request */
    uint32_t owed;      /* ReadyForQuery */
    uint8_t have[2];    /* bytes of type and length, until they are complete */
    uint8_t type[2];    /* of the message; 0 = a start, which has none */
    uint8_t phase;
    uint8_t flags;
    uint8_t status;     /* as the last ReadyForQuery said */
    uint8_t last;       /* type of the message that was the last to be owed one */
    uint8_t matched[2]; /* characters of words that a text is compared with */
    uint8_t in_value;   /* of a start's parameters: not in a name */
    uint8_t unused[13];
};

void tm_postgres_feed(struct tm_postgres_talk *talk, int side, const unsigned char *bytes,
                      size_t size);
enum tm_moment tm_postgres_moment(const struct tm_postgres_talk *talk);

#endif
