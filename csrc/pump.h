/* Moving bytes one way, from one socket to another, as far as it goes now.
 *
 *     loop:
 *         pipe not empty -> splice(pipe -> destination); destination full: BLOCKED
 *         (from here on the pipe is empty: never read while it holds data)
 *         copy mode:   recv into the worker's buffer, send; what send would not
 *                      take goes into the pipe -> BLOCKED
 *         splice mode: splice(source -> pipe), then from the top
 *         no pipe:     recv(MSG_PEEK), send, recv(MSG_TRUNC) what was sent: the
 *                      source's own receive queue is the buffer
 *
 * Between two calls no byte is in process memory, and
 *
 *     bytes read from source == half.bytes + half.queued
 *
 * where half.queued is what the pipe holds.
 *
 * Both sockets are non-blocking and watched edge-triggered, so a call ends only
 * where an edge will follow:
 *     TM_PUMP_DRAINED   source empty      -> readable edge
 *     TM_PUMP_BLOCKED   destination full  -> writable edge
 *     TM_PUMP_YIELD     budget used up    -> no edge: call again
 *     TM_PUMP_EOF       source at its end and everything passed on
 *     TM_PUMP_SOURCE_ERROR, TM_PUMP_DESTINATION_ERROR   errno in half.error
 */
#ifndef TM_PUMP_H
#define TM_PUMP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pipe_pool.h"

/* One direction of a connection; part of its record in shared memory. */
struct tm_half {
    struct tm_pipe pipe;
    uint32_t queued;  /* bytes in the pipe */
    uint8_t state;    /* enum tm_half_state */
    uint8_t splicing; /* 0 = copy */
    uint8_t streak;   /* consecutive reads that spoke for the other mode */
    uint8_t blocked;  /* the last call ended with BLOCKED */
    int32_t error;    /* errno of the last *_ERROR */
    uint64_t bytes;   /* passed on */
};

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
};

/* What the halves of one worker share. */
struct tm_pump {
    struct tm_pipe_pool pool;
    unsigned char *buffer;
    size_t buffer_size;   /* bytes of one recv */
    uint32_t budget;      /* bytes read in one call, before YIELD */
    uint64_t fallbacks;   /* times no pipe was to be had */
};

/* Reads of at least TM_BIG_READ bytes speak for splice, smaller ones for copy. */
#define TM_BIG_READ 16384u
#define TM_STREAK 3

/* source_hung_up: FIN, RST or an error was announced, so read to the very end. */
enum tm_pump_result tm_pump_run(struct tm_pump *pump, struct tm_half *half, int source,
                                int destination, bool source_hung_up)
    __attribute__((warn_unused_result));

/* Gives the half's pipe back: to the pool if empty, destroyed with what it holds if not. */
void tm_pump_release(struct tm_pump *pump, struct tm_half *half);

#endif
