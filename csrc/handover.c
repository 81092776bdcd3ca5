/* Sending and receiving connections. Runs in workers. */
#include "handover.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PLACES = 6 }; /* two sockets, two pipes of two ends */

union control {
    struct cmsghdr head;
    char space[CMSG_SPACE(PLACES * sizeof(int))];
};

/* Every place of a record where a descriptor can be, in the order in which they travel. */
static void list_places(struct tm_conn *conn, int32_t *places[PLACES])
{
    places[0] = &conn->fd[0];
    places[1] = &conn->fd[1];
    for (int side = 0; side < 2; side++) {
        places[2 + 2 * side] = &conn->half[side].pipe.in;
        places[3 + 2 * side] = &conn->half[side].pipe.out;
    }
}

int tm_gift_send(int line, const struct tm_gift *gift)
{
    union control control = {0};
    struct iovec data = {.iov_base = (void *)gift, .iov_len = sizeof(*gift)};
    struct msghdr header = {.msg_iov = &data, .msg_iovlen = 1};
    struct tm_conn conn = gift->conn;
    int32_t *places[PLACES];
    int fds[PLACES];
    unsigned count = 0;
    list_places(&conn, places);
    for (int i = 0; i < PLACES && gift->type == TM_GIVE; i++)
        if (*places[i] >= 0)
            fds[count++] = *places[i];
    if (count) {
        header.msg_control = &control;
        header.msg_controllen = CMSG_SPACE(count * sizeof(int));
        control.head.cmsg_level = SOL_SOCKET;
        control.head.cmsg_type = SCM_RIGHTS;
        control.head.cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(&control.head), fds, count * sizeof(int));
    }
    ssize_t sent;
    do
        sent = sendmsg(line, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    if (sent >= 0)
        return 0;
    /* Too many descriptors under way: the taker has to take some first (unix(7)). */
    return errno == ETOOMANYREFS || errno == ENOBUFS || errno == ENOMEM ? -EAGAIN : -errno;
}

/* Puts the descriptors that came to where the sender had some. */
static void place(struct tm_gift *gift, const int *fds, unsigned count)
{
    int32_t *places[PLACES];
    unsigned wanted = 0;
    list_places(&gift->conn, places);
    for (int i = 0; i < PLACES; i++)
        wanted += *places[i] >= 0;
    bool whole = wanted == count;
    for (int i = 0; i < PLACES; i++)
        if (*places[i] >= 0)
            *places[i] = whole ? *fds++ : -1;
    while (!whole && count)
        close(fds[--count]);
}

int tm_gift_receive(int line, struct tm_gift *gift)
{
    union control control;
    struct iovec data = {.iov_base = gift, .iov_len = sizeof(*gift)};
    struct msghdr header = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control,
                            .msg_controllen = sizeof(control)};
    int fds[PLACES];
    unsigned count = 0;
    ssize_t got;
    do
        got = recvmsg(line, &header, MSG_DONTWAIT);
    /* ECONNRESET: the other end has closed with something unread. It is told once, and before
     * what was sent ahead of it. */
    while (got < 0 && (errno == EINTR || errno == ECONNRESET));
    if (got < 0)
        return -errno;
    for (struct cmsghdr *part = CMSG_FIRSTHDR(&header); part; part = CMSG_NXTHDR(&header, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
            continue;
        count = (unsigned)((part->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds, CMSG_DATA(part), count * sizeof(int));
    }
    if ((size_t)got == sizeof(*gift) && gift->type == TM_GIVE) {
        place(gift, fds, count);
        return 1;
    }
    while (count)
        close(fds[--count]);
    return (size_t)got == sizeof(*gift) ? 1 : got == 0 ? 0 : -EPROTO;
}

void tm_gift_close(struct tm_gift *gift)
{
    int32_t *places[PLACES];
    list_places(&gift->conn, places);
    for (int i = 0; i < PLACES; i++) {
        if (*places[i] >= 0)
            close(*places[i]);
        *places[i] = -1;
    }
}
