/* A worker's region: heartbeat, counters and its connections, in shared memory.
 *
 * WRITER  one worker alone, and after its death its next life. The fields of the guardian
 *         (guardian_pid, presence, at_fault, builds) are the guardian's. Neither pid is ever
 *         signalled: who may be is what the kernel says of a sender (channel.h).
 * READERS master (generation_seen), control (everything).
 *
 * Nothing is locked, and a reader gets what was true a moment ago. What goes with what:
 *
 *     worker                                    reader
 *     ------                                    ------
 *     a counter: release (tm_count)             acquire (tm_counter_read). "active" = opened -
 *                                               closed: who reads closed first finds what was
 *                                               opened before, and never minus one
 *     a record, to be another connection's:     tm_conn_copy(): generation and state by acquire,
 *     state FREE, the new generation, release   the rest, acquire fence, generation once more. The
 *     fence, the rest (tm_conn_replace), state  same: no word is of another connection. Words of
 *     by release (tm_conn_enter)                one connection may be of different moments
 *     generation_seen: release, after the       acquire (master): the older image is not read any
 *     last read of the older image              more
 *     the log: access_log.h
 *
 * All else stands for itself: relaxed. On x86 none of this costs an instruction.
 *
 * A connection *is* its record here (hot and cold, and an annex if it needs one), its descriptors and
 * its pipes: the worker keeps nothing else about it.
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
#include "histogram.h"
#include "journal.h"
#include "pump.h"
#include "route_table.h"

#define TM_LIVE_MAGIC 0x6576696c78757463ull /* "ctuxlive", little endian */
#define TM_LIVE_FORMAT 9u

#define TM_BUFFER_SIZE 65536u /* bytes of one recv; at most TM_PIPE_MIN, so that any rest fits a pipe */
#define TM_MAX_LISTENING (TM_MAX_LISTENERS * TM_MAX_SHARDS)
#define TM_MAX_LINES TM_MAX_SHARDS /* to other workers, one each */
#define TM_MAX_RECORDS (1u << 24)  /* of a worker: far above any RLIMIT_NOFILE */

enum tm_close_reason {
    TM_OPEN = 0,
#define TM_CLOSE(name, flag, help) TM_CLOSED_##name,
#include "counters.def"
    TM_CLOSE_REASONS
};

/* Why a connection has the destination that it has. */
enum tm_pick_reason {
    TM_UNPICKED = 0,
#define TM_PICK(name, help) TM_PICKED_##name,
#include "counters.def"
    TM_PICK_REASONS
};

enum tm_side { TM_CLIENT = 0, TM_ENDPOINT = 1 };

/* What a record's connection does now. Changed by tm_conn_enter() alone. */
enum tm_conn_state {
    TM_FREE = 0,
    TM_ACCEPTED,   /* it has a client; the stages of conn/stage.h run */
    TM_READING,    /* waits for what its client sends first */
    TM_HOLDING,    /* waits for a destination: none can take it now */
    TM_WAITING,    /* waits for a place: a limit is reached */
    TM_CONNECTING, /* a connect to an endpoint is under way, or is about to be */
    TM_RELAYING,   /* both sides are established */
    TM_RESETTING,  /* over; waits until what was sent has arrived, to reset after it */
    TM_ENDING,     /* its descriptors are being closed */
    TM_DEAD,       /* descriptors closed; free at the end of this batch of events */
    TM_CONN_STATES
};

/* Where a connection has got to before it is relayed: conn/stages.def. */
enum tm_stage {
#define TM_STAGE(NAME, run) TM_STAGE_##NAME,
#include "conn/stages.def"
    TM_STAGES
};

/* What the stage PREFACE reads, one after the other: conn/preface.h. */
enum tm_preface_part {
#define TM_PREFACE(NAME, run) TM_PREFACE_##NAME,
#include "conn/prefaces.def"
    TM_PREFACES
};

/* Counts in commons.h of which a connection is one. Bits of tm_conn.holds. */
enum tm_holding {
    TM_HOLDS_LISTENER = 1,
    TM_HOLDS_ROUTE = 2,
    TM_HOLDS_SOURCE = 4,
    TM_HOLDS_DESTINATION = 8,
    TM_HOLDS_ENDPOINT = 16,
    TM_HOLDS_QUEUE = 32, /* it waits for a place in its destination */
};

/* What the events have told about a side so far. Bits of tm_conn.side_flags[]. */
enum tm_side_flag {
    TM_HUNG_UP = 1, /* FIN, RST, an error or urgent data is there: a short read is no proof of
                     * "drained" */
    TM_RESET = 2,   /* the socket reported an error: end of input means reset, not FIN */
    TM_WRITE_WATCHED = 4, /* EPOLLOUT is among its events, from the first time it was full */
    TM_READ_UNWATCHED = 8, /* EPOLLIN and EPOLLPRI are not, as what it sends can't be passed on */
    TM_UNPACED = 16, /* it has been given bulk; sock.h: tm_sock_do_not_pace() */
    TM_KEPT_ALIVE = 32, /* its connection lives long enough for keepalive; on both sides */
    TM_BOUNDED = 64, /* it has been given more than a message, and may not read: sock.h, tm_sock_bound_unsent() */
    TM_PROVEN = 128, /* it has read a good deal */
};

/* Whether a worker is at work. Written by its guardian. */
enum tm_presence {
    TM_ABSENT = 0, /* no process, or its next life has not begun yet */
    TM_PRESENT,
    TM_STOPPED, /* by a signal: SIGSTOP, a debugger */
    TM_HANGING, /* has not come back to epoll for too long */
};

/* How a life ends that ends by itself: what its guardian is to do next. */
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
    int32_t fd;       /* -1: this place is free */
    uint32_t id;      /* of the listener */
    uint32_t shard;
    uint8_t shared;   /* one socket for all workers */
    uint8_t leaving;  /* being removed: serve the queue, then close */
    uint8_t polled;   /* in epoll now */
};

#define TM_UNARMED UINT16_MAX

/* Where a connection came from that another worker handed over: tells a second delivery of
 * the same one. */
struct tm_origin {
    uint32_t worker; /* its id + 1; 0 = accepted here */
    uint32_t index;
    uint32_t generation;
};

/* What events need of a connection: two cache lines. The rest of it is in tm_cold, in a second array
 * with the same indexes. */
struct tm_conn {
    uint32_t generation;    /* of this record; events of an older one are stale. Never 0 */
    uint8_t state;          /* enum tm_conn_state */
    uint8_t moving;         /* offered to another worker, by this line + 1; 0 = no */
    uint8_t side_flags[2];  /* enum tm_side_flag */
    int32_t fd[2];          /* by enum tm_side; -1 = none */
    struct tm_half half[2]; /* by source: half[TM_CLIENT] carries client -> endpoint */
    uint64_t last_activity_ms;       /* monotonic */
    uint32_t destination_slot;       /* TM_NONE = not picked yet */
    uint32_t first_byte_us;          /* after accept, from the endpoint; 0 = none yet */
    uint32_t timer_next, timer_prev; /* indexes, TM_NONE = end; wheel.h */
    uint16_t timer_place;            /* wheel.h; TM_UNARMED = none */
    uint8_t ready;                   /* halves waiting in the ready list, a bit each */
    uint8_t listed;                  /* in the ready list */
    uint32_t next;                   /* in the free, ready or dead list */
};

_Static_assert(sizeof(struct tm_conn) == (size_t)2 * TM_CACHE_LINE, "two cache lines");

struct tm_cold {
    uint8_t stage;                /* enum tm_stage: the next one to run, or to run again */
    uint8_t preface;              /* of the stage PREFACE: which of its parts */
    uint8_t failure;              /* enum tm_close_reason: of the last connect; TM_OPEN = none failed */
    uint8_t close_reason;         /* enum tm_close_reason: RESETTING and from then on */
    uint8_t by_reset;             /* ENDING: with RST, not FIN */
    uint8_t kept;                 /* DEAD, and not free before its giver says GONE */
    uint8_t faults;               /* lives of the worker that ended by a fault while at it */
    uint8_t pick_reason;          /* enum tm_pick_reason */
    uint8_t holds;                /* where it counts: enum tm_holding */
    uint8_t attempts;             /* endpoints tried, at most 255 */
    uint8_t sealed[2];            /* of fd[]: tm_seal() */
    uint16_t passed;              /* endpoints of the destination that were tried or full */
    uint16_t listener;            /* id of the one it came from */
    uint32_t tried;               /* which these are, a bit each: index % 32. With more than 32
                                   * endpoints a bit may be another's: `passed` tells */
    uint32_t route_slot;
    uint32_t endpoint_slot;       /* TM_NONE = none tried */
    uint32_t route, destination;  /* indexes in the image; valid while their slots are the same */
    uint32_t idle_timeout_ms;     /* as configured when it was picked; 0 = off */
    uint32_t connect_timeout_ms;
    uint32_t connect_started_us;  /* the last connect, the low bits */
    uint32_t connect_us;          /* what it took, at least 1; 0 = not established */
    uint32_t source;              /* index of its client in commons.sources */
    uint32_t annex;               /* index + 1 of its annex; 0 = it has none */
    uint16_t local_port[2];       /* of our ends, by enum tm_side; 0 = not asked for: for the log */
    uint64_t until_ms;            /* when its state ends at the latest, monotonic; 0 = it has no end */
    uint64_t accepted_at_us;      /* monotonic */
    uint64_t table_generation;    /* of the pick */
    uint64_t paid_ns[2];          /* up to when the bytes of half[] are paid for: shape.h */
    struct tm_peer client;
    struct tm_peer endpoint;
    struct tm_origin origin;
};

/* What few connections need, taken when they need it: conn/annex.h. */
#define TM_ANNEX_SIZE 512
#define TM_ANNEX_FDS 4
#define TM_ANNEX_BYTES (TM_ANNEX_SIZE - 12 - 4 * TM_ANNEX_FDS)

struct tm_annex {
    uint32_t owner;           /* index of the record that has it */
    uint32_t generation;      /* and that record's: an annex without its owner is free */
    uint32_t length;          /* bytes of it in use */
    int32_t fd[TM_ANNEX_FDS]; /* -1 = none; closed with it, and go where it goes */
    unsigned char bytes[TM_ANNEX_BYTES];
};

_Static_assert(sizeof(struct tm_annex) == TM_ANNEX_SIZE, "whole");

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
    _Atomic uint32_t starts;  /* lives of this worker so far */
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
    uint32_t listening_count;    /* places of listening[] in use, free ones among them */
    _Atomic uint32_t ending; /* why this life ends by itself (enum tm_ending); 0 = it does not */
    _Atomic int32_t guardian_pid;
    _Atomic uint32_t descriptors; /* open in this worker a second ago; 0 = the kernel does not say */
    _Atomic uint32_t masters; /* that have taken this worker over; its guardian greets each */
    uint32_t builds; /* times that a guardian has become the next build */
    _Atomic uint32_t presence; /* enum tm_presence */
    _Atomic uint32_t at_fault; /* the life before ended by a fault of its own, not by a kill */
    _Alignas(TM_CACHE_LINE) _Atomic uint64_t generation_seen;
    _Atomic uint64_t heartbeat_ms; /* monotonic; last turn of the loop */
    _Atomic uint32_t awake;        /* at work since then; 0 = waiting for events */
    _Atomic uint64_t progress;     /* turns and, within them, events and connections dealt with */
    struct tm_journal journal;
    struct tm_author author; /* commons.h */
    struct tm_worker_counters counters;
    uint32_t pipes; /* open */
    uint64_t pipe_bytes; /* their size, not what is in them */
    _Alignas(TM_CACHE_LINE) struct tm_slot slots[TM_MAX_SLOTS];
    _Alignas(TM_CACHE_LINE) unsigned char buffer[TM_BUFFER_SIZE]; /* of the copy path; journal.h */
    struct tm_listening listening[TM_MAX_LISTENING];
    struct tm_times times[TM_MAX_SLOTS]; /* of the slots of destinations */
    struct tm_log log;
    _Alignas(TM_CACHE_LINE) struct tm_conn records[]; /* `capacity` of them; tm_cold, tm_annex follow */
};

#define TM_RECORD_SIZE (sizeof(struct tm_conn) + sizeof(struct tm_cold) + sizeof(struct tm_annex))

static inline size_t tm_live_size(uint32_t capacity)
{
    return sizeof(struct tm_live) + (size_t)capacity * TM_RECORD_SIZE;
}

/* The second array. capacity: of the region, as tm_live_capacity() says. */
static inline struct tm_cold *tm_live_colds(const struct tm_live *live, uint32_t capacity)
{
    return (struct tm_cold *)(uintptr_t)&live->records[capacity];
}

/* And the third. */
static inline struct tm_annex *tm_live_annexes(const struct tm_live *live, uint32_t capacity)
{
    return (struct tm_annex *)(void *)&tm_live_colds(live, capacity)[capacity];
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
    live->author.worker = worker;
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

/* --- descriptors of a record ---
 *
 * A corrupt number may be that of another connection's socket, and bytes would go to somebody
 * else. So each has a seal. A death can come between the two stores, and so the seal is there
 * first and goes last: where the number is -1 the seal says nothing. */
static inline uint8_t tm_seal(int32_t fd)
{
    return (uint8_t)((((uint32_t)fd + 1) * 0x9e3779b1u >> 24) ^ 0xa5);
}

static inline void tm_conn_set_fd(struct tm_conn *conn, struct tm_cold *cold, int side, int32_t fd)
{
    if (fd >= 0) {
        cold->sealed[side] = tm_seal(fd);
        atomic_signal_fence(memory_order_seq_cst);
    }
    __atomic_store_n(&conn->fd[side], fd, __ATOMIC_RELAXED);
    atomic_signal_fence(memory_order_seq_cst);
}

static inline bool tm_conn_fd_sealed(const struct tm_conn *conn, const struct tm_cold *cold, int side)
{
    return cold->sealed[side] == tm_seal(conn->fd[side]);
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

/* --- records: one writer, and readers that do not hold it up --- */

typedef uint64_t __attribute__((may_alias)) tm_word;
enum {
    TM_CONN_WORDS = sizeof(struct tm_conn) / sizeof(tm_word),
    TM_COLD_WORDS = sizeof(struct tm_cold) / sizeof(tm_word),
};
_Static_assert(TM_CONN_WORDS * sizeof(tm_word) == sizeof(struct tm_conn), "whole words");
_Static_assert(TM_COLD_WORDS * sizeof(tm_word) == sizeof(struct tm_cold), "whole words");
_Static_assert(offsetof(struct tm_conn, generation) == 0 && offsetof(struct tm_conn, state) == 4,
               "generation and state are the first word");

static inline void tm_words_store(void *to, const void *from, int first, int count)
{
    tm_word *words = (tm_word *)to;
    const tm_word *source = (const tm_word *)from;
    for (int i = first; i < count; i++)
        __atomic_store_n(&words[i], source ? source[i] : 0, __ATOMIC_RELAXED);
}

static inline void tm_words_load(void *to, const void *from, int count)
{
    tm_word *words = (tm_word *)to;
    const tm_word *source = (const tm_word *)from;
    for (int i = 0; i < count; i++)
        words[i] = __atomic_load_n(&source[i], __ATOMIC_RELAXED);
}

/* Makes a free record a copy of another one, or all zero (both NULL), but of the next generation and
 * still free, until tm_conn_enter(). */
static inline void tm_conn_replace(struct tm_conn *conn, struct tm_cold *cold,
                                   const struct tm_conn *from, const struct tm_cold *from_cold)
{
    uint32_t generation = conn->generation + 1;
    __atomic_store_n(&conn->generation, generation ? generation : 1, __ATOMIC_RELEASE);
    atomic_thread_fence(memory_order_release);
    tm_words_store(conn, from, 1, TM_CONN_WORDS);
    tm_words_store(cold, from_cold, 0, TM_COLD_WORDS);
    /* What else is in the first word. */
    __atomic_store_n(&conn->moving, from ? from->moving : 0, __ATOMIC_RELAXED);
    for (int side = 0; side < 2; side++)
        __atomic_store_n(&conn->side_flags[side], from ? from->side_flags[side] : 0,
                         __ATOMIC_RELAXED);
}

/* Not relayed yet. */
static inline bool tm_is_opening(uint8_t state)
{
    return state >= TM_ACCEPTED && state <= TM_CONNECTING;
}

/* It is a connection, and not about to end at once. */
static inline bool tm_is_open(uint8_t state)
{
    return state >= TM_ACCEPTED && state <= TM_RESETTING;
}

/* A record that is neither free nor dead. */
static inline bool tm_is_in_use(uint8_t state)
{
    return state >= TM_ACCEPTED && state <= TM_ENDING;
}

#define TM_STATE_BIT(state) (1u << (state))
/* What waits before the relay may come to wait for something else, or go on. */
#define TM_OPENING_MOVES                                                                        \
    (TM_STATE_BIT(TM_READING) | TM_STATE_BIT(TM_HOLDING) | TM_STATE_BIT(TM_WAITING) |           \
     TM_STATE_BIT(TM_CONNECTING) | TM_STATE_BIT(TM_ENDING))

/* The states that may follow, a bit each. A record that is given up after a death can have been
 * anything. */
static inline uint32_t tm_conn_moves(enum tm_conn_state from)
{
    switch (from) {
    case TM_FREE: /* accepted here, or come from another worker in whatever state it was there */
        return TM_STATE_BIT(TM_ACCEPTED) | (TM_OPENING_MOVES & ~TM_STATE_BIT(TM_ENDING)) |
               TM_STATE_BIT(TM_RELAYING) | TM_STATE_BIT(TM_RESETTING);
    case TM_ACCEPTED:
    case TM_READING:
    case TM_HOLDING:
    case TM_WAITING:
        return TM_OPENING_MOVES;
    case TM_CONNECTING:
        return TM_STATE_BIT(TM_WAITING) | TM_STATE_BIT(TM_RELAYING) | TM_STATE_BIT(TM_ENDING);
    case TM_RELAYING:
        return TM_STATE_BIT(TM_RESETTING) | TM_STATE_BIT(TM_ENDING);
    case TM_RESETTING:
        return TM_STATE_BIT(TM_ENDING);
    case TM_ENDING:
        return TM_STATE_BIT(TM_DEAD);
    case TM_DEAD:
    case TM_CONN_STATES:
        break;
    }
    return 0;
}

/* The one way to another state. Stored last: who finds it finds what was written before. Anything but
 * a legal move is a bug, and the worker must not go on with it. */
static inline void tm_conn_enter(struct tm_conn *conn, enum tm_conn_state state)
{
    assert(state == TM_FREE || tm_conn_moves((enum tm_conn_state)conn->state) & TM_STATE_BIT(state));
    __atomic_store_n(&conn->state, (uint8_t)state, __ATOMIC_RELEASE);
}

/* A record as somebody else reads it. */
struct tm_copy {
    struct tm_conn conn;
    struct tm_cold cold;
};

/* False if there is no connection in it, or another one came meanwhile. */
static inline bool tm_conn_copy(const struct tm_live *live, uint32_t capacity, uint32_t index,
                                struct tm_copy *copy)
{
    const struct tm_conn *conn = &live->records[index];
    uint32_t generation = __atomic_load_n(&conn->generation, __ATOMIC_ACQUIRE);
    uint8_t state = __atomic_load_n(&conn->state, __ATOMIC_ACQUIRE);
    if (!tm_is_open(state))
        return false;
    tm_words_load(&copy->conn, conn, TM_CONN_WORDS);
    tm_words_load(&copy->cold, &tm_live_colds(live, capacity)[index], TM_COLD_WORDS);
    atomic_thread_fence(memory_order_acquire);
    return __atomic_load_n(&conn->generation, __ATOMIC_RELAXED) == generation &&
           copy->conn.generation == generation && copy->conn.state == state;
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
/* A piece of work of bounded size is done: not more often than there is any, and never within one. */
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
