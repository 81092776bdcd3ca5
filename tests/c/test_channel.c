/* Tests csrc/channel: messages and descriptors between master and worker, and what happens to
 * descriptors that come with a malformed packet. Runs alone, under sanitizers. */
#include "channel.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"

enum { MASTER = 0, WORKER = 1, SCM_MAX = 253 };

static void open_channel(int line[2])
{
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, line) == 0);
}

static void close_both(const int line[2])
{
    CHECK(close(line[0]) == 0 && close(line[1]) == 0);
}

/* Sends one packet of `size` bytes with `count` copies of `fd`, as the master does. */
static void send_packet(int line, const void *data, size_t size, int fd, uint32_t count)
{
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(SCM_MAX * sizeof(int))];
    } control = {0};
    struct iovec part = {.iov_base = (void *)data, .iov_len = size};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    int fds[SCM_MAX];
    CHECK(count <= SCM_MAX);
    for (uint32_t i = 0; i < count; i++)
        fds[i] = fd;
    if (count) {
        header.msg_control = &control;
        header.msg_controllen = CMSG_SPACE(count * sizeof(int));
        control.head = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS,
                                        .cmsg_len = CMSG_LEN(count * sizeof(int))};
        memcpy(CMSG_DATA(&control.head), fds, count * sizeof(int));
    }
    CHECK(sendmsg(line, &header, MSG_NOSIGNAL) == (ssize_t)size);
}

static void messages_pass_whole_and_in_order(void)
{
    int line[2], fds[TM_MESSAGE_FDS];
    uint32_t count;
    open_channel(line);
    for (uint32_t type = TM_MESSAGE_ADD; type <= TM_MESSAGE_REMOVED; type++) {
        struct tm_message sent = {.type = type, .listener = type * 3, .first = type * 5,
                                  .shared = type & 1, .value = UINT64_MAX - type};
        CHECK(tm_channel_send(line[type & 1], &sent) == 0);
        struct tm_message got = {0};
        count = 99;
        CHECK(tm_channel_receive(line[!(type & 1)], &got, fds, &count) == 1);
        CHECK(memcmp(&sent, &got, sizeof(sent)) == 0);
        CHECK_EQUAL(count, 0);
    }
    struct tm_message sent = {.type = TM_MESSAGE_SEEN}, got;
    for (sent.value = 1; sent.value <= 20; sent.value++)
        CHECK(tm_channel_send(line[WORKER], &sent) == 0);
    for (uint64_t value = 1; value <= 20; value++) {
        CHECK(tm_channel_receive(line[MASTER], &got, fds, &count) == 1);
        CHECK_EQUAL(got.value, value);
    }
    close_both(line);
}

static void descriptors_arrive_usable_and_open_across_exec(void)
{
    int line[2], pipe_ends[2], fds[TM_MESSAGE_FDS];
    static const uint32_t counts[] = {1, 2, 3, 63, TM_MESSAGE_FDS};
    open_channel(line);
    CHECK(pipe2(pipe_ends, O_CLOEXEC | O_NONBLOCK) == 0);
    uint32_t before = open_descriptors();
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        struct tm_message sent = {.type = TM_MESSAGE_ADD, .listener = 9, .first = 4}, got;
        uint32_t count = 0;
        send_packet(line[MASTER], &sent, sizeof(sent), pipe_ends[1], counts[i]);
        CHECK(tm_channel_receive(line[WORKER], &got, fds, &count) == 1);
        CHECK(memcmp(&sent, &got, sizeof(sent)) == 0);
        CHECK_EQUAL(count, counts[i]);
        CHECK_EQUAL(open_descriptors(), before + count);
        for (uint32_t k = 0; k < count; k++) {
            char seen = 0, byte = (char)('a' + k % 26);
            CHECK(!(fcntl(fds[k], F_GETFD) & FD_CLOEXEC)); /* the next build takes them over */
            CHECK(write(fds[k], &byte, 1) == 1 && read(pipe_ends[0], &seen, 1) == 1);
            CHECK(seen == byte);
            CHECK(close(fds[k]) == 0);
        }
        CHECK_EQUAL(open_descriptors(), before);
    }
    close_both(pipe_ends);
    close_both(line);
}

static void an_empty_line_is_eagain_and_never_blocks(void)
{
    int line[2], fds[TM_MESSAGE_FDS];
    struct tm_message got;
    uint32_t count = 99;
    open_channel(line); /* blocking descriptors: receive must not rely on O_NONBLOCK */
    CHECK(tm_channel_receive(line[WORKER], &got, fds, &count) == -EAGAIN);
    CHECK_EQUAL(count, 0);
    close_both(line);
}

static void a_full_line_is_eagain(void)
{
    int line[2], fds[TM_MESSAGE_FDS], result = 0;
    struct tm_message message = {.type = TM_MESSAGE_SEEN}, got;
    uint32_t sent = 0, received = 0, count;
    open_channel(line);
    while (sent < 1000000 && (result = tm_channel_send(line[WORKER], &message)) == 0)
        sent++;
    CHECK(result == -EAGAIN && sent > 0);
    while (tm_channel_receive(line[MASTER], &got, fds, &count) == 1)
        received++;
    CHECK_EQUAL(received, sent);
    CHECK(tm_channel_send(line[WORKER], &message) == 0);
    close_both(line);
}

static void the_end_comes_after_what_was_sent(void)
{
    int line[2], fds[TM_MESSAGE_FDS];
    struct tm_message sent = {.type = TM_MESSAGE_DRAIN}, got = {0};
    uint32_t count = 99;
    open_channel(line);
    CHECK(tm_channel_send(line[MASTER], &sent) == 0);
    CHECK(close(line[MASTER]) == 0);
    CHECK(tm_channel_receive(line[WORKER], &got, fds, &count) == 1);
    CHECK_EQUAL(got.type, TM_MESSAGE_DRAIN);
    count = 99;
    CHECK(tm_channel_receive(line[WORKER], &got, fds, &count) == 0);
    CHECK_EQUAL(count, 0);
    /* An error, no signal: the worker goes on without its master. */
    CHECK(tm_channel_send(line[WORKER], &sent) == -EPIPE);
    CHECK(close(line[WORKER]) == 0);
}

static void a_master_that_died_with_mail_unread_is_the_end_too(void)
{
    int line[2], fds[TM_MESSAGE_FDS];
    struct tm_message message = {.type = TM_MESSAGE_SEEN}, got;
    uint32_t count = 99;
    open_channel(line);
    CHECK(tm_channel_send(line[WORKER], &message) == 0);
    CHECK(close(line[MASTER]) == 0); /* unread: the kernel says ECONNRESET first */
    CHECK(tm_channel_receive(line[WORKER], &got, fds, &count) == 0);
    CHECK_EQUAL(count, 0);
    CHECK(close(line[WORKER]) == 0);
}

/* One malformed packet, and then a good one, which must still be read right. */
static void expect_refused(const void *data, size_t size, uint32_t sent_fds, int expected)
{
    int line[2], fds[TM_MESSAGE_FDS];
    struct tm_message good = {.type = TM_MESSAGE_WAKE, .value = 42}, got;
    uint32_t count = 99;
    open_channel(line);
    send_packet(line[MASTER], data, size, line[MASTER], sent_fds);
    CHECK(tm_channel_send(line[MASTER], &good) == 0);
    uint32_t before = open_descriptors();
    CHECK(tm_channel_receive(line[WORKER], &got, fds, &count) == expected);
    CHECK_EQUAL(count, 0);
    CHECK_EQUAL(open_descriptors(), before);
    CHECK(tm_channel_receive(line[WORKER], &got, fds, &count) == 1);
    CHECK(got.type == TM_MESSAGE_WAKE && got.value == 42 && count == 0);
    close_both(line);
}

static void malformed_packets_are_refused_and_leak_nothing(void)
{
    unsigned char data[2 * sizeof(struct tm_message)] = {TM_MESSAGE_ADD};
    static const uint32_t counts[] = {0, 1, TM_MESSAGE_FDS};
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        expect_refused(data, 1, counts[i], -EPROTO);
        expect_refused(data, sizeof(struct tm_message) - 1, counts[i], -EPROTO);
        expect_refused(data, sizeof(struct tm_message) + 1, counts[i], -EPROTO);
        expect_refused(data, sizeof(data), counts[i], -EPROTO);
    }
    /* A packet of nothing can't be told from the end, but must not cost a descriptor. */
    expect_refused(data, 0, 3, 0);
}

static void descriptors_without_room_are_told_and_leak_nothing(void)
{
    int line[2], fds[TM_MESSAGE_FDS];
    struct tm_message sent = {.type = TM_MESSAGE_ADD, .listener = 9}, got;
    struct rlimit limit, few;
    uint32_t count = 99;
    open_channel(line);
    send_packet(line[MASTER], &sent, sizeof(sent), line[MASTER], 5);
    send_packet(line[MASTER], &sent, sizeof(sent), line[MASTER], 1);
    uint32_t before = open_descriptors();
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    few = limit;
    few.rlim_cur = (rlim_t)(line[0] > line[1] ? line[0] : line[1]) + 3; /* room for two */
    CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
    int told = tm_channel_receive(line[WORKER], &got, fds, &count);
    int after = tm_channel_receive(line[WORKER], &got, fds, &count);
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    CHECK_EQUAL(told, -EMFILE);
    CHECK_EQUAL(after, 1);
    CHECK_EQUAL(count, 1);
    CHECK(close(fds[0]) == 0);
    CHECK_EQUAL(open_descriptors(), before);
    close_both(line);
}

static void more_descriptors_than_shards_are_refused(void)
{
    struct tm_message message = {.type = TM_MESSAGE_ADD};
    expect_refused(&message, sizeof(message), TM_MESSAGE_FDS + 1, -EPROTO);
    expect_refused(&message, sizeof(message), SCM_MAX, -EPROTO);
}

static void a_broken_descriptor_is_an_error(void)
{
    int fds[TM_MESSAGE_FDS];
    struct tm_message message = {.type = TM_MESSAGE_WAKE};
    uint32_t count = 99;
    CHECK(tm_channel_receive(-1, &message, fds, &count) == -EBADF);
    CHECK_EQUAL(count, 0);
    CHECK(tm_channel_send(-1, &message) == -EBADF);
}

int main(void)
{
    uint32_t before = open_descriptors();
    RUN(messages_pass_whole_and_in_order);
    RUN(descriptors_arrive_usable_and_open_across_exec);
    RUN(an_empty_line_is_eagain_and_never_blocks);
    RUN(a_full_line_is_eagain);
    RUN(the_end_comes_after_what_was_sent);
    RUN(a_master_that_died_with_mail_unread_is_the_end_too);
    RUN(malformed_packets_are_refused_and_leak_nothing);
    RUN(descriptors_without_room_are_told_and_leak_nothing);
    RUN(more_descriptors_than_shards_are_refused);
    RUN(a_broken_descriptor_is_an_error);
    CHECK_EQUAL(open_descriptors(), before);
    return 0;
}
