/* Giving connections to other workers. Runs in the giver. */
#include "conn/give.h"

#include <string.h>

#include "conn/annex.h"
#include "conn/handoff.h"
#include "conn/interest.h"
#include "conn/mirror.h"
#include "conn/moves.h"
#include "conn/record.h"
#include "conn/resume.h"
#include "handoff_message.h"

enum {
    BUDGET = 64, /* connections given in one turn */
    OLD_US = 100000,
};

int tm_give(struct tm_worker *w, uint32_t index, uint32_t line, bool again)
{
    struct tm_conn *conn = &w->records[index];
    const struct tm_annex *annex = tm_annex_of(w, index);
    struct tm_handoff handoff = {.type = TM_GIVE, .again = again, .index = index,
                                 .generation = conn->generation};
    handoff.conn = *conn;
    handoff.cold = w->colds[index];
    handoff.moves = *tm_moves_of(w, index);
    if (annex)
        handoff.annex = *annex;
    conn->moving = (uint8_t)(line + 1);
    int error = tm_handoff_send(w->live->lines[line], &handoff);
    if (annex)
        explicit_bzero(handoff.annex.bytes, sizeof(handoff.annex.bytes));
    return error;
}

static void stop_serving(struct tm_worker *w, uint32_t index)
{
    tm_mirror_leave(w, index);
    for (int side = 0; side < 2; side++)
        if (w->records[index].fd[side] >= 0)
            tm_interest_remove(w, index, side);
    tm_wheel_disarm(&w->wheel, w->records, index);
}

void tm_give_stop(struct tm_worker *w, uint32_t index)
{
    w->pump.journal->current = index; /* it may be connected to the next endpoint */
    w->records[index].moving = 0;
    tm_resume(w, index);
}

static bool can_go(const struct tm_conn *conn)
{
    return !conn->moving && tm_is_open(conn->state);
}

/* The lines take turns; TM_NONE if there is none. */
static uint32_t next_line(const struct tm_worker *w, struct tm_handoffs *handoffs)
{
    for (uint32_t step = 0; step < TM_MAX_LINES; step++) {
        uint32_t line = (handoffs->line + step) % TM_MAX_LINES;
        if (w->live->lines[line] >= 0 && w->live->gives_to >> line & 1) {
            handoffs->line = line + 1;
            return line;
        }
    }
    return TM_NONE;
}

bool tm_handoff_some(struct tm_worker *w, struct tm_handoffs *handoffs)
{
    uint32_t given = 0;
    if (w->now_ms < handoffs->retry_ms)
        return false;
    for (uint32_t looked = 0; looked < w->live->records_used && given < BUDGET; looked++) {
        uint32_t index = handoffs->cursor % w->live->records_used, line;
        handoffs->cursor = index + 1;
        if (!can_go(&w->records[index]))
            continue;
        line = next_line(w, handoffs);
        if (line == TM_NONE)
            return false;
        stop_serving(w, index);
        if (tm_give(w, index, line, false) < 0) {
            tm_give_stop(w, index);
            return false; /* full: an answer will make room */
        }
        given++;
    }
    return given == BUDGET;
}

/* Likely to stay: most connections that live this long do. */
static bool is_old(const struct tm_worker *w, uint32_t index)
{
    const struct tm_conn *conn = &w->records[index];
    return conn->state == TM_RELAYING && !conn->moving &&
           w->colds[index].accepted_at_us + OLD_US <= w->now_us && !tm_mirror_has(w, index);
}

/* Up to `budget` connections of one line's quota; how many. */
static uint32_t give_quota(struct tm_worker *w, uint32_t line, uint64_t *quota, uint32_t budget)
{
    uint32_t given = 0;
    for (uint32_t index = 0; *quota && index < w->live->records_used && given < budget; index++) {
        if (w->live->lines[line] < 0) {
            *quota = 0;
        } else if (is_old(w, index)) {
            stop_serving(w, index);
            --*quota;
            given++;
            if (tm_give(w, index, line, false) < 0) {
                tm_give_stop(w, index);
                *quota = 0;
            }
        }
    }
    return given;
}

/* What can't be given now is left: the master looks again. */
bool tm_handoff_quota(struct tm_worker *w, struct tm_handoffs *handoffs)
{
    uint32_t given = 0;
    for (uint32_t line = 0; line < TM_MAX_LINES; line++) {
        given += give_quota(w, line, &handoffs->quota[line], BUDGET - given);
        if (given < BUDGET)
            handoffs->quota[line] = 0; /* there are no more */
    }
    handoffs->has_quota = given == BUDGET;
    return handoffs->has_quota;
}

void tm_given(struct tm_worker *w, uint32_t index)
{
    struct tm_conn *conn = &w->records[index];
    struct tm_cold *cold = &w->colds[index];
    w->pump.journal->current = index;
    cold->by_reset = false;
    cold->close_reason = TM_OPEN; /* it is not closed: recovery counts it as moved */
    tm_conn_enter(conn, TM_ENDING);
    conn->moving = 0;
    tm_handoff_count(w, index, false);
    tm_record_finish(w, index);
    tm_record_release(w, index);
}

void tm_give_again(struct tm_worker *w, uint32_t line)
{
    for (uint32_t index = 0; index < w->live->records_used; index++)
        if (w->records[index].moving == line + 1 && tm_give(w, index, line, true) < 0)
            return; /* full of others; their answers come first, and then AGAIN finds the rest */
}
