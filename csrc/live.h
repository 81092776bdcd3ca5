/* A worker's region in shared memory: heartbeat, counters and its connections.
 *
 * WRITER  one worker alone, and after its death its next incarnation. The guardian writes
 *         guardian_pid, presence, at_fault and builds. Neither pid is ever signalled: the pids that
 *         may be signalled come from the kernel (channel.h).
 * READERS master (generation_seen), control (everything).
 *
 * There are no locks; a reader gets values that were true a moment ago. Memory ordering:
 *
 *     worker                                    reader
 *     ------                                    ------
 *     a counter: release (tm_count)             acquire (tm_counter_read). "active" = opened -
 *                                               closed: with closed read first, it is never
 *                                               negative
 *     a record: conn_record.h
 *     generation_seen: release, after the       acquire (master): the older image is not read
 *     last read of the older image              any more
 *     the log: access_log.h
 *
 * Everything else is independent: relaxed. On x86 none of this costs an instruction.
 *
 * A connection consists of its record here (hot and cold, and an annex if it needs one), its
 * descriptors and its pipes: the worker keeps nothing else about it.
 */
#ifndef TM_LIVE_H
#define TM_LIVE_H

#include <assert.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "access_log.h"
#include "commons.h"
#include "conn_record.h"
#include "differences.h"
#include "failed_connects.h"
#include "histogram.h"
#include "journal.h"
#include "pump.h"
#include "route_table.h"

#define TM_LIVE_MAGIC 0x6576696c78757463ull /* "ctuxlive", little endian */
#define TM_LIVE_FORMAT 9u

#define TM_BUFFER_SIZE 65536u /* bytes of one recv; at most TM_PIPE_MIN: any rest fits a pipe */
#define TM_MAX_LISTENING (TM_MAX_LISTENERS * TM_MAX_SHARDS)
#define TM_MAX_LINES TM_MAX_SHARDS /* to other workers, one each */
#define TM_MAX_RECORDS (1u << 24)  /* of a worker: far above any RLIMIT_NOFILE */

/* Whether a worker is at work. Written by its guardian. */
enum tm_presence {
    TM_ABSENT = 0, /* no process, or its next incarnation has not begun yet */
    TM_PRESENT,
    TM_STOPPED, /* by a signal: SIGSTOP, a debugger */
    TM_HANGING, /* has not come back to epoll for too long */
};

/* How an incarnation ends that ends by itself: what its guardian is to do next. */
enum tm_ending {
    TM_UNENDED = 0,
    TM_OVER,     /* nothing is left to do */
    TM_REPLACED, /* the next build of tcpmux goes on */
};

/* What the master has told a worker for good. Bits of tm_live.orders. */
enum tm_order {
    TM_ORDER_DRAIN = 1,  /* end with the last connection */
    TM_ORDER_RETIRE = 2, /* accept no more, give the connections to other workers, then end */
};

/* A listening socket that this worker holds. */
struct tm_listening {
    int32_t fd;       /* -1: this entry is free */
    uint32_t id;      /* of the listener */
    uint32_t shard;
    uint8_t shared;   /* one socket for all workers */
    uint8_t leaving;  /* being removed: serve the queue, then close */
    uint8_t polled;   /* in epoll now */
};

struct tm_slot {
#define TM_SLOT(name, unit, help) uint64_t name;
#include "counters.def"
    uint64_t closed[TM_CLOSE_REASONS]; /* [TM_OPEN] stays 0 */
    uint64_t picked[TM_PICK_REASONS];  /* [TM_UNPICKED] stays 0 */
};

/* Times of one destination's connections. */
struct tm_times {
#define TM_TIME(name, bounds, help) struct tm_histogram name;
#include "counters.def"
};

struct tm_worker_counters {
#define TM_WORKER(name, unit, help) uint64_t name;
#include "counters.def"
};

struct tm_live {
    uint64_t magic;
    uint32_t format;
    uint32_t worker;
    uint64_t size;
    uint32_t capacity;     /* records */
    _Atomic int32_t pid;   /* of the worker; 0 = none yet */
    _Atomic uint32_t starts;  /* incarnations of this worker so far */
    _Atomic uint32_t connections; /* records in use */
    uint32_t records_used; /* records[] beyond were never touched, and have no memory yet */
    uint32_t orders;       /* enum tm_order */
    uint32_t orders_again; /* the complement; if it is not, there are none, and the master
                            * repeats them */
    int32_t channel;       /* line to the master; -1 = it is gone */
    int32_t lines[TM_MAX_LINES]; /* to other workers, for handing connections over; -1 = none */
    uint32_t records_again; /* as records_used: one of the two is right, and not side by side */
    uint32_t annexes_used;  /* annexes beyond were never touched, and have no memory yet */
    uint64_t gives_to;           /* the lines, a bit each, over which this worker gives its own */
    uint32_t listening_count;    /* entries of listening[] in use, and free ones between them */
    _Atomic uint32_t ending; /* enum tm_ending: why this incarnation ends by itself; 0 = not */
    _Atomic int32_t guardian_pid;
    _Atomic uint32_t descriptors; /* open in this worker a second ago; 0 = unknown */
    _Atomic uint32_t masters; /* that have taken this worker over; its guardian greets each */
    uint32_t builds; /* times that a guardian has become the next build */
    _Atomic uint32_t presence; /* enum tm_presence */
    _Atomic uint32_t at_fault; /* the last incarnation ended by a fault, not by a kill */
    _Alignas(TM_CACHE_LINE) _Atomic uint64_t generation_seen;
    _Atomic uint64_t heartbeat_ms; /* monotonic; last turn of the loop */
    _Atomic uint32_t awake;        /* at work since then; 0 = waiting for events */
    _Atomic uint64_t progress;     /* turns and, within them, events and connections dealt with */
    struct tm_journal journal;
    struct tm_intent intent; /* commons.h */
    struct tm_worker_counters counters;
    uint32_t pipes; /* open */
    uint64_t pipe_bytes; /* their size, not what is in them */
    _Alignas(TM_CACHE_LINE) struct tm_slot slots[TM_MAX_SLOTS];
    _Alignas(TM_CACHE_LINE) unsigned char buffer[TM_BUFFER_SIZE]; /* of the copy path; journal.h */
    struct tm_listening listening[TM_MAX_LISTENING];
    struct tm_times times[TM_MAX_SLOTS]; /* of the slots of destinations */
    struct tm_log log;
    struct tm_failed_connects failed;
    struct tm_differences differences;
    _Alignas(TM_CACHE_LINE) struct tm_conn records[]; /* `capacity`; tm_cold, tm_annex, tm_moves */
};

#define TM_RECORD_SIZE \
    (sizeof(struct tm_conn) + sizeof(struct tm_cold) + sizeof(struct tm_annex) + \
     sizeof(struct tm_moves))

static inline size_t tm_live_size(uint32_t capacity)
{
    return sizeof(struct tm_live) + (size_t)capacity * TM_RECORD_SIZE;
}

/* The second array. capacity: of the region, as tm_live_capacity() says. */
static inline struct tm_cold *tm_live_colds(const struct tm_live *live, uint32_t capacity)
{
    return (struct tm_cold *)(void *)&live->records[capacity];
}

/* And the third. */
static inline struct tm_annex *tm_live_annexes(const struct tm_live *live, uint32_t capacity)
{
    return (struct tm_annex *)(void *)&tm_live_colds(live, capacity)[capacity];
}

/* And the fourth. */
static inline struct tm_moves *tm_live_moves(const struct tm_live *live, uint32_t capacity)
{
    return (struct tm_moves *)(void *)&tm_live_annexes(live, capacity)[capacity];
}

/* How many records a region of that size has; -1: it can't be one. What the region itself says is
 * not asked: its worker writes it. */
static inline int64_t tm_live_capacity(size_t size)
{
    if (size < tm_live_size(0) || (size - tm_live_size(0)) % TM_RECORD_SIZE != 0 ||
        size > tm_live_size(TM_MAX_RECORDS))
        return -1;
    return (int64_t)((size - tm_live_size(0)) / TM_RECORD_SIZE);
}

/* The words that never change. */
static inline void tm_live_head(struct tm_live *live, uint32_t worker, uint32_t capacity)
{
    live->magic = TM_LIVE_MAGIC;
    live->format = TM_LIVE_FORMAT;
    live->worker = worker;
    live->capacity = capacity;
    live->size = tm_live_size(capacity);
    live->intent.worker = worker;
}

static inline void tm_live_order(struct tm_live *live, uint32_t orders)
{
    live->orders = orders;
    live->orders_again = ~orders;
}

/* The number of a record that was never used; the caller knows that there is one. */
static inline uint32_t tm_live_next_record(struct tm_live *live)
{
    uint32_t index = live->records_used;
    live->records[index].state = TM_FREE; /* whatever has got there */
    live->records_again = index + 1;
    atomic_signal_fence(memory_order_seq_cst);
    live->records_used = index + 1;
    return index;
}

static inline void tm_live_init(struct tm_live *live, uint32_t worker, uint32_t capacity)
{
    tm_live_head(live, worker, capacity);
    tm_live_order(live, 0);
    live->channel = -1;
    for (int line = 0; line < TM_MAX_LINES; line++)
        live->lines[line] = -1;
    live->journal.current = TM_NONE;
    tm_journal_note(&live->journal, TM_NOTHING);
}

/* The single writer's way to count: no lock prefix, and no torn value for readers. */
static inline void tm_count(uint64_t *counter, uint64_t n)
{
    __atomic_store_n(counter, *counter + n, __ATOMIC_RELEASE);
}

static inline uint64_t tm_counter_read(const uint64_t *counter)
{
    return __atomic_load_n(counter, __ATOMIC_ACQUIRE);
}

static inline uint64_t tm_slot_closed_total(const struct tm_slot *slot)
{
    uint64_t total = 0;
    for (int reason = 0; reason < TM_CLOSE_REASONS; reason++)
        total += tm_counter_read(&slot->closed[reason]);
    return total;
}

/* Open now and with this worker. What leaves is read first: see above. */
static inline uint64_t tm_slot_active(const struct tm_slot *slot)
{
    uint64_t gone = tm_slot_closed_total(slot) + tm_counter_read(&slot->moved_out);
    return tm_counter_read(&slot->opened) + tm_counter_read(&slot->moved_in) - gone;
}

/* Relaxed accessors, so that Cython need not know about _Atomic. */
static inline uint64_t tm_live_generation_seen(const struct tm_live *live)
{
    return atomic_load_explicit(&live->generation_seen, memory_order_acquire);
}
static inline void tm_live_set_generation_seen(struct tm_live *live, uint64_t generation)
{
    /* Release: the worker's last read of the older image comes before it. */
    atomic_store_explicit(&live->generation_seen, generation, memory_order_release);
}
static inline int32_t tm_live_pid(const struct tm_live *live)
{
    return atomic_load_explicit(&live->pid, memory_order_relaxed);
}
static inline uint32_t tm_live_starts(const struct tm_live *live)
{
    return atomic_load_explicit(&live->starts, memory_order_relaxed);
}
static inline void tm_live_begin(struct tm_live *live, int32_t pid)
{
    atomic_store_explicit(&live->pid, pid, memory_order_relaxed);
    atomic_fetch_add_explicit(&live->starts, 1, memory_order_relaxed);
}
static inline uint32_t tm_live_ending(const struct tm_live *live)
{
    return atomic_load_explicit(&live->ending, memory_order_relaxed);
}
static inline void tm_live_set_ending(struct tm_live *live, enum tm_ending ending)
{
    atomic_store_explicit(&live->ending, (uint32_t)ending, memory_order_relaxed);
}
static inline void tm_live_set_pid(struct tm_live *live, int32_t pid)
{
    atomic_store_explicit(&live->pid, pid, memory_order_relaxed);
}
static inline uint32_t tm_live_connections(const struct tm_live *live)
{
    return atomic_load_explicit(&live->connections, memory_order_relaxed);
}
static inline void tm_live_set_connections(struct tm_live *live, uint32_t connections)
{
    atomic_store_explicit(&live->connections, connections, memory_order_relaxed);
}
static inline uint64_t tm_live_heartbeat(const struct tm_live *live)
{
    return atomic_load_explicit(&live->heartbeat_ms, memory_order_relaxed);
}
static inline uint64_t tm_live_progress(const struct tm_live *live)
{
    return atomic_load_explicit(&live->progress, memory_order_relaxed);
}
/* Counts a step: a piece of work of bounded size has been done. */
static inline void tm_live_advance(struct tm_live *live)
{
    uint64_t progress = atomic_load_explicit(&live->progress, memory_order_relaxed);
    atomic_store_explicit(&live->progress, progress + 1, memory_order_relaxed);
}
static inline void tm_live_set_heartbeat(struct tm_live *live, uint64_t now_ms)
{
    tm_live_advance(live);
    atomic_store_explicit(&live->heartbeat_ms, now_ms, memory_order_relaxed);
    atomic_store_explicit(&live->awake, 1, memory_order_relaxed);
}
static inline void tm_live_rest(struct tm_live *live)
{
    atomic_store_explicit(&live->awake, 0, memory_order_relaxed);
}
static inline bool tm_live_awake(const struct tm_live *live)
{
    return atomic_load_explicit(&live->awake, memory_order_relaxed);
}
static inline uint32_t tm_live_presence(const struct tm_live *live)
{
    return atomic_load_explicit(&live->presence, memory_order_relaxed);
}
static inline void tm_live_set_presence(struct tm_live *live, enum tm_presence presence)
{
    atomic_store_explicit(&live->presence, (uint32_t)presence, memory_order_relaxed);
}
static inline int32_t tm_live_guardian_pid(const struct tm_live *live)
{
    return atomic_load_explicit(&live->guardian_pid, memory_order_relaxed);
}
static inline void tm_live_set_guardian_pid(struct tm_live *live, int32_t pid)
{
    atomic_store_explicit(&live->guardian_pid, pid, memory_order_relaxed);
}
static inline uint32_t tm_live_descriptors(const struct tm_live *live)
{
    return atomic_load_explicit(&live->descriptors, memory_order_relaxed);
}
static inline void tm_live_set_descriptors(struct tm_live *live, uint32_t count)
{
    atomic_store_explicit(&live->descriptors, count, memory_order_relaxed);
}
static inline uint32_t tm_live_masters(const struct tm_live *live)
{
    return atomic_load_explicit(&live->masters, memory_order_acquire);
}
static inline void tm_live_add_master(struct tm_live *live)
{
    /* Release: who sees it sees the line to that master. */
    atomic_fetch_add_explicit(&live->masters, 1, memory_order_release);
}
static inline bool tm_live_at_fault(const struct tm_live *live)
{
    return atomic_load_explicit(&live->at_fault, memory_order_relaxed);
}
static inline void tm_live_set_at_fault(struct tm_live *live, bool at_fault)
{
    atomic_store_explicit(&live->at_fault, at_fault, memory_order_relaxed);
}

#endif
