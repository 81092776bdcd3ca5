/* Another endpoint under a living connection. Runs in a worker. */
#include "conn/rehome.h"

#include "conn/attempt.h"
#include "conn/converge.h"
#include "conn/destination.h"
#include "conn/header.h"
#include "conn/interest.h"
#include "conn/mirror.h"
#include "conn/moves.h"
#include "conn/partner.h"
#include "conn/proxy.h"
#include "conn/record.h"
#include "conn/replay.h"
#include "conn/swap.h"
#include "conn/timeout.h"
#include "sock.h"
#include "trace.h"

enum {
    /* An endpoint that greets does so by then; longer if `quiet` is, up to the second. */
    LISTEN_MS = 100,
    LISTEN_MOST_MS = 2000,
    PATIENCE_MS = 1000,     /* after that: for answers, and a quiet moment */
    LOOK_MS = 5,            /* between two looks for one, at the least */
    PARTNER_LOOK_MS = 100,  /* between two whether the connection is still there */
    FAILED_STAYS_S = 1,     /* a connection of whose scout nothing has come */
    UNWANTED_STAYS_S = 60,
};

/* --- who belongs to whom -------------------------------------------------------------------- */

/* The connection of a scout; TM_NONE: it is over, or on its way to another worker. */
static uint32_t connection_of(const struct tm_worker *w, uint32_t scout)
{
    const struct tm_moves *its = tm_moves_of(w, scout);
    uint32_t index = its->partner;
    if (index >= w->live->records_used)
        return TM_NONE;
    const struct tm_conn *conn = &w->records[index];
    const struct tm_moves *moves = tm_moves_of(w, index);
    if (moves->partner != scout || moves->partner_generation != w->records[scout].generation)
        return TM_NONE;
    return conn->generation == its->partner_generation && conn->state == TM_RELAYING &&
                   !conn->moving
               ? index
               : TM_NONE;
}

static bool has_scout(const struct tm_worker *w, uint32_t index)
{
    const struct tm_moves *moves = tm_moves_of(w, index);
    uint32_t scout = moves->partner;
    return moves->partner_generation && scout < w->live->records_used &&
           w->records[scout].state == TM_SCOUTING && connection_of(w, scout) == index;
}

/* Index of the destination with that slot, of the connection's route. */
static uint32_t find_destination(struct tm_worker *w, uint32_t index, uint32_t slot)
{
    const struct tm_route *route = tm_route_of(w, index);
    for (uint32_t i = 0; route && i < route->destination_count; i++)
        if (w->image->destinations[route->first_destination + i].slot == slot)
            return route->first_destination + i;
    return TM_NONE;
}

/* A reload may have removed its endpoint since, and given the slot of its destination to another
 * one: an endpoint's own is not given away while a scout counts there. */
static bool is_still_wanted(struct tm_worker *w, uint32_t scout, uint32_t index)
{
    const struct tm_cold *cold = &w->colds[scout];
    if (cold->table_generation == w->generation)
        return true;
    uint32_t at = find_destination(w, index, w->records[scout].destination_slot);
    const struct tm_destination *destination = at == TM_NONE ? NULL : &w->image->destinations[at];
    for (uint32_t i = 0; destination && i < destination->endpoint_count; i++)
        if (w->image->endpoints[destination->first_endpoint + i].slot == cold->endpoint_slot)
            return true;
    return false;
}

/* --- the end of a scout --------------------------------------------------------------------- */

void tm_rehome_end(struct tm_worker *w, uint32_t scout)
{
    struct tm_conn *conn = &w->records[scout];
    struct tm_cold *cold = &w->colds[scout];
    bool rehomed = cold->close_reason == TM_CLOSED_rehomed;
    w->pump.journal->current = scout;
    if (!rehomed)
        cold->close_reason = TM_CLOSED_not_rehomed;
    cold->by_reset = false;
    tm_conn_enter(conn, TM_ENDING);
    if (rehomed)
        tm_count(&tm_slot_of(w, conn->destination_slot)->closed[TM_CLOSED_rehomed], 1);
    if (cold->endpoint_slot != TM_NONE)
        tm_count(&tm_slot_of(w, cold->endpoint_slot)->closed[cold->close_reason], 1);
    tm_record_finish(w, scout);
    tm_record_release(w, scout);
}

/* The connection stays where it is, for so long at least. */
static void stay(struct tm_worker *w, uint32_t scout, uint32_t stays_s, enum tm_stays why)
{
    uint32_t index = connection_of(w, scout);
    if (index != TM_NONE) {
        struct tm_moves *moves = tm_moves_take(w, index);
        moves->stays_for = why;
        moves->stays_until_s = (uint32_t)(w->now_ms / 1000) + stays_s;
        moves->partner_generation = 0;
    }
    tm_rehome_end(w, scout);
}

static void give_up(struct tm_worker *w, uint32_t scout)
{
    stay(w, scout, FAILED_STAYS_S, TM_STAYS_FAILED);
}

static void connect_failed(struct tm_worker *w, uint32_t scout, int error)
{
    tm_attempt_failed(w, scout, error);
    give_up(w, scout);
}

/* --- established ---------------------------------------------------------------------------- */

static void exchange(struct tm_worker *w, uint32_t index, uint32_t scout)
{
    struct tm_slot *slot;
    tm_swap(w, index, scout);
    w->pump.journal->current = scout; /* recovery counts by its reason what is not counted yet */
    slot = tm_slot_of(w, w->records[index].destination_slot);
    tm_count(&slot->picked[TM_PICKED_rehomed], 1);
    tm_count(&slot->opened, 1);
    tm_interest_again(w, index, TM_ENDPOINT); /* its events are the connection's from here on */
    tm_rehome_end(w, scout);
    tm_arm(w, index, tm_timeout_next(w, index));
}

/* One that was told something has proved by its answers that it does not speak first. */
static uint64_t listens_until_ms(const struct tm_worker *w, uint32_t scout)
{
    if (tm_moves_of(w, scout)->told)
        return w->records[scout].last_activity_ms;
    uint64_t listen = tm_moves_of(w, scout)->quiet_ms;
    if (listen < LISTEN_MS)
        listen = LISTEN_MS;
    if (listen > LISTEN_MOST_MS)
        listen = LISTEN_MOST_MS;
    return w->records[scout].last_activity_ms + listen;
}

/* It is listened to, or waits for a quiet moment of its connection. */
static void look(struct tm_worker *w, uint32_t scout)
{
    const struct tm_cold *cold = &w->colds[scout];
    int fd = w->records[scout].fd[TM_ENDPOINT];
    uint32_t index = connection_of(w, scout), quiet_ms = tm_moves_of(w, scout)->quiet_ms;
    uint64_t next_ms = listens_until_ms(w, scout), quiet_at_ms;
    if (index == TM_NONE || !is_still_wanted(w, scout, index)) {
        give_up(w, scout);
        return;
    }
    enum tm_replay told = tm_replay_hear(w, scout);
    if (told == TM_REPLAY_REFUSED || tm_sock_unread(fd) || tm_sock_input_ends(fd) ||
        tm_sock_error(fd) < 0) {
        stay(w, scout, UNWANTED_STAYS_S, TM_STAYS_UNWANTED);
        return;
    }
    bool holds = tm_replay_holds(w, scout, index), ready = w->now_ms >= next_ms;
    if (told == TM_REPLAY_DONE && holds && ready &&
        tm_converge_is_moment(w, index, quiet_ms)) {
        exchange(w, index, scout);
        return;
    }
    if (!holds || w->now_ms >= cold->until_ms) {
        give_up(w, scout);
        return;
    }
    if (told == TM_REPLAY_WAITS) {
        next_ms = cold->until_ms;
    } else if (ready) {
        quiet_at_ms = w->records[index].last_activity_ms + quiet_ms;
        next_ms = w->now_ms + LOOK_MS > quiet_at_ms ? w->now_ms + LOOK_MS : quiet_at_ms;
    }
    tm_arm(w, scout, tm_lower_limit(next_ms, cold->until_ms));
}

static void established(struct tm_worker *w, uint32_t scout)
{
    struct tm_conn *conn = &w->records[scout];
    struct tm_cold *cold = &w->colds[scout];
    uint32_t index = connection_of(w, scout);
    uint32_t connect_us = (uint32_t)tm_clock_us() - cold->connect_started_us;
    struct tm_peer local;
    tm_note_success(&w->commons->slots[cold->endpoint_slot]);
    cold->connect_us = connect_us ? connect_us : 1;
    tm_histogram_add(&w->live->times[conn->destination_slot].connect, tm_latency_bounds_us,
                     cold->connect_us);
    if (index == TM_NONE || tm_header_send(w, scout, index) < 0 ||
        tm_replay_send(w, scout, index) < 0) {
        give_up(w, scout);
        return;
    }
    if (cold->endpoint.family != AF_UNIX)
        tm_sock_acknowledge(conn->fd[TM_ENDPOINT]);
    tm_sock_local(conn->fd[TM_ENDPOINT], &local);
    cold->local_port[TM_ENDPOINT] = local.port;
    conn->last_activity_ms = w->now_ms;
    cold->until_ms = listens_until_ms(w, scout) + PATIENCE_MS;
    look(w, scout);
}

void tm_rehome_event(struct tm_worker *w, uint32_t scout, uint32_t events)
{
    if (w->colds[scout].connect_us) {
        if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
            look(w, scout);
        return;
    }
    if (!(events & (EPOLLOUT | EPOLLERR | EPOLLHUP)))
        return;
    int error = tm_sock_error(w->records[scout].fd[TM_ENDPOINT]);
    if (error < 0)
        connect_failed(w, scout, -error);
    else if (events & EPOLLOUT)
        established(w, scout);
}

void tm_rehome_due(struct tm_worker *w, uint32_t scout)
{
    const struct tm_cold *cold = &w->colds[scout];
    if (cold->connect_us)
        look(w, scout);
    else if (connection_of(w, scout) == TM_NONE)
        stay(w, scout, 0, TM_STAYS_FAILED);
    else if (w->now_ms >= cold->until_ms)
        connect_failed(w, scout, 0);
    else
        tm_arm(w, scout, tm_lower_limit(cold->until_ms, w->now_ms + PARTNER_LOOK_MS));
}

/* --- a scout -------------------------------------------------------------------------------- */

/* A record for it; TM_NONE: there is none. */
static uint32_t make_scout(struct tm_worker *w, uint32_t index, uint32_t at, uint32_t quiet_ms)
{
    uint32_t scout = tm_partner_take(w, index, at, TM_PICKED_rehomed);
    if (scout == TM_NONE)
        return TM_NONE;
    w->colds[scout].idle_timeout_ms =
        (uint32_t)w->image->destinations[at].rules.idle_timeout_ms;
    tm_moves_take(w, scout)->quiet_ms = quiet_ms;
    tm_partner_enter(w, scout, index, TM_SCOUTING);
    return scout;
}

static void start_connect(struct tm_worker *w, uint32_t scout, const struct tm_endpoint *endpoint)
{
    struct tm_conn *conn = &w->records[scout];
    struct tm_cold *cold = &w->colds[scout];
    uint32_t index = tm_moves_of(w, scout)->partner;
    int fd = tm_attempt_open(w, scout, endpoint), state;
    if (fd < 0) {
        connect_failed(w, scout, -fd);
        return;
    }
    tm_trace_connect(&w->commons->traces, w->records[index].fd[TM_CLIENT], tm_peer_of(w, index),
                     fd, &cold->endpoint, cold->route_slot, w->connects++);
    state = tm_sock_established(fd);
    if (state < 0) {
        connect_failed(w, scout, -state);
        return;
    }
    conn->side_flags[TM_ENDPOINT] = tm_first_flags(cold->endpoint.family);
    if (state == 0)
        conn->side_flags[TM_ENDPOINT] |= TM_WRITE_WATCHED;
    if (tm_interest_add(w, scout, TM_ENDPOINT) < 0) {
        give_up(w, scout);
        return;
    }
    cold->until_ms = w->now_ms + cold->connect_timeout_ms;
    if (state)
        established(w, scout);
    else
        tm_rehome_due(w, scout);
}

void tm_rehome(struct tm_worker *w, uint32_t index, uint64_t order, uint32_t quiet_ms,
               uint32_t slot)
{
    if (!tm_converge_may_obey(w, index, order))
        return;
    w->pump.journal->current = index;
    if (w->now_ms / 1000 < tm_moves_of(w, index)->stays_until_s || has_scout(w, index) ||
        !tm_replay_is_possible(w, index) || !tm_converge_is_moment(w, index, quiet_ms))
        return;
    tm_mirror_leave(w, index); /* what is compared would be of two endpoints */
    uint32_t at = find_destination(w, index, slot);
    uint32_t scout = at == TM_NONE ? TM_NONE : make_scout(w, index, at, quiet_ms);
    if (scout == TM_NONE)
        return;
    w->pump.journal->current = scout;
    const struct tm_endpoint *endpoint =
        tm_attempt_place(w, scout, w->colds[index].endpoint_slot);
    if (endpoint)
        start_connect(w, scout, endpoint);
    else
        give_up(w, scout);
}
