/* The limits of a route and of a client. Runs in a worker. */
#include "conn/admit.h"

#include "conn/occupy.h"
#include "conn/destination.h"
#include "conn/outcome.h"
#include "conn/proxy.h"
#include "conn/stage.h"
#include "trace.h"

enum {
    NEW_US = 200000, /* a connection that finds a limit reached looks again for so long */
};

bool tm_is_new(const struct tm_worker *w, uint32_t index)
{
    return w->now_us < w->colds[index].accepted_at_us + NEW_US &&
           w->connections < w->capacity / 2;
}

bool tm_admit_peer(const struct tm_image *image, const struct tm_route *route,
                   const struct tm_peer *peer)
{
    return tm_in_ranges(image, &route->senders, peer->family, peer->ip) ||
           tm_in_ranges(image, &route->admitted, peer->family, peer->ip);
}

enum tm_admission tm_admission_of(struct tm_worker *w, uint32_t listener, int fd,
                                  const struct tm_peer *peer, uint32_t *route)
{
    const struct tm_route *of;
    *route = w->image->route_of_listener[listener];
    if (*route == TM_NONE) {
        tm_count(&w->live->counters.no_route, 1);
        tm_outcome_log_refused(w, fd, peer, TM_NONE, TM_REFUSED_NO_ROUTE);
        return TM_UNROUTED;
    }
    of = &w->image->routes[*route];
    if (!tm_admit_peer(w->image, of, peer)) {
        tm_count(&tm_slot_of(w, of->slot)->denied, 1);
        tm_outcome_log_refused(w, fd, peer, of->slot, TM_REFUSED_DENIED);
        return TM_DENIED;
    }
    if (tm_trace_is_loop(&w->commons->traces, fd, peer, of->slot)) {
        tm_count(&tm_slot_of(w, of->slot)->looped, 1);
        tm_outcome_log_refused(w, fd, peer, of->slot, TM_REFUSED_LOOPED);
        return TM_LOOPED;
    }
    return TM_ADMITTED;
}

static enum tm_refusal refusal_by_rate(struct tm_worker *w, const struct tm_cold *cold,
                                       const struct tm_route_rules *rules, bool source_known)
{
    uint64_t now_ns = w->now_us * 1000;
    if (source_known && rules->source_interval_ns &&
        !tm_source_allowed(&w->commons->sources[cold->source], now_ns, rules->source_interval_ns,
                           rules->source_burst))
        return TM_REFUSED_SOURCE_RATE;
    return !rules->interval_ns || tm_connect_allowed(&w->commons->slots[cold->route_slot], now_ns,
                                                     rules->interval_ns, rules->burst)
               ? TM_NOT_REFUSED
               : TM_REFUSED_ROUTE_RATE;
}

static enum tm_refusal refusal(struct tm_worker *w, uint32_t index, const struct tm_route *route)
{
    const struct tm_cold *cold = &w->colds[index];
    const struct tm_route_rules *rules = &route->rules;
    bool has_source = cold->client.family != AF_UNIX &&
                      (rules->source_max_connections || rules->source_interval_ns);
    int source = TM_SOURCE_NO_ROOM;
    if (cold->holds & TM_HOLDS_ROUTE)
        return TM_NOT_REFUSED; /* rates come last and are paid once: an earlier incarnation admitted
                                * it */
    if (tm_proxy_is_taken(w, index) && /* else the peer is the client, asked about on accept */
        !tm_in_ranges(w->image, &route->admitted, cold->client.family, cold->client.ip))
        return TM_REFUSED_DENIED;
    if (!tm_occupy(w, index, TM_HOLDS_LISTENER, rules->listener_max_connections))
        return TM_REFUSED_LISTENER_MAX;
    if (has_source) {
        source = tm_occupy_source(w, index, rules->source_max_connections);
        if (source == TM_SOURCE_FULL)
            return TM_REFUSED_SOURCE_MAX;
    }
    if (!tm_occupy(w, index, TM_HOLDS_ROUTE, rules->max_connections))
        return TM_REFUSED_ROUTE_MAX;
    if (has_source && source == TM_SOURCE_NO_ROOM)
        tm_count(&w->live->counters.sources_untracked, 1);
    /* Rates come last: whoever finds a limit reached looks again, and pays once. */
    return refusal_by_rate(w, cold, rules, has_source && source != TM_SOURCE_NO_ROOM);
}

struct tm_answer tm_admit(struct tm_worker *w, uint32_t index)
{
    const struct tm_route *route = tm_route_of(w, index);
    if (!route)
        return tm_end_for(TM_CLOSED_no_endpoint);
    w->refusal = refusal(w, index, route);
    if (w->refusal == TM_NOT_REFUSED)
        return tm_next();
    if (w->refusal == TM_REFUSED_DENIED)
        return tm_end_for(TM_CLOSED_not_allowed);
    if (w->refusal == TM_REFUSED_SOURCE_RATE || w->refusal == TM_REFUSED_ROUTE_RATE)
        return tm_end_for(TM_CLOSED_rate_limited);
    if (!tm_is_new(w, index))
        return tm_end_for(TM_CLOSED_overflow);
    tm_vacate_all(w, index); /* meanwhile it stands in nobody's way */
    return tm_wait(TM_WAITING, w->now_ms + TM_LOOK_MS);
}
