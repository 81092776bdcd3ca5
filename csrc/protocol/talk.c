/* Which protocol is spoken, and how much of it has been heard. Calls the protocols. */
#include "protocol/talk.h"

#include <stddef.h>
#include <string.h>

#include "protocol/first_answer.h"
#include "protocol/seal.h"

_Static_assert(offsetof(struct tm_talk, seal) == 0, "as tm_seal_of() takes it");
_Static_assert(sizeof(struct tm_talk) % sizeof(uint64_t) == 0, "whole words");

static uint32_t seal_of(const struct tm_talk *talk)
{
    return tm_seal_of(talk, sizeof(*talk));
}

/* The seal comes last: until then it is a death's word against it. */
static void seal(struct tm_talk *talk)
{
    atomic_signal_fence(memory_order_seq_cst);
    talk->seal = seal_of(talk);
}

void tm_talk_feed(struct tm_talk *talk, struct tm_kept *kept, int side,
                  const unsigned char *bytes, size_t size)
{
    enum tm_moment moment = TM_MOMENT_UNKNOWN;
    side = side != TM_FROM_CLIENT;
    if (!talk)
        return;
    if (side != TM_FROM_CLIENT)
        talk->first_answer =
            tm_first_answer_feed(talk->first_answer, (enum tm_protocol)talk->protocol,
                                 talk->fed[side], bytes, size);
    switch ((enum tm_protocol)talk->protocol) {
    case TM_PROTOCOL_POSTGRES:
        tm_postgres_feed(&talk->postgres, side, bytes, size);
        moment = tm_postgres_moment(&talk->postgres);
        break;
    case TM_PROTOCOL_REDIS:
        tm_redis_feed(&talk->redis, kept, side, bytes, size);
        moment = tm_redis_moment(&talk->redis);
        if (kept)
            tm_kept_seal(kept);
        break;
    case TM_PROTOCOL_MYSQL:
        tm_mysql_feed(&talk->mysql, side, bytes, size);
        moment = tm_mysql_moment(&talk->mysql);
        break;
    case TM_PROTOCOL_MEMCACHED:
        tm_memcached_feed(&talk->memcached, side, bytes, size);
        moment = tm_memcached_moment(&talk->memcached);
        break;
    case TM_PROTOCOL_MQTT:
        tm_mqtt_feed(&talk->mqtt, side, bytes, size);
        moment = tm_mqtt_moment(&talk->mqtt);
        break;
    case TM_PROTOCOL_HTTP1:
        tm_http1_feed(&talk->http1, side, bytes, size);
        moment = tm_http1_moment(&talk->http1);
        break;
    case TM_PROTOCOL_NONE: case TM_PROTOCOLS:
        break;
    }
    talk->moment = (uint8_t)moment;
    talk->fed[side] += (uint32_t)size;
    seal(talk);
}

bool tm_talk_take_error(struct tm_talk *talk)
{
    if ((talk->first_answer & (TM_FIRST_ERROR | TM_FIRST_COUNTED)) != TM_FIRST_ERROR)
        return false;
    talk->first_answer |= TM_FIRST_COUNTED;
    seal(talk);
    return true;
}

void tm_talk_begin(struct tm_talk *talk, enum tm_protocol protocol)
{
    memset(talk, 0, sizeof(*talk));
    talk->protocol = (uint8_t)protocol;
    tm_talk_feed(talk, NULL, TM_FROM_CLIENT, (const unsigned char *)"", 0); /* what that comes to */
}

void tm_talk_mend(struct tm_talk *talk)
{
    if (talk->seal != seal_of(talk))
        tm_talk_begin(talk, TM_PROTOCOL_NONE);
}
