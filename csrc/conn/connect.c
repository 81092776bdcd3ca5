/* Endpoints in turn. Runs in a worker.
 *
 * No byte of the client has been read so far, so any endpoint will do. */
#include "conn/connect.h"

#include <errno.h>

#include "conn/destination.h"
#include "conn/endpoint.h"
#include "conn/interest.h"
#include "conn/occupy.h"
#include "conn/outcome.h"
#include "conn/place.h"
#include "conn/proxy.h"
#include "conn/record.h"
#include "conn/relay.h"
#include "conn/retry.h"
#include "sock.h"
#include "trace.h"

/* Of UNIX sockets these are about who may connect, of others about this host's firewall. */
static bool is_denied(const struct tm_cold *cold, int error)
{
    return cold->endpoint.family == AF_UNIX && (error == EACCES || error == EPERM);
}

/* Counts a failed connect: timed out with error 0. A failure of this host is not held against the
 * endpoint. */
static void attempt_failed(struct tm_worker *w, uint32_t index, int error)
{
    struct tm_cold *cold = &w->colds[index];
    struct tm_slot *destination = tm_slot_of(w, w->records[index].destination_slot);
    struct tm_slot *endpoint = tm_slot_of(w, cold->endpoint_slot);
    struct tm_common *common = &w->commons->slots[cold->endpoint_slot];
    bool denied = is_denied(cold, error);
    if (denied) {
        w->denied = true;
        w->denied_slot = cold->endpoint_slot;
    }
    cold->failure = (uint8_t)(error == 0 ? TM_CLOSED_connect_timeout
                              : tm_sock_local_failure(error) && !denied ? TM_CLOSED_local_error
                                                                        : TM_CLOSED_connect_failed);
    if (error == 0) {
        tm_count(&destination->connect_timeouts, 1);
        tm_count(&endpoint->connect_timeouts, 1);
    }
    if (cold->failure != TM_CLOSED_local_error) {
        tm_count(&destination->connect_failures, 1);
        tm_count(&endpoint->connect_failures, 1);
        tm_endpoint_failed(w, common, (uint32_t)error);
        tm_failed_note(&w->live->failed, &(struct tm_failed_connect){
                                             .client = cold->client,
                                             .endpoint_slot = cold->endpoint_slot,
                                             .error = (uint32_t)error,
                                             .attempt = cold->attempts,
                                         });
    }
    tm_count(&endpoint->closed[cold->failure], 1);
    tm_vacate(w, index, TM_HOLDS_ENDPOINT);
    cold->endpoint_slot = TM_NONE;
    tm_record_close_side(w, index, TM_ENDPOINT, false);
}

/* --- to another destination ----------------------------------------------------------------- */

/* To another destination, once and if the route says so. */
static enum tm_change fail_over(struct tm_worker *w, uint32_t index,
                                const struct tm_destination *destination)
{
    const struct tm_cold *cold = &w->colds[index];
    if (!destination || cold->pick_reason == TM_PICKED_failed_over ||
        !w->image->routes[destination->route].rules.across ||
        cold->failure == TM_CLOSED_local_error || cold->failure == TM_CLOSED_retries_used_up)
        return TM_UNCHANGED;
    return tm_pick_change(w, index, TM_NONE, TM_PICKED_failed_over);
}

/* Each of its endpoints is full: to another destination, once. */
static enum tm_change spill(struct tm_worker *w, uint32_t index,
                            const struct tm_destination *destination)
{
    uint8_t reason = w->colds[index].pick_reason;
    if (destination->rules.on_full != TM_FULL_SPILL || reason == TM_PICKED_failed_over ||
        reason == TM_PICKED_spilled)
        return TM_UNCHANGED;
    return tm_pick_change(w, index, TM_NONE, TM_PICKED_spilled);
}

/* Connects to the fallback destination, if the route names one and one of its endpoints can be
 * expected to answer. */
static enum tm_change fall_back(struct tm_worker *w, uint32_t index,
                                const struct tm_destination *destination)
{
    const struct tm_cold *cold = &w->colds[index];
    const struct tm_route *route = &w->image->routes[destination->route];
    uint32_t to = route->first_destination + (uint32_t)route->rules.fallback;
    const struct tm_destination *other = &w->image->destinations[to];
    if (route->rules.on_unavailable != TM_FALL_BACK || to == cold->destination ||
        cold->pick_reason == TM_PICKED_failed_over || cold->failure == TM_CLOSED_local_error ||
        tm_retries_used_up(cold, route) || other->admin_state != TM_READY ||
        !tm_is_promising(w, other))
        return TM_UNCHANGED;
    return tm_pick_change(w, index, to, TM_PICKED_failed_over);
}

/* --- one endpoint --------------------------------------------------------------------------- */

/* How trying endpoints has come out. */
enum outcome {
    ESTABLISHED,
    UNDER_WAY,
    FAILED,   /* this one; or, of a destination, all that it was allowed to try */
    FULL,     /* each that is left has its max_connections */
    UNPOLLED, /* this host has no room to watch the socket */
    ELSEWHERE, /* it is a connection of the fallback now */
    HOMELESS,  /* TM_HOMELESS */
};

/* The connect itself, and whether it is over at once: on this host or a fast network the handshake
 * is. */
static enum outcome connect_to(struct tm_worker *w, uint32_t index,
                               const struct tm_endpoint *endpoint)
{
    struct tm_conn *conn = &w->records[index];
    struct tm_cold *cold = &w->colds[index];
    if (conn->state != TM_CONNECTING)
        tm_conn_enter(conn, TM_CONNECTING);
    if (cold->attempts < UINT8_MAX)
        cold->attempts++;
    tm_peer_from(&cold->endpoint, &endpoint->address);
    tm_count(&tm_slot_of(w, endpoint->slot)->opened, 1);
    cold->connect_started_us = (uint32_t)tm_clock_us();
    tm_record_forget_endpoint(conn);
    tm_journal_note(w->pump.journal, TM_CONNECT);
    int fd = tm_sock_connect(&endpoint->address);
    tm_conn_set_fd(conn, cold, TM_ENDPOINT, fd >= 0 ? fd : -1);
    tm_journal_note(w->pump.journal, TM_NOTHING);
    if (fd < 0) {
        attempt_failed(w, index, -fd);
        return FAILED;
    }
    tm_trace_connect(&w->commons->traces, conn->fd[TM_CLIENT], tm_peer_of(w, index), fd,
                     &cold->endpoint, cold->route_slot, w->connects++);
    int state = tm_sock_established(fd);
    uint8_t flags = tm_first_flags(cold->endpoint.family);
    if (state < 0 && !tm_sock_has_answered(fd)) {
        attempt_failed(w, index, -state);
        return FAILED;
    }
    if (state < 0)
        flags |= TM_ANSWERED_AND_RESET;
    if (state == 0)
        flags |= TM_WRITE_WATCHED;
    conn->side_flags[TM_ENDPOINT] = flags;
    if (tm_interest_add(w, index, TM_ENDPOINT) < 0)
        return UNPOLLED;
    return state ? ESTABLISHED : UNDER_WAY;
}

/* The endpoint is one of those that it need not try again. */
static void note_tried(struct tm_cold *cold, uint32_t at)
{
    cold->tried |= (uint32_t)1 << (at % TM_TRIED_BITS);
    if (cold->passed < UINT16_MAX)
        cold->passed++;
}

/* Takes a slot of the endpoint's max_connections and connects. FULL: none is free. *allowed:
 * whether the route lets it. */
static enum outcome try_one(struct tm_worker *w, uint32_t index,
                            const struct tm_destination *destination, struct tm_tier tier,
                            uint32_t at, bool *allowed)
{
    struct tm_cold *cold = &w->colds[index];
    const struct tm_endpoint *endpoint = &w->image->endpoints[destination->first_endpoint + at];
    bool is_first = cold->tried == 0 || tm_tier_is_untried(w, cold, destination, tier);
    note_tried(cold, at);
    cold->endpoint_slot = endpoint->slot;
    *allowed = true;
    if (!tm_occupy(w, index, TM_HOLDS_ENDPOINT, endpoint->rules.max_connections)) {
        cold->endpoint_slot = TM_NONE;
        return FULL;
    }
    *allowed = tm_retry_allowed(w, index, destination, tier, is_first);
    if (!*allowed) {
        tm_vacate(w, index, TM_HOLDS_ENDPOINT);
        cold->endpoint_slot = TM_NONE;
        return FAILED;
    }
    return connect_to(w, index, endpoint);
}

/* How far trying has got. */
struct tries {
    struct tm_tier tier;
    bool all;  /* those that have just failed, too */
    bool full; /* an endpoint is at its max_connections */
    bool over; /* the route allows no more, or nobody is left */
};

/* Every endpoint that had not just failed was tried: next comes the fallback, then all of them.
 * TM_UNCHANGED: stays with this destination. */
static enum tm_change widen(struct tm_worker *w, uint32_t index,
                            const struct tm_destination *destination, struct tries *tries)
{
    tries->over = tries->all || (tries->full && destination->rules.on_full == TM_FULL_QUEUE);
    if (tries->over)
        return TM_UNCHANGED;
    tries->all = true;
    tries->tier = tm_tier_first(destination);
    return tries->full ? TM_UNCHANGED : fall_back(w, index, destination);
}

/* The route does not let it try one of this tier. */
static void next_tier(const struct tm_worker *w, uint32_t index,
                      const struct tm_destination *destination, struct tries *tries)
{
    tries->over = tries->all ||
                  tm_retries_used_up(&w->colds[index], &w->image->routes[destination->route]);
    tries->tier = tm_tier_after(w, destination, tries->tier);
}

/* Tries the destination's endpoints, each once, until one accepts: tier by tier those that have not
 * just failed, then the fallback, then those that have. */
static enum outcome try_all(struct tm_worker *w, uint32_t index,
                            const struct tm_destination *destination)
{
    struct tm_cold *cold = &w->colds[index];
    struct tries tries = {.tier = tm_tier_first(destination), .over = !destination->turn_count};
    while (!tries.over) {
        uint32_t at = tm_endpoint_next(w, cold, destination, &tries.tier, tries.all);
        bool allowed;
        if (at == TM_NONE) {
            enum tm_change change = widen(w, index, destination, &tries);
            if (change != TM_UNCHANGED)
                return change == TM_CHANGED ? ELSEWHERE : HOMELESS;
            continue;
        }
        enum outcome outcome = try_one(w, index, destination, tries.tier, at, &allowed);
        if (outcome == FULL)
            tries.full = true;
        else if (outcome != FAILED)
            return outcome;
        else if (!allowed)
            next_tier(w, index, destination, &tries);
    }
    bool queues = destination->rules.on_full == TM_FULL_QUEUE;
    return tries.full && (cold->attempts == 0 || queues) ? FULL : FAILED;
}

/* --- the stage ------------------------------------------------------------------------------ */

static struct tm_answer no_endpoint(const struct tm_cold *cold)
{
    return tm_end_for(cold->failure ? (enum tm_close_reason)cold->failure : TM_CLOSED_no_endpoint);
}

/* It is counted at an endpoint now, so it leaves the queue. */
static void leave_queue(struct tm_worker *w, uint32_t index)
{
    if (w->colds[index].holds & TM_HOLDS_QUEUE)
        tm_vacate(w, index, TM_HOLDS_QUEUE);
}

/* Whoever has waited tries every endpoint again. */
static void forget_tried(struct tm_cold *cold)
{
    if (cold->holds & TM_HOLDS_QUEUE || cold->attempts == 0)
        cold->tried = cold->passed = 0;
}

struct tm_answer tm_connect(struct tm_worker *w, uint32_t index)
{
    struct tm_cold *cold = &w->colds[index];
    bool waited = w->records[index].state != TM_CONNECTING;
    if (waited || cold->attempts == 0)
        forget_tried(cold);
    for (;;) {
        const struct tm_destination *destination = tm_destination_of(w, index);
        enum tm_change change;
        if (!destination)
            return waited ? tm_end_for(TM_CLOSED_no_endpoint) : no_endpoint(cold);
        enum outcome outcome = try_all(w, index, destination);
        switch (outcome) {
        case ESTABLISHED:
            leave_queue(w, index);
            cold->until_ms = w->now_ms + cold->connect_timeout_ms; /* of what is left to be said */
            return tm_next();
        case UNDER_WAY:
            leave_queue(w, index);
            cold->until_ms = w->now_ms + cold->connect_timeout_ms;
            return tm_wait(TM_CONNECTING, cold->until_ms);
        case UNPOLLED:
            return tm_end_for(TM_CLOSED_local_error);
        case ELSEWHERE:
            continue;
        case HOMELESS:
            return tm_end_for(TM_CLOSED_overflow);
        case FULL:
        case FAILED:
            change = outcome == FULL ? spill(w, index, destination)
                                     : fail_over(w, index, destination);
            if (change == TM_CHANGED)
                continue;
            if (change == TM_HOMELESS)
                return tm_end_for(TM_CLOSED_overflow);
            return outcome == FULL ? tm_place_full(w, index, destination) : no_endpoint(cold);
        }
    }
}

struct tm_answer tm_connect_again(struct tm_worker *w, uint32_t index, int error)
{
    w->colds[index].stage = TM_STAGE_CONNECT;
    attempt_failed(w, index, error);
    return (struct tm_answer){.kind = TM_ANSWER_AGAIN};
}

/* The connect has failed with `error`, 0 = it took too long: the next endpoint. An earlier
 * incarnation may have come as far as a later stage, and the endpoint have reset it since. */
static void try_next(struct tm_worker *w, uint32_t index, int error)
{
    (void)tm_connect_again(w, index, error);
    tm_stage_run(w, index);
}

static void established(struct tm_worker *w, uint32_t index)
{
    leave_queue(w, index); /* a death may have come before it did */
    w->colds[index].stage = TM_STAGE_CONNECT + 1;
    tm_stage_run(w, index);
}

void tm_connect_timeout(struct tm_worker *w, uint32_t index)
{
    uint64_t until_ms = w->colds[index].until_ms;
    if (w->records[index].fd[TM_ENDPOINT] < 0)
        tm_stage_run(w, index);
    else if (w->now_ms < until_ms)
        tm_arm(w, index, until_ms);
    else
        try_next(w, index, 0);
}

void tm_connect_event(struct tm_worker *w, uint32_t index, uint32_t events)
{
    struct tm_conn *conn = &w->records[index];
    if (!(events & (EPOLLOUT | EPOLLERR | EPOLLHUP)))
        return;
    int error = tm_sock_error(conn->fd[TM_ENDPOINT]);
    if (error == 0 && !(events & EPOLLOUT))
        return;
    if (error < 0) {
        if (!tm_sock_has_answered(conn->fd[TM_ENDPOINT])) {
            try_next(w, index, -error);
            return;
        }
        conn->side_flags[TM_ENDPOINT] |= TM_ANSWERED_AND_RESET;
    }
    established(w, index);
    if (conn->state == TM_RELAYING)
        tm_relay_event(w, index, TM_ENDPOINT, events);
}

/* Whether the connect has failed. A socket reports its error only once, so if the dead incarnation
 * has read it, the socket looks established. */
static bool was_refused(struct tm_conn *conn)
{
    if (!tm_sock_connect_failed(conn->fd[TM_ENDPOINT]))
        return false;
    if (!tm_sock_has_answered(conn->fd[TM_ENDPOINT]))
        return true;
    conn->side_flags[TM_ENDPOINT] |= TM_ANSWERED_AND_RESET;
    return false;
}

void tm_connect_recover(struct tm_worker *w, uint32_t index)
{
    struct tm_conn *conn = &w->records[index];
    struct tm_cold *cold = &w->colds[index];
    if (was_refused(conn)) {
        int error = -tm_sock_error(conn->fd[TM_ENDPOINT]);
        try_next(w, index, error ? error : ECONNREFUSED);
        return;
    }
    if (cold->until_ms == 0)
        cold->until_ms = w->now_ms + cold->connect_timeout_ms;
    tm_arm(w, index, cold->until_ms);
    conn->side_flags[TM_ENDPOINT] |= TM_WRITE_WATCHED;
    if (tm_interest_add(w, index, TM_ENDPOINT) < 0)
        tm_outcome_end(w, index, TM_CLOSED_local_error, true);
}
