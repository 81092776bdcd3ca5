/* Kernel memory pinned by connections whose peer has stopped reading, by client and in total.
 *
 * WRITERS  every worker, by atomic operations alone; part of commons.h. READERS  workers, control.
 *
 * Nothing is incremented and decremented, as a worker may die in between. Each worker checks its
 * own stalled connections once an epoch, and adds what they pin to an account:
 *
 *     epoch (16 bits) | the last epoch's sum (24) | this one's so far (24)      units of 16 KiB
 *
 * So the last sum covers all workers, is half a second to a second old, and what a dead worker
 * added expires by itself.
 */
#ifndef TM_PINNED_H
#define TM_PINNED_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TM_PINNED_EPOCH_MS 500u
#define TM_PINNED_UNIT_BITS 14u
#define TM_PINNED_MAX 0xffffffull /* units */
#define TM_PINNED_SETS 1024u
#define TM_PINNED_WAYS 8u

struct tm_pinner {
    _Atomic uint64_t key; /* of a client; 0 = never used */
    _Atomic uint64_t account;
};

struct tm_pinned {
    _Atomic uint64_t account; /* of all */
    uint64_t unused;
    struct tm_pinner clients[TM_PINNED_SETS][TM_PINNED_WAYS];
};

static inline uint64_t tm_pinned_epoch(uint64_t now_ms)
{
    return now_ms / TM_PINNED_EPOCH_MS & 0xffff;
}

/* When the next one begins: then each worker looks, so that it counts once in each. */
static inline uint64_t tm_pinned_next(uint64_t now_ms)
{
    return (now_ms / TM_PINNED_EPOCH_MS + 1) * TM_PINNED_EPOCH_MS;
}

static inline uint64_t tm_pinned_units(uint64_t bytes)
{
    uint64_t units = (bytes + (1u << TM_PINNED_UNIT_BITS) - 1) >> TM_PINNED_UNIT_BITS;
    return units < TM_PINNED_MAX ? units : TM_PINNED_MAX;
}

/* Epochs since it was written. */
static inline uint64_t tm_pinned_age(uint64_t account, uint64_t epoch)
{
    return (epoch - (account >> 48)) & 0xffff;
}

/* The account as it is in this epoch. */
static inline uint64_t tm_pinned_at(uint64_t account, uint64_t epoch)
{
    uint64_t age = tm_pinned_age(account, epoch);
    if (age == 0)
        return account;
    return epoch << 48 | (age == 1 ? (account & TM_PINNED_MAX) << 24 : 0);
}

static inline bool tm_pinned_is_stale(uint64_t account, uint64_t epoch)
{
    return tm_pinned_age(account, epoch) > 1;
}

/* Bytes of the last epoch. */
static inline uint64_t tm_pinned_sum(const _Atomic uint64_t *at, uint64_t epoch)
{
    uint64_t account = tm_pinned_at(atomic_load_explicit(at, memory_order_relaxed), epoch);
    return (account >> 24 & TM_PINNED_MAX) << TM_PINNED_UNIT_BITS;
}

static inline void tm_pinned_add(_Atomic uint64_t *at, uint64_t epoch, uint64_t bytes)
{
    uint64_t was = atomic_load_explicit(at, memory_order_relaxed), now, sum;
    do {
        now = tm_pinned_at(was, epoch);
        sum = (now & TM_PINNED_MAX) + tm_pinned_units(bytes);
        now = (now & ~TM_PINNED_MAX) | (sum < TM_PINNED_MAX ? sum : TM_PINNED_MAX);
    } while (!atomic_compare_exchange_weak_explicit(at, &was, now, memory_order_relaxed,
                                                    memory_order_relaxed));
}

/* A connection that was added in this epoch, and in the last one, is ended. */
static inline void tm_pinned_free(_Atomic uint64_t *at, uint64_t epoch, uint64_t bytes)
{
    uint64_t was = atomic_load_explicit(at, memory_order_relaxed), now;
    uint64_t less = tm_pinned_units(bytes);
    do {
        now = tm_pinned_at(was, epoch);
        uint64_t last = now >> 24 & TM_PINNED_MAX, sum = now & TM_PINNED_MAX;
        now = epoch << 48 | (last > less ? last - less : 0) << 24 | (sum > less ? sum - less : 0);
    } while (!atomic_compare_exchange_weak_explicit(at, &was, now, memory_order_relaxed,
                                                    memory_order_relaxed));
}

/* The account of a client; NULL: there is no room for another one, and only the sum of all bounds
 * it. Two workers may make two for one client at the same moment, until both are stale. */
static inline _Atomic uint64_t *tm_pinned_by(struct tm_pinned *pinned, uint64_t key, uint64_t epoch)
{
    struct tm_pinner *set = pinned->clients[key % TM_PINNED_SETS];
    for (uint32_t way = 0; way < TM_PINNED_WAYS; way++)
        if (atomic_load_explicit(&set[way].key, memory_order_relaxed) == key)
            return &set[way].account;
    for (uint32_t way = 0; way < TM_PINNED_WAYS; way++) {
        uint64_t held = atomic_load_explicit(&set[way].key, memory_order_relaxed);
        uint64_t account = atomic_load_explicit(&set[way].account, memory_order_relaxed);
        if ((held == 0 || tm_pinned_is_stale(account, epoch)) &&
            atomic_compare_exchange_strong_explicit(&set[way].key, &held, key,
                                                    memory_order_relaxed, memory_order_relaxed))
            return &set[way].account;
    }
    return NULL;
}

#endif
