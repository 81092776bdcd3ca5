/* The limits of a route and of a client. Runs in a worker. */
#include "conn/admit.h"

#include "conn/occupy.h"
#include "conn/destination.h"
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

enum tm_admission tm_admission_of(struct tm_worker *w, uint32_t listener, int fd,
                                  const struct tm_peer *peer, uint32_t *route)
{
    const struct tm_route *of;
    *route = w->image->route_of_listener[listener];
    if (*route == TM_NONE) {
        tm_count(&w->live->counters.no_route, 1);
        return TM_UNROUTED;
    }
    of = &w->image->routes[*route];
    if (!tm_admitted(w->image, of, peer->family, peer->ip)) {
        tm_count(&tm_slot_of(w, of->slot)->denied, 1);
        return TM_DENIED;
    }
    if (tm_trace_is_loop(&w->commons->traces, fd, peer, of->slot)) {
        tm_count(&tm_slot_of(w, of->slot)->looped, 1);
        return TM_LOOPED;
    }
    return TM_ADMITTED;
}

static bool within_rates(struct tm_worker *w, const struct tm_cold *cold,
                         const struct tm_route_rules *rules, bool source_known)
{
    uint64_t now_ns = w->now_us * 1000;
    if (source_known && rules->source_interval_ns &&
        !tm_source_allowed(&w->commons->sources[cold->source], now_ns, rules->source_interval_ns,
                           rules->source_burst))
        return false;
    return !rules->interval_ns || tm_connect_allowed(&w->commons->slots[cold->route_slot], now_ns,
                                                     rules->interval_ns, rules->burst);
}

/* TM_OPEN: it is let in. */
static enum tm_close_reason refusal(struct tm_worker *w, uint32_t index,
                                    const struct tm_route_rules *rules)
{
    const struct tm_cold *cold = &w->colds[index];
    bool has_source = cold->client.family != AF_UNIX &&
                      (rules->source_max_connections || rules->source_interval_ns);
    int source = TM_SOURCE_NO_ROOM;
    if (cold->holds & TM_HOLDS_ROUTE)
        return TM_OPEN; /* rates come last and are paid once: an earlier incarnation admitted it */
    if (!tm_occupy(w, index, TM_HOLDS_LISTENER, rules->listener_max_connections))
        return TM_CLOSED_overflow;
    if (has_source) {
        source = tm_occupy_source(w, index, rules->source_max_connections);
        if (source == TM_SOURCE_FULL)
            return TM_CLOSED_overflow;
    }
    if (!tm_occupy(w, index, TM_HOLDS_ROUTE, rules->max_connections))
        return TM_CLOSED_overflow;
    if (has_source && source == TM_SOURCE_NO_ROOM)
        tm_count(&w->live->counters.sources_untracked, 1);
    /* Rates come last: whoever finds a limit reached looks again, and pays once. */
    return within_rates(w, cold, rules, has_source && source != TM_SOURCE_NO_ROOM)
               ? TM_OPEN
               : TM_CLOSED_rate_limited;
}

struct tm_answer tm_admit(struct tm_worker *w, uint32_t index)
{
    const struct tm_route *route = tm_route_of(w, index);
    enum tm_close_reason reason;
    if (!route)
        return tm_end_for(TM_CLOSED_no_endpoint);
    reason = refusal(w, index, &route->rules);
    if (reason == TM_OPEN)
        return tm_next();
    if (reason != TM_CLOSED_overflow || !tm_is_new(w, index))
        return tm_end_for(reason);
    tm_vacate_all(w, index); /* meanwhile it stands in nobody's way */
    return tm_wait(TM_WAITING, w->now_ms + TM_LOOK_MS);
}
