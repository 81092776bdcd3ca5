/* Rate limits: how much may be moved at once, and when the next read may follow.
 *
 * Nothing is buffered: what exceeds the rate is not read, and stays in the sender's socket.
 *
 * OF ONE CONNECTION  each half has an account: the time up to which its bytes are paid for. What
 *     was moved is added afterwards (tm_shape_pay); a half that is ahead is not read before that
 *     time.
 *
 * OF A ROUTE  all halves of a direction have one account, in commons.h. Many may be ready at the
 *     same moment, so each is given its time before it reads:
 *
 *         start = tm_shape_reserve(account, now, cost of 2^power bytes)
 *         not before start: move about as many bytes
 *         tm_shape_settle(account, cost of what was moved - cost reserved)
 *
 *     They take turns in the order in which they asked. The further the account is ahead, the
 *     less each is given at once, so that a turn comes round soon.
 *
 * Times are monotonic, in ns; rates in bytes/s, at least 1.
 */
#ifndef TM_SHAPE_H
#define TM_SHAPE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define TM_SHAPE_SECOND 1000000000ull
#define TM_SHAPE_CREDIT (TM_SHAPE_SECOND / 10) /* unused time that is not lost */
#define TM_SHAPE_TURN (TM_SHAPE_SECOND / 50)   /* what is moved at once takes so long */
#define TM_SHAPE_EARLY (TM_SHAPE_SECOND / 200) /* so far ahead, a pause is not worth it */
#define TM_SHAPE_MOST_POWER 20u                /* 1 MiB at once */
#define TM_SHAPE_SMALL 2048u /* bytes: smaller pieces cost more calls than they are worth */
/* Nobody waits for so long: an account that says so is damaged. */
#define TM_SHAPE_NEVER (86400 * TM_SHAPE_SECOND)

/* tm_half.paused */
enum tm_paused {
    TM_UNPAUSED = 0,
    TM_PAUSED,   /* its own account is ahead */
    TM_RESERVED, /* + power: its turn on the route's account is still to come */
};

static inline uint64_t tm_shape_cost(uint64_t bytes, uint64_t rate)
{
    return bytes * TM_SHAPE_SECOND / rate;
}

/* 2^power bytes may be moved at once, where the account is `ahead` of now. */
static inline uint32_t tm_shape_power(uint64_t rate, uint64_t ahead)
{
    uint64_t least = rate / 10 < TM_SHAPE_SMALL ? rate / 10 : TM_SHAPE_SMALL;
    uint64_t most = rate / (TM_SHAPE_SECOND / TM_SHAPE_TURN);
    if (most >> TM_SHAPE_MOST_POWER)
        most = 1ull << TM_SHAPE_MOST_POWER;
    if (ahead < TM_SHAPE_NEVER)
        most = most * TM_SHAPE_TURN / (TM_SHAPE_TURN + ahead);
    if (most < least)
        most = least;
    return most ? 63u - (uint32_t)__builtin_clzll(most) : 0;
}

static inline uint64_t tm_shape_from(uint64_t paid_ns, uint64_t now_ns)
{
    uint64_t least = now_ns > TM_SHAPE_CREDIT ? now_ns - TM_SHAPE_CREDIT : 0;
    if (paid_ns > now_ns + TM_SHAPE_NEVER)
        return now_ns;
    return paid_ns > least ? paid_ns : least;
}

/* An account of one half after something was moved. */
static inline uint64_t tm_shape_pay(uint64_t paid_ns, uint64_t now_ns, uint64_t cost)
{
    return tm_shape_from(paid_ns, now_ns) + cost;
}

static inline uint64_t tm_shape_ahead(const _Atomic uint64_t *account, uint64_t now_ns)
{
    uint64_t from = tm_shape_from(atomic_load_explicit(account, memory_order_relaxed), now_ns);
    return from > now_ns ? from - now_ns : 0;
}

/* From when on what is reserved may be moved. */
static inline uint64_t tm_shape_reserve(_Atomic uint64_t *account, uint64_t now_ns, uint64_t cost)
{
    uint64_t paid = atomic_load_explicit(account, memory_order_relaxed), from;
    do
        from = tm_shape_from(paid, now_ns);
    while (!atomic_compare_exchange_weak_explicit(account, &paid, from + cost,
                                                  memory_order_relaxed, memory_order_relaxed));
    return from;
}

/* more: may be negative, for what was reserved and not used. */
static inline void tm_shape_settle(_Atomic uint64_t *account, int64_t more)
{
    if (more)
        atomic_fetch_add_explicit(account, (uint64_t)more, memory_order_relaxed);
}

/* The rate has changed: shortens the waits that were computed from the old one. */
static inline void tm_shape_forgive(_Atomic uint64_t *account, uint64_t now_ns)
{
    uint64_t paid = atomic_load_explicit(account, memory_order_relaxed);
    if (paid > now_ns)
        atomic_compare_exchange_strong_explicit(account, &paid, now_ns, memory_order_relaxed,
                                                memory_order_relaxed);
}

#endif
