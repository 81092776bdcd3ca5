/* Moving bytes one way. Runs in a worker. */
#include "pump.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "kernel_count.h"

static bool would_block(int error)
{
    return error == EAGAIN || error == EWOULDBLOCK;
}

/* Of whom a call's error tells: of `side`, or of this host. */
static enum tm_pump_result fail(struct tm_half *half, enum tm_pump_result side)
{
    half->error = (uint8_t)errno;
    return errno == ENOMEM || errno == ENOBUFS ? TM_PUMP_HOST_ERROR : side;
}

/* Makes a cell ready for recvmmsg or sendmmsg. */
static struct mmsghdr *cell_for(struct tm_cell *cell, unsigned char *data, size_t size)
{
    cell->data = (struct iovec){.iov_base = data, .iov_len = size};
    cell->message.msg_hdr = (struct msghdr){.msg_iov = &cell->data, .msg_iovlen = 1};
    return &cell->message;
}

/* Bytes sent from the buffer, 0 if the destination is full, -1 on error. */
static ssize_t send_some(struct tm_pump *pump, const struct tm_half *half, int destination,
                         size_t size)
{
    struct tm_cell *cell = &pump->journal->passed;
    for (;;) {
        ssize_t sent;
        if (half->uncounted & TM_UNCOUNTED_DESTINATION) {
            sent = sendmmsg(destination, cell_for(cell, pump->buffer, size), 1, MSG_NOSIGNAL);
            if (sent > 0)
                sent = cell->message.msg_len;
        } else {
            sent = send(destination, pump->buffer, size, MSG_NOSIGNAL);
        }
        if (sent >= 0)
            return sent;
        if (would_block(errno))
            return 0;
        if (errno != EINTR)
            return -1;
    }
}

/* Bytes received into the buffer, 0 at the end of input, -1 on error or EAGAIN. */
static ssize_t receive(struct tm_pump *pump, struct tm_half *half, int source, size_t size,
                       int flags)
{
    struct tm_cell *cell = &pump->journal->received;
    for (;;) {
        ssize_t got;
        if (!(half->uncounted & TM_UNCOUNTED_SOURCE)) {
            got = recv(source, pump->buffer, size, flags);
        } else {
            got = recvmmsg(source, cell_for(cell, pump->buffer, size), 1, flags | MSG_DONTWAIT, NULL);
            if (got > 0)
                got = cell->message.msg_len;
            else if (got < 0 && errno != EINTR && !would_block(errno) && half->error == 0) {
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
static void begin(struct tm_pump *pump, const struct tm_half *half, enum tm_operation operation)
{
    struct tm_journal *journal = pump->journal;
    journal->before = half->bytes;
    journal->uncounted = half->uncounted;
    if (half->uncounted)
        journal->received.message.msg_len = journal->passed.message.msg_len = TM_UNKNOWN;
    tm_journal_note(journal, operation);
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

/* Puts what `send` would not take into the pipe, which holds the first `half->queued` bytes of
 * it already. A pipe of the pool takes any rest of one buffer (pipe_pool.h: its size is at
 * least TM_PIPE_MIN). 0 or -errno. */
static int queue_rest(struct tm_pump *pump, struct tm_half *half, const unsigned char *rest,
                      size_t size)
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

/* size: what was asked for. Where that was little, it says nothing of the source. */
static void note_read_size(struct tm_half *half, size_t got, size_t size)
{
    if (got == size && size < TM_BIG_READ)
        return;
    bool for_other_mode = (got >= TM_BIG_READ) != (half->splicing != 0);
    half->streak = for_other_mode ? (uint8_t)(half->streak + 1) : 0;
    if (half->streak >= TM_STREAK) {
        half->splicing = !half->splicing;
        half->streak = 0;
    }
}

static size_t lower(size_t one, size_t other)
{
    return one < other ? one : other;
}

/* The three steps below read once, at most `most` bytes, and pass on. They return DRAINED when
 * the source has no more for now, YIELD when there may be more. */

static enum tm_pump_result end_of_read(struct tm_half *half, ssize_t got)
{
    if (got == 0)
        return TM_PUMP_EOF;
    return would_block(errno) ? TM_PUMP_DRAINED : fail(half, TM_PUMP_SOURCE_ERROR);
}

static enum tm_pump_result step_copy(struct tm_pump *pump, struct tm_half *half, int source,
                                     int destination, bool source_hung_up, size_t most,
                                     size_t *got)
{
    struct tm_journal *journal = pump->journal;
    most = lower(most, pump->buffer_size);
    begin(pump, half, TM_RECEIVE);
    ssize_t read = receive(pump, half, source, most, 0);
    if (read <= 0) {
        tm_journal_note(journal, TM_NOTHING);
        return end_of_read(half, read);
    }
    size_t size = (size_t)read;
    journal->read = (uint32_t)size;
    tm_journal_note(journal, TM_SEND);
    *got += size;
    note_read_size(half, size, most);
    ssize_t sent = send_some(pump, half, destination, size);
    if (sent > 0)
        half->bytes += (uint64_t)sent;
    if (sent < 0) {
        enum tm_pump_result failed = fail(half, TM_PUMP_DESTINATION_ERROR);
        if (failed == TM_PUMP_DESTINATION_ERROR)
            tm_journal_note(journal, TM_NOTHING);
        return failed;
    }
    if ((size_t)sent == size) {
        tm_journal_note(journal, TM_NOTHING);
        return size < most && !source_hung_up ? TM_PUMP_DRAINED : TM_PUMP_YIELD;
    }
    journal->sent = (uint32_t)sent;
    tm_journal_note(journal, TM_QUEUE);
    /* There is a pipe: tm_pump_run() made sure before it read. But its pages take memory. */
    int error = queue_rest(pump, half, pump->buffer + sent, size - (size_t)sent);
    if (error) {
        assert(error == -ENOMEM);
        half->error = (uint8_t)-error;
        return TM_PUMP_HOST_ERROR;
    }
    tm_journal_note(journal, TM_NOTHING);
    enum tm_pump_result flushed = flush(half, destination);
    return flushed == TM_PUMP_DRAINED ? TM_PUMP_YIELD : flushed;
}

static enum tm_pump_result step_splice(struct tm_pump *pump, struct tm_half *half, int source,
                                       int destination, bool source_hung_up, size_t most,
                                       size_t *got)
{
    size_t size = lower(most, pump->splice_size);
    ssize_t moved;
    do
        moved = splice(source, NULL, half->pipe.in, NULL, size,
                       SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    while (moved < 0 && errno == EINTR);
    /* EAGAIN with an empty pipe: the source is empty. With a filled one it would
     * mean "no segment free", which is why we never read into a filled one.
     * But splice never gets past TCP urgent data: it says "empty" there for ever,
     * and after a FIN "end of input", with bytes left behind it. recv steps over
     * it, so recv has the last word. */
    if (moved == 0 || (moved < 0 && would_block(errno)))
        return step_copy(pump, half, source, destination, source_hung_up, most, got);
    if (moved < 0)
        return fail(half, TM_PUMP_SOURCE_ERROR);
    *got = (size_t)moved;
    half->queued = (uint32_t)moved;
    note_read_size(half, *got, size);
    enum tm_pump_result flushed = flush(half, destination);
    if (flushed != TM_PUMP_DRAINED)
        return flushed;
    /* A short splice proves nothing: it also ends at the pipe's segments, of which there is one for
     * each page of its size. But one shorter than they hold in full packets, a kilobyte each, has
     * most likely emptied the source: then recv, which has the last word anyway, spares a splice
     * that says "empty". */
    if (*got < tm_pipe_smallest(&pump->pool) / 4 && *got < most && half->splicing)
        return step_copy(pump, half, source, destination, source_hung_up, most - *got, got);
    return TM_PUMP_YIELD;
}

/* Drops from the source what has been passed on from the buffer. False: it is not there. */
static bool take(struct tm_pump *pump, struct tm_half *half, int source, size_t size)
{
    while (size) {
        /* TCP drops them without a copy; a UNIX socket ignores MSG_TRUNC and copies. */
        ssize_t taken = receive(pump, half, source, size, MSG_TRUNC);
        if (taken <= 0)
            return false;
        size -= (size_t)taken;
    }
    return true;
}

static enum tm_pump_result step_peek(struct tm_pump *pump, struct tm_half *half, int source,
                                     int destination, size_t most, size_t *got)
{
    struct tm_journal *journal = pump->journal;
    most = lower(most, pump->buffer_size);
    ssize_t seen = receive(pump, half, source, most, MSG_PEEK);
    if (seen <= 0)
        return end_of_read(half, seen);
    if (pump->bounded) /* else there is no pipe for the other mode */
        note_read_size(half, (size_t)seen, most);
    journal->read = (uint32_t)seen;
    begin(pump, half, TM_PEEK_SEND);
    ssize_t sent = send_some(pump, half, destination, (size_t)seen);
    if (sent > 0) {
        journal->sent = (uint32_t)sent;
        tm_journal_note(journal, TM_PEEK_TAKE);
        half->bytes += (uint64_t)sent;
        *got = (size_t)sent;
        bool taken = take(pump, half, source, (size_t)sent);
        assert(taken);
    }
    tm_journal_note(journal, TM_NOTHING);
    if (sent < 0)
        return fail(half, TM_PUMP_DESTINATION_ERROR);
    return sent < seen ? TM_PUMP_BLOCKED : TM_PUMP_YIELD;
}

enum tm_pump_result tm_pump_run(struct tm_pump *pump, struct tm_half *half, int source,
                                int destination, bool source_hung_up)
{
    size_t read = 0;
    half->blocked = TM_PUMPING;
    enum tm_pump_result result = flush(half, destination);
    while (result == TM_PUMP_DRAINED || result == TM_PUMP_YIELD) {
        size_t got = 0, most = pump->budget - read;
        if (half->pipe.in >= 0 && tm_pipe_is_tight(&pump->pool))
            tm_pipe_shrink(&pump->pool, &half->pipe);
        if (half->splicing && !pump->bounded && half->pipe.in < 0 &&
            !tm_pipe_take(&pump->pool, &half->pipe))
            half->splicing = 0;
        if (pump->bounded) {
            result = step_peek(pump, half, source, destination, most, &got);
        } else if (half->splicing) {
            result = step_splice(pump, half, source, destination, source_hung_up, most, &got);
        } else if (half->pipe.in >= 0 || tm_pipe_ready(&pump->pool)) {
            result = step_copy(pump, half, source, destination, source_hung_up, most, &got);
        } else {
            pump->fallbacks++;
            result = step_peek(pump, half, source, destination, most, &got);
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

/* --- after a death -------------------------------------------------------------------------- */

static int bytes_received(const struct tm_pump *pump, const struct tm_half *half, int source,
                          uint64_t *bytes)
{
    const struct tm_journal *journal = pump->journal;
    if (!(half->uncounted & TM_UNCOUNTED_SOURCE))
        return tm_kernel_consumed(source, journal->before, bytes);
    uint32_t length = journal->received.message.msg_len;
    *bytes = length == TM_UNKNOWN ? 0 : length;
    return 0;
}

static int bytes_sent(const struct tm_pump *pump, const struct tm_half *half, int destination,
                      bool we_connected, uint64_t *bytes)
{
    const struct tm_journal *journal = pump->journal;
    if (!(half->uncounted & TM_UNCOUNTED_DESTINATION))
        return tm_kernel_written(destination, we_connected, journal->before, bytes);
    uint32_t length = journal->passed.message.msg_len;
    *bytes = length == TM_UNKNOWN ? 0 : length;
    return 0;
}

/* The last splice out of the pipe may have passed on bytes that nobody has counted. */
static void recount(struct tm_half *half, int source, int destination, bool we_connected)
{
    uint64_t more = 0;
    if (!(half->uncounted & TM_UNCOUNTED_DESTINATION) &&
        tm_kernel_written(destination, we_connected, half->bytes, &more) == 0)
        half->bytes += more;
    else if (!(half->uncounted & TM_UNCOUNTED_SOURCE) &&
             tm_kernel_consumed(source, half->bytes, &more) == 0 && more >= half->queued)
        half->bytes += more - half->queued;
}

/* A count that says more or less disproves; one that can't be had does not. */
static bool agrees(int error, uint64_t seen, uint64_t expected)
{
    return error ? error != -EUCLEAN : seen == expected;
}

/* What the journal says of bytes is said a second time: by the record, and by the kernel where it
 * counts. A corrupt number must not pass on bytes of another connection. `before` is the record's own
 * `bytes`, so where a length is worked out from one socket, the other one is asked as well. */
static bool is_confirmed(const struct tm_pump *pump, const struct tm_half *half, int source,
                         int destination, bool we_connected, uint64_t sent)
{
    const struct tm_journal *journal = pump->journal;
    bool counted = half->bytes == journal->before + sent;
    bool not_yet = half->bytes == journal->before;
    uint64_t taken = 0, passed = 0;
    if (journal->uncounted != half->uncounted)
        return false;
    int no_taken = bytes_received(pump, half, source, &taken);
    int no_passed = bytes_sent(pump, half, destination, we_connected, &passed);
    switch (tm_journal_operation(journal)) {
    case TM_RECEIVE: /* nothing is on its way to the destination */
        return not_yet && agrees(no_passed, passed, 0);
    case TM_PEEK_SEND: /* an earlier recovery may have come so far; nothing is taken yet */
        return (counted || not_yet) && agrees(no_taken, taken, 0);
    case TM_SEND:
        return (counted || not_yet) && agrees(no_taken, taken, journal->read);
    case TM_QUEUE:
        return counted && agrees(no_taken, taken, journal->read) &&
               agrees(no_passed, passed, sent);
    case TM_PEEK_TAKE:
        return (counted || not_yet) && agrees(no_passed, passed, sent);
    case TM_NOTHING: case TM_ACCEPT: case TM_CONNECT: case TM_SHUT: case TM_TAKE: case TM_GARBLED:
        break; /* these move no bytes */
    }
    return false;
}

int tm_pump_recover(struct tm_pump *pump, struct tm_half *half, int source, int destination,
                    bool we_connected)
{
    struct tm_journal *journal = pump->journal;
    enum tm_operation operation = tm_journal_operation(journal);
    uint64_t read = journal->read, sent = 0, taken = 0;
    int error = 0;
    switch (operation) {
    case TM_RECEIVE:
        error = bytes_received(pump, half, source, &read);
        break;
    case TM_SEND: case TM_PEEK_SEND:
        error = bytes_sent(pump, half, destination, we_connected, &sent);
        break;
    case TM_QUEUE:
        sent = journal->sent;
        break;
    case TM_PEEK_TAKE:
        sent = journal->sent;
        error = bytes_received(pump, half, source, &taken);
        break;
    case TM_GARBLED:
        return -EUCLEAN;
    case TM_NOTHING: case TM_ACCEPT: case TM_CONNECT: case TM_SHUT: case TM_TAKE:
        recount(half, source, destination, we_connected);
        return 0;
    }
    if (error)
        return error;
    if (read > pump->buffer_size || sent > read || taken > sent || half->queued > read - sent ||
        !is_confirmed(pump, half, source, destination, we_connected, sent))
        return -EUCLEAN;
    half->bytes = journal->before + sent;
    if (operation == TM_PEEK_SEND) {
        /* This life may end as well: what it takes must not be taken twice. */
        journal->sent = (uint32_t)sent;
        tm_journal_note(journal, TM_PEEK_TAKE);
    }
    if (operation == TM_PEEK_SEND || operation == TM_PEEK_TAKE)
        return take(pump, half, source, (size_t)(sent - taken)) ? 0 : -EUCLEAN;
    if (sent < read)
        return queue_rest(pump, half, pump->buffer + sent, (size_t)(read - sent));
    return 0;
}

void tm_pump_release(struct tm_pump *pump, struct tm_half *half)
{
    if (half->pipe.in >= 0)
        tm_pipe_give_back(&pump->pool, &half->pipe, half->queued == 0);
    half->queued = 0;
}
