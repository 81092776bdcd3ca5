/* The worker's end of its line to the master. */
#include "channel.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int tm_channel_receive(int channel, struct tm_message *message, int *fds, uint32_t *count)
{
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(TM_MESSAGE_FDS * sizeof(int))];
    } control;
    struct iovec data = {.iov_base = message, .iov_len = sizeof(*message)};
    struct msghdr header = {.msg_iov = &data, .msg_iovlen = 1,
                            .msg_control = &control, .msg_controllen = sizeof(control)};
    ssize_t got;
    *count = 0;
    do
        got = recvmsg(channel, &header, MSG_DONTWAIT);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return errno == ECONNRESET ? 0 : -errno;
    for (struct cmsghdr *part = CMSG_FIRSTHDR(&header); part; part = CMSG_NXTHDR(&header, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
            continue;
        *count = (uint32_t)((part->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds, CMSG_DATA(part), *count * sizeof(int));
    }
    bool whole = (size_t)got == sizeof(*message) && !(header.msg_flags & MSG_TRUNC);
    if (whole && !(header.msg_flags & MSG_CTRUNC))
        return 1;
    /* The caller learns of no message, so it would not know whose these are. */
    bool fitting = *count < TM_MESSAGE_FDS;
    while (*count)
        close(fds[--*count]);
    if (whole && fitting)
        return -EMFILE;
    /* The master is of the same build and in the same trust: a short packet is a bug. */
    return got == 0 ? 0 : -EPROTO;
}

int tm_channel_send(int channel, const struct tm_message *message)
{
    ssize_t sent;
    do
        sent = send(channel, message, sizeof(*message), MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : 0;
}

int tm_channel_send_fds(int channel, const struct tm_message *message, const int *fds,
                        uint32_t count)
{
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(TM_MESSAGE_FDS * sizeof(int))];
    } control = {0};
    struct iovec data = {.iov_base = (void *)message, .iov_len = sizeof(*message)};
    struct msghdr header = {.msg_iov = &data, .msg_iovlen = 1};
    assert(count <= TM_MESSAGE_FDS);
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
        sent = sendmsg(channel, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : 0;
}
