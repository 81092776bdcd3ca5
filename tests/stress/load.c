/* The load under which things are done to a proxy, and the server behind it.
 *
 *     load serve                      echoes on a port that it prints; until stdin ends
 *     load drive PORT BULK SMALL NEW SEED
 *
 * drive keeps BULK streams of large writes and SMALL streams of small messages open through
 * 127.0.0.1:PORT, opens NEW connections a second besides, and checks every byte that comes
 * back: each is a function of its place and its stream, so that one that is lost, doubled,
 * changed or from another stream does not fit. When stdin ends it lets everything under way
 * come back, and prints what it saw as one line of JSON. Loopback only; bounded in number and
 * time.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    CHUNK = 64 * 1024,
    BURST = 256 * 1024,   /* bytes of a bulk stream, */
    BURST_MS = 100,       /* about every so often */
    WINDOW = 1024 * 1024, /* most of them under way */
    MESSAGE_MS = 25,      /* between two messages of a small stream */
    REQUEST = 64,         /* bytes of a new connection's request and answer */
    MOST = 8192,          /* connections at a time */
    PATIENCE_MS = 20000,  /* without an answer, it is lost */
    GRACE_MS = 20000,     /* for what is under way at the end */
    MOST_MS = 900000,
    SLOTS = 60000,        /* of the histograms, 1 ms wide */
};

enum kind { FREE = 0, ECHO, BULK, SMALL, NEW };

struct conn {
    enum kind kind;
    int fd;
    bool connected, shut, writable;
    uint64_t key;
    uint64_t sent, received;
    uint64_t allowed;      /* may be sent up to here */
    uint64_t due_ms;       /* of the next burst or message */
    uint64_t began_ms;     /* of the message or connection under way; 0 = none */
    unsigned char *buffer; /* ECHO: read and not yet written */
    size_t held, start;
};

static struct conn conns[MOST];
static int poller;
static bool ending;
static uint64_t random_state;
static struct {
    uint64_t streams, streams_lost, wrong, bytes, opened, failed, messages;
    uint64_t slowest_new_ms;
    int first_error; /* errno of the first loss; -1 = an end of input */
    uint32_t delays[SLOTS], connects[SLOTS];
} seen;

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static uint64_t chance(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static unsigned char byte_at(uint64_t key, uint64_t place)
{
    return (unsigned char)((place + key + 1) * 0x9e3779b97f4a7c15ull >> 56);
}

static _Noreturn void fail(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static struct conn *place(enum kind kind, int fd)
{
    for (int i = 0; i < MOST; i++) {
        if (conns[i].kind != FREE)
            continue;
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                                    .data.u32 = (uint32_t)i};
        unsigned char *buffer = conns[i].buffer;
        conns[i] = (struct conn){.kind = kind, .fd = fd, .buffer = buffer};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0)
            fail("epoll_ctl");
        return &conns[i];
    }
    close(fd);
    return NULL;
}

static void drop(struct conn *conn)
{
    close(conn->fd);
    conn->kind = FREE;
}

/* --- the server --------------------------------------------------------------------------- */

static void echo(struct conn *conn)
{
    if (!conn->buffer && !(conn->buffer = malloc(CHUNK)))
        fail("malloc");
    for (;;) {
        while (conn->held) {
            ssize_t sent = send(conn->fd, conn->buffer + conn->start, conn->held, MSG_NOSIGNAL);
            if (sent < 0 && errno == EAGAIN)
                return;
            if (sent < 0) {
                drop(conn);
                return;
            }
            conn->start += (size_t)sent;
            conn->held -= (size_t)sent;
        }
        ssize_t got = recv(conn->fd, conn->buffer, CHUNK, 0);
        if (got < 0 && errno == EAGAIN)
            return;
        if (got <= 0) {
            drop(conn);
            return;
        }
        conn->start = 0;
        conn->held = (size_t)got;
    }
}

static int listen_somewhere(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) < 0 || listen(fd, 4096) < 0 ||
        getsockname(fd, (struct sockaddr *)&address, &size) < 0)
        fail("listen");
    printf("%u\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

static void serve(void)
{
    int listener = listen_somewhere(), on = 1;
    struct epoll_event events[256], watched = {.events = EPOLLIN, .data.u32 = MOST};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &watched);
    watched.data.u32 = MOST + 1;
    epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &watched);
    for (;;) {
        int count = epoll_wait(poller, events, 256, -1);
        for (int i = 0; i < count; i++) {
            uint32_t which = events[i].data.u32;
            if (which == MOST + 1)
                return;
            if (which < MOST && conns[which].kind == ECHO) {
                echo(&conns[which]);
                continue;
            }
            int fd;
            while (which == MOST && (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
                struct conn *conn = place(ECHO, fd);
                if (conn)
                    echo(conn);
            }
        }
    }
}

/* --- the clients -------------------------------------------------------------------------- */

static void lose(struct conn *conn, int error)
{
    if (!seen.first_error)
        seen.first_error = error ? error : -1;
    if (conn->kind == NEW)
        seen.failed++;
    else
        seen.streams_lost++;
    drop(conn);
}

static void note(uint32_t *histogram, uint64_t since_ms, uint64_t now)
{
    uint64_t took = now - since_ms;
    histogram[took < SLOTS ? took : SLOTS - 1]++;
}

static void begin(enum kind kind, const struct sockaddr_in *to, uint64_t now)
{
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (fd < 0)
        fail("socket");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    int result = connect(fd, (const struct sockaddr *)to, sizeof(*to));
    int error = errno;
    struct conn *conn = place(kind, fd);
    if (!conn)
        return;
    conn->key = chance();
    conn->began_ms = now;
    conn->due_ms = now + chance() % BURST_MS;
    conn->allowed = kind == NEW ? REQUEST : 0;
    if (kind == NEW)
        seen.opened++;
    else
        seen.streams++;
    if (result < 0 && error != EINPROGRESS)
        lose(conn, error);
}

static void send_more(struct conn *conn)
{
    static unsigned char block[CHUNK];
    while (conn->writable && conn->sent < conn->allowed) {
        size_t size = conn->allowed - conn->sent < CHUNK ? conn->allowed - conn->sent : CHUNK;
        for (size_t i = 0; i < size; i++)
            block[i] = byte_at(conn->key, conn->sent + i);
        ssize_t sent = send(conn->fd, block, size, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            conn->writable = false;
        } else if (sent < 0) {
            lose(conn, errno);
            return;
        } else {
            conn->sent += (uint64_t)sent;
        }
    }
}

/* Everything sent has come back. */
static void came_back(struct conn *conn, uint64_t now)
{
    if (conn->kind == NEW) {
        note(seen.connects, conn->began_ms, now);
        drop(conn);
    } else if (conn->kind == SMALL && conn->began_ms) {
        note(seen.delays, conn->began_ms, now);
        seen.messages++;
        conn->began_ms = 0;
        conn->due_ms = now + MESSAGE_MS / 2 + chance() % MESSAGE_MS;
    } else {
        conn->began_ms = 0;
    }
}

static void receive_more(struct conn *conn, uint64_t now)
{
    static unsigned char block[CHUNK];
    for (;;) {
        ssize_t got = recv(conn->fd, block, CHUNK, 0);
        if (got < 0 && errno == EAGAIN)
            return;
        if (got < 0 || (got == 0 && !conn->shut)) {
            lose(conn, got < 0 ? errno : 0);
            return;
        }
        if (got == 0) {
            drop(conn); /* its end, after ours */
            return;
        }
        for (ssize_t i = 0; i < got; i++)
            seen.wrong += block[i] != byte_at(conn->key, conn->received + (uint64_t)i);
        conn->received += (uint64_t)got;
        seen.bytes += (uint64_t)got;
        if (conn->received > conn->sent) {
            seen.wrong += conn->received - conn->sent;
            lose(conn, 0);
            return;
        }
        if (conn->received == conn->allowed) {
            came_back(conn, now);
            if (conn->kind == FREE)
                return;
        }
    }
}

/* What is due by the clock. */
static void look(struct conn *conn, uint64_t now)
{
    if (conn->kind == NEW) {
        if (now - conn->began_ms > PATIENCE_MS)
            lose(conn, ETIMEDOUT);
        return;
    }
    if (conn->began_ms && conn->allowed && now - conn->began_ms > PATIENCE_MS) {
        lose(conn, ETIMEDOUT);
        return;
    }
    if (!conn->connected || conn->shut)
        return;
    if (ending && conn->received == conn->allowed) {
        shutdown(conn->fd, SHUT_WR);
        conn->shut = true;
        return;
    }
    if (ending || now < conn->due_ms)
        return;
    if (conn->kind == BULK && conn->allowed - conn->received < WINDOW) {
        conn->allowed += BURST / 2 + chance() % BURST;
        conn->due_ms = now + BURST_MS / 2 + chance() % BURST_MS;
        if (!conn->began_ms)
            conn->began_ms = now;
        send_more(conn);
    } else if (conn->kind == SMALL && !conn->began_ms) {
        conn->allowed += 1 + chance() % 1400;
        conn->began_ms = now;
        send_more(conn);
    }
}

static void handle(struct conn *conn, uint32_t events, uint64_t now)
{
    if (events & EPOLLOUT) {
        if (!conn->connected) {
            int error = 0;
            socklen_t size = sizeof(error);
            getsockopt(conn->fd, SOL_SOCKET, SO_ERROR, &error, &size);
            if (error) {
                lose(conn, error);
                return;
            }
            conn->connected = true;
            if (conn->kind != NEW)
                conn->began_ms = 0;
        }
        conn->writable = true;
        send_more(conn);
    }
    if (conn->kind != FREE && events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        receive_more(conn, now);
}

static uint64_t percentile(const uint32_t *histogram, double share)
{
    uint64_t total = 0, below = 0;
    for (int i = 0; i < SLOTS; i++)
        total += histogram[i];
    for (int i = 0; i < SLOTS; i++) {
        below += histogram[i];
        if (total && below >= ceil((double)total * share))
            return (uint64_t)i;
    }
    return 0;
}

static void report(void)
{
    printf("{\"streams\": %lu, \"streams_lost\": %lu, \"bytes\": %lu, \"wrong\": %lu, "
           "\"opened\": %lu, \"failed\": %lu, \"messages\": %lu, \"first_error\": %d, "
           "\"delay_p50_ms\": %lu, \"delay_p99_ms\": %lu, \"delay_max_ms\": %lu, "
           "\"new_p99_ms\": %lu, \"new_max_ms\": %lu}\n",
           seen.streams, seen.streams_lost, seen.bytes, seen.wrong, seen.opened, seen.failed,
           seen.messages, seen.first_error, percentile(seen.delays, 0.5),
           percentile(seen.delays, 0.99), percentile(seen.delays, 1.0),
           percentile(seen.connects, 0.99), percentile(seen.connects, 1.0));
}

static bool any_left(void)
{
    for (int i = 0; i < MOST; i++)
        if (conns[i].kind != FREE)
            return true;
    return false;
}

static void drive(const struct sockaddr_in *to, int bulk, int small, int rate)
{
    struct epoll_event events[256], watched = {.events = EPOLLIN, .data.u32 = MOST};
    uint64_t started = now_ms(), ended = 0, last_look = 0, begun = 0;
    epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &watched);
    for (int i = 0; i < bulk + small; i++)
        begin(i < bulk ? BULK : SMALL, to, started);
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        int count = epoll_wait(poller, events, 256, 1);
        uint64_t now = now_ms();
        for (int i = 0; i < count; i++) {
            if (events[i].data.u32 == MOST) {
                ending = true;
                ended = now;
                epoll_ctl(poller, EPOLL_CTL_DEL, STDIN_FILENO, &watched);
            } else if (conns[events[i].data.u32].kind != FREE) {
                handle(&conns[events[i].data.u32], events[i].events, now);
            }
        }
        while (!ending && begun < (now - started) * (uint64_t)rate / 1000) {
            begin(NEW, to, now);
            begun++;
        }
        if (now == last_look)
            continue;
        last_look = now;
        for (int i = 0; i < MOST; i++)
            if (conns[i].kind != FREE)
                look(&conns[i], now);
        if (ending && !any_left())
            return;
        if ((ending && now - ended > GRACE_MS) || now - started > MOST_MS) {
            for (int i = 0; i < MOST; i++)
                if (conns[i].kind != FREE)
                    lose(&conns[i], ETIMEDOUT);
            return;
        }
    }
}

int main(int argc, char **argv)
{
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (argc == 2 && strcmp(argv[1], "serve") == 0) {
        serve();
    } else if (argc == 7 && strcmp(argv[1], "drive") == 0) {
        struct sockaddr_in to = {.sin_family = AF_INET,
                                 .sin_port = htons((uint16_t)atoi(argv[2])),
                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        random_state = strtoull(argv[6], NULL, 10) | 1;
        drive(&to, atoi(argv[3]), atoi(argv[4]), atoi(argv[5]));
        report();
    } else {
        fprintf(stderr, "usage: load serve | load drive PORT BULK SMALL NEW SEED\n");
        return 2;
    }
    return 0;
}
