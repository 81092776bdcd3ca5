/* Copies for a shadow. Runs in a worker. */
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pump.h"

static bool is_full(int error)
{
    return error == EAGAIN || error == EWOULDBLOCK;
}

void tm_tap_flush(struct tm_tap *tap, struct tm_pipe_pool *pool)
{
    struct tm_half *half = tap->half;
    while (half->queued && tap->fd >= 0 && !tap->lost) {
        ssize_t moved = splice(half->pipe.out, NULL, tap->fd, NULL, half->queued,
                               SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        if (moved > 0) {
            half->queued -= (uint32_t)moved;
            half->bytes += (uint64_t)moved;
        } else if (moved < 0 && is_full(errno)) {
            break;
        } else if (moved == 0 || errno != EINTR) {
            tap->lost = TM_TAP_FAILED;
        }
    }
    if (half->queued == 0 && half->pipe.in >= 0)
        tm_pipe_give_back(pool, &half->pipe, true);
}

/* Whether so many more bytes may wait, and there is a pipe for them. One that other connections
 * would need room for is not: they come first. */
static bool has_room(struct tm_tap *tap, struct tm_pipe_pool *pool, size_t size)
{
    struct tm_half *half = tap->half;
    if (size > tap->comparison->lag || half->queued > tap->comparison->lag - size)
        return false;
    if (half->pipe.in >= 0)
        return !tm_pipe_is_tight(pool);
    /* The pump has made sure of one for its own half, and may need it now. */
    return tm_pipe_take_spare(pool, &half->pipe);
}

/* Into the pipe, all of it or the shadow is given up. */
static void queue(struct tm_tap *tap, struct tm_pipe_pool *pool, const unsigned char *bytes,
                  size_t size)
{
    ssize_t written = -1;
    if (!has_room(tap, pool, size)) {
        tap->lost = TM_TAP_BEHIND;
        return;
    }
    do
        written = write(tap->half->pipe.in, bytes, size);
    while (written < 0 && errno == EINTR);
    if (written > 0)
        tap->half->queued += (uint32_t)written;
    if (written != (ssize_t)size)
        tap->lost = TM_TAP_BEHIND;
}

static void copy(struct tm_tap *tap, struct tm_pipe_pool *pool, const unsigned char *bytes,
                 size_t size)
{
    ssize_t sent = 0;
    tm_tap_flush(tap, pool);
    if (tap->lost)
        return;
    if (tap->fd >= 0 && tap->half->queued == 0) {
        do
            sent = send(tap->fd, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT);
        while (sent < 0 && errno == EINTR);
        if (sent < 0 && !is_full(errno)) {
            tap->lost = TM_TAP_FAILED;
            return;
        }
        sent = sent < 0 ? 0 : sent;
        tap->half->bytes += (uint64_t)sent;
    }
    if ((size_t)sent < size)
        queue(tap, pool, bytes + sent, size - (size_t)sent);
}

void tm_tap_bytes(struct tm_tap *tap, struct tm_pipe_pool *pool, int side,
                  const unsigned char *bytes, size_t size)
{
    if (side != 0)
        tm_compare_feed(tap->comparison, TM_PRIMARY, bytes, size);
    else if (!tap->lost)
        copy(tap, pool, bytes, size);
}

void tm_tap_tee(struct tm_tap *tap, struct tm_pipe_pool *pool, int pipe, size_t size)
{
    ssize_t copied = -1;
    tm_tap_flush(tap, pool);
    if (tap->lost)
        return;
    if (has_room(tap, pool, size)) {
        do
            copied = tee(pipe, tap->half->pipe.in, size, SPLICE_F_NONBLOCK);
        while (copied < 0 && errno == EINTR);
    }
    if (copied > 0)
        tap->half->queued += (uint32_t)copied;
    if (copied != (ssize_t)size)
        tap->lost = TM_TAP_BEHIND;
}
