/* Moving bytes one way. Runs in a worker. */
#define _GNU_SOURCE
#include "pump.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SHORT_SPLICE = 256 * 1024 }; /* bytes */

static bool would_block(int error)
{
    return error == EAGAIN || error == EWOULDBLOCK;
}

static enum tm_pump_result fail(struct tm_half *half, enum tm_pump_result side)
{
    half->error = errno;
    return side;
}

/* Bytes sent, 0 if the destination is full, -1 on error. */
static ssize_t send_some(int destination, const unsigned char *data, size_t size)
{
    for (;;) {
        ssize_t sent = send(destination, data, size, MSG_NOSIGNAL);
        if (sent >= 0)
            return sent;
        if (would_block(errno))
            return 0;
        if (errno != EINTR)
            return -1;
    }
}

/* Bytes received, 0 at the end of input, -1 on error or EAGAIN. */
static ssize_t receive(int source, unsigned char *data, size_t size, int flags)
{
    ssize_t got;
    do
        got = recv(source, data, size, flags);
    while (got < 0 && errno == EINTR);
    return got;
}

/* Empties the pipe into the destination. DRAINED = the pipe is empty. */
static enum tm_pump_result flush(struct tm_half *half, int destination)
{
    while (half->queued) {
        /* Exactly what the pipe holds: asking for more makes the kernel add
         * MSG_MORE, and the tail waits 200 ms for company. */
        ssize_t moved = splice(half->pipe.out, NULL, destination, NULL, half->queued,
                               SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        if (moved > 0) {
            assert((size_t)moved <= half->queued);
            half->queued -= (uint32_t)moved;
            half->bytes += (uint64_t)moved;
        } else if (moved < 0 && would_block(errno)) {
            return TM_PUMP_BLOCKED;
        } else if (moved < 0 && errno != EINTR) {
            return fail(half, TM_PUMP_DESTINATION_ERROR);
        }
        /* 0 with bytes queued cannot be: the pipe's other end is ours. */
        assert(moved != 0);
    }
    return TM_PUMP_DRAINED;
}

/* Puts what `send` would not take into the pipe. A pipe of the pool takes any
 * rest of one buffer (pipe_pool.h: its size is at least TM_PIPE_MIN). */
static void queue_rest(struct tm_pump *pump, struct tm_half *half, const unsigned char *rest,
                       size_t size)
{
    if (half->pipe.in < 0) {
        bool got = tm_pipe_take(&pump->pool, &half->pipe);
        assert(got); /* copy() made sure before it read */
    }
    ssize_t written;
    do
        written = write(half->pipe.in, rest, size);
    while (written < 0 && errno == EINTR);
    assert(written == (ssize_t)size);
    half->queued = (uint32_t)size;
}

static void note_read_size(struct tm_half *half, size_t got)
{
    bool for_other_mode = (got >= TM_BIG_READ) != (half->splicing != 0);
    half->streak = for_other_mode ? (uint8_t)(half->streak + 1) : 0;
    if (half->streak >= TM_STREAK) {
        half->splicing = !half->splicing;
        half->streak = 0;
    }
}

/* The three steps below read once and pass on. They return DRAINED when the
 * source has no more for now, YIELD when there may be more. */

static enum tm_pump_result end_of_read(struct tm_half *half, ssize_t got)
{
    if (got == 0)
        return TM_PUMP_EOF;
    return would_block(errno) ? TM_PUMP_DRAINED : fail(half, TM_PUMP_SOURCE_ERROR);
}

static enum tm_pump_result step_copy(struct tm_pump *pump, struct tm_half *half, int source,
                                     int destination, bool source_hung_up, size_t *got)
{
    ssize_t read = receive(source, pump->buffer, pump->buffer_size, 0);
    if (read <= 0)
        return end_of_read(half, read);
    size_t size = (size_t)read;
    *got += size;
    note_read_size(half, size);
    ssize_t sent = send_some(destination, pump->buffer, size);
    if (sent < 0)
        return fail(half, TM_PUMP_DESTINATION_ERROR);
    half->bytes += (uint64_t)sent;
    if ((size_t)sent < size) {
        queue_rest(pump, half, pump->buffer + sent, size - (size_t)sent);
        enum tm_pump_result flushed = flush(half, destination);
        return flushed == TM_PUMP_DRAINED ? TM_PUMP_YIELD : flushed;
    }
    return size < pump->buffer_size && !source_hung_up ? TM_PUMP_DRAINED : TM_PUMP_YIELD;
}

static enum tm_pump_result step_splice(struct tm_pump *pump, struct tm_half *half, int source,
                                       int destination, bool source_hung_up, size_t *got)
{
    ssize_t moved;
    do
        moved = splice(source, NULL, half->pipe.in, NULL, TM_PIPE_SIZE,
                       SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    while (moved < 0 && errno == EINTR);
    /* EAGAIN with an empty pipe: the source is empty. With a filled one it would
     * mean "no segment free", which is why we never read into a filled one.
     * But splice never gets past TCP urgent data: it says "empty" there for ever,
     * and after a FIN "end of input", with bytes left behind it. recv steps over
     * it, so recv has the last word. */
    if (moved == 0 || (moved < 0 && would_block(errno)))
        return step_copy(pump, half, source, destination, source_hung_up, got);
    if (moved < 0)
        return fail(half, TM_PUMP_SOURCE_ERROR);
    *got = (size_t)moved;
    half->queued = (uint32_t)moved;
    note_read_size(half, *got);
    enum tm_pump_result flushed = flush(half, destination);
    if (flushed != TM_PUMP_DRAINED)
        return flushed;
    /* A short splice proves nothing: it also ends at the pipe's segments, of which
     * there are 256 in a large one. But one shorter than they hold in full packets
     * has most likely emptied the source: then recv, which has the last word anyway,
     * spares a splice that says "empty". */
    if (*got < SHORT_SPLICE && half->splicing)
        return step_copy(pump, half, source, destination, source_hung_up, got);
    return TM_PUMP_YIELD;
}

static enum tm_pump_result step_peek(struct tm_pump *pump, struct tm_half *half, int source,
                                     int destination, size_t *got)
{
    ssize_t seen = receive(source, pump->buffer, pump->buffer_size, MSG_PEEK);
    if (seen <= 0)
        return end_of_read(half, seen);
    ssize_t sent = send_some(destination, pump->buffer, (size_t)seen);
    if (sent < 0)
        return fail(half, TM_PUMP_DESTINATION_ERROR);
    if (sent == 0)
        return TM_PUMP_BLOCKED;
    half->bytes += (uint64_t)sent;
    *got = (size_t)sent;
    /* TCP drops them without a copy; a UNIX socket ignores MSG_TRUNC and copies. */
    ssize_t taken = receive(source, pump->buffer, (size_t)sent, MSG_TRUNC);
    assert(taken == sent);
    return sent < seen ? TM_PUMP_BLOCKED : TM_PUMP_YIELD;
}

enum tm_pump_result tm_pump_run(struct tm_pump *pump, struct tm_half *half, int source,
                                int destination, bool source_hung_up)
{
    size_t read = 0;
    enum tm_pump_result result = flush(half, destination);
    while (result == TM_PUMP_DRAINED || result == TM_PUMP_YIELD) {
        size_t got = 0;
        if (half->splicing && half->pipe.in < 0 && !tm_pipe_take(&pump->pool, &half->pipe))
            half->splicing = 0;
        if (half->splicing) {
            result = step_splice(pump, half, source, destination, source_hung_up, &got);
        } else if (half->pipe.in >= 0 || tm_pipe_ready(&pump->pool)) {
            result = step_copy(pump, half, source, destination, source_hung_up, &got);
        } else {
            pump->fallbacks++;
            result = step_peek(pump, half, source, destination, &got);
        }
        read += got;
        if (result == TM_PUMP_DRAINED || (result == TM_PUMP_YIELD && read >= pump->budget))
            break;
    }
    half->blocked = result == TM_PUMP_BLOCKED;
    /* A pipe is lent only while it is of use: an idle connection holds none. */
    if (half->queued == 0 && half->pipe.in >= 0 && result != TM_PUMP_YIELD)
        tm_pump_release(pump, half);
    return result;
}

void tm_pump_release(struct tm_pump *pump, struct tm_half *half)
{
    if (half->pipe.in >= 0)
        tm_pipe_give_back(&pump->pool, &half->pipe, half->queued == 0);
    half->queued = 0;
}
