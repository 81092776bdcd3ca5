/* Relaying. Runs in a worker. */
#include "conn/relay.h"

#include <assert.h>
#include <errno.h>

#include "conn/bound.h"
#include "conn/interest.h"
#include "conn/mirror.h"
#include "conn/outcome.h"
#include "conn/destination.h"
#include "conn/rate.h"
#include "conn/record.h"
#include "conn/reset.h"
#include "conn/shadow.h"
#include "conn/stage.h"
#include "conn/talk.h"
#include "conn/timeout.h"
#include "pinned.h"
#include "sock.h"

enum { NOBODY = -1 }; /* no side */

/* Between UNIX sockets a close is more than an end of input: a peer that writes hears of it at
 * once. A TCP peer learns it from the answer to what it writes, here as directly. */
static bool both_unix(const struct tm_worker *w, uint32_t index)
{
    const struct tm_cold *cold = &w->colds[index];
    return cold->client_family == AF_UNIX && cold->endpoint.family == AF_UNIX;
}

/* --- resets --------------------------------------------------------------------------------- */

/* What `side` sends can't be delivered any more: the other side has been reset. Whom to pump next:
 * what that one sent before is still to be delivered, and its end of input resets `side`. */
static int destination_failed(struct tm_worker *w, uint32_t index, int side)
{
    struct tm_conn *conn = &w->records[index];
    int other = 1 - side;
    conn->side_flags[other] |= TM_RESET | TM_HUNG_UP;
    conn->half[side].state = TM_HALF_ABORTED;
    tm_pump_release(&w->pump, &conn->half[side]);
    if (conn->half[other].state != TM_HALF_OPEN) {
        tm_reset_from(w, index, other);
        return NOBODY;
    }
    if (!conn->half[other].blocked)
        return other;
    tm_reset_await(w, index);
    return NOBODY;
}

/* EPOLLERR for a side that is not being read at the moment. */
static void side_error(struct tm_worker *w, uint32_t index, int side)
{
    struct tm_conn *conn = &w->records[index];
    if (!(conn->side_flags[side] & TM_RESET) && tm_sock_error(conn->fd[side]) == 0)
        return;
    conn->side_flags[side] |= TM_RESET | TM_HUNG_UP;
    if (conn->half[side].state == TM_HALF_OPEN)
        tm_reset_await(w, index);
    else
        tm_reset_from(w, index, side);
}

/* --- an end of input ------------------------------------------------------------------------ */

/* One side has ended: from here on half_open_timeout. */
static void shorten_idle(struct tm_worker *w, uint32_t index)
{
    struct tm_cold *cold = &w->colds[index];
    const struct tm_destination *destination = tm_destination_of(w, index);
    uint64_t half_open = destination ? destination->rules.half_open_ms : 0;
    if (half_open && tm_lower_limit(cold->idle_timeout_ms, half_open) == half_open) {
        cold->idle_timeout_ms = (uint32_t)half_open;
        w->records[index].last_activity_ms = w->now_ms;
        tm_arm(w, index, tm_timeout_next(w, index));
    }
}

static int pass_fin_on(struct tm_worker *w, uint32_t index, int side)
{
    struct tm_conn *conn = &w->records[index];
    w->pump.journal->side = (uint8_t)side;
    tm_journal_note(w->pump.journal, TM_SHUT);
    int error = tm_sock_shut_write(conn->fd[1 - side]);
    if (error == 0) {
        conn->half[side].state = TM_HALF_SHUT;
        shorten_idle(w, index);
        if (conn->half[side].splicing & TM_TAPPED)
            tm_mirror_fin(w, index);
    }
    tm_journal_note(w->pump.journal, TM_NOTHING);
    if (error == 0)
        return NOBODY;
    assert(error == -ENOTCONN); /* reset meanwhile */
    return destination_failed(w, index, side);
}

static int half_ended(struct tm_worker *w, uint32_t index, int side)
{
    struct tm_conn *conn = &w->records[index];
    if (conn->side_flags[side] & TM_RESET) {
        /* An earlier call has taken the socket's error: this end of input is no FIN. */
        tm_reset_from(w, index, side);
        return NOBODY;
    }
    if (conn->half[1 - side].state == TM_HALF_SHUT ||
        (both_unix(w, index) && tm_sock_closed_by_peer(conn->fd[side]))) {
        tm_outcome_end(w, index, TM_CLOSED_finished, false); /* close sends the second FIN */
        return NOBODY;
    }
    return pass_fin_on(w, index, side);
}

/* --- bytes ---------------------------------------------------------------------------------- */

void tm_relay_count(struct tm_worker *w, uint32_t index, int side)
{
    struct tm_half *half = &w->records[index].half[side];
    struct tm_slot *slot = tm_slot_of(w, w->records[index].destination_slot);
    uint32_t more = (uint32_t)half->bytes - half->counted;
    tm_count(side == TM_CLIENT ? &slot->bytes_in : &slot->bytes_out, more);
    half->counted = (uint32_t)half->bytes;
}

static void note_first_byte(struct tm_worker *w, uint32_t index)
{
    struct tm_conn *conn = &w->records[index];
    const struct tm_cold *cold = &w->colds[index];
    uint64_t us = tm_clock_us() - cold->accepted_at_us;
    conn->first_byte_us = us < TM_NONE ? (uint32_t)us : TM_NONE;
    if (us == 0)
        conn->first_byte_us = 1;
    tm_histogram_add(&w->live->times[conn->destination_slot].first_byte, tm_latency_bounds_us, us);
    tm_note_answer(&w->commons->slots[cold->endpoint_slot]);
}

/* Its rate is limited: rate.h has written down until when it is not read. */
static void pause(struct tm_worker *w, uint32_t index, int side)
{
    tm_interest_stop_reading(w, index, side);
    tm_arm(w, index, tm_timeout_next(w, index));
}

/* Bytes have been passed on. */
static void note_moved(struct tm_worker *w, uint32_t index, int side, uint32_t moved)
{
    struct tm_conn *conn = &w->records[index];
    if (moved >= TM_BULK_RUN)
        tm_bound_do_not_pace(w, index, 1 - side);
    conn->last_activity_ms = w->now_ms;
    if (side == TM_ENDPOINT && conn->first_byte_us == 0)
        note_first_byte(w, index);
    w->expecting = moved >= TM_BIG_READ ? TM_EXPECT_BULK
                   : side == TM_CLIENT  ? TM_EXPECT_ANSWER
                                        : TM_EXPECT_CLIENT;
    tm_record_note_spoke(conn, side);
    tm_relay_count(w, index, side); /* last: what is not counted yet, recovery notes */
}

/* Whom to pump next. */
static int act_on(struct tm_worker *w, uint32_t index, int side, enum tm_pump_result result)
{
    struct tm_conn *conn = &w->records[index];
    switch (result) {
    case TM_PUMP_DRAINED:
        if (!conn->half[side].paused)
            tm_interest_read(w, index, side);
        break;
    case TM_PUMP_BLOCKED:
        tm_interest_write(w, index, 1 - side);
        if (conn->side_flags[side] & TM_HUNG_UP)
            /* Its reset may have been told while a budget was used up; it is not told again. */
            side_error(w, index, side);
        if (w->stall.look_ms == 0)
            w->stall.look_ms = tm_pinned_next(w->now_ms);
        break;
    case TM_PUMP_YIELD:
        if (!conn->half[side].paused)
            tm_record_push_ready(w, index, side);
        break;
    case TM_PUMP_EOF:
        return half_ended(w, index, side);
    case TM_PUMP_SOURCE_ERROR:
        conn->side_flags[side] |= TM_RESET;
        tm_reset_from(w, index, side);
        break;
    case TM_PUMP_HOST_ERROR:
        /* Bytes may be in the buffer alone. The journal says so, until nobody waits for them. */
        tm_outcome_end(w, index, TM_CLOSED_local_error, true);
        tm_journal_note(w->pump.journal, TM_NOTHING);
        break;
    case TM_PUMP_DESTINATION_ERROR:
        return destination_failed(w, index, side);
    }
    return NOBODY;
}

/* In a conversation that is heard. */
static void note_first_error(struct tm_worker *w, uint32_t index)
{
    struct tm_talk *talk = tm_talk_of(w, index);
    if (!talk || !tm_talk_take_error(talk))
        return;
    tm_count(&tm_slot_of(w, w->records[index].destination_slot)->first_errors, 1);
    tm_count(&tm_slot_of(w, w->colds[index].endpoint_slot)->first_errors, 1);
}

/* Who else has its bytes. */
static void listen_in(struct tm_worker *w, uint32_t index, int side)
{
    uint8_t how = w->records[index].half[side].splicing;
    if (how & TM_HEARD) {
        w->pump.talk = tm_talk_of(w, index);
        w->pump.kept = tm_kept_of(w, index);
    }
    if (how & (TM_TAPPED | TM_COMPARED))
        tm_mirror_before(w, index, side);
}

static int pump_once(struct tm_worker *w, uint32_t index, int side)
{
    struct tm_conn *conn = &w->records[index];
    struct tm_half *half = &conn->half[side];
    int other = 1 - side;
    if (half->paused && !tm_rate_is_due(w, index, side))
        return NOBODY;
    if (!w->shapes) {
        half->paused = TM_UNPAUSED;
    } else if (!tm_rate_may_read(w, index, tm_destination_of(w, index), side)) {
        pause(w, index, side);
        return NOBODY;
    }
    if (!(conn->side_flags[other] & TM_PROVEN))
        tm_bound_before(w, index, side);
    w->pump.journal->side = (uint8_t)side;
    if (half->splicing & ~TM_SPLICE)
        listen_in(w, index, side);
    enum tm_pump_result result = tm_pump_run(&w->pump, half, conn->fd[side], conn->fd[other],
                                             conn->side_flags[side] & TM_HUNG_UP);
    uint32_t moved = (uint32_t)half->bytes - half->counted;
    if (!(conn->side_flags[other] & TM_PROVEN))
        tm_bound_after(w, index, side);
    if (side == TM_ENDPOINT && half->splicing & TM_HEARD)
        note_first_error(w, index);
    if (half->splicing & (TM_TAPPED | TM_COMPARED))
        tm_mirror_after(w, index, side, moved);
    if (w->shapes && tm_rate_pay(w, index, tm_destination_of(w, index), side, moved))
        pause(w, index, side);
    if (moved)
        note_moved(w, index, side, moved);
    return act_on(w, index, side, result);
}

void tm_relay_pump(struct tm_worker *w, uint32_t index, int side)
{
    const struct tm_conn *conn = &w->records[index];
    int other = pump_once(w, index, side);
    if (other == NOBODY)
        return;
    side = pump_once(w, index, other);
    assert(side == NOBODY); /* that half is aborted */
    if (conn->state == TM_RELAYING && conn->half[other].blocked)
        tm_reset_await(w, index);
}

/* --- events --------------------------------------------------------------------------------- */

static bool is_readable(const struct tm_conn *conn, int side)
{
    return conn->half[side].state == TM_HALF_OPEN && !conn->half[side].blocked;
}

void tm_relay_event(struct tm_worker *w, uint32_t index, int side, uint32_t events)
{
    struct tm_conn *conn = &w->records[index];
    struct tm_half *half = &conn->half[side];
    int other = 1 - side;
    tm_interest_note(conn, side, events);
    if (events & EPOLLERR && half->paused)
        /* What is there to be read is so for the last time. */
        tm_rate_end_pause(w, index, tm_destination_of(w, index), side);
    if (events & EPOLLOUT && conn->half[other].blocked && conn->half[other].state == TM_HALF_OPEN) {
        tm_relay_pump(w, index, other);
        if (conn->state != TM_RELAYING)
            return;
    }
    if (half->state == TM_HALF_OPEN) {
        if (half->blocked || half->paused) {
            if (events & EPOLLIN)
                tm_interest_stop_reading(w, index, side);
        } else if (events & (EPOLLIN | TM_READ_TO_THE_END)) {
            tm_relay_pump(w, index, side);
        }
    }
    if (conn->state != TM_RELAYING)
        return;
    if (events & EPOLLERR) {
        if (!is_readable(conn, side))
            side_error(w, index, side);
    } else if (events & EPOLLHUP && half->state == TM_HALF_SHUT && both_unix(w, index)) {
        /* A half-close before, and now a close. */
        tm_outcome_end(w, index, TM_CLOSED_finished, false);
    }
}

bool tm_relay_resume(struct tm_worker *w)
{
    uint32_t index = w->ready, next;
    w->ready = TM_NONE;
    for (; index != TM_NONE; index = next) {
        struct tm_conn *conn = &w->records[index];
        uint8_t sides = conn->ready;
        tm_live_advance(w->live);
        next = conn->next;
        w->pump.journal->current = index;
        conn->ready = 0;
        if (conn->state == TM_DEAD)
            tm_record_bury(w, index);
        if (conn->state == TM_SHADOWING)
            tm_shadow_read(w, index);
        for (int side = 0; side < 2; side++)
            if (sides & 1 << side && conn->state == TM_RELAYING && !conn->moving &&
                is_readable(conn, side))
                tm_relay_pump(w, index, side);
    }
    return w->ready != TM_NONE;
}

/* --- the stage ------------------------------------------------------------------------------ */

struct tm_answer tm_relay(struct tm_worker *w, uint32_t index)
{
    struct tm_conn *conn = &w->records[index];
    struct tm_cold *cold = &w->colds[index];
    const struct tm_route *route = tm_route_of(w, index);
    uint32_t connect_us = (uint32_t)tm_clock_us() - cold->connect_started_us, shadow = TM_NONE;
    tm_note_success(&w->commons->slots[cold->endpoint_slot]);
    cold->failure = TM_OPEN;
    cold->until_ms = 0;
    cold->connect_us = connect_us ? connect_us : 1;
    tm_histogram_add(&w->live->times[conn->destination_slot].connect, tm_latency_bounds_us,
                     cold->connect_us);
    conn->last_activity_ms = w->now_ms;
    tm_record_note_uncounted(conn, cold);
    if (route)
        tm_talk_start(w, index, route);
    tm_conn_enter(conn, TM_RELAYING);
    tm_outcome_log_start(w, index);
    tm_arm(w, index, tm_timeout_next(w, index));
    if (route && route->rules.mirror_share)
        shadow = tm_mirror_begin(w, index, route);
    tm_relay_pump(w, index, TM_CLIENT);
    assert(w->pump.ahead == 0); /* the header went with that */
    if (shadow != TM_NONE)
        tm_mirror_connect(w, shadow);
    if (cold->endpoint.family != AF_UNIX && conn->state == TM_RELAYING)
        tm_sock_acknowledge(conn->fd[TM_ENDPOINT]);
    return tm_over();
}
