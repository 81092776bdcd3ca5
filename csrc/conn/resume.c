/* Going on with connections. Runs in a worker. */
#include "conn/resume.h"

#include <errno.h>

#include "conn/connect.h"
#include "conn/interest.h"
#include "conn/moves.h"
#include "conn/occupy.h"
#include "conn/outcome.h"
#include "conn/reconcile.h"
#include "conn/record.h"
#include "conn/rehome.h"
#include "conn/relay.h"
#include "conn/reset.h"
#include "conn/shadow.h"
#include "conn/stage.h"
#include "conn/timeout.h"
#include "kernel_count.h"
#include "sock.h"

/* --- what was under way --------------------------------------------------------------------- */

/* Whether a reset has been told to a call that is not there any more to remember it. */
static bool was_reset(const struct tm_worker *w, uint32_t index, int side)
{
    const struct tm_conn *conn = &w->records[index];
    const struct tm_half *half = &conn->half[side];
    uint64_t elsewhere =
        side == TM_ENDPOINT ? tm_elsewhere_bytes(tm_moves_of(w, index)->elsewhere[side]) : 0;
    if (tm_sock_error(conn->fd[side]) < 0)
        return true;
    if (half->state == TM_HALF_OPEN)
        return tm_kernel_was_reset(conn->fd[side], half->bytes + half->queued +
                                                       tm_base_consumed(half->base) - elsewhere);
    /* Its FIN has come, ours has not been sent: nothing else closes it. */
    return conn->half[1 - side].state == TM_HALF_OPEN && tm_kernel_fin_sent(conn->fd[side]);
}

/* What is no payload: taken from one side, or sent to one. A side that has failed since is seen to
 * have when it is used next. */
static bool finish_preface(struct tm_worker *w, struct tm_conn *conn, enum tm_operation operation)
{
    int side = w->pump.journal->side & 1, other = 1 - side;
    int error = operation == TM_CONSUME
                    ? tm_pump_recover_consume(&w->pump, &conn->half[side], conn->fd[side])
                    : tm_pump_recover_prepend(&w->pump, &conn->half[side], conn->fd[other],
                                              other == TM_ENDPOINT);
    return error == 0 || error == -ECONNRESET;
}

/* False: the journal and the record can't both be right, and bytes in the buffer would be lost. */
static bool finish_opening(struct tm_worker *w, uint32_t index, enum tm_operation operation)
{
    struct tm_conn *conn = &w->records[index];
    struct tm_cold *cold = &w->colds[index];
    if (tm_moves_bytes(operation))
        return false;
    if (operation == TM_CONSUME || operation == TM_PREPEND)
        return finish_preface(w, conn, operation);
    if (conn->fd[TM_ENDPOINT] >= 0)
        return true;
    tm_vacate(w, index, TM_HOLDS_ENDPOINT);
    cold->endpoint_slot = TM_NONE;
    if (operation == TM_CONNECT && cold->attempts) {
        cold->attempts--; /* whether it was made nobody knows: once more */
        cold->tried = 0;
    }
    return true;
}

static bool finish_relaying(struct tm_worker *w, uint32_t index, enum tm_operation operation)
{
    struct tm_conn *conn = &w->records[index];
    int side = w->pump.journal->side & 1, other = 1 - side;
    struct tm_half *half = &conn->half[side];
    if (operation == TM_SHUT && tm_kernel_fin_sent(conn->fd[other]))
        half->state = TM_HALF_SHUT;
    struct tm_way way = {conn->fd[side], conn->fd[other], other == TM_ENDPOINT,
                         tm_elsewhere_bytes(tm_moves_of(w, index)->elsewhere[side])};
    if (operation == TM_PREPEND || operation == TM_CONSUME) { /* by itself */
        if (!finish_preface(w, conn, operation))
            return false;
    } else if (half->state == TM_HALF_OPEN && tm_pump_recover(&w->pump, half, &way) < 0) {
        return false;
    }
    for (side = TM_ENDPOINT; side >= TM_CLIENT; side--) /* a client in doubt waits for an answer */
        if ((uint32_t)conn->half[side].bytes != conn->half[side].counted)
            tm_record_note_spoke(conn, side);
    for (side = 0; side < 2; side++) {
        tm_relay_count(w, index, side);
        if (!(conn->half[side].uncounted & TM_UNCOUNTED_SOURCE) &&
            was_reset(w, index, side))
            conn->side_flags[side] |= TM_RESET | TM_HUNG_UP;
    }
    return true;
}

/* What the journal says was under way for this connection. False: it can't be finished. */
static bool finish_operation(struct tm_worker *w, uint32_t index)
{
    enum tm_operation operation = tm_journal_operation(w->pump.journal);
    uint8_t state = w->records[index].state;
    if (tm_is_opening(state))
        return finish_opening(w, index, operation);
    return state != TM_RELAYING || finish_relaying(w, index, operation);
}

/* --- going on ------------------------------------------------------------------------------- */

/* Events that the dead incarnation had been given will not come again: each half is pumped once. */
static void resume_relaying(struct tm_worker *w, uint32_t index)
{
    struct tm_conn *conn = &w->records[index];
    tm_arm(w, index, tm_timeout_next(w, index));
    for (int side = 0; side < 2; side++) {
        conn->half[side].blocked = 0;
        if (conn->half[side].state == TM_HALF_OPEN) {
            tm_record_push_ready(w, index, side);
        } else if (conn->side_flags[side] & TM_RESET) {
            tm_reset_from(w, index, side);
            return;
        }
    }
}

static void resume_resetting(struct tm_worker *w, uint32_t index)
{
    const struct tm_conn *conn = &w->records[index];
    if (conn->fd[TM_CLIENT] >= 0 && conn->fd[TM_ENDPOINT] >= 0) {
        bool by_client = w->colds[index].close_reason == TM_CLOSED_client_reset;
        tm_record_close_side(w, index, by_client ? TM_CLIENT : TM_ENDPOINT, true);
    }
    tm_arm(w, index, w->now_ms);
}

/* Not of an endpoint that is being connected to: tm_connect_recover(). */
static bool watch_sides(struct tm_worker *w, uint32_t index)
{
    struct tm_conn *conn = &w->records[index];
    for (int side = 0; side < 2; side++) {
        if (conn->fd[side] < 0 || (side == TM_ENDPOINT && tm_is_opening(conn->state)))
            continue;
        conn->side_flags[side] &= (uint8_t)~TM_READ_UNWATCHED;
        if (tm_interest_add(w, index, side) < 0)
            return false;
    }
    return true;
}

void tm_resume(struct tm_worker *w, uint32_t index)
{
    const struct tm_conn *conn = &w->records[index];
    if (conn->state == TM_RESETTING)
        resume_resetting(w, index);
    if (!watch_sides(w, index))
        tm_outcome_end(w, index, TM_CLOSED_local_error, true);
    else if (tm_is_opening(conn->state) && conn->fd[TM_ENDPOINT] < 0)
        tm_stage_run(w, index);
    else if (tm_is_opening(conn->state))
        tm_connect_recover(w, index);
    else if (conn->state == TM_RELAYING)
        resume_relaying(w, index);
}

static void resume_one(struct tm_worker *w, uint32_t index, bool whole)
{
    w->connections++;
    if (w->records[index].state == TM_SCOUTING) {
        tm_rehome_end(w, index);
        return;
    }
    if (!whole) {
        tm_count(&w->live->counters.abandoned, 1);
        tm_outcome_end(w, index, TM_CLOSED_worker_lost, true);
        return;
    }
    tm_count(&w->live->counters.recovered, 1);
    if (!w->records[index].moving) /* else another worker may have it already */
        tm_resume(w, index);
}

static void resume_shadow(struct tm_worker *w, uint32_t index)
{
    w->connections++;
    w->shadows++;
    tm_shadow_resume(w, index);
}

/* Those that had ended. */
static void finish_ends(struct tm_worker *w, uint32_t used)
{
    for (uint32_t index = 0; index < used; index++) {
        struct tm_conn *conn = &w->records[index];
        w->pump.journal->current = index;
        if (conn->state == TM_ENDING) {
            conn->moving = 0;
            tm_record_finish(w, index);
        }
        if (conn->state == TM_DEAD)
            tm_record_bury(w, index);
    }
}

void tm_resume_all(struct tm_worker *w)
{
    uint32_t current = w->pump.journal->current, used = w->live->records_used;
    bool whole = true;
    if (used == 0) {
        tm_live_set_connections(w->live, 0);
        tm_journal_note(w->pump.journal, TM_NOTHING);
        return;
    }
    /* The one that the journal is about comes first, and keeps the journal until it is done: a
     * death in here is then put down to it as well. */
    if (current < used && w->records[current].state != TM_FREE)
        whole = finish_operation(w, current);
    tm_journal_note(w->pump.journal, TM_NOTHING);
    tm_reconcile(w);
    finish_ends(w, used);
    /* Shadows come before their connections, which may end them, and take what is copied on. */
    for (uint32_t index = 0; index < 2 * used; index++) {
        bool shadows = index < used;
        uint32_t at = shadows ? index : index - used;
        uint8_t state = w->records[at].state;
        tm_live_advance(w->live);
        w->pump.journal->current = at;
        if (shadows && state == TM_SHADOWING)
            resume_shadow(w, at);
        else if (!shadows && state != TM_SHADOWING && tm_is_in_use(state))
            resume_one(w, at, whole || at != current);
    }
    w->pump.journal->current = TM_NONE;
    tm_live_set_connections(w->live, w->connections);
}
