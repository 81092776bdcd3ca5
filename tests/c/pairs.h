/* Connected sockets, and waiting for them without sleeping. Test programs only. */
#ifndef TM_TEST_PAIRS_H
#define TM_TEST_PAIRS_H

#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef TCP_NODELAY /* else it is from <netinet/tcp.h>, which does not go with this one */
#include <linux/tcp.h>
#endif

#include "check.h"

#define DEADLINE_MS patient(10000)

/* Waits until one of `events` (or HUP, ERR) is there; returns them. */
static inline short wait_events(int fd, short events)
{
    struct pollfd watched = {.fd = fd, .events = events};
    int ready;
    do
        ready = poll(&watched, 1, DEADLINE_MS);
    while (ready < 0 && errno == EINTR);
    CHECK(ready == 1);
    return watched.revents;
}

static inline uint32_t readable_bytes(int fd)
{
    int bytes = 0;
    CHECK(ioctl(fd, FIONREAD, &bytes) == 0 && bytes >= 0);
    return (uint32_t)bytes;
}

/* Polled, as no edge says "so many bytes": loopback delivers at once but for ksoftirqd. */
static inline void wait_readable_bytes(int fd, uint32_t bytes)
{
    uint64_t deadline = now_ms() + (uint64_t)DEADLINE_MS;
    while (readable_bytes(fd) < bytes)
        CHECK(now_ms() < deadline);
}

static inline void set_buffer(int fd, int option, int bytes)
{
    CHECK(setsockopt(fd, SOL_SOCKET, option, &bytes, sizeof(bytes)) == 0);
}

static inline void reset_close(int fd)
{
    struct linger now = {.l_onoff = 1, .l_linger = 0};
    CHECK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now)) == 0);
    CHECK(close(fd) == 0);
}

/* A listening socket on loopback, on a port of the kernel's choice; its address in *in. */
static inline int listen_loopback(struct sockaddr_in *in, int buffer)
{
    socklen_t length = sizeof(*in);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0);
    *in = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (buffer)
        set_buffer(fd, SO_RCVBUF, buffer); /* before listen: it decides the window's scale */
    CHECK(bind(fd, (struct sockaddr *)in, sizeof(*in)) == 0 && listen(fd, 16) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)in, &length) == 0);
    return fd;
}

/* ends[0] connected to ends[1], both non-blocking. buffer: SO_SNDBUF and SO_RCVBUF of
 * both in bytes, 0 = the system's. */
static inline void make_pair(int family, int ends[2], int buffer)
{
    if (family == AF_UNIX) {
        CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
    } else {
        struct sockaddr_in in;
        int listener = listen_loopback(&in, buffer);
        ends[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        CHECK(ends[0] >= 0);
        if (buffer)
            set_buffer(ends[0], SO_RCVBUF, buffer);
        CHECK(connect(ends[0], (struct sockaddr *)&in, sizeof(in)) == 0);
        CHECK(wait_events(listener, POLLIN) & POLLIN);
        ends[1] = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        CHECK(ends[1] >= 0 && close(listener) == 0);
        CHECK(fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0);
        for (int i = 0, on = 1; i < 2; i++) /* as the proxy's: no write waits for an acknowledgement */
            CHECK(setsockopt(ends[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) == 0);
    }
    for (int i = 0; i < 2 && buffer; i++) {
        set_buffer(ends[i], SO_SNDBUF, buffer);
        set_buffer(ends[i], SO_RCVBUF, buffer);
    }
}

#endif
