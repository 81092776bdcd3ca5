/* Token buckets over all workers: rates of new connections, budgets of retries. One word each,
 * changed by compare-and-swap. */
#ifndef TM_BUCKET_H
#define TM_BUCKET_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* Workers look at the clock once a turn, which may take long. */
#define TM_CLOCKS_DIFFER_NS 10000000000ull

/* A token from a bucket that gets one every `interval_ns` and holds `burst` (>= 1).
 * False: it is empty. (The generic cell rate algorithm, ITU-T I.371.) */
static inline bool tm_bucket_take(_Atomic uint64_t *next_ns, uint64_t now_ns, uint64_t interval_ns,
                                  uint64_t burst)
{
    uint64_t next = atomic_load_explicit(next_ns, memory_order_relaxed), from;
    do {
        from = next > now_ns ? next : now_ns;
        /* Further ahead than takes could bring it, and clocks differ by: corrupt, or of a limit
         * that was changed. */
        if (from - now_ns > interval_ns * burst + TM_CLOCKS_DIFFER_NS)
            from = now_ns;
        if (from - now_ns > interval_ns * (burst - 1))
            return false;
    } while (!atomic_compare_exchange_weak_explicit(next_ns, &next, from + interval_ns,
                                                    memory_order_relaxed, memory_order_relaxed));
    return true;
}

/* An account in hundredths of a retry. Each first connect pays `percent` in, each retry takes
 * 100 out; at most `burst` retries are saved up. Counted from a full account downwards, so that
 * a new one is full. */
static inline void tm_retries_earn(_Atomic int64_t *used, uint64_t percent)
{
    int64_t now = atomic_load_explicit(used, memory_order_relaxed), less;
    do {
        if (now <= 0)
            return;
        less = now > (int64_t)percent ? now - (int64_t)percent : 0;
    } while (!atomic_compare_exchange_weak_explicit(used, &now, less, memory_order_relaxed,
                                                    memory_order_relaxed));
}

static inline bool tm_retries_take(_Atomic int64_t *used, uint64_t burst)
{
    int64_t now = atomic_load_explicit(used, memory_order_relaxed), more;
    const int64_t most = (int64_t)burst * 100;
    bool taken;
    do {
        /* Between nothing and all of it, also after a change of the burst. */
        more = now < 0 ? 0 : now > most ? most : now;
        taken = more + 100 <= most;
        more = taken ? more + 100 : more;
    } while (more != now && !atomic_compare_exchange_weak_explicit(
                                used, &now, more, memory_order_relaxed, memory_order_relaxed));
    return taken;
}

#endif
