/* Taking what other workers give. Runs in the taker. */
#include "conn/take.h"

#include <string.h>

#include "conn/annex.h"
#include "conn/handoff.h"
#include "conn/moves.h"
#include "conn/record.h"
#include "conn/resume.h"
#include "descriptors.h"
#include "trust.h"

bool tm_take_is_from(const struct tm_worker *w, uint32_t index, uint32_t giver,
                     const struct tm_handoff *handoff)
{
    const struct tm_origin *origin = &tm_moves_of(w, index)->origin;
    return origin->worker == giver + 1 && origin->index == handoff->index &&
           origin->generation == handoff->generation;
}

/* The record into which this very connection has been taken before; TM_NONE = it has not. */
static uint32_t find(const struct tm_worker *w, uint32_t giver, const struct tm_handoff *handoff)
{
    for (uint32_t index = 0; index < w->live->records_used; index++)
        if (tm_take_is_from(w, index, giver, handoff))
            return index;
    return TM_NONE;
}

static bool side_possible(struct tm_conn *conn, struct tm_cold *cold, int side)
{
    struct tm_half *half = &conn->half[side];
    if (conn->fd[side] < 0 ? !tm_may_lack_socket(conn->state, side)
                           : tm_stream_family(conn->fd[side]) != tm_side_family(cold, side))
        return false;
    tm_conn_set_fd(conn, cold, side, conn->fd[side]); /* here it has another number: seals it */
    if (half->pipe.in < 0 && half->pipe.out < 0)
        return !half->queued;
    return tm_is_pipe(half->pipe.in, half->pipe.out);
}

/* The giver's word is not enough: what can't be true stays there. */
static bool can_be_taken(const struct tm_worker *w, struct tm_handoff *handoff)
{
    struct tm_conn *conn = &handoff->conn;
    struct tm_cold *cold = &handoff->cold;
    if (conn->fd[0] < 0 && conn->fd[1] < 0)
        return false; /* descriptors have run out on the way */
    return tm_conn_possible(conn, cold, w->now_us) && tm_is_open(conn->state) &&
           (!(cold->marks & TM_HAS_MOVES) ||
            tm_moves_possible(&handoff->moves, conn, w->now_us)) &&
           side_possible(conn, cold, TM_CLIENT) && side_possible(conn, cold, TM_ENDPOINT) &&
           (!cold->annex || handoff->annex.length <= TM_ANNEX_BYTES);
}

/* What was the giver's alone. */
static void make_own(struct tm_handoff *handoff, uint32_t giver)
{
    struct tm_conn *conn = &handoff->conn;
    struct tm_cold *cold = &handoff->cold;
    if (!(cold->marks & TM_HAS_MOVES))
        handoff->moves = (struct tm_moves){0};
    cold->marks = TM_HAS_MOVES;
    handoff->moves.origin = (struct tm_origin){giver + 1, handoff->index, handoff->generation};
    cold->faults = 0;
    cold->annex = 0;
    handoff->moves.partner_generation = 0;
    conn->timer_place = TM_UNARMED;
    conn->next = TM_NONE;
    conn->ready = conn->moving = 0;
}

/* False: there is no annex left. The record is not in use yet, but has its new generation. */
static bool take_annex(struct tm_worker *w, uint32_t index, const struct tm_annex *from)
{
    struct tm_annex *annex = tm_annex_take(w, index);
    if (!annex)
        return false;
    annex->length = from->length;
    memcpy(annex->bytes, from->bytes, sizeof(annex->bytes));
    annex->talk = from->talk;
    tm_annex_mend(annex);
    memcpy(annex->fd, from->fd, sizeof(annex->fd));
    return true;
}

uint32_t tm_take(struct tm_worker *w, uint32_t giver, struct tm_handoff *handoff)
{
    uint32_t index = handoff->again ? find(w, giver, handoff) : TM_NONE;
    bool has_annex = handoff->cold.annex != 0;
    if (index != TM_NONE) {
        tm_handoff_close(handoff);
        return index;
    }
    if (!can_be_taken(w, handoff) || (index = tm_record_take(w)) == TM_NONE) {
        tm_handoff_close(handoff);
        return TM_NONE;
    }
    struct tm_conn *conn = &w->records[index];
    uint8_t state = handoff->conn.state;
    w->pump.journal->current = index;
    make_own(handoff, giver);
    tm_words_store(&w->moves[index], &handoff->moves, 0, TM_MOVES_WORDS);
    tm_conn_replace(conn, &w->colds[index], &handoff->conn, &handoff->cold);
    if (has_annex && !take_annex(w, index, &handoff->annex)) {
        w->moves[index].origin.worker = 0;
        handoff->cold.annex = 1; /* for its descriptors */
        tm_handoff_close(handoff);
        conn->next = w->free;
        w->free = index;
        return TM_NONE;
    }
    for (int side = 0; side < 2; side++)
        if (conn->half[side].pipe.in >= 0)
            tm_pipe_pool_adopt(&w->pump.pool, &conn->half[side].pipe);
    tm_conn_enter(conn, (enum tm_conn_state)state); /* from here on it is there, whatever happens */
    tm_journal_note(w->pump.journal, TM_NOTHING);
    tm_handoff_count(w, index, true);
    w->connections++;
    tm_live_set_connections(w->live, w->connections);
    tm_resume(w, index);
    return index;
}
