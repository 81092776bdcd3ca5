/* The last connects of a worker that failed, for whoever looks at each: the log at level debug.
 *
 * WRITER  the worker: an entry, then `count`. READER  control, which may come too late: an entry is
 *         overwritten when TM_FAILED more have failed. Nobody waits.
 */
#ifndef TM_FAILED_CONNECTS_H
#define TM_FAILED_CONNECTS_H

#include <stdatomic.h>
#include <stdint.h>

#include "access_log.h"

#define TM_FAILED 64u /* a power of two */

struct tm_failed_connect {
    struct tm_peer client;
    uint32_t endpoint_slot;
    uint32_t error;   /* errno; 0 = timed out */
    uint32_t attempt; /* the connection's first, second, ... */
};

struct tm_failed_connects {
    _Alignas(64) _Atomic uint64_t count;
    struct tm_failed_connect last[TM_FAILED];
};

static inline void tm_failed_note(struct tm_failed_connects *all,
                                  const struct tm_failed_connect *one)
{
    uint64_t count = atomic_load_explicit(&all->count, memory_order_relaxed);
    all->last[count % TM_FAILED] = *one;
    atomic_store_explicit(&all->count, count + 1, memory_order_release);
}

static inline uint64_t tm_failed_count(const struct tm_failed_connects *all)
{
    return atomic_load_explicit(&all->count, memory_order_acquire);
}

/* Copies those after the first *seen into `into`, and has *seen say how many there have been. The
 * rest of what has been missed is not there any more. Returns how many are copied. */
static inline uint32_t tm_failed_read(const struct tm_failed_connects *all, uint64_t *seen,
                                      struct tm_failed_connect into[TM_FAILED])
{
    uint64_t end = tm_failed_count(all), first = *seen;
    uint32_t copied = 0;
    if (first > end) /* the worker's memory is corrupt, or was */
        first = end;
    if (end - first > TM_FAILED)
        first = end - TM_FAILED;
    for (uint64_t at = first; at < end; at++)
        into[at - first] = all->last[at % TM_FAILED];
    atomic_thread_fence(memory_order_acquire);
    /* The one that is being written now takes the place of the oldest. */
    uint64_t now = tm_failed_count(all);
    for (uint64_t at = first; at < end; at++)
        if (now - at < TM_FAILED)
            into[copied++] = into[at - first];
    *seen = end;
    return copied;
}

#endif
