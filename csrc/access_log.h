/* A worker's entries of the access log, on their way to the log process.
 *
 * WRITER  one worker: entries, then `written`. READER  the log process: `taken` is its own.
 *
 *     worker                                     log process
 *     ------                                     -----------
 *     written - taken < capacity?                w = load_acquire(written)
 *     no: dropped + 1, and that is all           write entries [taken, w)
 *     fill entries[written % TM_LOG_ENTRIES]     store_release(taken, w)
 *     store_release(written, written + 1)
 *
 * So neither waits for the other. Both counts only grow. A worker that dies before the last store
 * leaves no partial entry behind; its next incarnation continues from the counts.
 */
#ifndef TM_ACCESS_LOG_H
#define TM_ACCESS_LOG_H

#include <netinet/in.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TM_LOG_ENTRIES 16384u /* of one worker; a power of two */

enum tm_log_kind { TM_LOG_START = 1, TM_LOG_END };

/* What is to be logged. Bits of tm_table.log_kinds. */
enum tm_log_wanted { TM_LOG_ENDS = 1, TM_LOG_STARTS = 2 };

/* An address as shown to people: UNIX peers have family only. */
struct tm_peer {
    uint16_t family;
    uint16_t port; /* host order */
    uint8_t ip[16];
};

struct tm_log_entry {
    uint8_t kind;         /* enum tm_log_kind */
    uint8_t close_reason; /* enum tm_close_reason; END */
    uint8_t pick_reason;  /* enum tm_pick_reason */
    uint8_t attempts;     /* endpoints tried; 255 = as many or more */
    uint32_t route_slot;
    uint32_t destination_slot; /* TM_NONE = none was picked */
    uint32_t endpoint_slot;    /* TM_NONE = none took the connection */
    uint32_t index, generation; /* of the record: who they are in a list of connections */
    uint32_t connect_us;        /* of the last attempt; 0 = never established */
    uint32_t first_byte_us;     /* after accept, from the endpoint; 0 = none came */
    uint64_t table_generation;  /* of the pick */
    uint64_t accepted_at_us;    /* monotonic */
    uint64_t at_us;             /* monotonic; of this entry */
    uint64_t bytes[2];          /* by enum tm_side, from it */
    struct tm_peer client, endpoint;
    struct tm_peer client_local, endpoint_local; /* the proxy's own ends */
};

struct tm_log {
    _Alignas(64) _Atomic uint64_t written;
    uint64_t dropped; /* the worker's; there was no room */
    _Alignas(64) _Atomic uint64_t taken;
    _Alignas(64) struct tm_log_entry entries[TM_LOG_ENTRIES];
};

/* Where the worker puts its next entry, to be followed by tm_log_commit(); NULL = no room:
 * counted. capacity: at most TM_LOG_ENTRIES. */
static inline struct tm_log_entry *tm_log_free_entry(struct tm_log *log, uint32_t capacity)
{
    uint64_t written = atomic_load_explicit(&log->written, memory_order_relaxed);
    /* Acquire: the reader's last read of this entry comes before what is written to it. */
    if (written - atomic_load_explicit(&log->taken, memory_order_acquire) >= capacity) {
        __atomic_store_n(&log->dropped, log->dropped + 1, __ATOMIC_RELAXED);
        return NULL;
    }
    return &log->entries[written % TM_LOG_ENTRIES];
}

static inline void tm_log_commit(struct tm_log *log)
{
    uint64_t written = atomic_load_explicit(&log->written, memory_order_relaxed);
    atomic_store_explicit(&log->written, written + 1, memory_order_release);
}

static inline uint64_t tm_log_written(const struct tm_log *log)
{
    return atomic_load_explicit(&log->written, memory_order_acquire);
}

static inline uint64_t tm_log_taken(const struct tm_log *log)
{
    return atomic_load_explicit(&log->taken, memory_order_relaxed);
}

static inline void tm_log_take(struct tm_log *log, uint64_t taken)
{
    atomic_store_explicit(&log->taken, taken, memory_order_release);
}

#endif
