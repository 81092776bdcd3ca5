/* Mode ask: clients that stay connected ask a real server now and then, by the clock.
 *
 *   --role memcached   get kN                  the value that is expected: "S N"
 *   --role http1       GET /kN, keep-alive     the body that is expected:  "S /kN\n"
 *
 * N is drawn anew for each request, and S is "1" or "2": which server has answered, which is
 * counted. Whatever else comes is an error. So is the end of a connection: nobody connects again.
 *
 * --rate requests are begun each second, come what may, each on a connection that is at rest, drawn
 * among them: some are silent for long, some hardly at all. Latency counts from when the request
 * was due. Each line on stdin ends a period: its outcome is printed, and the next one begins. The
 * end of stdin ends the run.
 */
#include "common.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define TOKEN_STDIN UINT64_MAX
#define KEYS 10000u /* N is below it */
#define MOST_BYTES 1024u
#define CONNECT_MS 5000

struct protocol {
    const char *name;
    const char *request; /* with a place for N */
    const char *start;   /* of what has a head; an empty line ends it */
};

static const struct protocol PROTOCOLS[] = {
    {"memcached", "get k%u\r\n", NULL},
    {"http1", "GET /k%u HTTP/1.1\r\nHost: bench\r\n\r\n", "HTTP/1.1 200 OK\r\n"},
};

struct client {
    int fd;
    bool resting;
    unsigned number; /* N of what it has asked */
    unsigned got;    /* bytes of the answer */
    int64_t due;
    char answer[MOST_BYTES + 1];
};

static struct {
    const struct options *options;
    const struct protocol *protocol;
    int poller;
    struct client *clients;
    unsigned *resting; /* indices */
    unsigned resting_count;
    uint64_t random;
    struct tally tally;
} run;

static unsigned draw(unsigned below)
{
    run.random ^= run.random << 13;
    run.random ^= run.random >> 7;
    run.random ^= run.random << 17;
    return (unsigned)((run.random >> 32) % below);
}

static void drop(struct client *client, const char *what, int error)
{
    count_error(&run.tally, what, error);
    close(client->fd);
    client->fd = -1;
}

static void rest(struct client *client)
{
    client->resting = true;
    run.resting[run.resting_count++] = (unsigned)(client - run.clients);
}

static void ask(struct client *client, int64_t due)
{
    char request[128];
    client->resting = false;
    client->number = draw(KEYS);
    client->got = 0;
    client->due = due;
    int length = snprintf(request, sizeof request, run.protocol->request, client->number);
    if (send(client->fd, request, (size_t)length, MSG_NOSIGNAL) != length)
        drop(client, "send", errno);
}

/* What has to follow the head, if there is one; S stands for the server. Its length. */
static int expected(const struct client *client, char *text, size_t size, char server)
{
    if (run.protocol->start != NULL)
        return snprintf(text, size, "%c /k%u\n", server, client->number);
    char value[32];
    int length = snprintf(value, sizeof value, "%c %u", server, client->number);
    return snprintf(text, size, "VALUE k%u 0 %d\r\n%s\r\nEND\r\n", client->number, length, value);
}

/* Where what is expected begins, or NULL: not all of the head is there. */
static const char *body_of(const struct client *client)
{
    const char *end;
    if (run.protocol->start == NULL)
        return client->answer;
    end = strstr(client->answer, "\r\n\r\n");
    return end == NULL ? NULL : end + 4;
}

static void complete(struct client *client, int server)
{
    histogram_add(&run.tally.latency, now_ns() - client->due);
    run.tally.units++;
    run.tally.bytes += client->got;
    run.tally.by[server]++;
    rest(client);
}

static void check(struct client *client)
{
    char text[128];
    const char *start = run.protocol->start, *body = body_of(client);
    if (body == NULL && client->got < MOST_BYTES)
        return;
    size_t there = body == NULL ? 0 : client->got - (size_t)(body - client->answer);
    for (int server = 0; body != NULL && server < 2; server++) {
        size_t length = (size_t)expected(client, text, sizeof text, (char)('1' + server));
        if (there > length || memcmp(body, text, there) != 0
            || (start != NULL && strncmp(client->answer, start, strlen(start)) != 0))
            continue;
        if (there == length)
            complete(client, server);
        return;
    }
    drop(client, "wrong bytes received", 0);
}

static void receive(struct client *client)
{
    ssize_t got = recv(client->fd, client->answer + client->got, MOST_BYTES - client->got, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        drop(client, client->resting ? "closed at rest" : "closed before the answer",
             got < 0 ? errno : 0);
        return;
    }
    if (client->resting) {
        drop(client, "a connection at rest did not stay silent", 0);
        return;
    }
    client->got += (unsigned)got;
    client->answer[client->got] = '\0';
    check(client);
}

/* Prints the outcome of a period, and begins the next one. */
static void end_period(void)
{
    run.tally.ended = now_ns();
    report("ask", &run.tally);
    int64_t now = run.tally.ended;
    memset(&run.tally, 0, sizeof run.tally);
    run.tally.began = now;
}

/* False once stdin has closed. */
static bool read_orders(void)
{
    char text[64];
    ssize_t got = read(STDIN_FILENO, text, sizeof text);
    for (ssize_t i = 0; i < got; i++)
        if (text[i] == '\n')
            end_period();
    return got > 0;
}

/* One batch of events, waiting for `deadline` at most. False once stdin has closed. */
static bool turn(int64_t deadline)
{
    struct epoll_event events[EVENT_BATCH];
    int64_t left = deadline - now_ns();
    struct timespec most = {.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
    bool open = true;
    if (left < 0)
        most = (struct timespec){0};
    int count = epoll_pwait2(run.poller, events, EVENT_BATCH, &most, NULL);
    if (count < 0 && errno != EINTR)
        fail("epoll_wait");
    for (int i = 0; i < count; i++) {
        if (events[i].data.u64 == TOKEN_STDIN)
            open = read_orders();
        else if (run.clients[events[i].data.u64].fd >= 0)
            receive(&run.clients[events[i].data.u64]);
    }
    return open;
}

static void begin_due(int64_t *due, int64_t interval)
{
    while (run.resting_count > 0 && *due <= now_ns()) {
        unsigned at = draw(run.resting_count);
        struct client *client = &run.clients[run.resting[at]];
        run.resting[at] = run.resting[--run.resting_count];
        if (client->fd < 0)
            continue; /* it broke at rest */
        ask(client, *due);
        *due += interval;
    }
}

static void open_client(unsigned index)
{
    struct client *client = &run.clients[index];
    client->fd = begin_connect(&run.options->address);
    if (client->fd < 0) {
        count_error(&run.tally, "connect", -client->fd);
        return;
    }
    struct pollfd ready = {.fd = client->fd, .events = POLLOUT};
    int error = 0;
    socklen_t size = sizeof error;
    if (poll(&ready, 1, CONNECT_MS) != 1
        || getsockopt(client->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0 || error != 0) {
        drop(client, "connect", error);
        return;
    }
    watch(run.poller, client->fd, EPOLLIN, index);
    rest(client);
}

static void prepare(const struct options *options)
{
    run.options = options;
    run.random = 0x9e3779b97f4a7c15u;
    run.poller = epoll_create1(EPOLL_CLOEXEC);
    run.clients = calloc(options->connections, sizeof *run.clients);
    run.resting = calloc(options->connections, sizeof *run.resting);
    if (run.poller < 0 || run.clients == NULL || run.resting == NULL)
        fail("start");
    for (size_t i = 0; i < sizeof PROTOCOLS / sizeof PROTOCOLS[0]; i++)
        if (strcmp(PROTOCOLS[i].name, options->choice) == 0)
            run.protocol = &PROTOCOLS[i];
    if (run.protocol == NULL) {
        fprintf(stderr, "loadgen: --role takes memcached or http1\n");
        exit(2);
    }
    for (unsigned i = 0; i < options->connections; i++)
        open_client(i);
}

/* What is under way is completed, within the grace time. */
static void finish(unsigned connections)
{
    int64_t deadline = now_ns() + GRACE_NS;
    unsigned waiting = 1;
    while (waiting > 0) {
        waiting = 0;
        for (unsigned i = 0; i < connections; i++)
            waiting += run.clients[i].fd >= 0 && !run.clients[i].resting;
        if (waiting == 0)
            break;
        if (now_ns() >= deadline) {
            count_error(&run.tally, "no answer in time", 0);
            break;
        }
        turn(deadline);
    }
}

void run_ask(const struct options *options)
{
    prctl(PR_SET_TIMERSLACK, 1); /* ns: begin when it is due, not 50 us later */
    prepare(options);
    int64_t began = now_ns(), deadline = began + options->duration, due = began;
    int64_t interval = 1000000000 / (int64_t)(options->rate > 0 ? options->rate : 1000);
    watch(run.poller, STDIN_FILENO, EPOLLIN, TOKEN_STDIN);
    end_period();
    while (now_ns() < deadline && run.tally.errors < options->connections) {
        begin_due(&due, interval);
        if (!turn(run.resting_count == 0 || due > deadline ? deadline : due))
            break;
    }
    epoll_ctl(run.poller, EPOLL_CTL_DEL, STDIN_FILENO, NULL);
    finish(options->connections);
    end_period();
    for (unsigned i = 0; i < options->connections; i++)
        if (run.clients[i].fd >= 0)
            end_connection(run.clients[i].fd, options);
    free(run.clients);
    free(run.resting);
}
