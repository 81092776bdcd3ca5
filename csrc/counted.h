/* Counts that all workers share, such as the open connections of an endpoint.
 *
 * WRITERS  every worker, by compare-and-swap alone. READERS  workers, control.
 *
 * A limit over all workers is exact only if a single number decides: a worker adds 1 by
 * compare-and-swap if the limit allows, and notes in the connection's record (live.h: holds) that
 * it has to subtract it again. A worker may be killed between the two, and then nobody could tell
 * whether it has added. Therefore a count carries the signature of its last change:
 *
 *     count (24 bits) | worker + 1 (8) | number of that worker's change (32 and, in the key, 16)
 *
 * and the next worker to change it first acknowledges that the previous change took effect, in
 * acknowledged[worker]. A signature may stay for as long as nobody counts there, so change numbers
 * are never re-used: 48 bits last for nine years at a million changes a second. A worker writes
 * down what it is about to do (struct tm_intent in its region) before it does it. Its next
 * incarnation looks for the signature or the acknowledgement: with neither, the change did not
 * happen (a detectable compare-and-swap: Attiya, Ben-Baruch and Hendler, "Nesting-Safe Recoverable
 * Linearizability", PODC 2018).
 */
#ifndef TM_COUNTED_H
#define TM_COUNTED_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "route_table.h"

#define TM_NO_LIMIT 0xffffffu /* the most that a count can be */

/* 16 bytes that change together. */
struct tm_counted {
    _Alignas(16) uint64_t key; /* of a source, else 0; above it 16 bits of the signature */
    uint64_t cell;             /* count and the rest of the signature */
};

#define TM_KEY_BITS 48
#define TM_KEY_MASK ((UINT64_C(1) << TM_KEY_BITS) - 1)
#define TM_CHANGE_MASK ((UINT64_C(1) << 48) - 1)

/* What a worker is about to count; in its region. */
struct tm_intent {
    uint64_t change; /* number of the last one (over all incarnations) << 8 | enum tm_counting */
    uint32_t worker;
    uint32_t record; /* index of the connection */
    uint32_t source; /* index, if it is one */
    uint8_t what;    /* bit of tm_conn.holds */
};

enum tm_counting { TM_COUNT_NOTHING = 0, TM_COUNT_UP, TM_COUNT_DOWN };

static inline uint64_t tm_intent_change(const struct tm_intent *intent)
{
    return intent->change >> 8 & TM_CHANGE_MASK;
}

static inline enum tm_counting tm_intent_step(const struct tm_intent *intent)
{
    return (enum tm_counting)(intent->change & 0xff);
}

static inline uint32_t tm_counted_now(const struct tm_counted *at)
{
    return (uint32_t)(__atomic_load_n(&at->cell, __ATOMIC_RELAXED) & TM_NO_LIMIT);
}

static inline void tm_intent_note(struct tm_intent *intent, uint64_t change)
{
    atomic_signal_fence(memory_order_seq_cst);
    __atomic_store_n(&intent->change, change, __ATOMIC_RELAXED);
    atomic_signal_fence(memory_order_seq_cst);
}

static inline void tm_intent_begin(struct tm_intent *intent, enum tm_counting step, uint8_t what)
{
    intent->what = what;
    tm_intent_note(intent, ((intent->change >> 8) + 1) << 8 | step);
}

/* The record says it now. */
static inline void tm_intent_end(struct tm_intent *intent)
{
    tm_intent_note(intent, intent->change & ~(uint64_t)0xff);
}

static inline bool tm_counted_swap(struct tm_counted *at, struct tm_counted was,
                                   struct tm_counted now)
{
    __extension__ typedef unsigned __int128 pair;
    pair before, after;
    memcpy(&before, &was, sizeof(before));
    memcpy(&after, &now, sizeof(after));
    return __sync_bool_compare_and_swap((pair *)at, before, after);
}

/* Worker + 1 of the last change; 0: nobody has changed it, or it says a worker that can't be. */
static inline uint32_t tm_counted_by(struct tm_counted counted)
{
    uint32_t by = (uint32_t)(counted.cell >> 24 & 0xff);
    return by <= TM_MAX_SHARDS ? by : 0;
}

static inline uint64_t tm_counted_change(struct tm_counted counted)
{
    return counted.cell >> 32 | counted.key >> TM_KEY_BITS << 32;
}

static inline struct tm_counted tm_signed(const struct tm_intent *intent, uint64_t key,
                                          uint64_t count)
{
    uint64_t change = tm_intent_change(intent);
    return (struct tm_counted){
        .key = (key & TM_KEY_MASK) | change >> 32 << TM_KEY_BITS,
        .cell = (count & TM_NO_LIMIT) | (uint64_t)(intent->worker + 1) << 24 | change << 32,
    };
}

/* The two words may be of different moments: then a swap fails. */
static inline struct tm_counted tm_counted_read(const struct tm_counted *at)
{
    return (struct tm_counted){__atomic_load_n(&at->key, __ATOMIC_ACQUIRE),
                               __atomic_load_n(&at->cell, __ATOMIC_ACQUIRE)};
}

#endif
