/* Records as somebody else than their worker reads them: live.h. */
#ifndef TM_LIVE_COPY_H
#define TM_LIVE_COPY_H

#include "live.h"

/* False if there is no connection in it, or another one came meanwhile. */
static inline bool tm_conn_copy(const struct tm_live *live, uint32_t capacity, uint32_t index,
                                struct tm_copy *copy)
{
    const struct tm_conn *conn = &live->records[index];
    uint32_t generation = __atomic_load_n(&conn->generation, __ATOMIC_ACQUIRE);
    uint8_t state = __atomic_load_n(&conn->state, __ATOMIC_ACQUIRE);
    if (!tm_is_open(state))
        return false;
    tm_words_load(&copy->conn, conn, TM_CONN_WORDS);
    tm_words_load(&copy->cold, &tm_live_colds(live, capacity)[index], TM_COLD_WORDS);
    atomic_thread_fence(memory_order_acquire);
    if (copy->cold.marks & TM_HAS_MOVES)
        tm_words_load(&copy->moves, &tm_live_moves(live, capacity)[index], TM_MOVES_WORDS);
    else
        copy->moves = (struct tm_moves){0};
    atomic_thread_fence(memory_order_acquire);
    return __atomic_load_n(&conn->generation, __ATOMIC_RELAXED) == generation &&
           copy->conn.generation == generation && copy->conn.state == state;
}

/* Whether a copied connection has a scout: conn/rehome.h. */
static inline bool tm_conn_has_scout(const struct tm_live *live, uint32_t capacity,
                                     const struct tm_copy *of)
{
    uint32_t scout = of->moves.partner;
    return of->moves.partner_generation && scout < capacity &&
           __atomic_load_n(&live->records[scout].generation, __ATOMIC_RELAXED) ==
               of->moves.partner_generation &&
           __atomic_load_n(&live->records[scout].state, __ATOMIC_ACQUIRE) == TM_SCOUTING;
}

/* The annex of a record that was copied. False if it has none, or another connection has it by now.
 * Nothing that is in it is checked: trust.h. */
static inline bool tm_annex_copy(const struct tm_live *live, uint32_t capacity, uint32_t index,
                                 const struct tm_copy *of, struct tm_annex *annex)
{
    if (of->cold.annex == 0 || of->cold.annex > capacity)
        return false;
    const struct tm_annex *from = &tm_live_annexes(live, capacity)[of->cold.annex - 1];
    tm_words_load(annex, from, TM_ANNEX_WORDS);
    atomic_thread_fence(memory_order_acquire);
    return __atomic_load_n(&from->generation, __ATOMIC_ACQUIRE) == of->conn.generation &&
           __atomic_load_n(&from->owner, __ATOMIC_RELAXED) == index &&
           annex->generation == of->conn.generation && annex->owner == index;
}

#endif
