/* Where the answers of the last shadows of a worker differed that did: conn/shadow.h. No content.
 *
 * WRITER  the worker: an entry, then `count`. READER  control: an entry is overwritten when
 *         TM_DIFFERENCES more have differed, and nobody waits.
 */
#ifndef TM_DIFFERENCES_H
#define TM_DIFFERENCES_H

#include <stdatomic.h>
#include <stdint.h>

#define TM_DIFFERENCES 32u /* a power of two */

struct tm_difference {
    uint32_t route_slot;
    uint32_t fate;   /* enum tm_shadow_fate */
    uint32_t at;     /* in the answer: the first byte that differs is this one, */
    uint32_t within; /* or one of so many from it on; never 0 */
    uint64_t when_ms; /* monotonic */
};

struct tm_differences {
    _Alignas(64) _Atomic uint64_t count;
    struct tm_difference last[TM_DIFFERENCES];
};

static inline void tm_difference_note(struct tm_differences *all, const struct tm_difference *one)
{
    uint64_t count = atomic_load_explicit(&all->count, memory_order_relaxed);
    all->last[count % TM_DIFFERENCES] = *one;
    atomic_store_explicit(&all->count, count + 1, memory_order_release);
}

/* Copies those that are there, the oldest first. Returns how many. */
static inline uint32_t tm_differences_read(const struct tm_differences *all,
                                           struct tm_difference into[TM_DIFFERENCES])
{
    uint64_t end = atomic_load_explicit(&all->count, memory_order_acquire);
    uint64_t first = end > TM_DIFFERENCES ? end - TM_DIFFERENCES : 0;
    uint32_t copied = 0;
    for (uint64_t at = first; at < end; at++)
        into[at - first] = all->last[at % TM_DIFFERENCES];
    atomic_thread_fence(memory_order_acquire);
    /* The one that is being written now takes the place of the oldest. */
    uint64_t now = atomic_load_explicit(&all->count, memory_order_relaxed);
    for (uint64_t at = first; at < end; at++)
        if (now - at < TM_DIFFERENCES)
            into[copied++] = into[at - first];
    return copied;
}

#endif
