/* Finishing what a dead worker had begun. Runs in its next incarnation. */
#include <assert.h>

#include "kernel_count.h"
#include "pump_calls.h"

/* Of a half that has passed `bytes` on: what was read from this source, and what was written to
 * this destination. The other one of the two has seen all of them. */
static uint64_t read_from(const struct tm_half *half, const struct tm_way *way, uint64_t bytes)
{
    return bytes + tm_base_consumed(half->base) - (way->to_endpoint ? 0 : way->elsewhere);
}

static uint64_t written_to(const struct tm_half *half, const struct tm_way *way, uint64_t bytes)
{
    return bytes + tm_base_prepended(half->base) - (way->to_endpoint ? way->elsewhere : 0);
}

static int bytes_received(const struct tm_pump *pump, const struct tm_half *half,
                          const struct tm_way *way, uint64_t *bytes)
{
    const struct tm_journal *journal = pump->journal;
    if (!(half->uncounted & TM_UNCOUNTED_SOURCE))
        return tm_kernel_consumed(way->source, read_from(half, way, journal->before), bytes);
    uint32_t length = journal->received.message.msg_len;
    *bytes = length == TM_UNKNOWN ? 0 : length;
    return 0;
}

static int bytes_sent(const struct tm_pump *pump, const struct tm_half *half,
                      const struct tm_way *way, uint64_t *bytes)
{
    const struct tm_journal *journal = pump->journal;
    if (!(half->uncounted & TM_UNCOUNTED_DESTINATION))
        return tm_kernel_written(way->destination, way->to_endpoint,
                                 written_to(half, way, journal->before), bytes);
    uint32_t length = journal->passed.message.msg_len;
    *bytes = length == TM_UNKNOWN ? 0 : length;
    return 0;
}

/* The last splice out of the pipe may have passed on bytes that nobody has counted. */
static void recount(struct tm_half *half, const struct tm_way *way)
{
    uint64_t more = 0;
    if (!(half->uncounted & TM_UNCOUNTED_DESTINATION) &&
        tm_kernel_written(way->destination, way->to_endpoint, written_to(half, way, half->bytes),
                          &more) == 0)
        half->bytes += more;
    else if (!(half->uncounted & TM_UNCOUNTED_SOURCE) &&
             tm_kernel_consumed(way->source, read_from(half, way, half->bytes), &more) == 0 &&
             more >= half->queued)
        half->bytes += more - half->queued;
}

/* A count that says more or less disproves; one that can't be had does not. */
static bool agrees(int error, uint64_t seen, uint64_t expected)
{
    return error ? error != -EUCLEAN : seen == expected;
}

/* What the journal says of bytes is said a second time: by the record, and by the kernel where it
 * counts. A corrupt number must not pass on bytes of another connection. `before` is the record's
 * own `bytes`, so where a length is worked out from one socket, the other one is asked as well. */
static bool is_confirmed(const struct tm_pump *pump, const struct tm_half *half,
                         const struct tm_way *way, uint64_t sent)
{
    const struct tm_journal *journal = pump->journal;
    bool counted = half->bytes == journal->before + sent;
    bool not_yet = half->bytes == journal->before;
    uint64_t taken = 0, passed = 0;
    if (journal->uncounted != half->uncounted)
        return false;
    int no_taken = bytes_received(pump, half, way, &taken);
    int no_passed = bytes_sent(pump, half, way, &passed);
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
    case TM_NOTHING: case TM_ACCEPT: case TM_CONNECT: case TM_SHUT: case TM_TAKE: case TM_CONSUME:
    case TM_PREPEND: case TM_SWAP: case TM_GARBLED:
        break; /* these move no bytes */
    }
    return false;
}

static bool copies(enum tm_operation operation)
{
    return operation == TM_RECEIVE || operation == TM_SEND || operation == TM_QUEUE;
}

/* What goes ahead of the payload is sent and known to be, from here on. It is the first that the
 * destination is sent, so until it is known what was written is counted from there. 0 or -errno. */
static int finish_ahead(struct tm_pump *pump, struct tm_half *half, const struct tm_way *way)
{
    const struct tm_journal *journal = pump->journal;
    uint32_t ahead = tm_base_prepended(journal->besides), known = tm_base_prepended(half->base);
    uint64_t written = 0;
    if (ahead == 0 || (known == ahead && journal->before == 0))
        return 0;
    if (known || half->bytes || journal->before || half->uncounted || ahead > pump->buffer_size)
        return -EUCLEAN;
    int error = tm_kernel_written(way->destination, way->to_endpoint, 0, &written);
    if (!error && written < ahead)
        error = tm_pump_send_all(pump, half, way->destination, (uint32_t)written, ahead, 0);
    if (!error)
        half->base = tm_base_with_prepended(half->base, ahead);
    return error;
}

/* What the step has read of what it skips is known, from here on: they are the first bytes that the
 * source has, behind those that were consumed before. 0 or -errno. */
static int finish_skip(struct tm_pump *pump, struct tm_half *half, const struct tm_way *way)
{
    const struct tm_journal *journal = pump->journal;
    uint32_t skipped = tm_base_skipped(journal->besides), left = tm_base_skipped(half->base);
    uint32_t consumed = tm_base_consumed(half->base), known = skipped - left;
    uint64_t read = 0;
    if (left == 0)
        return 0;
    if (tm_journal_operation(journal) != TM_RECEIVE || left > skipped || consumed < known ||
        half->bytes || journal->before || half->uncounted)
        return -EUCLEAN;
    int error = tm_kernel_consumed(way->source, consumed, &read);
    if (!error && read)
        half->base = tm_base_after_skip(half->base, read < left ? (uint32_t)read : left);
    return error;
}

/* Both of these. *place: where the step has put the payload. */
static int finish_besides(struct tm_pump *pump, struct tm_half *half, const struct tm_way *way,
                          uint64_t *place)
{
    uint64_t besides = pump->journal->besides;
    if (!tm_base_is_sealed(besides) || tm_base_consumed(besides))
        return -EUCLEAN;
    *place = tm_pump_place(tm_base_prepended(besides), tm_base_skipped(besides));
    if (*place > pump->buffer_size)
        return -EUCLEAN;
    int error = finish_ahead(pump, half, way);
    return error ? error : finish_skip(pump, half, way);
}

int tm_pump_recover(struct tm_pump *pump, struct tm_half *half, const struct tm_way *way)
{
    struct tm_journal *journal = pump->journal;
    enum tm_operation operation = tm_journal_operation(journal);
    uint64_t read = journal->read, sent = 0, taken = 0, place = 0;
    int error = 0;
    if (copies(operation)) {
        error = finish_besides(pump, half, way, &place);
        if (error)
            return error;
    }
    switch (operation) {
    case TM_RECEIVE:
        error = bytes_received(pump, half, way, &read);
        break;
    case TM_SEND: case TM_PEEK_SEND:
        error = bytes_sent(pump, half, way, &sent);
        break;
    case TM_QUEUE:
        sent = journal->sent;
        break;
    case TM_PEEK_TAKE:
        sent = journal->sent;
        error = bytes_received(pump, half, way, &taken);
        break;
    case TM_GARBLED:
        return -EUCLEAN;
    case TM_NOTHING: case TM_ACCEPT: case TM_CONNECT: case TM_SHUT: case TM_TAKE: case TM_CONSUME:
    case TM_PREPEND: case TM_SWAP:
        recount(half, way);
        return 0;
    }
    if (error)
        return error;
    if (read > pump->buffer_size - place || sent > read || taken > sent ||
        half->queued > read - sent || !is_confirmed(pump, half, way, sent))
        return -EUCLEAN;
    half->bytes = journal->before + sent;
    if (operation == TM_PEEK_SEND) {
        /* This incarnation may die here too: what it takes must not be taken twice. */
        journal->sent = (uint32_t)sent;
        tm_journal_note(journal, TM_PEEK_TAKE);
    }
    if (operation == TM_PEEK_SEND || operation == TM_PEEK_TAKE)
        return tm_pump_take(pump, half, way->source, (size_t)(sent - taken)) ? 0 : -EUCLEAN;
    if (sent < read)
        return tm_pump_queue(pump, half, pump->buffer + place + sent, (size_t)(read - sent));
    return 0;
}

/* Of the two below an earlier recovery may have come to the end, and died before the journal said
 * so: then the half is not PUMPING any more. */
int tm_pump_recover_consume(struct tm_pump *pump, struct tm_half *half, int source)
{
    struct tm_journal *journal = pump->journal;
    uint64_t before = journal->before, size = journal->read, taken = 0;
    uint32_t consumed = tm_base_consumed(half->base);
    bool begun = consumed == before, done = consumed == before + size;
    int error;
    if ((half->blocked != TM_PUMPING && !done) || journal->uncounted != half->uncounted ||
        !(begun || done))
        return -EUCLEAN;
    if (half->uncounted & TM_UNCOUNTED_SOURCE) {
        uint32_t length = journal->received.message.msg_len;
        taken = length == TM_UNKNOWN ? 0 : length;
    } else {
        error = tm_kernel_consumed(source, before, &taken);
        if (error)
            return error;
    }
    if (taken > size || (done && taken != size))
        return -EUCLEAN;
    if (!tm_pump_take(pump, half, source, (size_t)(size - taken)))
        return -EUCLEAN;
    half->base = tm_base_make((uint32_t)(before + size), tm_base_prepended(half->base));
    half->blocked = 0;
    return 0;
}

int tm_pump_recover_prepend(struct tm_pump *pump, struct tm_half *half, int destination,
                            bool we_connected)
{
    struct tm_journal *journal = pump->journal;
    uint64_t before = journal->before, size = journal->read, written = 0;
    uint32_t prepended = tm_base_prepended(half->base);
    bool begun = prepended == before, done = prepended == before + size;
    bool is_unix = half->uncounted & TM_UNCOUNTED_DESTINATION;
    if ((half->blocked != TM_PUMPING && !done) || journal->uncounted != half->uncounted ||
        half->bytes || size > pump->buffer_size || before + size > TM_MAX_PREPENDED ||
        !(begun || done))
        return -EUCLEAN;
    /* Not by bytes_sent(), which looks for them behind those that are counted already. */
    uint32_t length = journal->passed.message.msg_len;
    int error = 0;
    if (is_unix)
        written = length == TM_UNKNOWN ? 0 : length;
    else
        error = tm_kernel_written(destination, we_connected, before, &written);
    if (!error && (written > size || (written != size && (done || (is_unix && written)))))
        return -EUCLEAN;
    if (!error && written < size)
        error = tm_pump_send_all(pump, half, destination, (uint32_t)written, (uint32_t)size, 0);
    if (error && error != -EPIPE && error != -ECONNRESET)
        return error;
    if (!error)
        half->base = tm_base_with_prepended(half->base, (uint32_t)(before + size));
    half->blocked = 0;
    return error ? -ECONNRESET : 0;
}
