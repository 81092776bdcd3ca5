/* The load under which things are done to a proxy, and the endpoint behind it.
 *
 *     generator serve
 *         echoes on a port that it prints, until stdin ends
 *     generator drive PORT BULK SMALL RATE SEED PATIENCE
 *         keeps BULK streams of large writes and SMALL streams of small messages open through
 *         127.0.0.1:PORT and opens RATE connections a second besides, until stdin ends; lets
 *         what is under way come back, and prints what it saw as one line of JSON. PATIENCE:
 *         milliseconds without progress after which a connection is lost.
 *
 * Loopback only; bounded in number and time.
 */
#include "generator.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

struct conn conns[MAX_CONNS];
int used;
int poller;
static int free_places[MAX_CONNS]; /* a stack of those that have been used */
static int free_count;

uint64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

_Noreturn void fail(const char *what)
{
    fprintf(stderr, "load generator: %s: %s\n", what, strerror(errno));
    exit(1);
}

struct conn *place(enum kind kind, int fd)
{
    errno = EMFILE;
    if (!free_count && used == MAX_CONNS)
        fail("more connections than it has room for");
    int where = free_count ? free_places[--free_count] : used++;
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                                .data.u32 = (uint32_t)where};
    unsigned char *buffer = conns[where].buffer;
    conns[where] = (struct conn){.kind = kind, .fd = fd, .buffer = buffer};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0)
        fail("epoll_ctl");
    return &conns[where];
}

void watch(int fd, uint32_t data)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = data};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0)
        fail("epoll_ctl");
}

void drop(struct conn *conn)
{
    close(conn->fd);
    conn->kind = FREE;
    free_places[free_count++] = (int)(conn - conns);
}

static void raise_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        fail("getrlimit");
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
        fail("setrlimit");
}

int main(int argc, char **argv)
{
    raise_limit();
    poller = epoll_create1(EPOLL_CLOEXEC);
    watch(STDIN_FILENO, INPUT);
    if (argc == 2 && strcmp(argv[1], "serve") == 0) {
        serve();
    } else if (argc == 8 && strcmp(argv[1], "drive") == 0) {
        struct demand demand = {
            .to = {.sin_family = AF_INET,
                   .sin_port = htons((uint16_t)atoi(argv[2])),
                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)},
            .bulk = atoi(argv[3]),
            .small = atoi(argv[4]),
            .rate = atoi(argv[5]),
            .seed = strtoull(argv[6], NULL, 10),
            .patience = strtoull(argv[7], NULL, 10) * 1000,
        };
        drive(&demand);
        report();
    } else {
        fprintf(stderr, "usage: generator serve | generator drive "
                        "PORT BULK SMALL RATE SEED PATIENCE\n");
        return 2;
    }
    return 0;
}
