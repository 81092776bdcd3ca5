/* Modes roundtrip, connect and idle: a message goes out, its echo must come back.
 *
 * One machine for all three; they differ in what follows a complete echo:
 *
 *   roundtrip  the next message on the same connection
 *   connect    close, and a new connection
 *   idle       keep the connection, silent, and open the next one
 *
 *   CONNECTING -> SENDING -> RECEIVING -> SENDING | CONNECTING | HELD | ENDED
 *
 * Latency is the time from the first send (connect, idle: from connect) to the
 * last byte of the echo. Units are complete exchanges.
 *
 * With --rate, exchanges are begun by the clock (an open loop), each on a
 * connection that is at REST, and latency counts from the time that was due: one
 * that had to wait for its turn, because the service was slow, has waited.
 */
#include "common.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define TOKEN_STDIN UINT64_MAX
#define IDLE_WINDOW 64u   /* idle: connections being opened at a time */
#define MAX_ERRORS 1000u  /* a service that refuses everything ends the run */

enum exchange_state {
    EXCHANGE_NEW = 0,
    EXCHANGE_CONNECTING, /* connect is under way and send said EAGAIN */
    EXCHANGE_SENDING,
    EXCHANGE_RECEIVING,
    EXCHANGE_HELD,
    EXCHANGE_RESTING, /* --rate: until the next one is due */
    EXCHANGE_ENDED,
};

enum follow { FOLLOW_AGAIN, FOLLOW_RECONNECT, FOLLOW_HOLD };

struct exchange {
    int fd;
    enum exchange_state state;
    unsigned done; /* bytes of the message sent, or of the echo received */
    uint64_t phase;
    int64_t began;
    struct exchange *next; /* of those at rest */
};

struct run {
    const struct options *options;
    enum follow follow;
    int poller;
    unsigned active; /* neither held, nor at rest, nor ended */
    unsigned held;
    unsigned opened; /* idle: connections begun */
    uint64_t begun;  /* exchanges */
    int64_t deadline;
    struct exchange *exchanges;
    struct exchange *resting;
    struct tally tally;
};

static char buffer[MAX_MESSAGE + 1];

static void begin_connection(struct run *run, struct exchange *exchange, int64_t began);

static bool may_begin(const struct run *run)
{
    return run->begun < run->options->limit && run->tally.errors < MAX_ERRORS
           && now_ns() < run->deadline;
}

static void end_exchange(struct run *run, struct exchange *exchange)
{
    if (exchange->state == EXCHANGE_HELD)
        run->held--;
    else
        run->active--;
    if (exchange->fd >= 0)
        end_connection(exchange->fd, run->options);
    exchange->fd = -1;
    exchange->state = EXCHANGE_ENDED;
}

static void open_next_idle(struct run *run)
{
    if (run->opened == run->options->connections || !may_begin(run))
        return;
    run->active++;
    begin_connection(run, &run->exchanges[run->opened++], now_ns());
}

/* Only mode connect goes on after an error: there the next connection is a new chance. */
static void fail_exchange(struct run *run, struct exchange *exchange, const char *what, int error)
{
    count_error(&run->tally, what, error);
    if (run->follow == FOLLOW_RECONNECT && exchange->fd >= 0 && may_begin(run)) {
        close(exchange->fd);
        begin_connection(run, exchange, now_ns());
        return;
    }
    end_exchange(run, exchange);
}

static void watch_state(struct run *run, struct exchange *exchange, enum exchange_state state)
{
    bool was_writing = exchange->state == EXCHANGE_CONNECTING
                       || exchange->state == EXCHANGE_SENDING;
    bool writing = state == EXCHANGE_CONNECTING || state == EXCHANGE_SENDING;
    uint64_t token = (uint64_t)(exchange - run->exchanges);
    if (exchange->state == EXCHANGE_NEW)
        watch(run->poller, exchange->fd, writing ? EPOLLOUT : EPOLLIN, token);
    else if (writing != was_writing)
        rewatch(run->poller, exchange->fd, writing ? EPOLLOUT : EPOLLIN, token);
    exchange->state = state;
}

/* Sends what is left of the message. Also the end of a connect: on loopback the
 * connection is usually there when connect returns, so no turn is spent on asking;
 * and a failed connect shows as the error of this send. */
static void send_message(struct run *run, struct exchange *exchange)
{
    unsigned left = run->options->message - exchange->done;
    ssize_t sent =
        send(exchange->fd, pattern_at(exchange->phase + exchange->done), left, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) {
        fail_exchange(run, exchange, "send", errno);
        return;
    }
    exchange->done += sent < 0 ? 0 : (unsigned)sent;
    if (exchange->done < run->options->message) {
        watch_state(run, exchange, sent < 0 ? EXCHANGE_CONNECTING : EXCHANGE_SENDING);
        return;
    }
    exchange->done = 0;
    watch_state(run, exchange, EXCHANGE_RECEIVING);
}

static void begin_message(struct run *run, struct exchange *exchange)
{
    exchange->phase += 4099;
    exchange->done = 0;
    send_message(run, exchange);
}

static void begin_connection(struct run *run, struct exchange *exchange, int64_t began)
{
    run->begun++;
    exchange->began = began;
    exchange->state = EXCHANGE_NEW;
    exchange->fd = begin_connect(&run->options->address);
    if (exchange->fd < 0)
        fail_exchange(run, exchange, "connect", -exchange->fd);
    else
        begin_message(run, exchange);
}

static void rest(struct run *run, struct exchange *exchange)
{
    if (run->follow == FOLLOW_RECONNECT && exchange->fd >= 0) {
        end_connection(exchange->fd, run->options);
        exchange->fd = -1;
    }
    run->active--;
    exchange->state = EXCHANGE_RESTING;
    exchange->next = run->resting;
    run->resting = exchange;
}

static void complete_exchange(struct run *run, struct exchange *exchange)
{
    int64_t now = now_ns();
    histogram_add(&run->tally.latency, now - exchange->began);
    run->tally.units++;
    if (run->options->rate > 0) {
        rest(run, exchange);
        return;
    }
    switch (run->follow) {
    case FOLLOW_AGAIN:
        if (!may_begin(run)) {
            end_exchange(run, exchange);
            break;
        }
        run->begun++;
        exchange->began = now;
        begin_message(run, exchange);
        break;
    case FOLLOW_RECONNECT:
        if (!may_begin(run)) {
            end_exchange(run, exchange);
            break;
        }
        end_connection(exchange->fd, run->options);
        begin_connection(run, exchange, now_ns());
        break;
    case FOLLOW_HOLD:
        exchange->state = EXCHANGE_HELD;
        run->active--;
        run->held++;
        open_next_idle(run);
        break;
    }
}

static void receive_echo(struct run *run, struct exchange *exchange)
{
    /* One byte more than is missing: an echo that is too long must not go unseen. */
    unsigned left = run->options->message - exchange->done;
    ssize_t got = recv(exchange->fd, buffer, left + 1, 0);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN)
            fail_exchange(run, exchange, "closed before the echo", got < 0 ? errno : 0);
        return;
    }
    if ((size_t)got > left
        || memcmp(buffer, pattern_at(exchange->phase + exchange->done), (size_t)got) != 0) {
        fail_exchange(run, exchange, "wrong bytes received", 0);
        return;
    }
    run->tally.bytes += (uint64_t)got;
    exchange->done += (unsigned)got;
    if (exchange->done == run->options->message)
        complete_exchange(run, exchange);
}

static void advance(struct run *run, struct exchange *exchange)
{
    switch (exchange->state) {
    case EXCHANGE_CONNECTING:
    case EXCHANGE_SENDING:
        send_message(run, exchange);
        break;
    case EXCHANGE_RECEIVING:
        receive_echo(run, exchange);
        break;
    case EXCHANGE_HELD:
        count_error(&run->tally, "an idle connection did not stay silent and open", 0);
        end_exchange(run, exchange);
        break;
    case EXCHANGE_RESTING:
        count_error(&run->tally, "a connection at rest did not stay silent and open", 0);
        exchange->state = EXCHANGE_HELD; /* not counted as active */
        run->held++;
        end_exchange(run, exchange);
        break;
    case EXCHANGE_NEW:
    case EXCHANGE_ENDED:
        break;
    }
}

/* One batch of events, waiting for `deadline` at most. False once stdin has closed. */
static bool turn(struct run *run, int64_t deadline)
{
    struct epoll_event events[EVENT_BATCH];
    int64_t left = deadline - now_ns();
    struct timespec most = {.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
    if (left < 0)
        most = (struct timespec){0};
    int count = epoll_pwait2(run->poller, events, EVENT_BATCH, &most, NULL);
    bool open = true;
    if (count < 0 && errno != EINTR)
        fail("epoll_wait");
    for (int i = 0; i < count; i++) {
        if (events[i].data.u64 == TOKEN_STDIN)
            open = false;
        else
            advance(run, &run->exchanges[events[i].data.u64]);
    }
    return open;
}

static void prepare(struct run *run, const struct options *options, enum follow follow)
{
    run->options = options;
    run->follow = follow;
    run->poller = epoll_create1(EPOLL_CLOEXEC);
    run->exchanges = calloc(options->connections, sizeof *run->exchanges);
    if (run->poller < 0 || run->exchanges == NULL)
        fail("start");
    for (unsigned i = 0; i < options->connections; i++) {
        run->exchanges[i].fd = -1;
        run->exchanges[i].phase = pattern_phase(i);
    }
    run->tally.began = now_ns();
    run->deadline = run->tally.began + options->duration;
}

/* Completes what is under way, within the grace time. */
static void finish_active(struct run *run)
{
    while (run->active > 0 && now_ns() < run->deadline + GRACE_NS)
        turn(run, run->deadline + GRACE_NS);
    for (unsigned i = 0; run->active > 0 && i < run->options->connections; i++) {
        struct exchange *exchange = &run->exchanges[i];
        if (exchange->state != EXCHANGE_NEW && exchange->state != EXCHANGE_HELD
            && exchange->state != EXCHANGE_RESTING && exchange->state != EXCHANGE_ENDED) {
            count_error(&run->tally, "no answer in time", 0);
            end_exchange(run, exchange);
        }
    }
    run->tally.ended = now_ns();
}

/* What is due is begun: where no connection is at rest, as soon as one is. */
static void begin_due(struct run *run, int64_t *due, int64_t interval)
{
    while (run->resting != NULL && run->begun < run->options->limit && *due <= now_ns()) {
        struct exchange *exchange = run->resting;
        run->resting = exchange->next;
        if (exchange->state != EXCHANGE_RESTING)
            continue; /* it broke */
        run->active++;
        if (exchange->fd < 0) {
            begin_connection(run, exchange, *due);
        } else {
            run->begun++;
            exchange->began = *due;
            begin_message(run, exchange);
        }
        *due += interval;
    }
}

/* The first exchange of each connection is not timed: it opens it. */
static void run_by_the_clock(struct run *run)
{
    int64_t interval = 1000000000 / (int64_t)run->options->rate;
    while (run->active > 0 && now_ns() < run->deadline)
        turn(run, run->deadline);
    uint64_t errors = run->tally.errors;
    run->tally.units = run->tally.bytes = 0;
    memset(&run->tally.latency, 0, sizeof run->tally.latency);
    run->tally.began = now_ns();
    run->deadline = run->tally.began + run->options->duration;
    int64_t due = run->tally.began;
    while (may_begin(run) && run->tally.errors == errors) {
        begin_due(run, &due, interval);
        turn(run, run->resting == NULL || due > run->deadline ? run->deadline : due);
    }
}

static struct run run;

static void run_exchanges(const char *mode, const struct options *options, enum follow follow)
{
    prctl(PR_SET_TIMERSLACK, 1); /* ns: begin when it is due, not 50 us later */
    prepare(&run, options, follow);
    for (unsigned i = 0; i < options->connections && may_begin(&run); i++) {
        run.active++;
        begin_connection(&run, &run.exchanges[i], now_ns());
    }
    if (options->rate > 0)
        run_by_the_clock(&run);
    finish_active(&run);
    for (unsigned i = 0; i < options->connections; i++)
        if (run.exchanges[i].fd >= 0)
            end_connection(run.exchanges[i].fd, options);
    report(mode, &run.tally);
    free(run.exchanges);
}

void run_roundtrip(const struct options *options)
{
    run_exchanges("roundtrip", options, FOLLOW_AGAIN);
}

void run_connect(const struct options *options)
{
    run_exchanges("connect", options, FOLLOW_RECONNECT);
}

/* Prints {"held": N} when all are open, then its outcome when stdin closes. */
void run_idle(const struct options *options)
{
    prepare(&run, options, FOLLOW_HOLD);
    for (unsigned i = 0; i < IDLE_WINDOW; i++)
        open_next_idle(&run);
    finish_active(&run);
    printf("{\"held\": %u}\n", run.held);
    fflush(stdout);
    watch(run.poller, STDIN_FILENO, EPOLLIN, TOKEN_STDIN);
    while (run.held > 0 && now_ns() < run.deadline && turn(&run, run.deadline)) {
    }
    if (run.held < options->connections)
        count_error(&run.tally, "not all idle connections were held", 0);
    report("idle", &run.tally);
    free(run.exchanges);
}
