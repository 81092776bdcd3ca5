/* Connections whose protocol is known. Runs in a worker. */
#include "conn/talk.h"

#include "conn/destination.h"
#include "conn/known.h"
#include "protocol/goodbye.h"
#include "sock.h"
#include "trust.h"

void tm_talk_start(struct tm_worker *w, uint32_t index, const struct tm_route *route)
{
    if (route->rules.converge_protocol == TM_PROTOCOL_NONE)
        return;
    struct tm_known *known = tm_known_take(w, index);
    if (!known)
        return;
    if (route->rules.converge_protocol == TM_PROTOCOL_REDIS &&
        route->rules.converge_method == TM_METHOD_REHOME && known->first_bytes != TM_FIRST_TLS)
        tm_kept_begin(&known->kept);
    tm_talk_begin(tm_talk_of(w, index), (enum tm_protocol)route->rules.converge_protocol);
    for (int side = 0; side < 2; side++)
        w->records[index].half[side].splicing = TM_HEARD;
}

enum tm_moment tm_moment_of(struct tm_worker *w, uint32_t index, uint64_t protocol)
{
    const struct tm_talk *talk = tm_talk_of(w, index);
    return talk ? tm_conn_moment(&w->records[index], talk, protocol) : TM_MOMENT_UNKNOWN;
}

static bool is_wanted(const struct tm_route *route)
{
    return route->convergence.began_ms ? route->convergence.goodbye
                                       : route->rules.converge_goodbye;
}

void tm_goodbye(struct tm_worker *w, uint32_t index)
{
    const struct tm_route *route = tm_route_of(w, index);
    const struct tm_talk *talk = tm_talk_of(w, index);
    struct tm_goodbye goodbye;
    if (!route || !talk || !is_wanted(route) ||
        tm_moment_of(w, index, route->rules.converge_protocol) != TM_MOMENT_SAFE)
        return;
    goodbye = tm_goodbye_in(talk);
    /* A send queue that is empty takes all of it. Should it not, the client gets no part. */
    if (goodbye.size &&
        !tm_sock_send_whole(w->records[index].fd[TM_CLIENT], goodbye.bytes, goodbye.size))
        w->colds[index].by_reset = true;
}
