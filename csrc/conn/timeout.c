/* Deadlines: of a reset, of an idle connection, of a lifetime, of a pause. Runs in a worker. */
#include "conn/timeout.h"

#include <assert.h>

#include "conn/connect.h"
#include "conn/outcome.h"
#include "conn/destination.h"
#include "conn/rate.h"
#include "conn/rehome.h"
#include "conn/relay.h"
#include "conn/reset.h"
#include "conn/shadow.h"
#include "conn/stage.h"
#include "sock.h"

/* How long the end of a lifetime waits for a moment when nothing is under way. */
#define END_WAIT_MS 1000u
/* Connections that live so long have their peers looked after by TCP. */
#define KEEPALIVE_AFTER_MS 15000u
#define NEVER ((uint64_t)1 << 62)

/* Monotonic; 0 = never. Jitter is the same whenever it is asked for. */
static uint64_t lifetime_ends_ms(const struct tm_cold *cold,
                                 const struct tm_destination *destination)
{
    uint64_t lifetime = destination->rules.lifetime_ms;
    if (lifetime == 0)
        return 0;
    uint64_t part = tm_mix(cold->accepted_at_us ^ (uint64_t)cold->client.port << 48) & 0xffff;
    return cold->accepted_at_us / 1000 + lifetime -
           lifetime * destination->rules.lifetime_jitter * part / (UINT64_C(100) * 0xffff);
}

static bool wants_keepalive(const struct tm_conn *conn, const struct tm_destination *destination)
{
    return !(conn->side_flags[TM_CLIENT] & TM_KEPT_ALIVE) &&
           (destination->rules.keepalive_s || destination->rules.user_timeout_ms);
}

uint64_t tm_timeout_next(struct tm_worker *w, uint32_t index)
{
    const struct tm_conn *conn = &w->records[index];
    const struct tm_cold *cold = &w->colds[index];
    const struct tm_destination *destination = tm_destination_of(w, index);
    uint64_t look = 0;
    if (cold->until_ms)
        return cold->until_ms;
    if (cold->idle_timeout_ms)
        look = conn->last_activity_ms + cold->idle_timeout_ms;
    if (destination) {
        look = tm_lower_limit(look, lifetime_ends_ms(cold, destination));
        if (wants_keepalive(conn, destination))
            look = tm_lower_limit(look, cold->accepted_at_us / 1000 + KEEPALIVE_AFTER_MS);
    }
    for (int side = 0; side < 2; side++)
        if (conn->half[side].paused)
            look = tm_lower_limit(look, tm_rate_look_ms(w, index, side));
    return look ? look : NEVER;
}

/* Whether an end now cuts something off, and has to be a reset: a FIN would pretend that all was
 * delivered. It may be in a pipe, before us as it could not or must not be read yet, or behind us
 * as the peer has not acknowledged it. */
static bool is_undelivered(const struct tm_conn *conn)
{
    for (int side = 0; side < 2; side++) {
        if (conn->half[side].queued || tm_sock_unacknowledged(conn->fd[side]))
            return true;
        if (conn->half[side].state == TM_HALF_OPEN && tm_sock_unread(conn->fd[side]))
            return true;
    }
    return false;
}

/* What we hold back is not idle, nor is what goes on from a send queue. */
static bool is_idle(struct tm_worker *w, uint32_t index)
{
    struct tm_conn *conn = &w->records[index];
    uint64_t timeout = w->colds[index].idle_timeout_ms, since = conn->last_activity_ms;
    if (timeout == 0 || w->now_ms < since + timeout)
        return false;
    for (int side = 0; side < 2; side++) {
        const struct tm_half *half = &conn->half[side];
        if (half->paused && half->state == TM_HALF_OPEN &&
            (conn->side_flags[side] & TM_HUNG_UP || tm_sock_unread(conn->fd[side])))
            since = w->now_ms;
        if (tm_sock_unacknowledged(conn->fd[side])) {
            uint64_t ago = tm_sock_sent_ago(conn->fd[side]);
            if (since + ago < w->now_ms)
                since = w->now_ms - ago;
        }
    }
    conn->last_activity_ms = since;
    return w->now_ms >= since + timeout;
}

/* Its lifetime is over: at a moment when nothing is under way, or at the latest then. */
static void end_in_time(struct tm_worker *w, uint32_t index, uint64_t latest_ms)
{
    bool undelivered = is_undelivered(&w->records[index]);
    if (undelivered && w->now_ms < latest_ms)
        tm_arm(w, index, w->now_ms + TM_RESET_LOOK_MS);
    else
        tm_outcome_end(w, index, TM_CLOSED_lifetime, undelivered);
}

static void keep_alive(struct tm_conn *conn, const struct tm_destination_rules *rules)
{
    conn->side_flags[TM_CLIENT] |= TM_KEPT_ALIVE;
    for (int side = 0; side < 2; side++)
        tm_sock_keep_alive(conn->fd[side], (int)rules->keepalive_s,
                           (int)rules->keepalive_interval_s, (int)rules->keepalive_count,
                           (int)rules->user_timeout_ms);
}

/* Reads again what may be read again. False: the connection is over. */
static bool end_pauses(struct tm_worker *w, uint32_t index)
{
    const struct tm_conn *conn = &w->records[index];
    const struct tm_destination *destination = tm_destination_of(w, index);
    for (int side = 0; side < 2; side++) {
        if (!conn->half[side].paused)
            continue;
        tm_rate_shorten_pause(w, index, destination, side);
        if (conn->half[side].state == TM_HALF_OPEN && tm_rate_is_due(w, index, side)) {
            tm_relay_pump(w, index, side);
            if (conn->state != TM_RELAYING)
                return false;
        }
    }
    return true;
}

static void relaying_due(struct tm_worker *w, uint32_t index)
{
    struct tm_conn *conn = &w->records[index];
    const struct tm_cold *cold = &w->colds[index];
    const struct tm_destination *destination = tm_destination_of(w, index);
    uint64_t ends = 0;
    if (!end_pauses(w, index))
        return;
    if (destination) {
        ends = lifetime_ends_ms(cold, destination);
        if (!(conn->side_flags[TM_CLIENT] & TM_KEPT_ALIVE) &&
            w->now_ms >= cold->accepted_at_us / 1000 + KEEPALIVE_AFTER_MS)
            keep_alive(conn, &destination->rules);
    }
    if (ends && w->now_ms >= ends)
        end_in_time(w, index, ends + END_WAIT_MS);
    else if (is_idle(w, index))
        tm_outcome_end(w, index, TM_CLOSED_idle_timeout, is_undelivered(conn));
    else
        tm_arm(w, index, tm_timeout_next(w, index));
}

/* One side was reset, and the other one does not take what came before that. */
static void delivery_due(struct tm_worker *w, uint32_t index)
{
    const struct tm_conn *conn = &w->records[index];
    uint64_t until_ms = w->colds[index].until_ms;
    if (conn->last_activity_ms + TM_RESET_WAIT_MS > until_ms)
        until_ms = conn->last_activity_ms + TM_RESET_WAIT_MS;
    if (w->now_ms < until_ms)
        tm_arm(w, index, until_ms);
    else
        tm_outcome_end(w, index,
                       conn->side_flags[TM_CLIENT] & TM_RESET ? TM_CLOSED_client_reset
                                                              : TM_CLOSED_endpoint_reset,
                       true);
}

static void resetting_due(struct tm_worker *w, uint32_t index)
{
    const struct tm_conn *conn = &w->records[index];
    const struct tm_cold *cold = &w->colds[index];
    int side = conn->fd[TM_CLIENT] >= 0 ? TM_CLIENT : TM_ENDPOINT;
    if (w->now_ms >= cold->until_ms || tm_sock_unacknowledged(conn->fd[side]) == 0)
        tm_outcome_end(w, index, (enum tm_close_reason)cold->close_reason, true);
    else
        tm_arm(w, index, w->now_ms + TM_RESET_LOOK_MS);
}

void tm_timeout_due(struct tm_worker *w, uint32_t index)
{
    w->pump.journal->current = index;
    switch ((enum tm_conn_state)w->records[index].state) {
    case TM_ACCEPTED:
    case TM_READING:
    case TM_HOLDING:
    case TM_WAITING:
        tm_stage_run(w, index);
        return;
    case TM_CONNECTING:
        tm_connect_timeout(w, index);
        return;
    case TM_RELAYING:
        if (w->colds[index].until_ms)
            delivery_due(w, index);
        else
            relaying_due(w, index);
        return;
    case TM_RESETTING:
        resetting_due(w, index);
        return;
    case TM_SCOUTING:
        tm_rehome_due(w, index);
        return;
    case TM_SHADOWING:
        tm_shadow_due(w, index);
        return;
    case TM_FREE:
    case TM_ENDING:
    case TM_DEAD:
    case TM_CONN_STATES:
        break;
    }
    assert(!"a state that can wait");
}
