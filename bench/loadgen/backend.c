/* Backend mode: the service behind the proxy, one process, one role.
 *
 *   echo    sends back what comes
 *   source  reads a job, sends that much content, reads the next job
 *   sink    reads a job, checks that much content, sends a receipt, reads the next
 *
 * Prints {"port": N} once it listens. Lives until stdin closes or its time is up,
 * so that it cannot outlive the program that started it.
 */
#include "common.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum role { ROLE_ECHO, ROLE_SOURCE, ROLE_SINK };
static const char *const ROLE_NAMES[] = {"echo", "source", "sink"};

#define TOKEN_LISTENER UINT64_MAX
#define TOKEN_STDIN (UINT64_MAX - 1)

/* One served connection, found by its descriptor. */
struct served {
    bool open;
    bool writing;        /* EPOLLOUT is watched instead of EPOLLIN */
    unsigned head;       /* bytes of the job read so far */
    struct job job;
    uint64_t done;       /* bytes of the job sent or received */
    uint64_t wrong;
    char *residue;       /* echo: what send did not take; owned, NULL if none */
    size_t residue_from;
    size_t residue_length;
};

struct backend {
    enum role role;
    int poller;
    int listener;
    unsigned open;
    size_t table_size;
    struct served *table;
    struct tally tally;
};

static char buffer[CHUNK];

static void close_served(struct backend *backend, int fd)
{
    struct served *served = &backend->table[fd];
    free(served->residue);
    *served = (struct served){.open = false};
    backend->open--;
    close(fd);
}

static void set_writing(struct backend *backend, int fd, bool writing)
{
    struct served *served = &backend->table[fd];
    if (served->writing == writing)
        return;
    served->writing = writing;
    rewatch(backend->poller, fd, writing ? EPOLLOUT : EPOLLIN, (uint64_t)fd);
}

static void accept_all(struct backend *backend)
{
    int on = 1;
    for (;;) {
        int fd = accept4(backend->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
                fail("accept4");
            return;
        }
        if (backend->open == MAX_CONNECTIONS || (size_t)fd >= backend->table_size) {
            count_error(&backend->tally, "too many connections", 0);
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        backend->table[fd] = (struct served){.open = true};
        backend->open++;
        watch(backend->poller, fd, EPOLLIN, (uint64_t)fd);
    }
}

/* Each serve_* returns false when the connection is over and must be closed. */

static bool serve_echo(struct backend *backend, int fd, struct served *served)
{
    if (served->writing) {
        ssize_t sent = send(fd, served->residue + served->residue_from,
                            served->residue_length - served->residue_from, MSG_NOSIGNAL);
        if (sent < 0)
            return errno == EAGAIN;
        served->residue_from += (size_t)sent;
        if (served->residue_from < served->residue_length)
            return true;
        free(served->residue);
        served->residue = NULL;
        set_writing(backend, fd, false);
        return true;
    }
    ssize_t got = recv(fd, buffer, sizeof buffer, 0);
    if (got <= 0)
        return got < 0 && errno == EAGAIN;
    ssize_t sent = send(fd, buffer, (size_t)got, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN)
        return false;
    size_t taken = sent < 0 ? 0 : (size_t)sent;
    backend->tally.bytes += (uint64_t)got;
    if (taken == (size_t)got)
        return true;
    served->residue_from = 0;
    served->residue_length = (size_t)got - taken;
    served->residue = malloc(served->residue_length);
    if (served->residue == NULL)
        fail("malloc");
    memcpy(served->residue, buffer + taken, served->residue_length);
    set_writing(backend, fd, true);
    return true;
}

/* Reads the head of a job: 1 complete, 0 more is to come, -1 the connection is over. */
static int read_job(int fd, struct served *served)
{
    char *into = (char *)&served->job;
    ssize_t got = recv(fd, into + served->head, sizeof served->job - served->head, 0);
    if (got <= 0)
        return got < 0 && errno == EAGAIN ? 0 : -1;
    served->head += (unsigned)got;
    served->done = served->wrong = 0;
    return served->head == sizeof served->job;
}

static size_t next_length(const struct served *served)
{
    uint64_t left = served->job.length - served->done;
    return left < CHUNK ? (size_t)left : CHUNK;
}

static bool serve_source(struct backend *backend, int fd, struct served *served)
{
    if (!served->writing) {
        int complete = read_job(fd, served);
        if (complete <= 0)
            return complete == 0;
        set_writing(backend, fd, true);
    }
    ssize_t sent = send(fd, pattern_at(served->job.phase + served->done), next_length(served),
                        MSG_NOSIGNAL);
    if (sent < 0)
        return errno == EAGAIN;
    served->done += (uint64_t)sent;
    backend->tally.bytes += (uint64_t)sent;
    if (served->done == served->job.length) {
        served->head = 0;
        set_writing(backend, fd, false);
    }
    return true;
}

static bool serve_sink(struct backend *backend, int fd, struct served *served)
{
    if (served->head < sizeof served->job) {
        int complete = read_job(fd, served);
        return complete >= 0;
    }
    ssize_t got = recv(fd, buffer, next_length(served), 0);
    if (got <= 0)
        return got < 0 && errno == EAGAIN;
    if (memcmp(buffer, pattern_at(served->job.phase + served->done), (size_t)got) != 0)
        served->wrong++;
    served->done += (uint64_t)got;
    backend->tally.bytes += (uint64_t)got;
    if (served->done < served->job.length)
        return true;
    struct receipt receipt = {.received = served->done, .wrong = served->wrong};
    served->head = 0;
    /* The other direction is empty, so these few bytes always fit. */
    return send(fd, &receipt, sizeof receipt, MSG_NOSIGNAL) == (ssize_t)sizeof receipt;
}

static void serve(struct backend *backend, int fd)
{
    struct served *served = &backend->table[fd];
    bool go_on = false;
    switch (backend->role) {
    case ROLE_ECHO:
        go_on = serve_echo(backend, fd, served);
        break;
    case ROLE_SOURCE:
        go_on = serve_source(backend, fd, served);
        break;
    case ROLE_SINK:
        go_on = serve_sink(backend, fd, served);
        break;
    }
    if (!go_on)
        close_served(backend, fd);
}

static void open_listener(struct backend *backend, const struct sockaddr_in *wanted)
{
    struct sockaddr_in address = *wanted;
    socklen_t length = sizeof address;
    backend->listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (backend->listener < 0)
        fail("socket");
    if (bind(backend->listener, (struct sockaddr *)&address, sizeof address) < 0)
        fail("bind");
    if (listen(backend->listener, 4096) < 0)
        fail("listen");
    if (getsockname(backend->listener, (struct sockaddr *)&address, &length) < 0)
        fail("getsockname");
    printf("{\"port\": %u}\n", ntohs(address.sin_port));
    fflush(stdout);
}

static enum role parse_role(const char *name)
{
    for (int role = ROLE_ECHO; role <= ROLE_SINK; role++)
        if (strcmp(name, ROLE_NAMES[role]) == 0)
            return (enum role)role;
    errno = EINVAL;
    fail("--role takes echo, source or sink");
}

static struct backend backend;

void run_backend(const struct options *options)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) < 0)
        fail("getrlimit");
    backend.role = parse_role(options->choice);
    /* Some descriptors are not connections; the table may hold a few more than it needs. */
    backend.table_size = files.rlim_cur < 2 * MAX_CONNECTIONS ? files.rlim_cur
                                                              : 2 * MAX_CONNECTIONS;
    backend.table = calloc(backend.table_size, sizeof *backend.table);
    backend.poller = epoll_create1(EPOLL_CLOEXEC);
    if (backend.table == NULL || backend.poller < 0)
        fail("start");
    open_listener(&backend, &options->address);
    watch(backend.poller, backend.listener, EPOLLIN, TOKEN_LISTENER);
    watch(backend.poller, STDIN_FILENO, EPOLLIN, TOKEN_STDIN);

    backend.tally.began = now_ns();
    int64_t deadline = backend.tally.began + options->duration;
    bool stop = false;
    while (!stop && now_ns() < deadline) {
        struct epoll_event events[EVENT_BATCH];
        int count = epoll_wait(backend.poller, events, EVENT_BATCH, wait_until(deadline));
        if (count < 0 && errno != EINTR)
            fail("epoll_wait");
        for (int i = 0; i < count; i++) {
            if (events[i].data.u64 == TOKEN_LISTENER)
                accept_all(&backend);
            else if (events[i].data.u64 == TOKEN_STDIN)
                stop = true;
            else
                serve(&backend, (int)events[i].data.u64);
        }
    }
    backend.tally.ended = now_ns();
    report("backend", &backend.tally);
    free(backend.table);
}
