/* The state of one worker, shared by all modules of this directory.
 *
 *     stage      runs the stages of a connection until one has to wait
 *     preface    reads what the client sends before the pick: proxy, preread, starttls
 *     admit      limits of the route and of the client
 *     destination  weights -> destination; the other destinations of its route
 *     rules      which rule of its route a connection meets
 *     sticky     the destination that a sticky route's client belongs to
 *     place      max_connections of a destination and its endpoints, and their queue
 *     endpoint   the choice of an endpoint within a destination
 *     connect    connecting to one endpoint after the other: attempt
 *     retry      whether another endpoint may be tried
 *     header     says to the endpoint who the client is
 *     relay      two halves; half-close and reset
 *     talk       what the protocol of a connection says of it; goodbyes
 *     rate       rate limits: when a half may be read
 *     bound      bounds what is sent to a peer that may not read
 *     stall      peers that have stopped reading
 *     timeout    what a deadline means, by state
 *     converge   ends a connection in a quiet moment, for its client to come again
 *     rehome     another endpoint under a connection: replay tells it who the client is, swap
 *                exchanges the two
 *     mirror     a copy of what some clients send, for a shadow
 *     shadow     what it gets and answers: shadow_begin, shadow_resume
 *     outcome    the end of a connection, and what it implies for its endpoint
 *
 *     occupy     counts over all workers
 *     interest   the epoll events of each socket
 *     record     allocation of records; lists
 *     annex      additional memory for a few of them
 *
 *     recover    after a death: which descriptors belong to which record
 *     reconcile  after a death: counters
 *     resume     after a death: continues each connection
 *     handoff    to and from another worker: give, take
 *
 * All of it runs in a worker, in one thread, without Python. A worker may die between any two
 * instructions, and its next incarnation continues from the records. So a record never names a
 * closed descriptor: the number is removed before the close. And each step is in the record, or in
 * the journal, before it is taken.
 */
#ifndef TM_WORKER_H
#define TM_WORKER_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "live.h"
#include "pick.h"
#include "pipe_pool.h"
#include "pump.h"
#include "waiter.h"
#include "wheel.h"

/* What the last look at a connection has seen of it: stall.h. */
struct tm_looked {
    uint32_t generation;      /* of the connection */
    uint32_t acknowledged[2]; /* by each side, the low bits */
    uint8_t slow;             /* how many looks in a row, at least */
    uint8_t idle;             /* the same: much slower */
};

/* Of stall.h: connections whose peer does not read. */
struct tm_stall {
    struct tm_looked *looked; /* by record; NULL = none was blocked so far in this incarnation */
    uint64_t look_ms;         /* when they are looked at next; 0 = there are none */
    uint32_t cursor;          /* the next record to look at */
    bool has_blocked;         /* in this look: some that may stall */
    uint32_t stalled, stalled_before; /* how many, in this look and the last one */
    uint64_t pinned, pinned_before;   /* and the bytes that they hold */
    uint32_t excess;                  /* sums in a row that are above the limit */
    uint32_t reset, reset_by_source;  /* since the master was told: all, and for their client */
};

struct tm_worker {
    uint32_t id;
    int epoll;
    uint64_t now_ms; /* monotonic, read once a turn */
    uint64_t now_us; /* the same moment */
    /* Shared memory. The image is the one of `generation`. */
    const struct tm_table *table;
    const struct tm_image *image;
    uint64_t generation;
    struct tm_commons *commons;
    struct tm_live *live;
    struct tm_conn *records;
    struct tm_cold *colds;
    struct tm_annex *annexes;
    struct tm_moves *moves; /* moves.h */
    uint32_t capacity; /* of each of the four: the connection limit */
    uint32_t connections;
    /* Heads of lists of records; TM_NONE = empty. Never-used ones lie behind live->records_used. */
    uint32_t free, dead, ready;
    uint32_t free_annex;         /* the same of annexes: annex.h */
    enum tm_expecting expecting; /* what the last thing done is likely to bring */
    uint64_t random;             /* state of endpoint.c's generator; not 0 */
    uint32_t connects;           /* started in this incarnation: trace.h */
    bool denied;                 /* by the UNIX socket of `denied_slot`; the master is to be told */
    uint32_t denied_slot;
    bool paced;                  /* the host's congestion control paces bulk: sock.h */
    _Atomic uint64_t refusals_ns[TM_REFUSALS]; /* when each may be logged again: access_log.h */
    enum tm_refusal refusal;     /* the last one by a limit: why a connection is about to end */
    bool shapes;                 /* some route or destination limits bytes per second */
    uint64_t reserved_ns;        /* on its route's account, for the half that is being read */
    uint32_t whole_budget;       /* bytes that a half may move whose peer reads */
    struct tm_stall stall;
    uint32_t shadows;            /* records that are one */
    uint32_t next_shed;          /* where to look for one that makes room */
    struct tm_tap tap;           /* of the shadow of the connection that is being pumped */
    struct tm_pump pump;
    struct tm_wheel wheel;
};

/* Maps the records: live's region has room for `capacity` of them. */
static inline void tm_worker_use(struct tm_worker *w, struct tm_live *live, uint32_t capacity)
{
    w->live = live;
    w->capacity = capacity;
    w->records = live->records;
    w->colds = tm_live_colds(live, capacity);
    w->annexes = tm_live_annexes(live, capacity);
    w->moves = tm_live_moves(live, capacity);
}

/* A limit that has been reached may be so by what is over: who waits looks again so often. */
#define TM_LOOK_MS 10u

static inline struct tm_slot *tm_slot_of(struct tm_worker *w, uint32_t slot)
{
    return &w->live->slots[slot];
}

/* Where a turn of the loop is too coarse: 20 ns, no system call. */
static inline uint64_t tm_clock_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* Of two limits, where 0 is none. */
static inline uint64_t tm_lower_limit(uint64_t one, uint64_t other)
{
    return one == 0 || (other && other < one) ? other : one;
}

static inline void tm_arm(struct tm_worker *w, uint32_t index, uint64_t deadline_ms)
{
    tm_wheel_arm(&w->wheel, w->records, index, deadline_ms);
}

#endif
