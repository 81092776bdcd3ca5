/* Stream mode: bulk content over N connections, all of it checked.
 *
 * The content goes in pieces. A connection asks for (down) or sends (up) one
 * piece after another until the time is up or the byte limit is reached, and
 * always completes the piece it has begun. So a piece bounds what can queue up
 * between the two ends. Units are bytes.
 *
 *   down  the backend (source) sends, the client checks
 *   up    the client sends, the backend (sink) checks and tells
 *   both  the client sends and checks what the backend (echo) sends back at the
 *         same time; each byte counts once a direction
 */
#include "common.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum stream_state {
    STREAM_CONNECTING,
    STREAM_RECEIVING, /* down: content is coming */
    STREAM_SENDING,   /* up: content is going */
    STREAM_RECEIPT,   /* up: waiting for the backend's verdict */
    STREAM_ECHO,      /* both: content is going and coming */
    STREAM_ENDED,
};

struct stream {
    int fd;
    enum stream_state state;
    uint64_t phase;
    uint64_t done; /* bytes of the piece, or of the receipt */
    uint64_t sent; /* both: bytes of the piece on their way; done are back */
    struct receipt receipt;
};

enum direction { DOWN, UP, BOTH };

struct run {
    const struct options *options;
    enum direction direction;
    int poller;
    unsigned active;
    uint64_t begun; /* bytes of all pieces begun */
    int64_t deadline;
    struct tally tally;
};

static char buffer[CHUNK];

static void end_stream(struct run *run, struct stream *stream, const char *error, int number)
{
    if (error != NULL)
        count_error(&run->tally, error, number);
    if (stream->fd >= 0)
        close(stream->fd);
    stream->fd = -1;
    stream->state = STREAM_ENDED;
    run->active--;
}

static void begin_piece(struct run *run, struct stream *stream)
{
    if (run->begun + run->options->piece > run->options->limit || now_ns() >= run->deadline) {
        end_stream(run, stream, NULL, 0);
        return;
    }
    run->begun += run->options->piece;
    stream->phase += 7919;
    stream->done = stream->sent = 0;
    if (run->direction == BOTH) {
        stream->state = STREAM_ECHO;
        return;
    }
    struct job job = {.phase = stream->phase, .length = run->options->piece};
    /* Nothing else is under way on this connection, so the job fits in one send. */
    if (send(stream->fd, &job, sizeof job, MSG_NOSIGNAL) != (ssize_t)sizeof job) {
        end_stream(run, stream, "job not sent", errno);
        return;
    }
    stream->state = run->direction == UP ? STREAM_SENDING : STREAM_RECEIVING;
}

static void finish_connect(struct run *run, struct stream *stream, uint64_t token)
{
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(stream->fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error != 0) {
        end_stream(run, stream, "connect", error);
        return;
    }
    begin_piece(run, stream);
    if (stream->state == STREAM_RECEIVING)
        rewatch(run->poller, stream->fd, EPOLLIN, token);
    else if (stream->state == STREAM_ECHO)
        rewatch(run->poller, stream->fd, EPOLLIN | EPOLLOUT, token);
}

static void receive_content(struct run *run, struct stream *stream)
{
    uint64_t left = run->options->piece - stream->done;
    ssize_t got = recv(stream->fd, buffer, left < CHUNK ? left : CHUNK, 0);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN)
            end_stream(run, stream, "stream ended early", got < 0 ? errno : 0);
        return;
    }
    if (memcmp(buffer, pattern_at(stream->phase + stream->done), (size_t)got) != 0)
        count_error(&run->tally, "wrong bytes received", 0);
    stream->done += (uint64_t)got;
    run->tally.bytes += (uint64_t)got;
    if (stream->done == run->options->piece)
        begin_piece(run, stream);
}

static void send_content(struct run *run, struct stream *stream, uint64_t token)
{
    uint64_t left = run->options->piece - stream->done;
    ssize_t sent = send(stream->fd, pattern_at(stream->phase + stream->done),
                        left < CHUNK ? left : CHUNK, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN)
            end_stream(run, stream, "send", errno);
        return;
    }
    stream->done += (uint64_t)sent;
    if (stream->done < run->options->piece)
        return;
    stream->done = 0;
    stream->state = STREAM_RECEIPT;
    rewatch(run->poller, stream->fd, EPOLLIN, token);
}

static void receive_receipt(struct run *run, struct stream *stream, uint64_t token)
{
    ssize_t got = recv(stream->fd, (char *)&stream->receipt + stream->done,
                       sizeof stream->receipt - stream->done, 0);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN)
            end_stream(run, stream, "no receipt", got < 0 ? errno : 0);
        return;
    }
    stream->done += (uint64_t)got;
    if (stream->done < sizeof stream->receipt)
        return;
    if (stream->receipt.wrong != 0 || stream->receipt.received != run->options->piece)
        count_error(&run->tally, "wrong bytes at the backend", 0);
    run->tally.bytes += stream->receipt.received;
    begin_piece(run, stream);
    if (stream->state == STREAM_SENDING)
        rewatch(run->poller, stream->fd, EPOLLOUT, token);
}

/* False if the stream is over. */
static bool send_ahead(struct run *run, struct stream *stream, uint64_t token)
{
    uint64_t left = run->options->piece - stream->sent;
    if (left == 0)
        return true;
    ssize_t sent = send(stream->fd, pattern_at(stream->phase + stream->sent),
                        left < CHUNK ? left : CHUNK, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) {
        end_stream(run, stream, "send", errno);
        return false;
    }
    if (sent > 0) {
        stream->sent += (uint64_t)sent;
        run->tally.bytes += (uint64_t)sent;
        if (stream->sent == run->options->piece)
            rewatch(run->poller, stream->fd, EPOLLIN, token);
    }
    return true;
}

static void exchange_content(struct run *run, struct stream *stream, uint64_t token)
{
    if (!send_ahead(run, stream, token))
        return;
    receive_content(run, stream);
    if (stream->state == STREAM_ECHO && stream->sent == 0)
        rewatch(run->poller, stream->fd, EPOLLIN | EPOLLOUT, token);
}

static void advance(struct run *run, struct stream *stream, uint64_t token)
{
    switch (stream->state) {
    case STREAM_CONNECTING:
        finish_connect(run, stream, token);
        break;
    case STREAM_RECEIVING:
        receive_content(run, stream);
        break;
    case STREAM_SENDING:
        send_content(run, stream, token);
        break;
    case STREAM_RECEIPT:
        receive_receipt(run, stream, token);
        break;
    case STREAM_ECHO:
        exchange_content(run, stream, token);
        break;
    case STREAM_ENDED:
        break;
    }
}

static enum direction parse_direction(const char *name)
{
    static const char *const NAMES[] = {"down", "up", "both"};
    for (int direction = DOWN; direction <= BOTH; direction++)
        if (strcmp(name, NAMES[direction]) == 0)
            return (enum direction)direction;
    errno = EINVAL;
    fail("--direction takes down, up or both");
}

static struct run run;

void run_stream(const struct options *options)
{
    run.options = options;
    run.direction = parse_direction(options->choice);
    run.poller = epoll_create1(EPOLL_CLOEXEC);
    struct stream *streams = calloc(options->connections, sizeof *streams);
    if (run.poller < 0 || streams == NULL)
        fail("start");
    run.tally.began = now_ns();
    run.deadline = run.tally.began + options->duration;
    for (unsigned i = 0; i < options->connections; i++) {
        streams[i].phase = pattern_phase(i);
        run.active++;
        streams[i].fd = begin_connect(&options->address);
        if (streams[i].fd < 0)
            end_stream(&run, &streams[i], "connect", -streams[i].fd);
        else
            watch(run.poller, streams[i].fd, EPOLLOUT, i);
    }
    while (run.active > 0 && now_ns() < run.deadline + GRACE_NS) {
        struct epoll_event events[EVENT_BATCH];
        int count =
            epoll_wait(run.poller, events, EVENT_BATCH, wait_until(run.deadline + GRACE_NS));
        if (count < 0 && errno != EINTR)
            fail("epoll_wait");
        for (int i = 0; i < count; i++)
            advance(&run, &streams[events[i].data.u64], events[i].data.u64);
    }
    for (unsigned i = 0; i < options->connections; i++)
        if (streams[i].state != STREAM_ENDED)
            end_stream(&run, &streams[i], "piece not completed in time", 0);
    run.tally.ended = now_ns();
    run.tally.units = run.tally.bytes;
    report("stream", &run.tally);
    free(streams);
}
