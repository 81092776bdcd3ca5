/* The system calls that move bytes, with their entries in the journal. Private to pump.c and
 * pump_recover.c. */
#ifndef TM_PUMP_CALLS_H
#define TM_PUMP_CALLS_H

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pump.h"

static inline bool tm_would_block(int error)
{
    return error == EAGAIN || error == EWOULDBLOCK;
}

/* Makes a cell ready for recvmmsg or sendmmsg. */
static inline struct mmsghdr *tm_cell_for(struct tm_cell *cell, unsigned char *data, size_t size)
{
    cell->data = (struct iovec){.iov_base = data, .iov_len = size};
    cell->message.msg_hdr = (struct msghdr){.msg_iov = &cell->data, .msg_iovlen = 1};
    return &cell->message;
}

/* Where payload is in the buffer, with so much besides: journal.h. */
static inline size_t tm_pump_place(uint32_t ahead, uint32_t skipped)
{
    return skipped ? (size_t)2 * ahead + skipped : ahead;
}

/* Bytes sent of those in the buffer, 0 if the destination is full, -1 on error. */
static inline ssize_t tm_pump_send(struct tm_pump *pump, const struct tm_half *half,
                                   int destination, unsigned char *bytes, size_t size)
{
    struct tm_cell *cell = &pump->journal->passed;
    for (;;) {
        ssize_t sent;
        if (half->uncounted & TM_UNCOUNTED_DESTINATION) {
            sent = sendmmsg(destination, tm_cell_for(cell, bytes, size), 1, MSG_NOSIGNAL);
            if (sent > 0)
                sent = cell->message.msg_len;
        } else {
            sent = send(destination, bytes, size, MSG_NOSIGNAL);
        }
        if (sent >= 0)
            return sent;
        if (tm_would_block(errno))
            return 0;
        if (errno != EINTR)
            return -1;
    }
}

/* Bytes received into the buffer; 0 at the end of input, -1 on error or EAGAIN. */
static inline ssize_t tm_pump_receive(struct tm_pump *pump, struct tm_half *half, int source,
                                      unsigned char *into, size_t size, int flags)
{
    struct tm_cell *cell = &pump->journal->received;
    for (;;) {
        ssize_t got;
        if (!(half->uncounted & TM_UNCOUNTED_SOURCE)) {
            got = recv(source, into, size, flags);
        } else {
            got = recvmmsg(source, tm_cell_for(cell, into, size), 1, flags | MSG_DONTWAIT, NULL);
            if (got > 0)
                got = cell->message.msg_len;
            else if (got < 0 && errno != EINTR && !tm_would_block(errno) && half->error == 0) {
                /* Unlike recv, recvmmsg tells of an error before the bytes that came ahead of
                 * it: read those first. */
                half->error = (uint8_t)errno;
                continue;
            }
            if (got == 0 && half->error) {
                errno = half->error;
                return -1;
            }
        }
        if (got >= 0 || errno != EINTR)
            return got;
    }
}

/* The first entry of a step. */
static inline void tm_pump_begin(struct tm_pump *pump, const struct tm_half *half,
                                 enum tm_operation operation, uint64_t before)
{
    struct tm_journal *journal = pump->journal;
    journal->before = before;
    journal->uncounted = half->uncounted;
    if (half->uncounted)
        journal->received.message.msg_len = journal->passed.message.msg_len = TM_UNKNOWN;
    tm_journal_note(journal, operation);
}

/* The buffer's bytes from `done` up to `size`, to a socket whose send buffer is empty: it takes a
 * few hundred bytes at once, or has failed. 0 or -errno. */
static inline int tm_pump_send_all(struct tm_pump *pump, const struct tm_half *half,
                                   int destination, uint32_t done, uint32_t size, int flags)
{
    struct tm_cell *cell = &pump->journal->passed;
    unsigned char *bytes = pump->buffer + done;
    ssize_t sent;
    flags |= MSG_NOSIGNAL | MSG_DONTWAIT;
    do {
        if (half->uncounted & TM_UNCOUNTED_DESTINATION) {
            sent = sendmmsg(destination, tm_cell_for(cell, bytes, size - done), 1, flags);
            if (sent > 0)
                sent = cell->message.msg_len;
        } else {
            sent = send(destination, bytes, size - done, flags);
        }
    } while (sent < 0 && errno == EINTR);
    if (sent < 0)
        return -errno;
    return (uint32_t)sent == size - done ? 0 : -ENOBUFS;
}

/* Puts what `send` would not take into the pipe, which holds the first `half->queued` bytes of
 * it already. A pipe of the pool takes any rest of one buffer (pipe_pool.h: its size is at
 * least TM_PIPE_MIN). 0 or -errno. */
static inline int tm_pump_queue(struct tm_pump *pump, struct tm_half *half,
                                const unsigned char *rest, size_t size)
{
    if (half->pipe.in < 0 && !tm_pipe_take(&pump->pool, &half->pipe))
        return -ENFILE;
    while (half->queued < size) {
        ssize_t written = write(half->pipe.in, rest + half->queued, size - half->queued);
        if (written >= 0)
            half->queued += (uint32_t)written;
        else if (errno != EINTR)
            return -errno;
    }
    return 0;
}

/* Drops from the source what has been passed on from the buffer. False: it is not there. */
static inline bool tm_pump_take(struct tm_pump *pump, struct tm_half *half, int source, size_t size)
{
    while (size) {
        /* TCP drops them without a copy; a UNIX socket ignores MSG_TRUNC and copies. */
        ssize_t taken = tm_pump_receive(pump, half, source, pump->buffer, size, MSG_TRUNC);
        if (taken <= 0)
            return false;
        size -= (size_t)taken;
    }
    return true;
}

#endif
