/* Telling an endpoint what the one before knows of a client. Runs in a worker. */
#include "conn/replay.h"

#include <errno.h>
#include <string.h>

#include "conn/destination.h"
#include "conn/known.h"
#include "conn/moves.h"
#include "conn/talk.h"
#include "sock.h"
#include "trust.h"

/* Of answers. The longest, HELLO's, has some hundred bytes, and names the server's modules. */
enum { ANSWERS_MOST = 65536 };

static bool tells(struct tm_worker *w, uint32_t index)
{
    const struct tm_route *route = tm_route_of(w, index);
    return route && route->rules.converge_protocol == TM_PROTOCOL_REDIS;
}

bool tm_replay_is_possible(struct tm_worker *w, uint32_t index)
{
    const struct tm_route *route = tm_route_of(w, index);
    struct tm_annex *annex = tm_annex_of(w, index);
    if (!annex)
        return !tells(w, index);
    return route && !tm_is_bound(annex, route->rules.converge_protocol);
}

int tm_replay_send(struct tm_worker *w, uint32_t scout, uint32_t index)
{
    struct tm_conn *conn = &w->records[scout];
    const struct tm_kept *kept = tm_kept_of(w, index);
    struct tm_annex *annex;
    if (!tells(w, index))
        return 0;
    if (!kept || !tm_kept_is_whole(kept) || !tm_known_take(w, scout))
        return -ENOBUFS;
    annex = tm_annex_of(w, scout);
    uint32_t size = (uint32_t)tm_redis_tell(&annex->talk.redis, kept, w->pump.buffer);
    tm_moves_take(w, scout)->told = kept->version;
    w->pump.journal->side = TM_CLIENT;
    int error = tm_pump_prepend(&w->pump, &conn->half[TM_CLIENT], conn->fd[TM_ENDPOINT], size,
                                false);
    explicit_bzero(w->pump.buffer, size);
    return error;
}

enum tm_replay tm_replay_hear(struct tm_worker *w, uint32_t scout)
{
    struct tm_conn *conn = &w->records[scout];
    struct tm_annex *annex = tm_annex_of(w, scout);
    struct tm_half *half = &conn->half[TM_ENDPOINT];
    int fd = conn->fd[TM_ENDPOINT];
    if (!tm_moves_of(w, scout)->told || !annex)
        return TM_REPLAY_DONE;
    for (;;) {
        ssize_t got = tm_sock_peek(fd, w->pump.buffer, w->pump.buffer_size);
        if (got == -EAGAIN)
            break;
        if (got <= 0 || tm_base_consumed(half->base) + (size_t)got > ANSWERS_MOST ||
            !tm_redis_told(&annex->talk.redis, w->pump.buffer, (size_t)got))
            return TM_REPLAY_REFUSED;
        w->pump.journal->side = TM_ENDPOINT;
        if (!tm_pump_consume(&w->pump, half, fd, (uint32_t)got))
            return TM_REPLAY_REFUSED;
    }
    return tm_redis_moment(&annex->talk.redis) == TM_MOMENT_SAFE ? TM_REPLAY_DONE
                                                                 : TM_REPLAY_WAITS;
}

bool tm_replay_holds(struct tm_worker *w, uint32_t scout, uint32_t index)
{
    const struct tm_kept *kept = tm_kept_of(w, index);
    uint32_t told = tm_moves_of(w, scout)->told;
    return tells(w, index) ? kept && tm_kept_is_whole(kept) && kept->version == told : !told;
}
