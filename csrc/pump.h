/* Moving bytes one way, from one socket to another, as far as it goes now.
 *
 *     loop:
 *         pipe not empty -> splice(pipe -> destination); destination full: BLOCKED
 *         (from here on the pipe is empty: never read while it holds data)
 *         copy mode:   recv into the worker's buffer, send; what send would not
 *                      take goes into the pipe -> BLOCKED
 *         splice mode: splice(source -> pipe), then from the top
 *         no pipe, or bounded: recv(MSG_PEEK), send, recv(MSG_TRUNC) what was sent: the
 *                      source's own receive queue is the buffer
 *
 * Between two calls no byte is in process memory, and
 *
 *     bytes read from source == half.bytes + half.queued + those consumed (half.base)
 *
 * where half.queued is what the pipe holds. During a call bytes are in the buffer, which is
 * in shared memory, and the journal (journal.h) says so: when the worker dies in the middle,
 * tm_pump_recover() in its next incarnation brings about the same state.
 *
 * Both sockets are non-blocking and watched edge-triggered, so a call ends only
 * where an edge will follow:
 *     TM_PUMP_DRAINED   source empty      -> readable edge
 *     TM_PUMP_BLOCKED   destination full  -> writable edge
 *     TM_PUMP_YIELD     budget used up    -> no edge: call again
 *     TM_PUMP_EOF       source at its end and everything passed on
 *     TM_PUMP_SOURCE_ERROR, TM_PUMP_DESTINATION_ERROR   errno in half.error
 *     TM_PUMP_HOST_ERROR   the same; neither side is to blame, and no edge will follow: the
 *                          connection has to end. The journal is as it was, until then.
 */
#ifndef TM_PUMP_H
#define TM_PUMP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "journal.h"
#include "pipe_pool.h"
#include "protocol/talk.h"
#include "tap.h"

/* Bytes that the kernel counts and that are no payload: those that were read from the source and
 * not passed on, those that the destination was sent ahead of it, and those that the source begins
 * with and that the next read is to drop (skipped). Recovery works lengths out with them, so they
 * are sealed, in one word that is stored at once:
 *
 *     seal (16 bits) | skipped (13) | prepended (13) | consumed (22)
 */
#define TM_MAX_CONSUMED ((UINT32_C(1) << 22) - 1)
#define TM_MAX_PREPENDED ((UINT32_C(1) << 13) - 1)
#define TM_MAX_SKIPPED TM_MAX_PREPENDED

static inline uint64_t tm_base_seal(uint32_t consumed, uint32_t prepended, uint32_t skipped)
{
    uint64_t value = consumed | (uint64_t)prepended << 22 | (uint64_t)skipped << 35;
    return value | ((value * 0x9e3779b97f4a7c15ull >> 48) ^ 0xa5c3) << 48;
}

/* With nothing left to skip. */
static inline uint64_t tm_base_make(uint32_t consumed, uint32_t prepended)
{
    return tm_base_seal(consumed, prepended, 0);
}

static inline uint32_t tm_base_consumed(uint64_t base)
{
    return (uint32_t)base & TM_MAX_CONSUMED;
}

static inline uint32_t tm_base_prepended(uint64_t base)
{
    return (uint32_t)(base >> 22) & TM_MAX_PREPENDED;
}

static inline uint32_t tm_base_skipped(uint64_t base)
{
    return (uint32_t)(base >> 35) & TM_MAX_SKIPPED;
}

static inline bool tm_base_is_sealed(uint64_t base)
{
    return base == tm_base_seal(tm_base_consumed(base), tm_base_prepended(base),
                                tm_base_skipped(base));
}

/* The same, with other bytes ahead of the payload. */
static inline uint64_t tm_base_with_prepended(uint64_t base, uint32_t prepended)
{
    return tm_base_seal(tm_base_consumed(base), prepended, tm_base_skipped(base));
}

/* The same, once so many of those to be skipped have been read. */
static inline uint64_t tm_base_after_skip(uint64_t base, uint32_t size)
{
    return tm_base_seal(tm_base_consumed(base) + size, tm_base_prepended(base),
                        tm_base_skipped(base) - size);
}

/* The kernel counts the bytes of one socket, a half those of all endpoints that a connection has
 * had. Recovery works lengths out with the difference, so it is sealed; 0 is its own seal. */
#define TM_ELSEWHERE_BITS 48

static inline uint64_t tm_elsewhere_seal(uint64_t bytes)
{
    bytes &= (UINT64_C(1) << TM_ELSEWHERE_BITS) - 1;
    return bytes | (bytes * 0x9e3779b97f4a7c15ull >> TM_ELSEWHERE_BITS) << TM_ELSEWHERE_BITS;
}

static inline uint64_t tm_elsewhere_bytes(uint64_t sealed)
{
    return sealed & ((UINT64_C(1) << TM_ELSEWHERE_BITS) - 1);
}

static inline bool tm_elsewhere_is_sealed(uint64_t sealed)
{
    return sealed == tm_elsewhere_seal(sealed);
}

/* One direction of a connection; part of its record in shared memory. */
struct tm_half {
    struct tm_pipe pipe;
    uint32_t queued;  /* bytes in the pipe */
    uint8_t state;    /* enum tm_half_state */
    uint8_t splicing; /* bits of enum tm_mode */
    uint8_t streak;   /* consecutive reads that spoke for the other mode */
    uint8_t blocked;  /* the last call ended with BLOCKED; TM_PUMPING while there is one */
    uint8_t error;    /* errno of the last *_ERROR, or of one that is still to be told */
    uint8_t bound;    /* its source's receive buffer does not grow, by our doing: sock.h */
    uint8_t uncounted; /* enum tm_uncounted: where the kernel's counts are of no use */
    uint8_t paused;    /* shape.h: enum tm_paused. If so, it is not read before its time has come */
    uint32_t counted; /* those of `bytes` that are in the counters, the low bits */
    uint64_t base;    /* tm_base_make() */
    uint64_t bytes;   /* passed on */
};

/* How bytes are moved: bits of tm_half.splicing. */
enum tm_mode {
    TM_COPY = 0,
    TM_SPLICE = 1,
    TM_HEARD = 2,    /* each passes through the buffer: protocol/talk.h */
    TM_TAPPED = 4,   /* of the client's half: a shadow gets a copy. tap.h */
    TM_COMPARED = 8, /* of the endpoint's: as HEARD, for the comparison with a shadow's */
    TM_MODES = 16,
};
#define TM_THROUGH_BUFFER (TM_HEARD | TM_COMPARED)

/* Bits of tm_half.uncounted. */
enum tm_uncounted {
    TM_UNCOUNTED_SOURCE = 1,      /* UNIX, or urgent data has been seen */
    TM_UNCOUNTED_DESTINATION = 2, /* UNIX */
};

#define TM_PUMPING 2 /* tells recovery whose bytes are in the buffer, if the journal does not */

enum tm_half_state {
    TM_HALF_OPEN = 0,
    TM_HALF_SHUT,    /* source's FIN passed on */
    TM_HALF_ABORTED, /* one of the sides was reset */
};

enum tm_pump_result {
    TM_PUMP_DRAINED = 0,
    TM_PUMP_BLOCKED,
    TM_PUMP_YIELD,
    TM_PUMP_EOF,
    TM_PUMP_SOURCE_ERROR,
    TM_PUMP_DESTINATION_ERROR,
    TM_PUMP_HOST_ERROR, /* out of memory */
};

/* What the halves of one worker share. */
struct tm_pump {
    struct tm_pipe_pool pool;
    struct tm_journal *journal; /* shared memory, like the buffer */
    unsigned char *buffer;
    size_t buffer_size;   /* bytes of one recv; at most those of the buffer */
    size_t splice_size;   /* bytes of one splice from a source */
    uint32_t budget;      /* bytes read in one call at the most, before YIELD */
    bool bounded;         /* what the destination does not take stays in the source's queue */
    uint32_t ahead;       /* bytes of the buffer to be sent first: tm_pump_precede() */
    uint64_t fallbacks;   /* times no pipe was available */
    struct tm_talk *talk; /* of a half that is heard; NULL = it has none */
    struct tm_kept *kept; /* and what its endpoint knows of the client; NULL = nobody asks */
    struct tm_tap *tap;   /* of one that is TAPPED or COMPARED */
};

/* Reads of at least TM_BIG_READ bytes speak for splice, smaller ones for copy. */
#define TM_BIG_READ 16384u
#define TM_STREAK 3
/* Bytes passed on by one call: more than a message has. */
#define TM_BULK_RUN 131072u

/* source_hung_up: FIN, RST or an error was announced, so read to the very end. */
enum tm_pump_result tm_pump_run(struct tm_pump *pump, struct tm_half *half, int source,
                                int destination, bool source_hung_up)
    __attribute__((warn_unused_result));

/* From where to where a half goes. */
struct tm_way {
    int source, destination;
    bool to_endpoint;   /* the destination is a socket that connect() was called on */
    uint64_t elsewhere; /* bytes of the half that other endpoints' sockets have seen */
};

/* Finishes what a worker had begun on this half when it died: called in its next incarnation, for
 * the half that the journal names, before anything else is done with it; half.queued is what the
 * pipe holds by the kernel's count. 0, or -errno if that can't be told or done, or if journal,
 * record and kernel disagree: then bytes would be lost or doubled, and the connection has to be
 * reset. */
int tm_pump_recover(struct tm_pump *pump, struct tm_half *half, const struct tm_way *way)
    __attribute__((warn_unused_result));

/* Reads `size` bytes, which are there, from a source of which nothing has been passed on yet, and
 * drops them: they are no payload. False: the source has failed. The bytes of a UNIX socket have to
 * have come in one piece. Where some are to be skipped, it is for those. */
bool tm_pump_consume(struct tm_pump *pump, struct tm_half *half, int source, uint32_t size)
    __attribute__((warn_unused_result));

/* The same, but they stay in the source until something is read: that drops them, so they cost no
 * system call. Not where the kernel does not count. */
static inline void tm_pump_skip(struct tm_half *half, uint32_t size)
{
    half->base = tm_base_seal(tm_base_consumed(half->base), tm_base_prepended(half->base), size);
}

/* Sends the first `size` bytes of the buffer, ahead of all that comes from the source: they are no
 * payload. Nothing but such bytes has been written to the destination. more: some of the source's
 * follow at once, and may be in the same segment. 0, or -errno: the destination has failed. */
int tm_pump_prepend(struct tm_pump *pump, struct tm_half *half, int destination, uint32_t size,
                    bool more) __attribute__((warn_unused_result));

/* The same, but they are sent by the next tm_pump_run(), which must be of this half and come before
 * anything else that the journal is for: together with what it reads, where there is something,
 * else alone. Not where the kernel does not count, nor after tm_pump_prepend(). */
void tm_pump_precede(struct tm_pump *pump, struct tm_half *half, uint32_t size);

/* As tm_pump_recover(), of tm_pump_prepend(). A UNIX socket has taken all of it or nothing.
 * -ECONNRESET: the destination has failed, and nothing is wrong with the half. */
int tm_pump_recover_prepend(struct tm_pump *pump, struct tm_half *half, int destination,
                            bool we_connected) __attribute__((warn_unused_result));

/* As tm_pump_recover(), of tm_pump_consume(). */
int tm_pump_recover_consume(struct tm_pump *pump, struct tm_half *half, int source)
    __attribute__((warn_unused_result));

/* Gives the half's pipe back: to the pool if empty, destroyed with what it holds if not. */
void tm_pump_release(struct tm_pump *pump, struct tm_half *half);

#endif
