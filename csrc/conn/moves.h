/* What a connection has that is rehomed or mirrored, and a scout or a shadow: struct tm_moves. Runs
 * in a worker. */
#ifndef TM_MOVES_H
#define TM_MOVES_H

#include "worker.h"

static const struct tm_moves tm_no_moves;

/* To be read. */
static inline const struct tm_moves *tm_moves_of(const struct tm_worker *w, uint32_t index)
{
    return w->colds[index].marks & TM_HAS_MOVES ? &w->moves[index] : &tm_no_moves;
}

/* To be written: all 0 at first. */
static inline struct tm_moves *tm_moves_take(struct tm_worker *w, uint32_t index)
{
    if (!(w->colds[index].marks & TM_HAS_MOVES)) {
        tm_words_store(&w->moves[index], NULL, 0, TM_MOVES_WORDS);
        atomic_thread_fence(memory_order_release); /* readers: tm_conn_copy() */
        w->colds[index].marks |= TM_HAS_MOVES;
    }
    return &w->moves[index];
}

#endif
