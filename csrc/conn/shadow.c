/* Shadows. Runs in a worker. */
#include "conn/shadow.h"

#include <assert.h>
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "conn/interest.h"
#include "conn/moves.h"
#include "conn/record.h"
#include "conn/shadow_begin.h"
#include "sock.h"
#include "trust.h"

enum {
    LATE_MS = 5000,        /* after its connection has ended */
    DRAINING_LATE_MS = 100, /* the same while the worker is to end with its connections */
    RESET_LATE_MS = 1000,  /* a connection that is reset as well is so by then */
    READ_BUDGET = 1 << 18, /* bytes of its answer in one turn */
    SELDOM = 1 << 14,      /* bytes of its answer after the first ones that are worth an event */
    RARELY = 1 << 18,      /* the same once they are only counted */
    DROPPED = 1 << 21,     /* bytes of one call then: nothing is copied */
    CHEAPER = 8,           /* than those that are */
    AHEAD = 1 << 26,       /* bytes that it may have answered more than the endpoint so far; more */
    AHEAD_LOOK_MS = 20,    /* are left unread, and looked at so often */
    SHED = 16,             /* shadows that make room at a time */
};

/* --- what belongs to it --------------------------------------------------------------------- */

uint32_t tm_shadow_primary(const struct tm_worker *w, uint32_t shadow)
{
    const struct tm_moves *its = tm_moves_of(w, shadow);
    uint32_t index = its->partner;
    return its->partner_generation && index < w->live->records_used &&
                   w->records[index].generation == its->partner_generation &&
                   w->records[index].state == TM_RELAYING &&
                   tm_moves_of(w, index)->partner == shadow
               ? index
               : TM_NONE;
}

struct tm_comparison *tm_shadow_comparison(const struct tm_worker *w, uint32_t shadow)
{
    uint32_t annex = w->colds[shadow].annex;
    assert(annex);
    return tm_comparison_in(&w->annexes[annex - 1]);
}

struct tm_tap tm_shadow_tap(const struct tm_worker *w, uint32_t shadow)
{
    struct tm_conn *conn = &w->records[shadow];
    return (struct tm_tap){
        .half = &conn->half[TM_CLIENT],
        .comparison = tm_shadow_comparison(w, shadow),
        .fd = w->colds[shadow].connect_us ? conn->fd[TM_ENDPOINT] : -1,
    };
}

/* --- its end -------------------------------------------------------------------------------- */

static uint64_t *fate_in(struct tm_slot *slot, enum tm_shadow_fate fate)
{
    uint64_t *const fates[TM_SHADOW_FATES] = {
        [TM_SHADOW_AGREED] = &slot->mirror_agreed,   [TM_SHADOW_CONTENT] = &slot->mirror_content,
        [TM_SHADOW_BYTES] = &slot->mirror_bytes,     [TM_SHADOW_END] = &slot->mirror_end,
        [TM_SHADOW_REFUSED] = &slot->mirror_refused, [TM_SHADOW_RESET] = &slot->mirror_reset,
        [TM_SHADOW_BEHIND] = &slot->mirror_behind,   [TM_SHADOW_LATE] = &slot->mirror_late,
        [TM_SHADOW_CUT] = &slot->mirror_cut,         [TM_SHADOW_LOST] = &slot->mirror_lost,
    };
    return fates[fate];
}

uint64_t tm_shadow_fates(const struct tm_slot *slot)
{
    return slot->mirror_agreed + slot->mirror_content + slot->mirror_bytes + slot->mirror_end +
           slot->mirror_refused + slot->mirror_reset + slot->mirror_behind + slot->mirror_late +
           slot->mirror_cut + slot->mirror_lost;
}

void tm_shadow_let_go(struct tm_worker *w, uint32_t shadow)
{
    uint32_t index = tm_shadow_primary(w, shadow);
    if (index == TM_NONE)
        return;
    tm_moves_take(w, index)->partner_generation = 0;
    for (int side = 0; side < 2; side++)
        w->records[index].half[side].splicing &= (uint8_t)~(TM_TAPPED | TM_COMPARED);
}

/* By its own FIN, all of its answer has been read, and it has been told of its client's end. */
static bool has_ended(const struct tm_worker *w, uint32_t shadow)
{
    return w->colds[shadow].annex && w->records[shadow].half[TM_CLIENT].state == TM_HALF_SHUT &&
           tm_shadow_comparison(w, shadow)->of[TM_SHADOW].ended == TM_STREAM_FIN;
}

void tm_shadow_end(struct tm_worker *w, uint32_t shadow, enum tm_shadow_fate fate)
{
    struct tm_conn *conn = &w->records[shadow];
    struct tm_cold *cold = &w->colds[shadow];
    tm_shadow_let_go(w, shadow);
    cold->close_reason = TM_CLOSED_shadow;
    cold->by_reset = !has_ended(w, shadow);
    w->shadows--;
    tm_conn_enter(conn, TM_ENDING);
    tm_count(fate_in(tm_slot_of(w, cold->route_slot), fate), 1);
    if (cold->endpoint_slot != TM_NONE)
        tm_count(&tm_slot_of(w, cold->endpoint_slot)->closed[TM_CLOSED_shadow], 1);
    tm_record_finish(w, shadow);
    tm_record_release(w, shadow);
}

static void note_latency(struct tm_worker *w, uint32_t shadow, const struct tm_comparison *of)
{
    uint32_t primary = of->beside;
    if (!of->of[TM_PRIMARY].first_us || !of->of[TM_SHADOW].first_us || !tm_is_slot(primary))
        return;
    tm_histogram_add(&w->live->times[primary].mirror_first_byte, tm_latency_bounds_us,
                     of->of[TM_PRIMARY].first_us);
    tm_histogram_add(&w->live->times[w->records[shadow].destination_slot].mirror_first_byte,
                     tm_latency_bounds_us, of->of[TM_SHADOW].first_us);
}

/* For whoever wants to know where to look. */
static void note_difference(struct tm_worker *w, uint32_t shadow, enum tm_shadow_fate fate)
{
    const struct tm_comparison *comparison = tm_shadow_comparison(w, shadow);
    if (comparison->within)
        tm_difference_note(&w->live->differences, &(struct tm_difference){
                                                      .route_slot = w->colds[shadow].route_slot,
                                                      .fate = fate,
                                                      .at = comparison->at,
                                                      .within = comparison->within,
                                                      .when_ms = w->now_ms,
                                                  });
}

/* Whatever it answers now, it has answered more than its connection's endpoint. */
static bool is_too_much(const struct tm_worker *w, uint32_t shadow)
{
    const struct tm_comparison *comparison = tm_shadow_comparison(w, shadow);
    return comparison->of[TM_PRIMARY].ended &&
           w->records[shadow].half[TM_ENDPOINT].bytes > comparison->bytes;
}

/* Both have ended, or more can't change it. */
static void judge(struct tm_worker *w, uint32_t shadow)
{
    struct tm_comparison *comparison = tm_shadow_comparison(w, shadow);
    enum tm_judgement verdict =
        tm_compare_judge(comparison, w->records[shadow].half[TM_ENDPOINT].bytes);
    note_latency(w, shadow, comparison);
    note_difference(w, shadow, (enum tm_shadow_fate)verdict);
    tm_shadow_end(w, shadow, (enum tm_shadow_fate)verdict);
}

/* What has become of it if one of the two has not ended in time. */
static void end_unjudged(struct tm_worker *w, uint32_t shadow, enum tm_shadow_fate fate)
{
    const struct tm_comparison *comparison = tm_shadow_comparison(w, shadow);
    note_difference(w, shadow, TM_SHADOW_CONTENT);
    tm_shadow_end(w, shadow, comparison->within ? TM_SHADOW_CONTENT : fate);
}

/* --- ending with its connection ------------------------------------------------------------- */

/* False: it is over. */
static bool go_on(struct tm_worker *w, uint32_t shadow, struct tm_tap *tap)
{
    struct tm_conn *conn = &w->records[shadow];
    struct tm_half *half = &conn->half[TM_CLIENT];
    struct tm_answers *of = &tap->comparison->of[TM_SHADOW];
    if (of->ended == TM_STREAM_RST) {
        tap->lost = TM_TAP_FOLLOWS; /* it waits for its connection's end: due() */
        return true;
    }
    if (tap->lost) {
        end_unjudged(w, shadow,
                     tap->lost == TM_TAP_BEHIND ? TM_SHADOW_BEHIND : TM_SHADOW_RESET);
        return false;
    }
    if (!of->was_asked && tap->fd >= 0 && half->bytes > tap->comparison->ahead) {
        of->was_asked = 1;
        of->asked_us = tm_clock_us();
    }
    if (half->queued) {
        if (tap->fd >= 0)
            tm_interest_write(w, shadow, TM_ENDPOINT);
    } else if (tap->comparison->fin && tap->fd >= 0 && half->state == TM_HALF_OPEN) {
        if (tm_sock_shut_write(tap->fd) < 0)
            conn->side_flags[TM_ENDPOINT] |= TM_RESET; /* its event tells */
        half->state = TM_HALF_SHUT;
    }
    return true;
}

bool tm_shadow_go_on(struct tm_worker *w, uint32_t shadow, enum tm_tap_lost lost)
{
    struct tm_tap tap = tm_shadow_tap(w, shadow);
    tap.lost = lost;
    if (!lost)
        tm_tap_flush(&tap, &w->pump.pool);
    return go_on(w, shadow, &tap);
}

uint32_t tm_shadow_patience_ms(const struct tm_worker *w)
{
    return tm_table_state(w->table) == TM_DRAINING ? DRAINING_LATE_MS : LATE_MS;
}

void tm_shadow_finish(struct tm_worker *w, uint32_t shadow)
{
    struct tm_comparison *comparison = tm_shadow_comparison(w, shadow);
    enum tm_stream_end one = (enum tm_stream_end)comparison->of[TM_PRIMARY].ended,
                       other = (enum tm_stream_end)comparison->of[TM_SHADOW].ended;
    tm_shadow_let_go(w, shadow);
    tm_moves_take(w, shadow)->partner_generation = 0;
    if (one == TM_STREAM_CUT) {
        end_unjudged(w, shadow, TM_SHADOW_CUT);
        return;
    }
    if (other == TM_STREAM_RST && one != TM_STREAM_RST) {
        end_unjudged(w, shadow, TM_SHADOW_RESET);
        return;
    }
    if (!tm_shadow_go_on(w, shadow, TM_TAP_FOLLOWS))
        return;
    if (other != TM_STREAM_OPEN || is_too_much(w, shadow)) {
        judge(w, shadow);
        return;
    }
    w->colds[shadow].until_ms = w->now_ms + tm_shadow_patience_ms(w);
    tm_arm(w, shadow, w->colds[shadow].until_ms);
    if (w->colds[shadow].connect_us)
        tm_record_push_ready(w, shadow, TM_ENDPOINT); /* what has been left unread */
}

/* Its answer has ended. */
static void answer_ended(struct tm_worker *w, uint32_t shadow, enum tm_stream_end how)
{
    struct tm_comparison *comparison = tm_shadow_comparison(w, shadow);
    uint32_t index = tm_shadow_primary(w, shadow);
    comparison->of[TM_SHADOW].ended = (uint8_t)how;
    if (comparison->of[TM_PRIMARY].ended) {
        judge(w, shadow);
    } else if (how == TM_STREAM_RST) {
        tm_record_close_side(w, shadow, TM_ENDPOINT, true);
        if (index != TM_NONE)
            w->records[index].half[TM_CLIENT].splicing &= (uint8_t)~TM_TAPPED;
        w->colds[shadow].until_ms = w->now_ms + RESET_LATE_MS;
        tm_arm(w, shadow, w->colds[shadow].until_ms);
    }
}

/* --- its answer ----------------------------------------------------------------------------- */

/* The next ones are looked at when they are so many, or at the end. */
static void look_at(int fd, int bytes)
{
    /* One that refuses is told of all bytes at once, as before. */
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &bytes, sizeof(bytes));
}

static void note_first(struct tm_worker *w, uint32_t shadow, struct tm_answers *of)
{
    uint64_t taken = tm_clock_us() - of->asked_us;
    of->first_us = taken == 0 ? 1 : taken < UINT32_MAX ? (uint32_t)taken : UINT32_MAX;
    look_at(w->records[shadow].fd[TM_ENDPOINT], SELDOM);
}

/* Its next bytes: into the buffer, or dropped where they are. */
static ssize_t receive(struct tm_worker *w, int fd, bool drops)
{
    ssize_t got;
    do
        got = drops ? recv(fd, NULL, DROPPED, MSG_DONTWAIT | MSG_TRUNC)
                    : recv(fd, w->pump.buffer, w->pump.buffer_size, MSG_DONTWAIT);
    while (got < 0 && errno == EINTR);
    return got;
}

/* It waits: one that answers without end, or unasked, is not to take more of the worker's time than
 * its connection. */
static bool is_ahead(struct tm_worker *w, uint32_t shadow)
{
    uint32_t index = tm_shadow_primary(w, shadow);
    return index != TM_NONE && w->records[shadow].half[TM_ENDPOINT].bytes >
                                   w->records[index].half[TM_ENDPOINT].bytes + AHEAD;
}

void tm_shadow_read(struct tm_worker *w, uint32_t shadow)
{
    struct tm_conn *conn = &w->records[shadow];
    struct tm_comparison *comparison = tm_shadow_comparison(w, shadow);
    struct tm_answers *of = &comparison->of[TM_SHADOW];
    bool can_drop = w->colds[shadow].endpoint.family != AF_UNIX; /* which ignores MSG_TRUNC */
    int64_t budget = READ_BUDGET;
    if (of->ended || conn->fd[TM_ENDPOINT] < 0)
        return;
    while (budget > 0) {
        if (is_ahead(w, shadow)) {
            tm_arm(w, shadow, w->now_ms + AHEAD_LOOK_MS);
            return;
        }
        bool drops = can_drop && !tm_compare_wants(comparison, TM_SHADOW);
        ssize_t got = receive(w, conn->fd[TM_ENDPOINT], drops);
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        if (got <= 0) {
            answer_ended(w, shadow, got == 0 ? TM_STREAM_FIN : TM_STREAM_RST);
            return;
        }
        if (!drops)
            tm_compare_feed(comparison, TM_SHADOW, w->pump.buffer, (size_t)got);
        conn->half[TM_ENDPOINT].bytes += (uint64_t)got;
        if (!of->first_us)
            note_first(w, shadow, of);
        else if (!drops && !tm_compare_wants(comparison, TM_SHADOW))
            look_at(conn->fd[TM_ENDPOINT], RARELY);
        budget -= drops ? got / CHEAPER : got;
        if (is_too_much(w, shadow)) {
            judge(w, shadow);
            return;
        }
    }
    tm_record_push_ready(w, shadow, TM_ENDPOINT);
}

/* --- what happens to it --------------------------------------------------------------------- */

void tm_shadow_event(struct tm_worker *w, uint32_t shadow, uint32_t events)
{
    const struct tm_cold *cold = &w->colds[shadow];
    if (!cold->connect_us) {
        tm_shadow_connect_event(w, shadow, events);
        return;
    }
    if (events & EPOLLOUT && !tm_shadow_go_on(w, shadow, TM_TAP_FOLLOWS))
        return;
    if (events & (EPOLLIN | TM_READ_TO_THE_END))
        tm_shadow_read(w, shadow);
}

void tm_shadow_due(struct tm_worker *w, uint32_t shadow)
{
    const struct tm_cold *cold = &w->colds[shadow];
    if (cold->until_ms == 0)
        tm_shadow_read(w, shadow); /* it was ahead */
    else if (w->now_ms < cold->until_ms)
        tm_arm(w, shadow, cold->until_ms);
    else if (tm_shadow_comparison(w, shadow)->of[TM_SHADOW].ended == TM_STREAM_RST)
        end_unjudged(w, shadow, TM_SHADOW_RESET);
    else if (!cold->connect_us && tm_shadow_primary(w, shadow) != TM_NONE)
        tm_shadow_connect_late(w, shadow);
    else
        end_unjudged(w, shadow, cold->connect_us ? TM_SHADOW_LATE : TM_SHADOW_REFUSED);
}

bool tm_shadow_make_room(struct tm_worker *w)
{
    uint32_t ended = 0;
    for (uint32_t looked = 0; looked < w->live->records_used && w->shadows && ended < SHED;
         looked++) {
        uint32_t index = w->next_shed++ % w->live->records_used;
        if (w->records[index].state != TM_SHADOWING)
            continue;
        tm_shadow_end(w, index, TM_SHADOW_CUT);
        ended++;
    }
    return ended;
}
