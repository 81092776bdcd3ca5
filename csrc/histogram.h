/* Bucket counters for times: how many connections took at most so long.
 *
 * WRITER  one worker. READERS  control. As counters (live.h): 64-bit words that only grow.
 *
 * A bucket counts what is above the bound before it and not above its own; the last one has
 * no bound. Readers add them up to what Prometheus calls cumulative.
 */
#ifndef TM_HISTOGRAM_H
#define TM_HISTOGRAM_H

#include <stdint.h>

#define TM_BOUNDS 16

struct tm_histogram {
    uint64_t sum_us;
    uint64_t buckets[TM_BOUNDS + 1];
};

/* Of connects and answers: from a host next door to one that has hung. */
static const uint64_t tm_latency_bounds_us[TM_BOUNDS] = {
    100,    250,    500,    1000,   2500,    5000,    10000,   25000,
    50000,  100000, 250000, 500000, 1000000, 2500000, 5000000, 10000000,
};

/* Of whole connections: from a request to a day. */
static const uint64_t tm_duration_bounds_us[TM_BOUNDS] = {
    1000,     5000,     10000,     50000,     100000,     500000,     1000000,     5000000,
    10000000, 30000000, 60000000,  300000000, 900000000,  3600000000, 21600000000, 86400000000,
};

static inline void tm_histogram_add(struct tm_histogram *histogram, const uint64_t *bounds,
                                    uint64_t us)
{
    int at = 0;
    while (at < TM_BOUNDS && us > bounds[at])
        at++;
    /* One writer: no lock prefix, and no torn value for readers. */
    __atomic_store_n(&histogram->buckets[at], histogram->buckets[at] + 1, __ATOMIC_RELAXED);
    __atomic_store_n(&histogram->sum_us, histogram->sum_us + us, __ATOMIC_RELAXED);
}

#endif
