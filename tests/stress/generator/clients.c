/* The clients: streams that stay open, connections that come and go, and a judgement of
 * every byte that is echoed.
 */
#include "generator.h"

#include <errno.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    BURST = 256 * 1024,          /* bytes of a bulk stream, */
    BURST_US = 100 * 1000,       /* about every so often, */
    WINDOW = 1024 * 1024,        /* with at most so many under way */
    MESSAGE_US = 25 * 1000,      /* between two messages of a small stream */
    MESSAGE = 1400,              /* most bytes of one */
    REQUEST = 64,                /* bytes of a new connection's request and answer */
    TURN_US = 1000,              /* between two looks at the clock for every connection */
    GRACE_US = 20 * 1000 * 1000, /* for what is under way at the end */
    MAX_US = 900 * 1000 * 1000, /* whatever stdin does */
};

static const char *const kinds[] = {"", "", "bulk stream", "message stream", "new connection"};
static const struct demand *demand;
static uint64_t random_state, started;
static uint32_t begun[NEW + 1];
static bool ending;

static uint64_t chance(void)
{
    return mix(random_state += 0x9e3779b97f4a7c15ull);
}

static enum cause cause_of(int error)
{
    switch (error) {
    case 0:
        return ENDED;
    case ECONNREFUSED:
        return REFUSED;
    case ECONNRESET:
    case EPIPE:
        return RESET;
    case ETIMEDOUT:
        return SILENT;
    default:
        return OTHER;
    }
}

/* how: NULL = the cause's own words. */
static void lose(struct conn *conn, enum cause cause, const char *how)
{
    static const char *const words[CAUSES] = {"refused", "reset", "ended", "no answer", "", "failed"};
    if (conn->kind == NEW)
        seen.opened_lost[cause]++;
    else
        seen.streams_lost[cause]++;
    if (!seen.first_loss[0])
        snprintf(seen.first_loss, sizeof(seen.first_loss),
                 "%s %" PRIu32 " after %.3f s at byte %" PRIu64 ": %s (%" PRIu64 " sent%s)",
                 kinds[conn->kind], conn->number, (double)(now_us() - started) / 1e6,
                 conn->received, how ? how : words[cause], conn->sent,
                 conn->shut ? ", and our end" : "");
    drop(conn);
}

static void lose_wrong(struct conn *conn, const unsigned char *got, size_t size)
{
    char how[80];
    int64_t shift;
    if (displacement(got, size, conn->key, conn->received, &shift))
        snprintf(how, sizeof(how), "%" PRId64 " bytes %s", shift < 0 ? -shift : shift,
                 shift < 0 ? "came again" : "are missing");
    else
        snprintf(how, sizeof(how), "a byte that belongs nowhere");
    lose(conn, WRONG, how);
}

/* since: what its delay is counted from, so that our own lateness is not left out. */
static void begin(enum kind kind, uint64_t since)
{
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        fail("socket");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    int result = connect(fd, (const struct sockaddr *)&demand->to, sizeof(demand->to));
    int error = errno;
    struct conn *conn = place(kind, fd);
    conn->number = begun[kind]++;
    conn->key = chance();
    conn->began = since;
    conn->due = since + chance() % BURST_US;
    conn->allowed = kind == NEW ? REQUEST : 0;
    if (kind == NEW)
        seen.opened++;
    else
        seen.streams++;
    if (result < 0 && error != EINPROGRESS)
        lose(conn, cause_of(error), NULL);
}

static void send_more(struct conn *conn)
{
    static unsigned char block[CHUNK];
    while (conn->writable && conn->sent < conn->allowed) {
        size_t size = conn->allowed - conn->sent < CHUNK ? conn->allowed - conn->sent : CHUNK;
        fill(block, size, conn->key, conn->sent);
        ssize_t sent = send(conn->fd, block, size, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            conn->writable = false;
        } else if (sent < 0) {
            lose(conn, cause_of(errno), NULL);
            return;
        } else {
            conn->sent += (uint64_t)sent;
        }
    }
}

/* Everything that was to be sent has come back. */
static void came_back(struct conn *conn, uint64_t now)
{
    if (conn->kind == NEW) {
        note_time(CONNECTION_TIME, now - conn->began);
        drop(conn);
        return;
    }
    if (conn->kind == SMALL && conn->began) {
        note_time(ECHO_DELAY, now - conn->began);
        seen.messages++;
        conn->due = now + MESSAGE_US / 2 + chance() % MESSAGE_US;
    }
    conn->began = 0;
}

/* Returns false when the connection is gone. */
static bool take(struct conn *conn, const unsigned char *block, size_t got, uint64_t now)
{
    /* Compared before counted: what comes beyond the last byte sent belongs nowhere either. */
    size_t right = matching(block, got, conn->key, conn->received);
    if (right < got || conn->received + got > conn->sent) {
        seen.wrong += got - right + (right == got);
        conn->received += right;
        lose_wrong(conn, block + right, got - right);
        return false;
    }
    conn->received += got;
    seen.bytes += got;
    if (conn->received == conn->allowed)
        came_back(conn, now);
    else if (conn->kind == BULK)
        conn->began = now;
    return conn->kind != FREE;
}

static void receive_more(struct conn *conn, uint64_t now)
{
    static unsigned char block[CHUNK];
    for (;;) {
        ssize_t got = recv(conn->fd, block, CHUNK, 0);
        if (got < 0 && errno == EAGAIN)
            return;
        if (got < 0 || (got == 0 && !conn->shut)) {
            lose(conn, cause_of(got < 0 ? errno : 0), NULL);
            return;
        }
        if (got == 0) {
            drop(conn); /* its end, after ours */
            return;
        }
        if (!take(conn, block, (size_t)got, now))
            return;
    }
}

/* What is due by the clock. */
static void look(struct conn *conn, uint64_t now)
{
    if (conn->began && now > conn->began + demand->patience) {
        lose(conn, SILENT, NULL);
        return;
    }
    if (conn->kind == NEW || !conn->connected || conn->shut)
        return;
    if (ending && conn->received == conn->allowed) {
        shutdown(conn->fd, SHUT_WR);
        conn->shut = true;
        conn->began = now; /* its end has to come too */
        return;
    }
    if (ending || now < conn->due)
        return;
    if (conn->kind == BULK && conn->allowed - conn->received < WINDOW) {
        conn->allowed += BURST / 2 + chance() % BURST;
        conn->due = now + BURST_US / 2 + chance() % BURST_US;
        if (!conn->began)
            conn->began = now;
        send_more(conn);
    } else if (conn->kind == SMALL && !conn->began) {
        conn->allowed += 1 + chance() % MESSAGE;
        conn->began = now;
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
                lose(conn, cause_of(error), NULL);
                return;
            }
            conn->connected = true;
            if (conn->kind != NEW)
                conn->began = 0;
        }
        conn->writable = true;
        send_more(conn);
    }
    if (conn->kind != FREE && events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        receive_more(conn, now);
}

/* Returns how many connections are left. */
static int look_at_all(uint64_t now)
{
    int left = 0;
    for (int i = 0; i < used; i++) {
        if (conns[i].kind == FREE)
            continue;
        look(&conns[i], now);
        left += conns[i].kind != FREE;
    }
    return left;
}

static void begin_due(uint64_t now)
{
    while (begun[NEW] < (now - started) / 1000 * (uint64_t)demand->rate / 1000)
        begin(NEW, started + (begun[NEW] + 1) * 1000000ull / (uint64_t)demand->rate);
}

void drive(const struct demand *wanted)
{
    struct epoll_event events[256];
    uint64_t ended = 0, looked = 0;
    demand = wanted;
    random_state = demand->seed;
    started = now_us();
    for (int i = 0; i < demand->bulk + demand->small; i++)
        begin(i < demand->bulk ? BULK : SMALL, started);
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        int count = epoll_wait(poller, events, 256, 1);
        uint64_t now = now_us();
        for (int i = 0; i < count; i++) {
            if (events[i].data.u32 == INPUT) {
                ending = true;
                ended = now;
                epoll_ctl(poller, EPOLL_CTL_DEL, STDIN_FILENO, NULL);
            } else if (conns[events[i].data.u32].kind != FREE) {
                handle(&conns[events[i].data.u32], events[i].events, now);
            }
        }
        if (!ending)
            begin_due(now);
        if (now - looked < TURN_US)
            continue;
        looked = now;
        int left = look_at_all(now);
        if (ending && !left)
            return;
        if ((ending && now - ended > GRACE_US) || now - started > MAX_US) {
            for (int i = 0; i < used; i++)
                if (conns[i].kind != FREE)
                    lose(&conns[i], SILENT, NULL);
            return;
        }
    }
}
