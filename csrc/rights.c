/* Passing descriptors between processes (unix(7), SCM_RIGHTS). */
#include "rights.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

union control {
    struct cmsghdr head;
    char space[CMSG_SPACE(TM_RIGHTS_MAX * sizeof(int))];
};

static ssize_t send_with(int line, const void *data, size_t size, const int *fds, uint32_t count)
{
    union control control;
    struct iovec part = {.iov_base = (void *)data, .iov_len = size};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
                            .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    assert(count <= TM_RIGHTS_MAX);
    memset(&control, 0, header.msg_controllen);
    control.head.cmsg_level = SOL_SOCKET;
    control.head.cmsg_type = SCM_RIGHTS;
    control.head.cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(&control.head), fds, count * sizeof(int));
    return sendmsg(line, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
}

int tm_rights_send(int line, const void *data, size_t size, const int *fds, uint32_t count)
{
    ssize_t sent;
    do
        sent = count ? send_with(line, data, size, fds, count)
                     : send(line, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : 0;
}

int tm_rights_receive(int line, void *data, size_t size, int *fds, struct tm_received *received)
{
    union control control;
    struct iovec part = {.iov_base = data, .iov_len = size};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
                            .msg_controllen = sizeof(control)};
    ssize_t got;
    do
        got = recvmsg(line, &header, MSG_DONTWAIT);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return -errno;
    *received = (struct tm_received){
        .size = (size_t)got,
        .cut = header.msg_flags & MSG_TRUNC,
        .fds_lost = header.msg_flags & MSG_CTRUNC,
    };
    for (struct cmsghdr *of = CMSG_FIRSTHDR(&header); of; of = CMSG_NXTHDR(&header, of)) {
        if (of->cmsg_level != SOL_SOCKET || of->cmsg_type != SCM_RIGHTS)
            continue;
        received->count = (uint32_t)((of->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds, CMSG_DATA(of), received->count * sizeof(int));
    }
    return 0;
}
