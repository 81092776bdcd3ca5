/* One half of a connection between real sockets, for test_pump.c:
 *
 *     client -> source | pump | destination -> server
 *
 * Every byte is a function of its place in the stream, so that a lost, doubled or moved one
 * is seen where it arrives. Test programs only.
 */
#ifndef TM_TEST_PUMP_RIG_H
#define TM_TEST_PUMP_RIG_H

#include <linux/tcp.h>
#include <sys/epoll.h>

#include "pairs.h"
#include "pump.h"

enum { BUFFER_SIZE = 65536, PIPES = 4, BUDGET = 1 << 20 };

struct rig {
    struct tm_pump pump;
    struct tm_journal journal;
    struct tm_half half;
    int client, source, destination, server; /* -1: closed by the test */
    int source_family;
    uint64_t sent;     /* by the client */
    uint64_t received; /* by the server */
    bool ended;        /* the server has seen the end */
    bool unaccounted;  /* bytes read can't be told: reset, or urgent data */
    uint32_t descriptors;
};

struct shape {
    int source_family, destination_family;
    int buffer; /* of the sockets, bytes; 0 = the system's */
    uint32_t pipes;
};

static inline struct rig *open_rig(struct shape shape)
{
    struct rig *rig = calloc(1, sizeof(*rig));
    int ends[2];
    CHECK(rig);
    rig->descriptors = open_descriptors();
    /* The buffer is on the heap and exactly its size: the sanitizer watches its edges. */
    rig->pump = (struct tm_pump){
        .journal = &rig->journal, .buffer = malloc(BUFFER_SIZE), .buffer_size = BUFFER_SIZE, .splice_size = TM_PIPE_SIZE, .budget = BUDGET};
    CHECK(rig->pump.buffer);
    tm_pipe_pool_init(&rig->pump.pool, shape.pipes);
    rig->half.pipe = (struct tm_pipe){-1, -1};
    rig->half.base = tm_base_make(0, 0);
    rig->source_family = shape.source_family;
    make_pair(shape.source_family, ends, shape.buffer);
    rig->client = ends[0];
    rig->source = ends[1];
    make_pair(shape.destination_family, ends, shape.buffer);
    rig->server = ends[0];
    rig->destination = ends[1];
    return rig;
}

/* Also tells that nothing was lost on the way: no descriptor, no pipe. */
static inline void close_rig(struct rig *rig)
{
    const int fds[] = {rig->client, rig->source, rig->destination, rig->server};
    tm_pump_release(&rig->pump, &rig->half);
    CHECK(rig->half.pipe.in == -1 && rig->half.pipe.out == -1 && rig->half.queued == 0);
    CHECK_EQUAL(rig->pump.pool.open, rig->pump.pool.idle);
    tm_pipe_pool_destroy(&rig->pump.pool);
    for (int i = 0; i < 4; i++)
        if (fds[i] >= 0)
            CHECK(close(fds[i]) == 0);
    CHECK_EQUAL(open_descriptors(), rig->descriptors);
    free(rig->pump.buffer);
    free(rig);
}

static inline unsigned char byte_at(uint64_t place)
{
    return (unsigned char)((place + 1) * 0x9e3779b97f4a7c15ull >> 56);
}

/* Sends up to `size` bytes of the stream; returns how many went. */
static inline uint64_t client_sends(struct rig *rig, uint64_t size)
{
    static unsigned char block[BUFFER_SIZE];
    uint64_t before = rig->sent, end = rig->sent + size;
    while (rig->sent < end) {
        size_t part = end - rig->sent < sizeof(block) ? end - rig->sent : sizeof(block);
        for (size_t i = 0; i < part; i++)
            block[i] = byte_at(rig->sent + i);
        ssize_t sent = send(rig->client, block, part, MSG_NOSIGNAL);
        if (sent < 0) {
            CHECK(errno == EAGAIN);
            break;
        }
        rig->sent += (uint64_t)sent;
    }
    return rig->sent - before;
}

/* Receives up to `size` bytes and compares them; returns how many came. */
static inline uint64_t server_receives(struct rig *rig, uint64_t size)
{
    static unsigned char block[BUFFER_SIZE];
    uint64_t before = rig->received, end = rig->received + size;
    while (rig->received < end && !rig->ended) {
        size_t part = end - rig->received < sizeof(block) ? end - rig->received : sizeof(block);
        ssize_t got = recv(rig->server, block, part, 0);
        if (got < 0) {
            CHECK(errno == EAGAIN);
            break;
        }
        rig->ended = got == 0;
        for (ssize_t i = 0; i < got; i++)
            CHECK_EQUAL(block[i], byte_at(rig->received + (uint64_t)i));
        rig->received += (uint64_t)got;
    }
    CHECK(rig->received <= rig->sent);
    return rig->received - before;
}

/* Waits until the server has everything that was passed on. */
static inline void server_receives_all(struct rig *rig)
{
    while (rig->received < rig->half.bytes) {
        CHECK(wait_events(rig->server, POLLIN) & POLLIN);
        server_receives(rig, rig->half.bytes - rig->received);
    }
    CHECK_EQUAL(rig->received, rig->half.bytes);
}

static inline uint64_t tcp_arrived(int fd, bool *fin)
{
    struct tcp_info info = {0};
    socklen_t size = sizeof(info);
    CHECK(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0);
    *fin = info.tcpi_state == 8; /* CLOSE_WAIT: the FIN is counted as a byte */
    return info.tcpi_bytes_received - *fin;
}

/* Bytes that were taken out of the source so far, as the kernel counts them. */
static inline uint64_t bytes_read(const struct rig *rig)
{
    uint64_t arrived, waiting;
    bool fin;
    if (rig->source_family == AF_UNIX)
        return rig->sent - readable_bytes(rig->source);
    do { /* until nothing arrived in between */
        arrived = tcp_arrived(rig->source, &fin);
        waiting = readable_bytes(rig->source);
    } while (arrived != tcp_arrived(rig->source, &fin));
    return arrived - waiting;
}

/* One call of the pump, and all that must hold after any of them. */
static inline enum tm_pump_result pump(struct rig *rig, bool hung_up)
{
    struct tm_half *half = &rig->half;
    const struct tm_pipe_pool *pool = &rig->pump.pool;
    uint64_t before = half->bytes;
    enum tm_pump_result result =
        tm_pump_run(&rig->pump, half, rig->source, rig->destination, hung_up);
    CHECK(half->bytes >= before);
    CHECK(half->blocked == (result == TM_PUMP_BLOCKED));
    CHECK_EQUAL(pool->open - pool->idle, half->pipe.in >= 0);
    CHECK_EQUAL(half->pipe.in >= 0 ? readable_bytes(half->pipe.out) : 0, half->queued);
    CHECK(half->queued <= TM_PIPE_SIZE);
    if (result == TM_PUMP_DRAINED || result == TM_PUMP_EOF)
        CHECK(half->pipe.in == -1); /* an idle connection holds no pipe */
    if (result == TM_PUMP_SOURCE_ERROR || result == TM_PUMP_DESTINATION_ERROR) {
        CHECK(half->error != 0);
        rig->unaccounted = true;
    }
    if (!rig->unaccounted)
        CHECK_EQUAL(bytes_read(rig), half->bytes + half->queued + tm_base_consumed(half->base));
    return result;
}

/* The client sends, and all of it is there to be read. */
static inline void client_delivers(struct rig *rig, uint32_t size)
{
    uint32_t waiting = readable_bytes(rig->source);
    CHECK_EQUAL(client_sends(rig, size), size);
    wait_readable_bytes(rig->source, waiting + size);
}

/* Sends and pumps, the server reading nothing, until the pump is blocked and the client full. */
static inline void fill(struct rig *rig, uint32_t piece)
{
    uint64_t deadline = now_ms() + (uint64_t)DEADLINE_MS;
    do {
        CHECK(now_ms() < deadline);
        client_sends(rig, piece);
        enum tm_pump_result result = pump(rig, false);
        CHECK(result != TM_PUMP_EOF && result < TM_PUMP_EOF);
    } while (!rig->half.blocked);
    while (client_sends(rig, piece))
        CHECK(now_ms() < deadline);
}

/* --- a whole stream -------------------------------------------------------------------------- */

struct traffic {
    uint64_t total;
    uint32_t sends, receives; /* at most at once, bytes */
    int buffer;
    uint32_t budget;
};

static inline void watch(int epoll, int operation, int fd, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    CHECK(epoll_ctl(epoll, operation, fd, &event) == 0);
}

/* What the worker does with an event: calls the pump only where an edge or YIELD tells it to. */
static inline enum tm_pump_result on_events(struct rig *rig, const struct epoll_event *events,
                                            int count, enum tm_pump_result last,
                                            bool *hung_up)
{
    bool call = last == TM_PUMP_YIELD;
    for (int i = 0; i < count; i++) {
        if (events[i].data.fd == rig->source) {
            *hung_up |= (events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
            call |= last != TM_PUMP_BLOCKED;
        } else if (events[i].data.fd == rig->destination) {
            call |= last == TM_PUMP_BLOCKED;
        }
    }
    if (!call || last == TM_PUMP_EOF)
        return last;
    last = pump(rig, *hung_up);
    CHECK(last <= TM_PUMP_EOF);
    if (last == TM_PUMP_EOF)
        CHECK(shutdown(rig->destination, SHUT_WR) == 0);
    return last;
}

/* Passes a whole stream on. A call that ends where no edge follows would hang here. */
static inline void relay(struct rig *rig, const struct traffic *traffic)
{
    enum tm_pump_result last = TM_PUMP_DRAINED;
    bool hung_up = false;
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    CHECK(epoll >= 0);
    rig->pump.budget = traffic->budget;
    watch(epoll, EPOLL_CTL_ADD, rig->source, EPOLLIN | EPOLLRDHUP | EPOLLET);
    watch(epoll, EPOLL_CTL_ADD, rig->destination, EPOLLOUT | EPOLLET);
    watch(epoll, EPOLL_CTL_ADD, rig->client, EPOLLOUT); /* the far ends: level-triggered */
    watch(epoll, EPOLL_CTL_ADD, rig->server, EPOLLIN);
    while (!rig->ended) {
        struct epoll_event events[8];
        if (rig->sent < traffic->total && random_below(3)) {
            uint64_t left = traffic->total - rig->sent, most = 1 + random_below(traffic->sends);
            client_sends(rig, most < left ? most : left);
            if (rig->sent == traffic->total) {
                CHECK(shutdown(rig->client, SHUT_WR) == 0);
                watch(epoll, EPOLL_CTL_DEL, rig->client, 0);
            }
        }
        if (random_below(2))
            server_receives(rig, 1 + random_below(traffic->receives));
        int wait = last == TM_PUMP_YIELD ? 0 : DEADLINE_MS;
        int count = rig->ended ? 0 : epoll_wait(epoll, events, 8, wait);
        CHECK(count > 0 || wait == 0 || rig->ended); /* else stalled: no edge came */
        last = on_events(rig, events, count, last, &hung_up);
    }
    CHECK(last == TM_PUMP_EOF);
    CHECK_EQUAL(rig->sent, traffic->total);
    CHECK_EQUAL(rig->received, traffic->total);
    CHECK_EQUAL(rig->half.bytes, traffic->total);
    CHECK(close(epoll) == 0);
}

#endif
