/* The line to another worker. Runs in giver and taker. */
#include "conn/handoff.h"

#include <errno.h>
#include <unistd.h>

#include "conn/give.h"
#include "conn/moves.h"
#include "conn/record.h"
#include "conn/take.h"
#include "handoff_message.h"

enum { RETRY_MS = 100 }; /* after all others were full */

void tm_handoff_count(struct tm_worker *w, uint32_t index, bool came)
{
    const uint32_t slots[] = {w->colds[index].route_slot, w->records[index].destination_slot,
                              w->colds[index].endpoint_slot, w->colds[index].rule_slot};
    for (size_t i = 0; i < sizeof(slots) / sizeof(slots[0]); i++) {
        if (slots[i] == TM_NONE)
            continue;
        struct tm_slot *slot = tm_slot_of(w, slots[i]);
        tm_count(came ? &slot->moved_in : &slot->moved_out, 1);
    }
}

/* It won't be given again: it can be free. */
static void forget(struct tm_worker *w, uint32_t index)
{
    if (w->colds[index].marks & TM_AWAITS_GONE) {
        w->colds[index].marks &= (uint8_t)~TM_AWAITS_GONE;
        tm_record_bury(w, index);
    }
}

/* The other worker is gone for good: what it has not confirmed stays here. */
static void lose_line(struct tm_worker *w, struct tm_handoffs *handoffs, uint32_t line)
{
    int fd = w->live->lines[line];
    w->live->lines[line] = -1;
    w->live->gives_to &= ~((uint64_t)1 << line);
    close(fd);
    for (uint32_t index = 0; index < w->live->records_used; index++) {
        if (w->records[index].moving == line + 1)
            tm_give_stop(w, index);
        if (tm_moves_of(w, index)->origin.worker == line + 1)
            forget(w, index);
    }
    handoffs->lost |= (uint64_t)1 << line;
}

static void answer(struct tm_worker *w, uint32_t line, enum tm_handoff_type type, uint32_t index,
                   uint32_t generation, uint32_t taken)
{
    struct tm_handoff reply = {.type = type, .index = index, .generation = generation,
                               .taken = taken};
    /* A full line: the giver has as many answers to read, and gives once more what it misses
     * when either begins a new incarnation. It can't be full for long: it gives no more than it
     * hears of. */
    if (tm_handoff_send(w->live->lines[line], &reply) < 0)
        return;
}

/* Sends TAKEN again for all that came from there: an answer, or GONE, may have been lost with an
 * earlier incarnation of the giver. */
static void confirm(struct tm_worker *w, uint32_t giver)
{
    for (uint32_t index = 0; index < w->live->records_used; index++) {
        const struct tm_origin *origin = &tm_moves_of(w, index)->origin;
        if (origin->worker == giver + 1)
            answer(w, giver, TM_TAKEN, origin->index, origin->generation, index);
    }
}

static void handle_give(struct tm_worker *w, uint32_t other, struct tm_handoff *handoff)
{
    uint32_t taken = tm_take(w, other, handoff);
    answer(w, other, taken == TM_NONE ? TM_REFUSED : TM_TAKEN, handoff->index, handoff->generation,
           taken);
    tm_journal_note(w->pump.journal, TM_NOTHING);
}

static void handle_gone(struct tm_worker *w, uint32_t other, const struct tm_handoff *handoff)
{
    uint32_t taken = handoff->taken;
    if (taken < w->live->records_used && tm_take_is_from(w, taken, other, handoff)) {
        tm_moves_take(w, taken)->origin.worker = 0;
        forget(w, taken);
    }
}

/* The answer to a GIVE; a second one changes nothing. */
static void handle_answer(struct tm_worker *w, struct tm_handoffs *handoffs, uint32_t other,
                          const struct tm_handoff *handoff)
{
    uint32_t index = handoff->index;
    if (index >= w->live->records_used)
        return;
    const struct tm_conn *conn = &w->records[index];
    bool awaited = conn->generation == handoff->generation && conn->moving == other + 1;
    if (handoff->type == TM_TAKEN) {
        if (awaited)
            tm_given(w, index);
        answer(w, other, TM_GONE, index, handoff->generation, handoff->taken);
    } else if (awaited) {
        tm_give_stop(w, index);
        handoffs->retry_ms = w->now_ms + RETRY_MS;
    }
}

static void handle(struct tm_worker *w, struct tm_handoffs *handoffs, uint32_t other,
                   struct tm_handoff *handoff)
{
    switch ((enum tm_handoff_type)handoff->type) {
    case TM_GIVE:
        handle_give(w, other, handoff);
        return;
    case TM_GONE:
        handle_gone(w, other, handoff);
        return;
    case TM_AGAIN:
        confirm(w, other);
        tm_give_again(w, other);
        return;
    case TM_TAKEN:
    case TM_REFUSED:
        handle_answer(w, handoffs, other, handoff);
        return;
    }
}

void tm_handoff_event(struct tm_worker *w, struct tm_handoffs *handoffs, uint32_t other)
{
    struct tm_handoff handoff;
    while (w->live->lines[other] >= 0) {
        w->pump.journal->current = TM_NONE;
        tm_journal_note(w->pump.journal, TM_TAKE);
        int got = tm_handoff_receive(w->live->lines[other], &handoff);
        if (got <= 0 || handoff.type != TM_GIVE)
            tm_journal_note(w->pump.journal, TM_NOTHING);
        if (got == -EAGAIN)
            return;
        if (got <= 0) {
            lose_line(w, handoffs, other);
            return;
        }
        handle(w, handoffs, other, &handoff);
        if (handoff.type == TM_GIVE)
            explicit_bzero(&handoff.annex, sizeof(handoff.annex));
    }
}

/* If there is one already, from an earlier master: both ends read that to its end, and what is not
 * answered then is given once more over the new one. */
void tm_handoff_line(struct tm_worker *w, struct tm_handoffs *handoffs, uint32_t other, int fd)
{
    tm_handoff_event(w, handoffs, other);
    int old = w->live->lines[other];
    w->live->lines[other] = fd;
    if (old >= 0)
        close(old);
    tm_give_again(w, other);
}

void tm_handoff_recover(struct tm_worker *w)
{
    for (uint32_t index = 0; index < w->live->records_used; index++) {
        int line = w->records[index].moving - 1;
        if (line >= 0 && (line >= TM_MAX_LINES || w->live->lines[line] < 0))
            tm_give_stop(w, index); /* nobody is there to answer */
    }
    for (uint32_t line = 0; line < TM_MAX_LINES; line++) {
        if (w->live->lines[line] >= 0) {
            tm_give_again(w, line);
            answer(w, line, TM_AGAIN, 0, 0, 0);
        }
    }
}
