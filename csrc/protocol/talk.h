/* What the bytes of a connection say of its protocol: whether anything is under way.
 *
 *     tm_talk_begin(talk, protocol)      before its first byte
 *     tm_talk_feed(talk, side, ...)      all bytes of both sides, in the order in which they are
 *                                        passed on
 *     tm_talk_moment(talk, ...)          what that comes to now
 *
 * WRITER  the worker that has the connection: it is in the annex. READERS  control
 *
 * There is one file for each protocol. None of them allocates or reads ahead: a state of 48 bytes
 * takes the next byte, whatever it is, and what is not understood makes the moment UNKNOWN for the
 * rest of the connection. Nothing is changed or held up. No bytes are kept, but with redis where
 * connections move: kept.h.
 *
 * It must not be taken for more than it is after a death: bytes that were passed on and not fed are
 * found by their number, and a state that is half changed, or corrupt, by its seal.
 */
#ifndef TM_TALK_H
#define TM_TALK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol/http1.h"
#include "protocol/kept.h"
#include "protocol/memcached.h"
#include "protocol/mqtt.h"
#include "protocol/mysql.h"
#include "protocol/postgres.h"
#include "protocol/redis.h"

/* In the order of CONVERGE_PROTOCOL: tcpmux/config/converge.py. */
enum tm_protocol {
    TM_PROTOCOL_NONE = 0,
    TM_PROTOCOL_POSTGRES,
    TM_PROTOCOL_MYSQL,
    TM_PROTOCOL_REDIS,
    TM_PROTOCOL_MEMCACHED,
    TM_PROTOCOL_MQTT,
    TM_PROTOCOL_HTTP1,
    TM_PROTOCOLS
};

struct tm_talk {
    uint32_t seal;    /* of all that follows */
    uint8_t protocol; /* enum tm_protocol; NONE = it is not known any more what was said */
    uint8_t moment;   /* enum tm_moment, after the last byte */
    uint8_t first_answer; /* of the server: first_answer.h */
    uint8_t unused;
    uint32_t fed[2];  /* bytes of each side, the low bits */
    union {
        uint64_t words[6];
        struct tm_postgres_talk postgres;
        struct tm_mysql_talk mysql;
        struct tm_redis_talk redis;
        struct tm_memcached_talk memcached;
        struct tm_mqtt_talk mqtt;
        struct tm_http1_talk http1;
    };
};

_Static_assert(sizeof(struct tm_talk) == 64, "a cache line");

void tm_talk_begin(struct tm_talk *talk, enum tm_protocol protocol);

/* talk: NULL = there is none, and nothing happens. kept: NULL = its protocol keeps nothing, or
 * nobody wants to know. side: 0 = the client's bytes, else the endpoint's. */
void tm_talk_feed(struct tm_talk *talk, struct tm_kept *kept, int side,
                  const unsigned char *bytes, size_t size);

/* Whether the server's first answer is an error; once. */
bool tm_talk_take_error(struct tm_talk *talk);

/* After a death, or from another worker: one that can't be right says nothing any more. */
void tm_talk_mend(struct tm_talk *talk);

/* passed: how many bytes of each side have been passed on, or are about to be; the low bits. */
static inline enum tm_moment tm_talk_moment(const struct tm_talk *talk, uint64_t protocol,
                                            const uint32_t passed[2])
{
    bool all = talk->protocol == protocol && talk->fed[0] == passed[0] &&
               talk->fed[1] == passed[1] && talk->moment < TM_MOMENTS;
    return all ? (enum tm_moment)talk->moment : TM_MOMENT_UNKNOWN;
}

#endif
