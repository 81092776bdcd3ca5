/* Moving bytes one way. Runs in a worker. */
#include "pump.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pump_calls.h"

/* Of whom a call's error tells: of `side`, or of this host. */
static enum tm_pump_result fail(struct tm_half *half, enum tm_pump_result side)
{
    half->error = (uint8_t)errno;
    return errno == ENOMEM || errno == ENOBUFS ? TM_PUMP_HOST_ERROR : side;
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
        } else if (moved < 0 && tm_would_block(errno)) {
            return TM_PUMP_BLOCKED;
        } else if (moved < 0 && errno != EINTR) {
            return fail(half, TM_PUMP_DESTINATION_ERROR);
        }
        /* 0 with bytes queued cannot be: the pipe's other end is ours. */
        assert(moved != 0);
    }
    return TM_PUMP_DRAINED;
}

/* size: what was asked for. Where that was little, it says nothing of the source. */
static void note_read_size(struct tm_half *half, size_t got, size_t size)
{
    if (got == size && size < TM_BIG_READ)
        return;
    bool for_other_mode = (got >= TM_BIG_READ) != (half->splicing & TM_SPLICE);
    half->streak = for_other_mode ? (uint8_t)(half->streak + 1) : 0;
    if (half->streak >= TM_STREAK) {
        half->splicing ^= TM_SPLICE;
        half->streak = 0;
    }
}

/* What else than the other side has these bytes. */
static void tell(struct tm_pump *pump, const struct tm_half *half, const unsigned char *bytes,
                 size_t got)
{
    int side = pump->journal->side;
    if (half->splicing & TM_HEARD)
        tm_talk_feed(pump->talk, pump->kept, side, bytes, got);
    if (half->splicing & (TM_TAPPED | TM_COMPARED))
        tm_tap_bytes(pump->tap, &pump->pool, side, bytes, got);
}

/* These bytes have been passed on, or are about to be. */
static void note_read(struct tm_pump *pump, struct tm_half *half, const unsigned char *bytes,
                      size_t got, size_t size)
{
    if (half->splicing & ~TM_SPLICE) {
        tell(pump, half, bytes, got);
        if (half->splicing & TM_THROUGH_BUFFER)
            return;
    }
    note_read_size(half, got, size);
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
    return tm_would_block(errno) ? TM_PUMP_DRAINED : fail(half, TM_PUMP_SOURCE_ERROR);
}

/* Sends what goes ahead of all: the journal has it as PREPEND. 0 or -errno. */
static int send_ahead(struct tm_pump *pump, struct tm_half *half, int destination, int flags)
{
    uint32_t size = pump->ahead, before = tm_base_prepended(half->base);
    int error = tm_pump_send_all(pump, half, destination, 0, size, flags);
    pump->ahead = 0;
    if (error == 0)
        half->base = tm_base_with_prepended(half->base, before + size);
    tm_journal_note(pump->journal, TM_NOTHING);
    return error;
}

/* The same, where nothing goes with it. False: the destination has failed. */
static bool send_ahead_alone(struct tm_pump *pump, struct tm_half *half, int destination)
{
    pump->journal->read = pump->ahead;
    tm_pump_begin(pump, half, TM_PREPEND, 0);
    int error = send_ahead(pump, half, destination, 0);
    if (error)
        half->error = (uint8_t)-error;
    return error == 0;
}

/* Of what was sent, of both, how much is payload; -1: not even all of what goes ahead of it was. */
static ssize_t note_ahead(struct tm_pump *pump, struct tm_half *half, ssize_t sent)
{
    uint32_t ahead = pump->ahead;
    pump->ahead = 0;
    if (ahead == 0 || sent < 0)
        return sent;
    if (sent < (ssize_t)ahead) {
        errno = EPIPE; /* a socket whose send buffer is empty takes that, or has failed */
        return -1;
    }
    half->base = tm_base_with_prepended(half->base, ahead);
    atomic_signal_fence(memory_order_seq_cst); /* before `bytes`: recovery goes by that order */
    return sent - (ssize_t)ahead;
}

/* Puts into the pipe what the destination has not taken of `size` bytes. */
static enum tm_pump_result queue_rest(struct tm_pump *pump, struct tm_half *half, int destination,
                                      const unsigned char *bytes, size_t size, size_t sent)
{
    pump->journal->sent = (uint32_t)sent;
    tm_journal_note(pump->journal, TM_QUEUE);
    /* There is a pipe: tm_pump_run() made sure before it read. But its pages take memory. */
    int error = tm_pump_queue(pump, half, bytes + sent, size - sent);
    if (error) {
        assert(error == -ENOMEM);
        half->error = (uint8_t)-error;
        return TM_PUMP_HOST_ERROR;
    }
    tm_journal_note(pump->journal, TM_NOTHING);
    enum tm_pump_result flushed = flush(half, destination);
    return flushed == TM_PUMP_DRAINED ? TM_PUMP_YIELD : flushed;
}

/* As tm_pump_receive(), behind what is to be skipped: that goes to the place ahead of `payload`. */
static ssize_t receive_behind(struct tm_pump *pump, struct tm_half *half, int source,
                              bool source_hung_up, unsigned char *payload, size_t size)
{
    for (;;) {
        uint32_t skipped = tm_base_skipped(half->base);
        ssize_t got =
            tm_pump_receive(pump, half, source, payload - skipped, size + skipped, 0);
        if (skipped == 0 || got <= 0)
            return got;
        size_t dropped = lower((size_t)got, skipped);
        half->base = tm_base_after_skip(half->base, (uint32_t)dropped);
        atomic_signal_fence(memory_order_seq_cst); /* before the next entry: finish_skip() */
        if ((size_t)got > dropped)
            return got - (ssize_t)dropped;
        if (dropped == skipped && !source_hung_up) {
            errno = EAGAIN; /* a short read */
            return -1;
        }
    }
}

static enum tm_pump_result step_copy(struct tm_pump *pump, struct tm_half *half, int source,
                                     int destination, bool source_hung_up, size_t most,
                                     size_t *got)
{
    struct tm_journal *journal = pump->journal;
    uint32_t ahead = pump->ahead, skipped = tm_base_skipped(half->base);
    size_t place = tm_pump_place(ahead, skipped);
    unsigned char *payload = pump->buffer + place;
    most = lower(most, pump->buffer_size - place);
    journal->besides = tm_base_seal(0, ahead, skipped);
    tm_pump_begin(pump, half, TM_RECEIVE, half->bytes);
    ssize_t read = receive_behind(pump, half, source, source_hung_up, payload, most);
    if (read <= 0) {
        int error = errno;
        if (ahead && !send_ahead_alone(pump, half, destination))
            return TM_PUMP_DESTINATION_ERROR;
        tm_journal_note(journal, TM_NOTHING);
        errno = error;
        return end_of_read(half, read);
    }
    size_t size = (size_t)read;
    journal->read = (uint32_t)size;
    if (skipped)
        memcpy(payload - ahead, pump->buffer, ahead);
    tm_journal_note(journal, TM_SEND);
    *got += size;
    ssize_t sent = note_ahead(
        pump, half, tm_pump_send(pump, half, destination, payload - ahead, ahead + size));
    if (sent > 0)
        half->bytes += (uint64_t)sent;
    if (sent < 0) {
        enum tm_pump_result failed = fail(half, TM_PUMP_DESTINATION_ERROR);
        if (failed == TM_PUMP_DESTINATION_ERROR)
            tm_journal_note(journal, TM_NOTHING);
        return failed;
    }
    note_read(pump, half, payload, size, most);
    if ((size_t)sent < size)
        return queue_rest(pump, half, destination, payload, size, (size_t)sent);
    tm_journal_note(journal, TM_NOTHING);
    return size < most && !source_hung_up ? TM_PUMP_DRAINED : TM_PUMP_YIELD;
}

static enum tm_pump_result step_splice(struct tm_pump *pump, struct tm_half *half, int source,
                                       int destination, bool source_hung_up, size_t most,
                                       size_t *got)
{
    size_t size = lower(most, pump->splice_size);
    ssize_t moved;
    if (half->splicing & TM_TAPPED)
        size = tm_tap_most(pump->tap, size);
    do
        moved = splice(source, NULL, half->pipe.in, NULL, size,
                       SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    while (moved < 0 && errno == EINTR);
    /* EAGAIN with an empty pipe: the source is empty. With a filled one it would
     * mean "no segment free", which is why we never read into a filled one.
     * But splice never gets past TCP urgent data: it says "empty" there for ever,
     * and after a FIN "end of input", with bytes left behind it. recv steps over
     * it, so recv has the last word. */
    if (moved == 0 || (moved < 0 && tm_would_block(errno)))
        return step_copy(pump, half, source, destination, source_hung_up, most, got);
    if (moved < 0)
        return fail(half, TM_PUMP_SOURCE_ERROR);
    *got = (size_t)moved;
    half->queued = (uint32_t)moved;
    note_read_size(half, *got, size);
    if (half->splicing & TM_TAPPED)
        tm_tap_tee(pump->tap, &pump->pool, half->pipe.out, *got);
    enum tm_pump_result flushed = flush(half, destination);
    if (flushed != TM_PUMP_DRAINED)
        return flushed;
    /* A short splice proves nothing: it also ends at the pipe's segments, of which there is one for
     * each page of its size. But one shorter than they hold in full packets, a kilobyte each, has
     * most likely emptied the source: then recv, which has the last word anyway, spares a splice
     * that says "empty". */
    if (*got < tm_pipe_smallest(&pump->pool) / 4 && *got < most && half->splicing & TM_SPLICE)
        return step_copy(pump, half, source, destination, source_hung_up, most - *got, got);
    return TM_PUMP_YIELD;
}

static enum tm_pump_result step_peek(struct tm_pump *pump, struct tm_half *half, int source,
                                     int destination, size_t most, size_t *got)
{
    struct tm_journal *journal = pump->journal;
    most = lower(most, pump->buffer_size);
    ssize_t seen = tm_pump_receive(pump, half, source, pump->buffer, most, MSG_PEEK);
    if (seen <= 0)
        return end_of_read(half, seen);
    if (pump->bounded && !(half->splicing & TM_THROUGH_BUFFER))
        note_read_size(half, (size_t)seen, most); /* else there is no pipe for the other mode */
    journal->read = (uint32_t)seen;
    tm_pump_begin(pump, half, TM_PEEK_SEND, half->bytes);
    ssize_t sent = tm_pump_send(pump, half, destination, pump->buffer, (size_t)seen);
    if (sent > 0) {
        journal->sent = (uint32_t)sent;
        tm_journal_note(journal, TM_PEEK_TAKE);
        half->bytes += (uint64_t)sent;
        *got = (size_t)sent;
        if (half->splicing & ~TM_SPLICE)
            tell(pump, half, pump->buffer, (size_t)sent);
        bool taken = tm_pump_take(pump, half, source, (size_t)sent);
        assert(taken);
    }
    tm_journal_note(journal, TM_NOTHING);
    if (sent < 0)
        return fail(half, TM_PUMP_DESTINATION_ERROR);
    return sent < seen ? TM_PUMP_BLOCKED : TM_PUMP_YIELD;
}

/* What is no payload, where the first step can't do it along with that: it is sent, or dropped, by
 * itself. DRAINED = done. */
static enum tm_pump_result settle(struct tm_pump *pump, struct tm_half *half, int source,
                                  int destination)
{
    uint32_t skipped = tm_base_skipped(half->base);
    bool copies = !pump->bounded && !(half->splicing & TM_SPLICE) && tm_pipe_ready(&pump->pool);
    if (copies && !(skipped && half->uncounted) &&
        tm_pump_place(pump->ahead, skipped) < pump->buffer_size / 2)
        return TM_PUMP_DRAINED;
    if (pump->ahead && !send_ahead_alone(pump, half, destination))
        return TM_PUMP_DESTINATION_ERROR;
    if (skipped && !tm_pump_consume(pump, half, source, skipped)) {
        half->error = ECONNRESET;
        return TM_PUMP_SOURCE_ERROR;
    }
    half->blocked = TM_PUMPING;
    return TM_PUMP_DRAINED;
}

enum tm_pump_result tm_pump_run(struct tm_pump *pump, struct tm_half *half, int source,
                                int destination, bool source_hung_up)
{
    size_t read = 0;
    half->blocked = TM_PUMPING;
    enum tm_pump_result result = flush(half, destination);
    if (pump->ahead || tm_base_skipped(half->base))
        result = settle(pump, half, source, destination); /* it is the first: nothing was queued */
    while (result == TM_PUMP_DRAINED || result == TM_PUMP_YIELD) {
        size_t got = 0, most = pump->budget - read;
        if (half->pipe.in >= 0 && tm_pipe_is_tight(&pump->pool))
            tm_pipe_shrink(&pump->pool, &half->pipe);
        if (half->splicing & TM_SPLICE && !pump->bounded && half->pipe.in < 0 &&
            !tm_pipe_take(&pump->pool, &half->pipe))
            half->splicing &= (uint8_t)~TM_SPLICE;
        if (pump->bounded) {
            result = step_peek(pump, half, source, destination, most, &got);
        } else if (half->splicing & TM_SPLICE) {
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

bool tm_pump_consume(struct tm_pump *pump, struct tm_half *half, int source, uint32_t size)
{
    struct tm_journal *journal = pump->journal;
    uint32_t skipped = tm_base_skipped(half->base);
    assert(size <= TM_MAX_CONSUMED - tm_base_consumed(half->base));
    assert(skipped == 0 || skipped == size);
    half->blocked = TM_PUMPING;
    journal->read = size;
    tm_pump_begin(pump, half, TM_CONSUME, tm_base_consumed(half->base));
    bool whole = tm_pump_take(pump, half, source, size);
    half->base = tm_base_make(tm_base_consumed(half->base) + size, tm_base_prepended(half->base));
    tm_journal_note(journal, TM_NOTHING);
    half->blocked = 0;
    return whole;
}

void tm_pump_precede(struct tm_pump *pump, struct tm_half *half, uint32_t size)
{
    uint32_t before = tm_base_prepended(half->base);
    assert(size <= pump->buffer_size && size <= TM_MAX_PREPENDED - before);
    half->blocked = TM_PUMPING;
    pump->ahead = size;
    pump->journal->read = size;
    tm_pump_begin(pump, half, TM_PREPEND, before);
}

int tm_pump_prepend(struct tm_pump *pump, struct tm_half *half, int destination, uint32_t size,
                    bool more)
{
    tm_pump_precede(pump, half, size);
    int error = send_ahead(pump, half, destination, more ? MSG_MORE : 0);
    half->blocked = 0;
    return error;
}

void tm_pump_release(struct tm_pump *pump, struct tm_half *half)
{
    if (half->pipe.in >= 0)
        tm_pipe_give_back(&pump->pool, &half->pipe, half->queued == 0);
    half->queued = 0;
}
