/* What all workers write: tickets, connection counts, token buckets.
 *
 * WRITERS  every worker, by atomic operations alone. READERS  workers, control.
 *
 * COUNTS  counted.h: a worker's next incarnation can tell whether a change took effect.
 *
 * SOURCES. Connections by client address, in a hash table of fixed size, eight entries a set. An
 * entry has 48 bits of the hash as its key beside its count, and both change in one 16-byte
 * compare-and-swap, so it is never incremented for the wrong client. Two workers may give the same
 * new client two entries at the same time. So each checks all eight again afterwards, and the one
 * that finds a duplicate withdraws its own change and starts over.
 *
 * ORDER. The 16-byte swap and the acknowledgement before it are full barriers, so a load of a cell
 * with acquire also sees the acknowledgement of its previous value. tm_intent is read by the next
 * incarnation only, when its writer has ended. Buckets, tickets and failures: relaxed.
 *
 * TRUST. A fault of one worker must not stop the others: values are bounded where they are used,
 * and an impossible time or account counts as one that has not started.
 */
#ifndef TM_COMMONS_H
#define TM_COMMONS_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "bucket.h"
#include "counted.h"
#include "pinned.h"
#include "route_table.h"
#include "shape.h"

#define TM_SOURCE_WAYS 8u
#define TM_SOURCE_SETS 16384u
#define TM_MAX_SOURCES (TM_SOURCE_WAYS * TM_SOURCE_SETS)
#define TM_SOURCE_FULL (-1)   /* the limit is reached */
#define TM_SOURCE_NO_ROOM (-2)

/* What is counted of one route, destination or endpoint, by its slot. */
struct tm_common {
    _Alignas(TM_CACHE_LINE) struct tm_counted connections; /* open, in all workers */
    struct tm_counted waiting;        /* of a destination: in its queue */
    _Atomic uint64_t connects_ns;     /* of a route: bucket of new connections */
    _Atomic uint64_t avoid_until_ms;  /* of an endpoint: it has just failed; monotonic */
    _Atomic uint32_t failures;        /* of an endpoint: connects in a row that failed */
    _Atomic uint32_t failures_all;    /* and since the start */
    _Atomic uint32_t failed_with;     /* errno of the last of them; 0 = it timed out */
    _Atomic uint64_t failing_since_ms; /* the first of those in a row; monotonic */
    _Atomic uint64_t failed_at_ms;     /* the last of them */
    _Atomic int64_t retries;          /* of a destination: used of its budget, in percent of one */
    _Atomic uint64_t bytes_ns[2];     /* of a route: accounts of bytes, by enum tm_side: shape.h */
    struct tm_rota rota; /* of an endpoint: turns of a later tier that begins with it; of a
                          * destination: who gets the connections that it can't take */
    /* Of an endpoint: connections in a row that it ended without a byte. What a client says can
     * bring that about, so they are no failures. suspects: a bit for each value of a hash of the
     * client's address, so that one client is not taken for many. */
    _Atomic uint32_t suspicions;
    _Atomic uint32_t suspicions_all; /* and since the start */
    _Atomic uint64_t suspects;
    /* The same for people, whatever the configuration counts: the last connections, which it ended
     * at once and without a byte. Bits of clients as above. */
    _Atomic uint32_t unanswered;
    _Atomic uint32_t unanswered_resets; /* among them, the rest were closed */
    _Atomic uint64_t unanswered_by;
};

struct tm_source {
    struct tm_counted connections;
    _Atomic uint64_t connects_ns;
    uint64_t unused;
};

struct tm_acknowledged {
    _Alignas(TM_CACHE_LINE) _Atomic uint64_t change; /* the highest number known to have happened */
};

#define TM_TRACE_NOTES 8192u

/* Notes of connections that this instance makes, by their local ports: trace.h. */
struct tm_traces {
    _Atomic uint16_t origins[TM_TRACE_NOTES];
    _Atomic uint64_t notes[TM_TRACE_NOTES];
};

struct tm_commons {
    uint64_t secret[2]; /* of the hash that sources are found by */
    struct tm_ticket tickets[TM_MAX_TICKETS];
    struct tm_acknowledged acknowledged[TM_MAX_SHARDS];
    struct tm_common slots[TM_MAX_SLOTS];
    struct tm_counted listeners[TM_MAX_LISTENERS]; /* by listener id */
    struct tm_source sources[TM_MAX_SOURCES];
    struct tm_traces traces;
    struct tm_pinned pinned;
};

/* Which is taken next. */
static inline uint64_t tm_ticket_next(const struct tm_ticket *ticket)
{
    return tm_rota_next(&ticket->rota);
}

/* Leaves out so many: where a split begins anew. The master's. */
static inline void tm_ticket_advance(struct tm_ticket *ticket, uint64_t count)
{
    atomic_fetch_add_explicit(&ticket->rota.next, count, memory_order_relaxed);
}

static inline void tm_acknowledge(struct tm_commons *commons, struct tm_counted was)
{
    uint32_t by = tm_counted_by(was);
    uint64_t change = tm_counted_change(was);
    if (by == 0)
        return;
    _Atomic uint64_t *at = &commons->acknowledged[by - 1].change;
    uint64_t known = atomic_load_explicit(at, memory_order_relaxed);
    while (change > known && !atomic_compare_exchange_weak(at, &known, change))
        ;
}

/* One attempt to make `now` of `was`, signed. */
static inline bool tm_counted_sign(struct tm_commons *commons, struct tm_counted *at,
                                   struct tm_counted was, uint64_t key, uint64_t count,
                                   const struct tm_intent *intent)
{
    tm_acknowledge(commons, was);
    return tm_counted_swap(at, was, tm_signed(intent, key, count));
}

/* One more, if that is not more than `limit`. False: it is full, and nothing happened. Without a
 * limit (TM_NO_LIMIT) never: a count that can't be true turns nobody away.
 * Between tm_intent_begin(UP) and tm_intent_end(). */
static inline bool tm_count_up(struct tm_commons *commons, struct tm_counted *at, uint64_t limit,
                               const struct tm_intent *intent)
{
    struct tm_counted was;
    uint64_t count;
    do {
        was = tm_counted_read(at);
        count = was.cell & TM_NO_LIMIT;
        if (count >= limit && limit < TM_NO_LIMIT)
            return false;
    } while (!tm_counted_sign(commons, at, was, was.key,
                              count < TM_NO_LIMIT ? count + 1 : count, intent));
    return true;
}

/* One less. Between tm_intent_begin(DOWN) and tm_intent_end(). */
static inline void tm_count_down(struct tm_commons *commons, struct tm_counted *at,
                                 const struct tm_intent *intent)
{
    struct tm_counted was;
    uint64_t count;
    do {
        was = tm_counted_read(at);
        count = was.cell & TM_NO_LIMIT;
    } while (!tm_counted_sign(commons, at, was, was.key, count ? count - 1 : 0, intent));
}

/* In a worker's next incarnation: whether what the intent was about to do has happened. */
static inline bool tm_intent_did(const struct tm_commons *commons, const struct tm_counted *at,
                                 const struct tm_intent *intent)
{
    uint64_t change = tm_intent_change(intent);
    struct tm_counted now = tm_counted_read(at);
    if (tm_counted_by(now) == intent->worker + 1 && tm_counted_change(now) == change)
        return true;
    assert(intent->worker < TM_MAX_SHARDS);
    /* Whoever has signed over it, be it one of the two words read, has acknowledged before. */
    return atomic_load(&commons->acknowledged[intent->worker].change) >= change;
}

/* At the start of an incarnation, before anything else is done with an intent that may be corrupt:
 * what it says can be true afterwards, and its numbers go on above all that were ever seen. */
static inline void tm_intent_mend(struct tm_intent *intent, struct tm_commons *commons,
                                  uint32_t worker)
{
    _Atomic uint64_t *at = &commons->acknowledged[worker].change;
    uint64_t known = atomic_load(at), number = intent->change >> 8;
    intent->worker = worker;
    if (known > TM_CHANGE_MASK / 2)
        atomic_store(at, known = 0);
    if (number > TM_CHANGE_MASK / 2 || number < known || (intent->change & 0xff) > TM_COUNT_DOWN)
        tm_intent_note(intent, (known + 1) << 8 | TM_COUNT_NOTHING);
}

/* SipHash-1-3 (Aumasson and Bernstein) of `length` bytes: nobody can choose colliding addresses. */
uint64_t tm_keyed_hash(const uint64_t secret[2], const unsigned char *bytes, uint32_t length);

/* The key of a client of a route: its IPv4 address, or the first 64 bits of IPv6; TM_KEY_BITS,
 * never 0.
 * ip: 16 bytes of which IPv4 uses four. */
uint64_t tm_source_key(const struct tm_commons *commons, uint32_t route_slot, uint16_t family,
                       const unsigned char ip[16]);

/* Counts one more connection of that client. Returns the index of its entry, TM_SOURCE_FULL or, if
 * there are too many clients, TM_SOURCE_NO_ROOM. Writes the index into intent->source before the
 * entry changes. Between tm_intent_begin(UP) and tm_intent_end(). */
int tm_source_up(struct tm_commons *commons, uint64_t key, uint64_t limit, uint64_t now_ns,
                 struct tm_intent *intent) __attribute__((warn_unused_result));

/* So that Cython need not know about _Atomic. */
static inline bool tm_connect_allowed(struct tm_common *route, uint64_t now_ns,
                                      uint64_t interval_ns, uint64_t burst)
{
    return tm_bucket_take(&route->connects_ns, now_ns, interval_ns, burst);
}
static inline bool tm_source_allowed(struct tm_source *source, uint64_t now_ns,
                                     uint64_t interval_ns, uint64_t burst)
{
    return tm_bucket_take(&source->connects_ns, now_ns, interval_ns, burst);
}
static inline uint64_t tm_bytes_ahead(const struct tm_common *route, int side, uint64_t now_ns)
{
    return tm_shape_ahead(&route->bytes_ns[side], now_ns);
}
static inline uint64_t tm_bytes_reserve(struct tm_common *route, int side, uint64_t now_ns,
                                        uint64_t cost)
{
    return tm_shape_reserve(&route->bytes_ns[side], now_ns, cost);
}
static inline void tm_bytes_settle(struct tm_common *route, int side, int64_t more)
{
    tm_shape_settle(&route->bytes_ns[side], more);
}
static inline void tm_bytes_forgive(struct tm_common *route, int side, uint64_t now_ns)
{
    tm_shape_forgive(&route->bytes_ns[side], now_ns);
}
static inline void tm_retry_earn(struct tm_common *destination, uint64_t percent)
{
    tm_retries_earn(&destination->retries, percent);
}
static inline bool tm_retry_take(struct tm_common *destination, uint64_t burst)
{
    return tm_retries_take(&destination->retries, burst);
}
static inline void tm_avoid(struct tm_common *endpoint, uint64_t until_ms)
{
    atomic_store_explicit(&endpoint->avoid_until_ms, until_ms, memory_order_relaxed);
}
#define TM_AVOID_MOST_MS 60000 /* longer than any endpoint is avoided */
static inline bool tm_avoided(const struct tm_common *endpoint, uint64_t now_ms)
{
    uint64_t until = atomic_load_explicit(&endpoint->avoid_until_ms, memory_order_relaxed);
    return until > now_ms && until - now_ms <= TM_AVOID_MOST_MS;
}
static inline uint64_t tm_avoided_until(const struct tm_common *endpoint)
{
    return atomic_load_explicit(&endpoint->avoid_until_ms, memory_order_relaxed);
}
/* error: errno, 0 = it timed out. */
static inline void tm_note_failure(struct tm_common *endpoint, uint32_t error, uint64_t now_ms)
{
    atomic_store_explicit(&endpoint->failed_with, error, memory_order_relaxed);
    atomic_store_explicit(&endpoint->failed_at_ms, now_ms, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&endpoint->failures, 1, memory_order_relaxed) == 0)
        atomic_store_explicit(&endpoint->failing_since_ms, now_ms, memory_order_relaxed);
    atomic_fetch_add_explicit(&endpoint->failures_all, 1, memory_order_relaxed);
}
/* It has said no to this connection, and takes others: no failure in a row. error: errno. */
static inline void tm_note_refusal(struct tm_common *endpoint, uint32_t error)
{
    atomic_store_explicit(&endpoint->failed_with, error, memory_order_relaxed);
    atomic_fetch_add_explicit(&endpoint->failures_all, 1, memory_order_relaxed);
}
static inline void tm_note_success(struct tm_common *endpoint)
{
    /* Looked at first: the line stays shared among the workers as long as nothing fails. */
    if (atomic_load_explicit(&endpoint->failures, memory_order_relaxed))
        atomic_store_explicit(&endpoint->failures, 0, memory_order_relaxed);
}
static inline void tm_note_suspicion(struct tm_common *endpoint, uint64_t source_key)
{
    atomic_fetch_or_explicit(&endpoint->suspects, 1ull << (source_key >> 58),
                             memory_order_relaxed);
    atomic_fetch_add_explicit(&endpoint->suspicions, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&endpoint->suspicions_all, 1, memory_order_relaxed);
}
/* The endpoint has ended a connection of that client without a byte. */
static inline void tm_note_unanswered(struct tm_common *endpoint, uint64_t source_key, bool reset)
{
    atomic_fetch_or_explicit(&endpoint->unanswered_by, 1ull << (source_key >> 58),
                             memory_order_relaxed);
    atomic_fetch_add_explicit(&endpoint->unanswered_resets, reset, memory_order_relaxed);
    atomic_fetch_add_explicit(&endpoint->unanswered, 1, memory_order_relaxed);
}
/* A connection there went as it should, answered or not. */
static inline void tm_note_served(struct tm_common *endpoint)
{
    if (atomic_load_explicit(&endpoint->unanswered, memory_order_relaxed)) {
        atomic_store_explicit(&endpoint->unanswered, 0, memory_order_relaxed);
        atomic_store_explicit(&endpoint->unanswered_resets, 0, memory_order_relaxed);
        atomic_store_explicit(&endpoint->unanswered_by, 0, memory_order_relaxed);
    }
}
/* Nothing more is suspected of the endpoint. */
static inline void tm_note_trust(struct tm_common *endpoint)
{
    if (atomic_load_explicit(&endpoint->suspicions, memory_order_relaxed)) {
        atomic_store_explicit(&endpoint->suspicions, 0, memory_order_relaxed);
        atomic_store_explicit(&endpoint->suspects, 0, memory_order_relaxed);
    }
}
/* The endpoint has said something. */
static inline void tm_note_answer(struct tm_common *endpoint)
{
    tm_note_trust(endpoint);
    tm_note_served(endpoint);
}
static inline uint32_t tm_unanswered(const struct tm_common *endpoint)
{
    return atomic_load_explicit(&endpoint->unanswered, memory_order_relaxed);
}
static inline uint32_t tm_unanswered_resets(const struct tm_common *endpoint)
{
    return atomic_load_explicit(&endpoint->unanswered_resets, memory_order_relaxed);
}
/* How many different clients they are of, at least. */
static inline uint32_t tm_unanswered_clients(const struct tm_common *endpoint)
{
    return (uint32_t)__builtin_popcountll(
        atomic_load_explicit(&endpoint->unanswered_by, memory_order_relaxed));
}
static inline uint32_t tm_suspicions(const struct tm_common *endpoint)
{
    return atomic_load_explicit(&endpoint->suspicions, memory_order_relaxed);
}
static inline uint32_t tm_suspicions_all(const struct tm_common *endpoint)
{
    return atomic_load_explicit(&endpoint->suspicions_all, memory_order_relaxed);
}
/* How many different clients they are of, at least. */
static inline uint32_t tm_suspecting(const struct tm_common *endpoint)
{
    return (uint32_t)__builtin_popcountll(
        atomic_load_explicit(&endpoint->suspects, memory_order_relaxed));
}
static inline uint32_t tm_failures(const struct tm_common *endpoint)
{
    return atomic_load_explicit(&endpoint->failures, memory_order_relaxed);
}
static inline uint32_t tm_failed_with(const struct tm_common *endpoint)
{
    return atomic_load_explicit(&endpoint->failed_with, memory_order_relaxed);
}
static inline uint64_t tm_failing_since(const struct tm_common *endpoint)
{
    return atomic_load_explicit(&endpoint->failing_since_ms, memory_order_relaxed);
}
static inline uint64_t tm_failed_at(const struct tm_common *endpoint)
{
    return atomic_load_explicit(&endpoint->failed_at_ms, memory_order_relaxed);
}
static inline uint32_t tm_failures_all(const struct tm_common *endpoint)
{
    return atomic_load_explicit(&endpoint->failures_all, memory_order_relaxed);
}
/* For a slot that another name gets. Nothing counts in it. */
static inline void tm_common_forget(struct tm_common *slot)
{
    atomic_store_explicit(&slot->connects_ns, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->avoid_until_ms, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->failures, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->failures_all, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->failed_with, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->failing_since_ms, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->failed_at_ms, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->suspicions, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->suspicions_all, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->suspects, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->unanswered, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->unanswered_resets, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->unanswered_by, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->retries, 0, memory_order_relaxed);
    atomic_store_explicit(&slot->bytes_ns[0], 0, memory_order_relaxed);
    atomic_store_explicit(&slot->bytes_ns[1], 0, memory_order_relaxed);
}

#endif
