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
 *
 * Clients that are turned away can be many: of each refusal a worker writes TM_REFUSED_BURST
 * entries, then one every TM_REFUSED_NS. Those beyond are counted: left_out (the worker's) - told
 * (the log process's) are still to be told.
 */
#ifndef TM_ACCESS_LOG_H
#define TM_ACCESS_LOG_H

#include <netinet/in.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bucket.h"
#include "client_hello.h"

#define TM_LOG_ENTRIES 16384u /* of one worker; a power of two */

enum tm_log_kind { TM_LOG_START = 1, TM_LOG_END, TM_LOG_REFUSED };

/* Why a client was turned away. */
enum tm_refusal {
    TM_NOT_REFUSED = 0,
    TM_REFUSED_DENIED, /* on accept, before it had a record */
    TM_REFUSED_LOOPED,
    TM_REFUSED_NO_ROUTE,
    TM_REFUSED_LISTENER_MAX, /* limits of the route and of the client */
    TM_REFUSED_SOURCE_MAX,
    TM_REFUSED_ROUTE_MAX,
    TM_REFUSED_SOURCE_RATE,
    TM_REFUSED_ROUTE_RATE,
    TM_REFUSED_BY_RULE,        /* of its route, which it meets */
    TM_REFUSED_NO_DESTINATION, /* the route has none that can take it */
    TM_REFUSED_DESTINATION_MAX, /* limits of the destination that was picked */
    TM_REFUSED_ENDPOINT_MAX,    /* and of its endpoints */
    TM_REFUSED_PROXY_MISSING,  /* its header of the PROXY protocol: proxy_header.h */
    TM_REFUSED_PROXY_VERSION,
    TM_REFUSED_PROXY_MALFORMED,
    TM_REFUSED_PROXY_TOO_LONG,
    TM_REFUSED_PROXY_CHECKSUM,
    TM_REFUSED_PROXY_LATE,
    TM_REFUSED_HELLO_MALFORMED, /* what it sent first: client_hello.h */
    TM_REFUSED_HELLO_TOO_LONG,
    TM_REFUSED_HELLO_LATE,
    TM_REFUSED_HELLO_SILENT,
    TM_REFUSALS
};

#define TM_REFUSED_BURST 100u
#define TM_REFUSED_NS 100000000u

enum { TM_TLVS_MAX = 112 }; /* bytes that are kept of a PROXY header's TLVs */

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
    uint8_t refusal;      /* enum tm_refusal; END, REFUSED */
    uint8_t sni_size;     /* 0 = none; the bytes are in `known`, at the same place */
    uint8_t alpn_size;
    uint8_t tlvs_size;
    uint32_t route_slot;       /* TM_NONE = no route was found */
    uint32_t destination_slot; /* TM_NONE = none was picked */
    uint32_t endpoint_slot;    /* TM_NONE = none took the connection */
    uint32_t rule_slot;        /* TM_NONE = it has met none */
    uint32_t index, generation; /* of the record: who they are in a list of connections. REFUSED:
                                 * it has none */
    uint32_t connect_us;        /* of the last attempt; 0 = never established */
    uint32_t first_byte_us;     /* after accept, from the endpoint; 0 = none came */
    uint64_t table_generation;  /* of the pick, or the refusal */
    uint64_t accepted_at_us;    /* monotonic */
    uint64_t at_us;             /* monotonic; of this entry */
    uint64_t bytes[2];          /* by enum tm_side, from it */
    struct tm_peer client, endpoint;
    struct tm_peer client_local, endpoint_local; /* the proxy's own ends */
    struct tm_peer direct; /* at the other end of the client's socket: a PROXY header may have named
                            * another client */
    uint32_t born_worker, born_index, born_generation; /* as tm_cold has it */
    uint32_t rehomed;                                  /* the same */
};

/* Apart from the entries, as most have none: memory that nobody touches is not used. */
struct tm_log_known {
    char sni[TM_SNI_MAX + 1];
    unsigned char alpn[TM_ALPN_MAX];
    unsigned char tlvs[TM_TLVS_MAX];
};

struct tm_log {
    _Alignas(64) _Atomic uint64_t written;
    uint64_t dropped; /* the worker's; there was no room */
    uint64_t left_out[TM_REFUSALS];
    _Alignas(64) _Atomic uint64_t taken;
    uint64_t told[TM_REFUSALS];
    _Alignas(64) struct tm_log_entry entries[TM_LOG_ENTRIES];
    struct tm_log_known known[TM_LOG_ENTRIES];
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

/* Whether a refusal gets an entry; if not, it is counted. next_ns: the worker's, for each of them.
 */
static inline bool tm_log_admits(struct tm_log *log, enum tm_refusal refusal,
                                 _Atomic uint64_t next_ns[TM_REFUSALS], uint64_t now_ns)
{
    if (refusal == TM_NOT_REFUSED ||
        tm_bucket_take(&next_ns[refusal], now_ns, TM_REFUSED_NS, TM_REFUSED_BURST))
        return true;
    __atomic_store_n(&log->left_out[refusal], log->left_out[refusal] + 1, __ATOMIC_RELAXED);
    return false;
}

/* How many of a refusal were left out and have not been told. The log process's. */
static inline uint64_t tm_log_untold(struct tm_log *log, enum tm_refusal refusal)
{
    uint64_t left_out = __atomic_load_n(&log->left_out[refusal], __ATOMIC_RELAXED);
    if (log->told[refusal] > left_out) /* the worker's memory is corrupt, or was */
        log->told[refusal] = left_out;
    return left_out - log->told[refusal];
}

static inline void tm_log_tell(struct tm_log *log, enum tm_refusal refusal, uint64_t count)
{
    log->told[refusal] += count;
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
