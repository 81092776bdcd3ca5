/* Reading the kernel's counts. Runs in a worker, at the start of an incarnation after the first. */
#include "kernel_count.h"

#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

/* States of include/net/tcp_states.h, which is part of the kernel's interface by way of
 * tcpi_state; <netinet/tcp.h> has them too, and can't be included beside <linux/tcp.h>. */
enum {
    ESTABLISHED = 1, FIN_WAIT1 = 4, FIN_WAIT2 = 5, TIME_WAIT = 6, CLOSED = 7, CLOSE_WAIT = 8,
    LAST_ACK = 9, CLOSING = 11,
};

struct counts {
    int state;
    uint64_t received; /* data and FIN */
    uint64_t unread;
    uint64_t acked;    /* SYN, if it was ours, and data */
    uint64_t unacked;
};

/* Two of the numbers come from system calls of their own, while packets go on arriving: asks
 * until nothing has changed in between. */
static int read_counts(int fd, struct counts *counts)
{
    enum { TRIES = 1000 };
    struct tcp_info before, after;
    for (int i = 0; i < TRIES; i++) {
        int unread = 0, unacked = 0;
        socklen_t size = sizeof(before);
        if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &before, &size) < 0)
            return -errno;
        if (ioctl(fd, SIOCINQ, &unread) < 0 || ioctl(fd, SIOCOUTQ, &unacked) < 0)
            return -errno;
        size = sizeof(after);
        if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &after, &size) < 0)
            return -errno;
        if (before.tcpi_state == after.tcpi_state &&
            before.tcpi_bytes_received == after.tcpi_bytes_received &&
            before.tcpi_bytes_acked == after.tcpi_bytes_acked) {
            *counts = (struct counts){before.tcpi_state, before.tcpi_bytes_received,
                                      (uint64_t)unread, before.tcpi_bytes_acked, (uint64_t)unacked};
            return 0;
        }
    }
    return -EBUSY;
}

/* Has the kernel say how much there is to read with each message, or not. */
static int ask_for_inq(int fd, int on)
{
    return setsockopt(fd, IPPROTO_TCP, TCP_INQ, &on, sizeof(on)) < 0 ? -errno : 0;
}

/* Of a closed socket that has `unread` bytes: 1 = a FIN has come, 0 = none has, the connection was
 * reset or timed out. Its pending error does not tell: somebody may have taken it, and one that
 * comes while our own FIN is under way is the same with and without a FIN of the peer's. TCP_INQ
 * counts a FIN that has not been read, and says 1 once it has been (tcp_inq_hint()); SIOCINQ does
 * neither. */
static int fin_received(int fd, uint64_t unread)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    char byte;
    struct iovec data = {.iov_base = &byte, .iov_len = sizeof(byte)};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control.bytes,
                             .msg_controllen = sizeof(control.bytes)};
    int inq = 0, error = ask_for_inq(fd, 1);
    if (error)
        return error;
    ssize_t got;
    do
        got = recvmsg(fd, &message, MSG_PEEK | MSG_DONTWAIT);
    while (got < 0 && errno == EINTR);
    const struct cmsghdr *told = got < 0 ? NULL : CMSG_FIRSTHDR(&message);
    if (told && told->cmsg_level == IPPROTO_TCP && told->cmsg_type == TCP_CM_INQ)
        memcpy(&inq, CMSG_DATA(told), sizeof(inq));
    else if (got >= 0)
        error = -EOPNOTSUPP;
    else if (errno == EAGAIN)
        error = -EAGAIN; /* any other is the reset's, which a read meets only without a FIN */
    if (!error)
        error = ask_for_inq(fd, 0);
    return error ? error : inq > 0 && (uint64_t)inq > unread;
}

int tm_kernel_consumed(int fd, uint64_t before, uint64_t *bytes)
{
    struct counts now = {0};
    int error = read_counts(fd, &now), ended;
    if (error)
        return error;
    if (now.received < now.unread || now.received - now.unread < before)
        return -EUCLEAN;
    uint64_t since = now.received - now.unread - before;
    switch (now.state) {
    case CLOSE_WAIT: case LAST_ACK: case CLOSING: case TIME_WAIT:
        since--; /* FIN. Were it 0, the check below would tell. */
        break;
    case CLOSED:
        /* By two FINs, or by RST, or by both. */
        if (since == 0)
            break;
        ended = fin_received(fd, now.unread);
        if (ended < 0)
            return ended;
        since -= (uint64_t)ended;
        break;
    default:
        break;
    }
    if (since > UINT32_MAX)
        return -EUCLEAN;
    *bytes = since;
    return 0;
}

int tm_kernel_written(int fd, bool we_connected, uint64_t before, uint64_t *bytes)
{
    struct counts now = {0};
    int error = read_counts(fd, &now);
    if (error)
        return error;
    if (now.state == CLOSED) /* what was not acknowledged is not counted any more */
        return -ECONNRESET;
    uint64_t written = now.acked + now.unacked;
    if (written < before + we_connected || written - before - we_connected > UINT32_MAX)
        return -EUCLEAN;
    *bytes = written - before - we_connected;
    return 0;
}

bool tm_kernel_was_reset(int fd, uint64_t received)
{
    struct counts now;
    if (read_counts(fd, &now) != 0 || now.state != CLOSED)
        return false;
    /* An orderly end has counted one more than there were bytes. */
    return now.received - now.unread == received;
}

/* 1, 0, or -1: that can't be told. */
static int fin_sent(int fd)
{
    struct tcp_info info;
    socklen_t size = sizeof(info);
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0)
        return -1;
    switch (info.tcpi_state) {
    case FIN_WAIT1: case FIN_WAIT2: case TIME_WAIT: case CLOSED: case LAST_ACK: case CLOSING:
        return 1;
    default:
        return 0;
    }
}

bool tm_kernel_fin_sent(int fd)
{
    return fin_sent(fd) == 1;
}

bool tm_kernel_fin_missing(int fd)
{
    return fin_sent(fd) == 0;
}

bool tm_kernel_untouched(int fd, bool we_connected)
{
    uint64_t consumed = 0, written = 0;
    int error = tm_kernel_consumed(fd, 0, &consumed);
    if (error == -EOPNOTSUPP || error == -ENOPROTOOPT)
        return true; /* no TCP */
    if (error == 0)
        error = tm_kernel_written(fd, we_connected, 0, &written);
    return error == 0 && consumed == 0 && written == 0;
}

int tm_kernel_piped(int fd)
{
    int bytes = 0;
    return ioctl(fd, FIONREAD, &bytes) < 0 ? -errno : bytes;
}
