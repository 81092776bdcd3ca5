/* Tests csrc/sock on loopback: accept, connect in all its outcomes, FIN, RST, what is under
 * way, and which errors are this host's own. Runs alone, under sanitizers. */
#include "sock.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "check.h"
#include "pairs.h"

/* What tm_sock_connect() takes, for the address `fd` is bound to. */
static struct tm_address bound_address(int fd)
{
    struct tm_address address = {.length = sizeof(address) - offsetof(struct tm_address, any)};
    CHECK(getsockname(fd, &address.any, &address.length) == 0);
    return address;
}

static struct tm_address unix_address(const char *path)
{
    struct tm_address address = {.un = {.sun_family = AF_UNIX}};
    snprintf(address.un.sun_path, sizeof(address.un.sun_path), "%s", path);
    address.length = sizeof(address.un);
    return address;
}

static int listen_on(const struct tm_address *address, int backlog)
{
    int fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0 && bind(fd, &address->any, address->length) == 0 && listen(fd, backlog) == 0);
    return fd;
}

static bool flags_right(int fd)
{
    return (fcntl(fd, F_GETFL) & O_NONBLOCK) && !(fcntl(fd, F_GETFD) & FD_CLOEXEC);
}

static int no_delay(int fd)
{
    int on = -1;
    socklen_t size = sizeof(on);
    CHECK(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, &size) == 0);
    return on;
}

/* Connects to `address`, which listens on `listener`; *peer as accept told it. */
static void connect_and_accept(const struct tm_address *address, int listener, int ends[2],
                               struct tm_peer *peer)
{
    memset(peer, 0xee, sizeof(*peer));
    ends[0] = tm_sock_connect(address, false);
    CHECK(ends[0] >= 0);
    CHECK(wait_events(listener, POLLIN) & POLLIN);
    ends[1] = tm_sock_accept(listener, peer);
    CHECK(ends[1] >= 0);
    CHECK(flags_right(ends[0]) && flags_right(ends[1]));
    CHECK(wait_events(ends[0], POLLOUT) == POLLOUT);
    CHECK(tm_sock_established(ends[0]) == 1 && tm_sock_error(ends[0]) == 0);
    CHECK(tm_sock_accept(listener, peer) == -EAGAIN);
}

static void close_both(const int ends[2])
{
    CHECK(close(ends[0]) == 0 && close(ends[1]) == 0);
}

static void accept_names_an_ipv4_peer(void)
{
    struct sockaddr_in in;
    struct tm_peer peer, expected = {.family = AF_INET, .ip = {127, 0, 0, 1}};
    int ends[2], on = 1, listener = listen_loopback(&in, 0);
    CHECK(setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) == 0);
    struct tm_address address = bound_address(listener), from;
    CHECK(tm_sock_accept(listener, &peer) == -EAGAIN);
    connect_and_accept(&address, listener, ends, &peer);
    from = bound_address(ends[0]);
    expected.port = ntohs(from.in.sin_port);
    CHECK(expected.port != 0);
    CHECK(memcmp(&peer, &expected, sizeof(peer)) == 0); /* and the rest of ip is zero */
    CHECK(no_delay(ends[0]) == 1 && no_delay(ends[1]) == 1);
    /* Asking whether it is established has sent nothing. */
    CHECK_EQUAL(readable_bytes(ends[1]), 0);
    close_both(ends);
    close(listener);
}

static void accept_names_an_ipv6_peer(void)
{
    struct tm_address address = {.length = sizeof(address.in6)};
    struct tm_peer peer;
    int ends[2];
    address.in6 = (struct sockaddr_in6){.sin6_family = AF_INET6};
    address.in6.sin6_addr = in6addr_loopback;
    int probe = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (probe < 0 || bind(probe, &address.any, address.length) < 0) {
        fprintf(stderr, "    skipped: no IPv6 loopback here\n");
        if (probe >= 0)
            close(probe);
        return;
    }
    close(probe);
    int listener = listen_on(&address, 16);
    address = bound_address(listener);
    connect_and_accept(&address, listener, ends, &peer);
    CHECK_EQUAL(peer.family, AF_INET6);
    CHECK_EQUAL(peer.port, ntohs(bound_address(ends[0]).in6.sin6_port));
    CHECK(memcmp(peer.ip, &in6addr_loopback, sizeof(peer.ip)) == 0);
    CHECK(no_delay(ends[0]) == 1);
    close_both(ends);
    close(listener);
}

static void a_unix_peer_has_a_family_only(void)
{
    struct tm_address address = unix_address("peer.sock");
    struct tm_peer peer, expected = {.family = AF_UNIX};
    int ends[2], listener = listen_on(&address, 16);
    connect_and_accept(&address, listener, ends, &peer);
    CHECK(memcmp(&peer, &expected, sizeof(peer)) == 0);
    tm_peer_from(&peer, &address);
    CHECK(memcmp(&peer, &expected, sizeof(peer)) == 0);
    close_both(ends);
    close(listener);
    CHECK(unlink("peer.sock") == 0);
}

static void accept_says_what_is_wrong_with_the_host(void)
{
    struct sockaddr_in in;
    struct tm_peer peer;
    int status, listener = listen_loopback(&in, 0);
    struct tm_address address = bound_address(listener);
    CHECK(tm_sock_accept(-1, &peer) == -EBADF);
    int client = tm_sock_connect(&address, false);
    CHECK(client >= 0);
    CHECK(wait_events(listener, POLLIN) & POLLIN);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        struct rlimit none = {0, 0};
        CHECK(setrlimit(RLIMIT_NOFILE, &none) == 0);
        CHECK(tm_sock_accept(listener, &peer) == -EMFILE);
        CHECK(tm_sock_connect(&address, false) == -EMFILE);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    int fd = tm_sock_accept(listener, &peer); /* it stayed in the queue */
    CHECK(fd >= 0);
    close(fd);
    close(client);
    close(listener);
}

static void a_refused_connect_says_so(void)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int bound = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0); /* bound, never listening */
    CHECK(bound >= 0 && bind(bound, (struct sockaddr *)&in, sizeof(in)) == 0);
    struct tm_address address = bound_address(bound);
    uint32_t before = open_descriptors();
    int fd = tm_sock_connect(&address, false);
    if (fd >= 0) {
        CHECK(wait_events(fd, POLLOUT) & POLLERR);
        CHECK(tm_sock_established(fd) == -ECONNREFUSED);
        CHECK(tm_sock_established(fd) < 0); /* once failed, never established */
        close(fd);
    } else {
        CHECK(fd == -ECONNREFUSED);
    }
    CHECK_EQUAL(open_descriptors(), before);
    close(bound);
}

static void a_unix_connect_fails_at_once(void)
{
    struct tm_address gone = unix_address("nowhere.sock"), full = unix_address("full.sock");
    uint32_t before = open_descriptors();
    CHECK(tm_sock_connect(&gone, false) == -ENOENT);
    int listener = listen_on(&full, 0), fds[8], count = 0;
    while (count < 8 && (fds[count] = tm_sock_connect(&full, false)) >= 0)
        count++;
    CHECK(count > 0 && count < 8);
    CHECK(fds[count] == -EAGAIN); /* its queue is full: no waiting for UNIX sockets */
    while (count)
        close(fds[--count]);
    close(listener);
    CHECK(tm_sock_connect(&full, false) == -ECONNREFUSED);
    CHECK(unlink("full.sock") == 0);
    CHECK_EQUAL(open_descriptors(), before);
}

static void an_unknown_family_is_an_error(void)
{
    struct tm_address address = {.length = sizeof(address.any)};
    uint32_t before = open_descriptors();
    address.any.sa_family = 200;
    CHECK(tm_sock_connect(&address, false) == -EAFNOSUPPORT);
    CHECK_EQUAL(open_descriptors(), before);
}

static void a_connect_under_way_is_neither(void)
{
    /* A full accept queue drops the SYN, so the connect waits for its second one, after 1 s. */
    enum { MAX_ADDRESSES = 8 };
    struct sockaddr_in in;
    struct tm_peer peer;
    int fds[MAX_ADDRESSES], count = 0, listener = listen_loopback(&in, 0);
    struct tm_address address = bound_address(listener);
    CHECK(listen(listener, 0) == 0);
    for (;;) {
        CHECK(count < MAX_ADDRESSES);
        fds[count] = tm_sock_connect(&address, false);
        CHECK(fds[count] >= 0);
        if (tm_sock_established(fds[count]) == 0)
            break;
        tm_sock_acknowledge(fds[count++]);
    }
    int waiting = fds[count++];
    CHECK(tm_sock_established(waiting) == 0 && tm_sock_error(waiting) == 0);
    for (int i = 0; i < count - 1; i++) {
        int fd = tm_sock_accept(listener, &peer);
        CHECK(fd >= 0);
        close(fd);
    }
    CHECK(wait_events(waiting, POLLOUT) == POLLOUT);
    CHECK(tm_sock_established(waiting) == 1);
    while (count)
        close(fds[--count]);
    close(listener);
}

static void the_handshake_ends_with_the_first_data(void)
{
    struct sockaddr_in in;
    struct tm_peer peer;
    int listener = listen_loopback(&in, 4);
    struct tm_address address = bound_address(listener);
    for (int silent = 0; silent < 2; silent++) {
        int fd = tm_sock_connect(&address, false);
        CHECK(fd >= 0 && tm_sock_established(fd) == 1);
        CHECK(tm_sock_accept(listener, &peer) == -EAGAIN); /* its ACK is still to come */
        if (!silent)
            CHECK(send(fd, "x", 1, 0) == 1);
        tm_sock_acknowledge(fd);
        int other = tm_sock_accept(listener, &peer);
        CHECK(other >= 0);
        char byte;
        CHECK(recv(other, &byte, 1, MSG_DONTWAIT) == (silent ? -1 : 1));
        close(other);
        close(fd);
    }
    close(listener);
}

static void congestion_of(int fd, char name[16])
{
    socklen_t size = 15;
    memset(name, 0, 16);
    CHECK(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &size) == 0);
}

static void only_peers_on_this_host_are_not_paced(void)
{
    static const struct {
        uint16_t family;
        unsigned char ip[16];
        bool here;
    } PEERS[] = {
        {AF_INET, {127, 9, 9, 9}, true},
        {AF_INET, {192, 0, 2, 1}, false},
        {AF_INET6, {[15] = 1}, true},
        {AF_INET6, {[10] = 0xff, [11] = 0xff, [12] = 127, [15] = 1}, true},
        {AF_INET6, {[10] = 0xff, [11] = 0xff, [12] = 192, [15] = 1}, false},
        {AF_INET6, {0x20, 0x01, [15] = 1}, false},
        {AF_UNIX, {0}, false},
    };
    for (size_t i = 0; i < sizeof(PEERS) / sizeof(PEERS[0]); i++) {
        struct tm_peer peer = {.family = PEERS[i].family};
        char before[16], after[16];
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        CHECK(fd >= 0);
        memcpy(peer.ip, PEERS[i].ip, sizeof(peer.ip));
        congestion_of(fd, before);
        CHECK(tm_sock_host_paces() == (strcmp(before, "reno") != 0 && strcmp(before, "cubic") != 0));
        tm_sock_do_not_pace(fd, &peer);
        congestion_of(fd, after);
        CHECK(strcmp(after, PEERS[i].here ? "reno" : before) == 0);
        close(fd);
    }
}

static void a_peer_that_has_sent_fin_is_still_established(void)
{
    int ends[2];
    make_pair(AF_INET, ends, 0);
    CHECK(tm_sock_shut_write(ends[0]) == 0);
    CHECK(wait_events(ends[1], POLLRDHUP) & POLLRDHUP);
    CHECK(tm_sock_established(ends[1]) == 1);
    close_both(ends);
}

static void a_unix_peer_that_has_closed_was_established(void)
{
    struct tm_address address = unix_address("brief.sock");
    struct tm_peer peer;
    char data[8];
    int listener = listen_on(&address, 16);
    int fd = tm_sock_connect(&address, false), brief = tm_sock_accept(listener, &peer);
    CHECK(fd >= 0 && brief >= 0);
    CHECK(send(brief, "busy", 4, 0) == 4);
    close(brief);
    CHECK(tm_sock_established(fd) == 1);
    CHECK(recv(fd, data, sizeof(data), 0) == 4);
    CHECK(recv(fd, data, sizeof(data), 0) == 0);
    close(fd);

    /* One that was never taken from the queue has failed. */
    fd = tm_sock_connect(&address, false);
    CHECK(fd >= 0);
    close(listener);
    CHECK(tm_sock_established(fd) == -ECONNRESET);
    close(fd);
}

static void shut_write_ends_one_direction(void)
{
    static const int families[] = {AF_INET, AF_UNIX};
    for (int k = 0; k < 2; k++) {
        int ends[2];
        char data[8];
        make_pair(families[k], ends, 0);
        CHECK(send(ends[0], "last", 4, 0) == 4);
        CHECK(tm_sock_shut_write(ends[0]) == 0);
        CHECK(tm_sock_shut_write(ends[0]) == 0); /* twice is no harm */
        wait_readable_bytes(ends[1], 4);
        CHECK(recv(ends[1], data, sizeof(data), 0) == 4);
        CHECK(wait_events(ends[1], POLLIN) & POLLIN);
        CHECK(recv(ends[1], data, sizeof(data), 0) == 0);
        CHECK(send(ends[1], "answer", 6, 0) == 6);
        wait_readable_bytes(ends[0], 6);
        CHECK(recv(ends[0], data, sizeof(data), 0) == 6);
        close_both(ends);
    }
    CHECK(tm_sock_shut_write(-1) == -EBADF);
}

static void reset_reaches_the_peer_as_such(void)
{
    int ends[2];
    char data[4];
    make_pair(AF_INET, ends, 0);
    CHECK(send(ends[1], "unread", 6, 0) == 6);
    tm_sock_reset(ends[0]);
    CHECK(fcntl(ends[0], F_GETFD) == -1 && errno == EBADF);
    CHECK(wait_events(ends[1], POLLIN) & POLLERR);
    CHECK(tm_sock_error(ends[1]) == -ECONNRESET);
    CHECK(tm_sock_error(ends[1]) == 0); /* reading it has cleared it */
    CHECK(tm_sock_shut_write(ends[1]) == -ENOTCONN);
    CHECK(tm_sock_established(ends[1]) == -EPIPE);
    close(ends[1]);

    make_pair(AF_INET, ends, 0);
    tm_sock_reset(ends[0]);
    CHECK(wait_events(ends[1], POLLIN) & POLLERR);
    CHECK(recv(ends[1], data, sizeof(data), 0) == -1 && errno == ECONNRESET);
    close(ends[1]);

    make_pair(AF_UNIX, ends, 0);
    tm_sock_reset(ends[0]); /* these know no reset: the end is an end */
    CHECK(wait_events(ends[1], POLLIN) & POLLHUP);
    CHECK(recv(ends[1], data, sizeof(data), 0) == 0);
    close(ends[1]);
}

static void an_answer_outlives_a_reset(void)
{
    int ends[2];
    make_pair(AF_INET, ends, 0);
    CHECK(!tm_sock_has_answered(ends[1]));
    CHECK(send(ends[0], "busy", 4, 0) == 4);
    CHECK(wait_events(ends[1], POLLIN) & POLLIN);
    tm_sock_reset(ends[0]);
    CHECK(wait_events(ends[1], 0) & POLLERR);
    CHECK(tm_sock_established(ends[1]) == -ECONNRESET);
    CHECK(tm_sock_has_answered(ends[1]));
    close(ends[1]);
    CHECK(!tm_sock_has_answered(-1));
}

static void only_a_close_of_a_unix_peer_is_told_from_a_half_close(void)
{
    static const int families[] = {AF_INET, AF_UNIX};
    for (int k = 0; k < 2; k++) {
        int ends[2];
        make_pair(families[k], ends, 0);
        CHECK(!tm_sock_closed_by_peer(ends[0]));
        CHECK(tm_sock_not_shut(ends[1]) == (families[k] == AF_UNIX));
        CHECK(tm_sock_shut_write(ends[1]) == 0);
        CHECK(!tm_sock_not_shut(ends[1])); /* and of TCP it is not for this to say */
        CHECK(wait_events(ends[0], POLLIN) & POLLIN);
        CHECK(!tm_sock_closed_by_peer(ends[0]));
        close(ends[1]);
        CHECK(tm_sock_closed_by_peer(ends[0]) == (families[k] == AF_UNIX));
        close(ends[0]);
    }
    CHECK(!tm_sock_closed_by_peer(-1) && !tm_sock_not_shut(-1));
}

static void what_is_under_way_is_counted(void)
{
    static const int families[] = {AF_INET, AF_UNIX};
    static char block[16384];
    for (int k = 0; k < 2; k++) {
        int ends[2];
        ssize_t sent, received = 0, total = 0;
        make_pair(families[k], ends, 8192);
        CHECK_EQUAL(tm_sock_unacknowledged(ends[0]), 0);
        while ((sent = send(ends[0], block, sizeof(block), MSG_NOSIGNAL)) > 0)
            total += sent;
        CHECK(errno == EAGAIN && total > 0);
        /* Nothing overtakes what is in a UNIX socket: it is with the peer already. */
        CHECK((tm_sock_unacknowledged(ends[0]) > 0) == (families[k] != AF_UNIX));
        uint64_t deadline = now_ms() + (uint64_t)DEADLINE_MS;
        while (received < total || tm_sock_unacknowledged(ends[0])) {
            ssize_t got = recv(ends[1], block, sizeof(block), 0);
            received += got > 0 ? got : 0;
            CHECK(now_ms() < deadline);
        }
        CHECK(received == total);
        close_both(ends);
    }
    CHECK_EQUAL(tm_sock_unacknowledged(-1), 0);
}

static void no_socket_and_no_connection_are_errors(void)
{
    CHECK(tm_sock_error(-1) == -EBADF);
    CHECK(tm_sock_established(-1) == -EBADF);
    int never_connected = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(never_connected >= 0);
    CHECK(tm_sock_established(never_connected) == -ENOTCONN);
    close(never_connected);
}

static void only_failures_of_this_host_are_local(void)
{
    static const int local[] = {EADDRNOTAVAIL, EADDRINUSE, EMFILE, ENFILE, ENOBUFS,
                                ENOMEM, EACCES, EPERM};
    for (int error = 0; error < 140; error++) {
        bool expected = false;
        for (size_t k = 0; k < sizeof(local) / sizeof(local[0]); k++)
            expected |= local[k] == error;
        if (tm_sock_local_failure(error) != expected)
            fprintf(stderr, "    %d (%s)\n", error, strerror(error));
        CHECK(tm_sock_local_failure(error) == expected);
    }
}

int main(void)
{
    uint32_t before = open_descriptors();
    RUN(accept_names_an_ipv4_peer);
    RUN(accept_names_an_ipv6_peer);
    RUN(a_unix_peer_has_a_family_only);
    RUN(accept_says_what_is_wrong_with_the_host);
    RUN(a_refused_connect_says_so);
    RUN(a_unix_connect_fails_at_once);
    RUN(an_unknown_family_is_an_error);
    RUN(a_connect_under_way_is_neither);
    RUN(the_handshake_ends_with_the_first_data);
    RUN(only_peers_on_this_host_are_not_paced);
    RUN(a_peer_that_has_sent_fin_is_still_established);
    RUN(a_unix_peer_that_has_closed_was_established);
    RUN(shut_write_ends_one_direction);
    RUN(reset_reaches_the_peer_as_such);
    RUN(an_answer_outlives_a_reset);
    RUN(only_a_close_of_a_unix_peer_is_told_from_a_half_close);
    RUN(what_is_under_way_is_counted);
    RUN(no_socket_and_no_connection_are_errors);
    RUN(only_failures_of_this_host_are_local);
    CHECK_EQUAL(open_descriptors(), before);
    return 0;
}
