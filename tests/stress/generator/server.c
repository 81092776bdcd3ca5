/* The endpoint: echoes every connection. */
#include "generator.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>

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
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) < 0 || listen(fd, 4096) < 0 ||
        getsockname(fd, (struct sockaddr *)&address, &size) < 0)
        fail("listen");
    printf("%u\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

static void accept_all(int listener)
{
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        echo(place(ECHO, fd));
    }
    if (errno != EAGAIN && errno != ECONNABORTED)
        fail("accept");
}

void serve(void)
{
    struct epoll_event events[256];
    int listener = listen_somewhere();
    watch(listener, LISTENER);
    for (;;) {
        int count = epoll_wait(poller, events, 256, -1);
        for (int i = 0; i < count; i++) {
            uint32_t which = events[i].data.u32;
            if (which == INPUT)
                return;
            if (which == LISTENER)
                accept_all(listener);
            else if (conns[which].kind == ECHO) /* else dropped earlier in this turn */
                echo(&conns[which]);
        }
    }
}
