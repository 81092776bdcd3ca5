/* Socket calls of the relay. Runs in a worker. */
#include "sock.h"

#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

void tm_peer_from(struct tm_peer *peer, const struct tm_address *address)
{
    *peer = (struct tm_peer){.family = address->any.sa_family};
    if (peer->family == AF_INET) {
        peer->port = ntohs(address->in.sin_port);
        memcpy(peer->ip, &address->in.sin_addr, sizeof(address->in.sin_addr));
    } else if (peer->family == AF_INET6) {
        peer->port = ntohs(address->in6.sin6_port);
        memcpy(peer->ip, &address->in6.sin6_addr, sizeof(address->in6.sin6_addr));
    }
}

bool tm_sock_host_paces(void)
{
    char name[16] = ""; /* TCP_CA_NAME_MAX */
    socklen_t size = sizeof(name) - 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    bool known = getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &size) == 0;
    close(fd);
    return known && strcmp(name, "reno") != 0 && strcmp(name, "cubic") != 0;
}

static bool is_loopback(const struct tm_peer *peer)
{
    static const unsigned char ONE[16] = {[15] = 1}, MAPPED[12] = {[10] = 0xff, [11] = 0xff};
    if (peer->family == AF_INET)
        return peer->ip[0] == IN_LOOPBACKNET;
    return peer->family == AF_INET6 &&
           (memcmp(peer->ip, ONE, sizeof(ONE)) == 0 ||
            (memcmp(peer->ip, MAPPED, sizeof(MAPPED)) == 0 && peer->ip[12] == IN_LOOPBACKNET));
}

void tm_sock_do_not_pace(int fd, const struct tm_peer *peer)
{
    /* Reno is in every kernel and allowed to everybody; where it is not, nothing is lost. */
    if (is_loopback(peer))
        setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
}

int tm_sock_accept(int listener, struct tm_peer *peer)
{
    enum { TRIES = 32 }; /* a firewall's EPERM may not go away by itself */
    struct tm_address from;
    for (int tries = 1;; tries++) {
        from.length = sizeof(from) - offsetof(struct tm_address, any);
        from.any.sa_family = AF_UNSPEC;
        int fd = accept4(listener, &from.any, &from.length, SOCK_NONBLOCK);
        if (fd >= 0) {
            tm_peer_from(peer, &from);
            return fd;
        }
        /* Linux hands errors of the connection itself to accept (accept(2)):
         * that one is gone, the next may be a good one. */
        switch (errno) {
        case EINTR: case ECONNABORTED: case EPROTO: case ENETDOWN: case ENOPROTOOPT:
        case EHOSTDOWN: case ENONET: case EHOSTUNREACH: case EOPNOTSUPP: case ENETUNREACH:
        case ETIMEDOUT: case EPERM:
            if (tries < TRIES)
                continue;
            return -errno;
        default:
            return -errno;
        }
    }
}

bool tm_sock_missing_loopback(const struct tm_address *address)
{
    struct tm_address any_port = *address;
    struct tm_peer peer;
    tm_peer_from(&peer, address);
    if (!is_loopback(&peer))
        return false;
    if (peer.family == AF_INET)
        any_port.in.sin_port = 0;
    else
        any_port.in6.sin6_port = 0;
    int fd = socket(peer.family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    bool missing = bind(fd, &any_port.any, any_port.length) < 0 && errno == EADDRNOTAVAIL;
    close(fd);
    return missing;
}

int tm_sock_connect(const struct tm_address *address, bool unpaced)
{
    struct tm_peer peer;
    int on = 1, off = 0, error;
    sa_family_t family = address->any.sa_family;
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (family != AF_UNIX)
        setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &off, sizeof(off));
    if (family != AF_UNIX && setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0)
        goto fail;
    if (unpaced) {
        tm_peer_from(&peer, address);
        tm_sock_do_not_pace(fd, &peer);
    }
    if (connect(fd, &address->any, address->length) == 0 || errno == EINPROGRESS || errno == EINTR)
        return fd;
fail:
    error = errno;
    close(fd);
    return error == EADDRNOTAVAIL && tm_sock_missing_loopback(address) ? -ENETUNREACH : -error;
}

void tm_sock_acknowledge(int fd)
{
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof(on));
}

static bool is_unix(int fd)
{
    int family = 0;
    socklen_t size = sizeof(family);
    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &size) == 0 && family == AF_UNIX;
}

int tm_sock_established(int fd)
{
    /* A send of nothing goes through the state checks of a real one. */
    if (send(fd, "", 0, MSG_NOSIGNAL | MSG_DONTWAIT) == 0)
        return 1;
    if (errno == EPIPE) {
        if (is_unix(fd)) {
            /* Connected for sure, and closed by the peer since: its bytes and its end are
             * still to be read. An error besides: closed while it was in the queue. */
            int error = tm_sock_error(fd);
            return error < 0 ? error : 1;
        }
        return -EPIPE;
    }
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? 0 : -errno;
}

bool tm_sock_connect_failed(int fd)
{
    enum { CLOSED = 7 }; /* net/tcp_states.h; <netinet/tcp.h> has not all of tcp_info */
    struct tcp_info info;
    struct tm_address peer = {.length = sizeof(peer) - offsetof(struct tm_address, any)};
    socklen_t size = sizeof(info);
    if (is_unix(fd))
        return getpeername(fd, &peer.any, &peer.length) < 0;
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 && info.tcpi_state == CLOSED;
}

int tm_sock_error(int fd)
{
    int error = 0;
    socklen_t size = sizeof(error);
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
        return -errno;
    return -error;
}

int tm_sock_shut_write(int fd)
{
    return shutdown(fd, SHUT_WR) < 0 ? -errno : 0;
}

ssize_t tm_sock_peek(int fd, unsigned char *bytes, size_t size)
{
    ssize_t got;
    do
        got = recv(fd, bytes, size, MSG_PEEK | MSG_DONTWAIT);
    while (got < 0 && errno == EINTR);
    return got < 0 ? -errno : got;
}

bool tm_sock_has_answered(int fd)
{
    unsigned char byte;
    return tm_sock_peek(fd, &byte, 1) == 1;
}

bool tm_sock_input_ends(int fd)
{
    struct pollfd asked = {.fd = fd, .events = POLLRDHUP};
    return poll(&asked, 1, 0) == 1;
}

uint32_t tm_sock_wait_for(int fd, uint32_t bytes)
{
    int wanted = (int)bytes, made = 0;
    socklen_t size = sizeof(made);
    /* It looks at what is there already, and makes room where it may. */
    if (setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &wanted, sizeof(wanted)) < 0 ||
        getsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &made, &size) < 0)
        return bytes; /* without SO_RCVLOWAT it is reported readable at any byte */
    return (uint32_t)made;
}

bool tm_sock_closed_by_peer(int fd)
{
    return is_unix(fd) && send(fd, "", 0, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno == EPIPE;
}

bool tm_sock_not_shut(int fd)
{
    return is_unix(fd) && send(fd, "", 0, MSG_NOSIGNAL | MSG_DONTWAIT) == 0;
}

uint32_t tm_sock_unacknowledged(int fd)
{
    uint32_t bytes = is_unix(fd) ? 0 : tm_sock_outstanding(fd);
    return bytes == UINT32_MAX ? 0 : bytes;
}

uint32_t tm_sock_outstanding(int fd)
{
    int bytes = 0;
    return ioctl(fd, SIOCOUTQ, &bytes) < 0 || bytes < 0 ? UINT32_MAX : (uint32_t)bytes;
}

void tm_sock_bound_unsent(int fd, uint32_t unsent)
{
    setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof(unsent));
}

/* Linux 5.14: what SO_SNDBUF and SO_RCVBUF set besides the size, alone and to be undone. */
enum { BUF_LOCK = 72, RCVBUF_LOCK = 2 };

bool tm_sock_bound_unread(int fd)
{
    int lock = 0;
    socklen_t size = sizeof(lock);
    if (getsockopt(fd, SOL_SOCKET, BUF_LOCK, &lock, &size) < 0 || lock & RCVBUF_LOCK)
        return false;
    lock |= RCVBUF_LOCK;
    return setsockopt(fd, SOL_SOCKET, BUF_LOCK, &lock, sizeof(lock)) == 0;
}

void tm_sock_unbind_unread(int fd)
{
    int lock = 0;
    socklen_t size = sizeof(lock);
    if (getsockopt(fd, SOL_SOCKET, BUF_LOCK, &lock, &size) == 0) {
        lock &= ~RCVBUF_LOCK;
        setsockopt(fd, SOL_SOCKET, BUF_LOCK, &lock, sizeof(lock));
    }
}

uint64_t tm_sock_held(int fd)
{
    enum { MEMINFO = 55, RECEIVED = 0, WRITTEN = 5, WORDS = 9 }; /* linux/sock_diag.h */
    uint32_t words[WORDS] = {0};
    socklen_t size = sizeof(words);
    if (getsockopt(fd, SOL_SOCKET, MEMINFO, words, &size) < 0)
        return 0;
    return (uint64_t)words[RECEIVED] + words[WRITTEN];
}

bool tm_sock_send_whole(int fd, const unsigned char *bytes, size_t size)
{
    ssize_t sent;
    do
        sent = send(fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent == (ssize_t)size;
}

uint32_t tm_sock_unread(int fd)
{
    int bytes = 0;
    return ioctl(fd, SIOCINQ, &bytes) < 0 || bytes < 0 ? 0 : (uint32_t)bytes;
}

uint32_t tm_sock_sent_ago(int fd)
{
    struct tcp_info info;
    socklen_t size = sizeof(info);
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0 ? UINT32_MAX
                                                                  : info.tcpi_last_data_sent;
}

bool tm_sock_acknowledged(int fd, uint32_t *bytes)
{
    struct tcp_info info = {0};
    socklen_t size = sizeof(info);
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0)
        return false;
    *bytes = (uint32_t)info.tcpi_bytes_acked;
    return true;
}

void tm_sock_will_reset(int fd)
{
    struct linger now = {.l_onoff = 1, .l_linger = 0};
    struct sockaddr nobody = {.sa_family = AF_UNSPEC};
    /* A control group's program may refuse any option. Then at once (tcp_disconnect of Linux):
     * later close would say FIN. */
    if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now)) < 0)
        (void)connect(fd, &nobody, sizeof(nobody));
}

void tm_sock_reset(int fd)
{
    tm_sock_will_reset(fd);
    close(fd);
}

void tm_sock_keep_alive(int fd, int idle_s, int interval_s, int count, int user_timeout_ms)
{
    int on = 1;
    unsigned int timeout = (unsigned int)user_timeout_ms;
    if (is_unix(fd))
        return;
    if (idle_s) {
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    }
    if (timeout)
        setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof(timeout));
}

bool tm_sock_is_connection(int fd, struct tm_peer *peer)
{
    struct tm_address from = {.length = sizeof(from) - offsetof(struct tm_address, any)};
    if (getpeername(fd, &from.any, &from.length) < 0)
        return false;
    tm_peer_from(peer, &from);
    return true;
}

void tm_sock_local(int fd, struct tm_peer *local)
{
    struct tm_address address = {.length = sizeof(address) - offsetof(struct tm_address, any)};
    *local = (struct tm_peer){.family = AF_UNSPEC};
    if (getsockname(fd, &address.any, &address.length) == 0)
        tm_peer_from(local, &address);
}

bool tm_sock_peer_is(int fd, uid_t uid)
{
    struct ucred peer;
    socklen_t size = sizeof(peer);
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
           (peer.uid == 0 || peer.uid == uid);
}

bool tm_sock_local_failure(int error)
{
    switch (error) {
    case EADDRNOTAVAIL: case EADDRINUSE: case EMFILE: case ENFILE: case ENOBUFS: case ENOMEM:
    case EACCES: case EPERM:
        return true;
    default:
        return false;
    }
}
