/* The record of a connection: its fields, its states, and how other processes read it.
 *
 * WRITER   the worker that has the connection; after its death the next incarnation
 * READERS  control and the master, by tm_conn_copy() (live_copy.h):
 *
 *     worker                                    reader
 *     ------                                    ------
 *     to be another connection's: state FREE,   generation and state by acquire, the rest,
 *     the new generation, release fence, the    acquire fence, generation once more. The same: no
 *     rest (tm_conn_replace), state by          word is of another connection. Words of one
 *     release (tm_conn_enter)                   connection may be of different moments
 *     an annex to be another's: generation 0,   the record, the rest, acquire fence, owner and
 *     release fence, the rest, owner and        generation once more: tm_annex_copy()
 *     generation by release
 */
#ifndef TM_CONN_RECORD_H
#define TM_CONN_RECORD_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "access_log.h"
#include "annex_record.h"
#include "pump.h"
#include "route_table.h"

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

/* Whose bytes were passed on last. */
enum tm_spoke { TM_SPOKE_NOBODY = 0, TM_SPOKE_CLIENT, TM_SPOKE_ENDPOINT };

/* Bits of tm_conn.ready beside those of its halves. */
enum { TM_LISTED = 4 /* it is in the ready list */ };

/* What a record's connection does now. Changed by tm_conn_enter() alone. */
enum tm_conn_state {
    TM_FREE = 0,
    TM_ACCEPTED,   /* it has a client; the stages of conn/stage.h run */
    TM_READING,    /* waits for what its client sends first */
    TM_HOLDING,    /* waits for a destination: none can take it now */
    TM_WAITING,    /* in a queue: a limit is reached */
    TM_CONNECTING, /* a connect to an endpoint is under way, or is about to be */
    TM_RELAYING,   /* both sides are established */
    TM_RESETTING,  /* over; waits until what was sent has arrived, to reset after it */
    TM_SCOUTING,   /* no connection: an endpoint to which one is to move. conn/rehome.h */
    TM_SHADOWING,  /* no connection: a shadow of one. conn/shadow.h */
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
    TM_HOLDS_QUEUE = 32, /* it is in the queue of its destination */
};

/* What the events have told about a side so far. Bits of tm_conn.side_flags[]. */
enum tm_side_flag {
    TM_HUNG_UP = 1, /* FIN, RST, an error or urgent data is there: a short read is no proof of
                     * "drained" */
    TM_RESET = 2,   /* the socket reported an error: end of input means reset, not FIN */
    TM_WRITE_WATCHED = 4, /* EPOLLOUT is among its events, from the first time it was full */
    TM_READ_UNWATCHED = 8, /* EPOLLIN and EPOLLPRI are not, as what it sends can't be passed on */
    TM_UNPACED = 16, /* it has been given bulk; sock.h: tm_sock_do_not_pace() */
    TM_KEPT_ALIVE = 32, /* old enough for keepalive, which is on; both sides */
    TM_BOUNDED = 64, /* given more than a message, and may not read: tm_sock_bound_unsent() */
    TM_PROVEN = 128, /* it has read a good deal */
};

#define TM_UNARMED UINT16_MAX

/* Where a connection came from that another worker handed over: tells a second delivery of
 * the same one. */
struct tm_origin {
    uint32_t worker; /* its id + 1; 0 = accepted here */
    uint32_t index;
    uint32_t generation;
};

/* The part of a record that events need: two cache lines. The rest is in tm_cold, in a second array
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
    uint8_t ready;                   /* halves waiting in the ready list, a bit each; TM_LISTED */
    uint8_t spoke;                   /* enum tm_spoke */
    uint32_t next;                   /* in the free, ready or dead list */
};

_Static_assert(sizeof(struct tm_conn) == (size_t)2 * TM_CACHE_LINE, "two cache lines");

#define TM_TRIED_BITS 32 /* of tm_cold.tried */

/* Why a connection is not rehomed for a while. */
enum tm_stays {
    TM_STAYS_FAILED = 0, /* no connect, no place, no quiet moment */
    TM_STAYS_UNWANTED,   /* the other one has spoken unasked, or not taken what it was told */
};

/* Bits of tm_cold.marks. */
enum tm_mark {
    TM_AWAITS_GONE = 1, /* DEAD, and not free before its giver says GONE */
    TM_HAS_MOVES = 2,   /* its tm_moves is in use */
};

struct tm_cold {
    uint8_t stage;                /* enum tm_stage: the next one to run, or to run again */
    uint8_t preface;              /* of the stage PREFACE: which of its parts */
    uint8_t failure;              /* enum tm_close_reason of the last connect; TM_OPEN = none */
    uint8_t close_reason;         /* enum tm_close_reason: RESETTING and from then on */
    uint8_t by_reset;             /* ENDING: with RST, not FIN */
    uint8_t marks;                /* enum tm_mark */
    uint8_t faults;               /* incarnations that ended by a fault while working on it */
    uint8_t pick_reason;          /* enum tm_pick_reason */
    uint8_t holds;                /* where it counts: enum tm_holding */
    uint8_t attempts;             /* endpoints tried, at most 255 */
    uint8_t sealed[2];            /* of fd[]: tm_seal() */
    uint16_t passed;              /* endpoints of the destination that were tried or full */
    uint16_t listener;            /* id of the one it came from */
    uint32_t tried;               /* which these are, a bit each: index % TM_TRIED_BITS. With more
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
    uint64_t until_ms;            /* deadline of its state, monotonic; 0 = none */
    uint64_t accepted_at_us;      /* monotonic */
    uint64_t table_generation;    /* of the pick */
    uint64_t paid_ns[2];          /* up to when the bytes of half[] are paid for: shape.h */
    struct tm_peer client;
    struct tm_peer endpoint;
    uint32_t rule_slot;           /* of the rule of its route that it has met; TM_NONE = of none */
    uint16_t client_family;       /* of its socket: a header may have named a client of another */
    uint16_t born_worker;         /* what it was called when it was accepted, wherever it is now */
    uint32_t born_index;
    uint32_t born_generation;
    uint32_t unused;
};

/* What only connections need that move: to another worker, or to another endpoint, with their
 * scouts. In a fourth array, whose pages have no memory before the first of them. Without the mark
 * in tm_cold all of it is 0, whatever is there: conn/moves.h. */
struct tm_moves {
    struct tm_origin origin;
    uint32_t partner, partner_generation; /* its scout or shadow, or theirs; 0 = none */
    uint32_t quiet_ms;            /* SCOUTING: how long nobody may have said anything */
    uint32_t told;                /* SCOUTING: version of what its endpoint was told of the client;
                                   * 0 = nothing. conn/replay.h */
    uint32_t stays_until_s;       /* monotonic: until then it is not rehomed; 0 = it may be */
    uint32_t stays_for;           /* enum tm_stays: why it stays until then */
    uint32_t rehomed;             /* how often its endpoint has changed under it */
    uint64_t elsewhere[2];        /* of half[].bytes, at other endpoints; sealed: pump.h */
};

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

static inline bool tm_conn_fd_sealed(const struct tm_conn *conn, const struct tm_cold *cold,
                                     int side)
{
    return cold->sealed[side] == tm_seal(conn->fd[side]);
}

/* --- records: one writer, and readers that do not hold it up --- */

typedef uint64_t __attribute__((may_alias)) tm_word;
enum {
    TM_CONN_WORDS = sizeof(struct tm_conn) / sizeof(tm_word),
    TM_COLD_WORDS = sizeof(struct tm_cold) / sizeof(tm_word),
    TM_ANNEX_WORDS = sizeof(struct tm_annex) / sizeof(tm_word),
    TM_MOVES_WORDS = sizeof(struct tm_moves) / sizeof(tm_word),
};
_Static_assert(TM_CONN_WORDS * sizeof(tm_word) == sizeof(struct tm_conn), "whole words");
_Static_assert(TM_COLD_WORDS * sizeof(tm_word) == sizeof(struct tm_cold), "whole words");
_Static_assert(TM_ANNEX_WORDS * sizeof(tm_word) == sizeof(struct tm_annex), "whole words");
_Static_assert(TM_MOVES_WORDS * sizeof(tm_word) == sizeof(struct tm_moves), "whole words");
_Static_assert(offsetof(struct tm_conn, generation) == 0 && offsetof(struct tm_conn, state) == 4,
               "generation and state are the first word");
_Static_assert(offsetof(struct tm_annex, owner) == 0 && offsetof(struct tm_annex, generation) == 4,
               "and owner and generation");

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

/* Makes a free record a copy of another one, or all zero (both NULL), but of the next generation
 * and still free, until tm_conn_enter(). */
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

/* It is no record's until tm_annex_own(). Readers believe nothing of one without a generation. */
static inline void tm_annex_disown(struct tm_annex *annex)
{
    __atomic_store_n(&annex->generation, 0, __ATOMIC_RELAXED);
    atomic_thread_fence(memory_order_release);
}

static inline void tm_annex_own(struct tm_annex *annex, uint32_t owner, uint32_t generation)
{
    __atomic_store_n(&annex->owner, owner, __ATOMIC_RELEASE);
    __atomic_store_n(&annex->generation, generation, __ATOMIC_RELEASE);
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
               TM_STATE_BIT(TM_RELAYING) | TM_STATE_BIT(TM_RESETTING) |
               TM_STATE_BIT(TM_SCOUTING) | TM_STATE_BIT(TM_SHADOWING);
    case TM_ACCEPTED:
    case TM_READING:
    case TM_HOLDING:
    case TM_WAITING:
        return TM_OPENING_MOVES;
    case TM_CONNECTING: /* HOLDING: a death has come between two destinations */
        return TM_STATE_BIT(TM_HOLDING) | TM_STATE_BIT(TM_WAITING) |
               TM_STATE_BIT(TM_RELAYING) | TM_STATE_BIT(TM_ENDING);
    case TM_RELAYING:
        return TM_STATE_BIT(TM_RESETTING) | TM_STATE_BIT(TM_ENDING);
    case TM_RESETTING:
    case TM_SCOUTING:
    case TM_SHADOWING:
        return TM_STATE_BIT(TM_ENDING);
    case TM_ENDING:
        return TM_STATE_BIT(TM_DEAD);
    case TM_DEAD:
    case TM_CONN_STATES:
        break;
    }
    return 0;
}

/* The only way to change the state. It is stored last, so a reader that sees it also sees what was
 * written before. An illegal transition is a bug, and the worker must not go on with it. */
static inline void tm_conn_enter(struct tm_conn *conn, enum tm_conn_state state)
{
    assert(state == TM_FREE ||
           tm_conn_moves((enum tm_conn_state)conn->state) & TM_STATE_BIT(state));
    __atomic_store_n(&conn->state, (uint8_t)state, __ATOMIC_RELEASE);
}

/* A record as somebody else reads it. */
struct tm_copy { struct tm_conn conn; struct tm_cold cold; struct tm_moves moves; };

#endif
