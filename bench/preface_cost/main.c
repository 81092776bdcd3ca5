/* What a worker does for a connection until its first bytes are with the endpoint, and at its end:
 * preface_cost TABLE ENDPOINT ROUNDS COLD, ns of each route on standard output, a line each: the
 * median of the rounds, with the bytes there at the accept, and with bytes that come after it.
 *
 * TABLE: a route table; ENDPOINT: the listening socket of all its endpoints. What clients send first
 * comes on standard input: for each route its length in a line, then its bytes. COLD: 1 = before each
 * connection the caches get other things to hold.
 *
 * Everything is done in this thread: it is client and endpoint as well, and what it does as those is
 * not in the times. The routes take turns of some connections, as what is done for the first of its
 * kind is far from the processor. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conn/connection.h"
#include "conn/outcome.h"
#include "conn/record.h"
#include "conn/relay.h"
#include "sock.h"

enum { TURN = 16, CAPACITY = 64, ROUTES = 32, FIRST = 4096, SPARE = 4 << 20 };

#define MUST(condition)                                                                           \
    do {                                                                                          \
        if (!(condition)) {                                                                       \
            fprintf(stderr, "%s:%d: %s: %m\n", __FILE__, __LINE__, #condition);                   \
            exit(1);                                                                              \
        }                                                                                         \
    } while (0)

static struct tm_worker worker, *w = &worker;
static struct { uint32_t size; unsigned char bytes[FIRST]; } first[ROUTES];
static unsigned char *spare;
static uint64_t sum; /* of what is read in vain */

static void *fresh(size_t size)
{
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(base != MAP_FAILED);
    return base;
}

static void turn(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    w->now_us = (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
    w->now_ms = w->now_us / 1000;
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void start(int table)
{
    struct stat about;
    MUST(fstat(table, &about) == 0);
    w->table = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_SHARED, table, 0);
    MUST(w->table != MAP_FAILED);
    w->generation = tm_table_generation(w->table);
    w->image = tm_table_image(w->table, w->generation);
    w->commons = fresh(sizeof(*w->commons));
    struct tm_live *live = fresh(tm_live_size(CAPACITY));
    tm_live_init(live, 0, CAPACITY);
    tm_worker_use(w, live, CAPACITY);
    w->random = 1;
    w->pump.journal = &live->journal;
    w->pump.buffer = live->buffer;
    w->pump.buffer_size = TM_BUFFER_SIZE;
    w->pump.splice_size = 1 << 18;
    w->pump.budget = 1 << 20;
    w->whole_budget = 1 << 20;
    w->free = w->dead = w->ready = w->free_annex = TM_NONE;
    turn();
    tm_pipe_pool_init(&w->pump.pool, 4);
    tm_wheel_init(&w->wheel, w->now_ms);
    w->epoll = epoll_create1(EPOLL_CLOEXEC);
    MUST(w->epoll >= 0);
}

static void forget(void)
{
    for (size_t i = 0; spare && i < SPARE; i += 64)
        sum += spare[i]++;
}

/* ns that the worker has taken. */
static uint64_t serve(uint32_t route, int listener, int endpoint, bool late)
{
    struct tm_address to = {.length = sizeof(to.in)};
    struct tm_peer peer;
    socklen_t size = sizeof(to.in);
    unsigned char got[2 * FIRST];
    int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    MUST(client >= 0 && getsockname(listener, &to.any, &size) == 0);
    MUST(connect(client, &to.any, size) == 0);
    if (!late)
        MUST(send(client, first[route].bytes, first[route].size, 0) == first[route].size);
    int fd = tm_sock_accept(listener, &peer);
    MUST(fd >= 0);
    turn();
    forget();
    uint64_t begun = now_ns(), taken;
    tm_connection_open(w, fd, &peer, route);
    taken = now_ns() - begun;
    uint32_t index = w->pump.journal->current;
    if (late) {
        MUST(send(client, first[route].bytes, first[route].size, 0) == first[route].size);
        turn();
        forget();
        begun = now_ns();
        tm_connection_event(w, index, w->records[index].generation, TM_CLIENT, EPOLLIN);
        taken += now_ns() - begun;
    }
    MUST(w->records[index].state == TM_RELAYING);
    int server = accept4(endpoint, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    MUST(server >= 0 && recv(server, got, sizeof(got), 0) > 0);
    struct linger at_once = {1, 0};
    MUST(setsockopt(client, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)) == 0);
    close(client);
    begun = now_ns();
    tm_outcome_kill(w, index, w->records[index].generation);
    tm_relay_resume(w);
    tm_record_free_dead(w);
    taken += now_ns() - begun;
    close(server);
    return taken;
}

static int compare(const void *one, const void *other)
{
    uint64_t a = *(const uint64_t *)one, b = *(const uint64_t *)other;
    return a < b ? -1 : a > b;
}

static uint64_t median(uint64_t *times, size_t count)
{
    qsort(times, count, sizeof(*times), compare);
    return times[count / 2];
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 2;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    uint32_t routes = 0, rounds = (uint32_t)atoi(argv[3]);
    MUST(bind(listener, (struct sockaddr *)&any, sizeof(any)) == 0 && listen(listener, 16) == 0);
    start(atoi(argv[1]));
    for (; scanf("%u%*c", &first[routes].size) == 1; routes++)
        MUST(first[routes].size <= FIRST && routes < ROUTES - 1 &&
             fread(first[routes].bytes, 1, first[routes].size, stdin) == first[routes].size);
    MUST(routes <= w->image->route_count);
    spare = atoi(argv[4]) ? fresh(SPARE) : NULL;
    uint64_t *times = calloc((size_t)routes * 2 * rounds, sizeof(*times));
    MUST(times);
    for (uint32_t round = 0; round < rounds; round += TURN)
        for (uint32_t kind = 0; kind < 2 * routes; kind++)
            for (uint32_t i = round; i < round + TURN && i < rounds; i++)
                times[(size_t)kind * rounds + i] =
                    serve(kind / 2, listener, atoi(argv[2]), kind % 2);
    for (uint32_t route = 0; route < routes; route++)
        printf("%llu %llu\n",
               (unsigned long long)median(times + (size_t)2 * route * rounds, rounds),
               (unsigned long long)median(times + (size_t)(2 * route + 1) * rounds, rounds));
    return sum == 1;
}
