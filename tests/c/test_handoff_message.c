/* csrc/handoff_message.c: records and descriptors arrive together, or not at all. */
#include "handoff_message.h"

#include <sys/resource.h>

#include "pairs.h"

enum { GIVER, TAKER };

static void open_line(int line[2])
{
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, line) == 0);
}

static void close_both(const int fds[2])
{
    CHECK(close(fds[0]) == 0 && close(fds[1]) == 0);
}

/* A GIVE with the places of `mask` filled: two sockets, then four ends of pipes. */
static struct tm_handoff make_give(unsigned mask, int fd)
{
    struct tm_handoff handoff = {.type = TM_GIVE, .index = 7, .generation = 3};
    handoff.conn.state = TM_RELAYING;
    handoff.cold.route_slot = 42;
    handoff.conn.fd[0] = mask & 1 ? fd : -1;
    handoff.conn.fd[1] = mask & 2 ? fd : -1;
    for (int side = 0; side < 2; side++) {
        bool has = mask & (4u << side);
        handoff.conn.half[side].pipe = (struct tm_pipe){has ? fd : -1, has ? fd : -1};
        handoff.conn.half[side].bytes = 1000 + (uint64_t)side;
    }
    return handoff;
}

static void every_combination_arrives(void)
{
    int line[2], pipe_ends[2];
    open_line(line);
    CHECK(pipe2(pipe_ends, O_NONBLOCK | O_CLOEXEC) == 0);
    uint32_t before = open_descriptors();
    for (unsigned mask = 0; mask < 16; mask++) {
        struct tm_handoff handoff = make_give(mask, pipe_ends[1]), got;
        uint32_t count = (mask & 1) + (mask >> 1 & 1) + 2 * (mask >> 2 & 1) + 2 * (mask >> 3 & 1);
        CHECK(tm_handoff_send(line[GIVER], &handoff) == 0);
        CHECK(tm_handoff_receive(line[TAKER], &got) == 1);
        CHECK_EQUAL(open_descriptors(), before + count);
        CHECK_EQUAL(got.index, 7);
        CHECK_EQUAL(got.cold.route_slot, 42);
        CHECK_EQUAL(got.conn.half[1].bytes, 1001);
        CHECK((got.conn.fd[0] >= 0) == !!(mask & 1) && (got.conn.fd[1] >= 0) == !!(mask & 2));
        CHECK((got.conn.half[0].pipe.in >= 0) == !!(mask & 4));
        CHECK((got.conn.half[1].pipe.out >= 0) == !!(mask & 8));
        if (mask & 2) {
            char byte;
            CHECK(got.conn.fd[1] != pipe_ends[1]);
            CHECK(write(got.conn.fd[1], "x", 1) == 1 && read(pipe_ends[0], &byte, 1) == 1);
        }
        tm_handoff_close(&got);
        CHECK(got.conn.fd[0] == -1 && got.conn.half[1].pipe.out == -1);
        CHECK_EQUAL(open_descriptors(), before);
    }
    close_both(pipe_ends);
    close_both(line);
}

/* As many descriptors as there can be, and bytes that belong to nothing else. */
static void an_annex_arrives_with_its_descriptors(void)
{
    int line[2], pipe_ends[2];
    open_line(line);
    CHECK(pipe2(pipe_ends, O_NONBLOCK | O_CLOEXEC) == 0);
    uint32_t before = open_descriptors();
    for (unsigned mask = 0; mask < 1u << TM_ANNEX_FDS; mask++) {
        struct tm_handoff handoff = make_give(15, pipe_ends[1]), got;
        uint32_t count = 6;
        handoff.cold.annex = 5;
        handoff.annex.length = 3;
        memcpy(handoff.annex.bytes, "abc", 3);
        for (int i = 0; i < TM_ANNEX_FDS; i++) {
            handoff.annex.fd[i] = mask >> i & 1 ? pipe_ends[1] : -1;
            count += mask >> i & 1;
        }
        CHECK(tm_handoff_send(line[GIVER], &handoff) == 0);
        CHECK(tm_handoff_receive(line[TAKER], &got) == 1);
        CHECK_EQUAL(open_descriptors(), before + count);
        CHECK(got.annex.length == 3 && memcmp(got.annex.bytes, "abc", 3) == 0);
        for (int i = 0; i < TM_ANNEX_FDS; i++)
            CHECK_EQUAL(got.annex.fd[i] >= 0, mask >> i & 1);
        tm_handoff_close(&got);
        CHECK_EQUAL(open_descriptors(), before);
    }
    close_both(pipe_ends);
    close_both(line);
}

static void answers_carry_no_descriptors(void)
{
    int line[2];
    open_line(line);
    uint32_t before = open_descriptors();
    struct tm_handoff answer = make_give(15, line[0]), got;
    answer.type = TM_TAKEN;
    CHECK(tm_handoff_send(line[TAKER], &answer) == 0);
    CHECK(tm_handoff_receive(line[GIVER], &got) == 1);
    CHECK(got.type == TM_TAKEN && got.index == 7 && got.generation == 3);
    CHECK_EQUAL(open_descriptors(), before);
    close_both(line);
}

static void an_empty_line_and_a_gone_giver(void)
{
    int line[2];
    struct tm_handoff got, handoff = make_give(0, -1);
    open_line(line);
    CHECK(tm_handoff_receive(line[TAKER], &got) == -EAGAIN);
    CHECK(close(line[GIVER]) == 0);
    CHECK(tm_handoff_receive(line[TAKER], &got) == 0);
    CHECK(tm_handoff_send(line[TAKER], &handoff) == -EPIPE);
    CHECK(close(line[TAKER]) == 0);
}

/* It closes with something unread, which makes a reset of the end; what it said still counts. */
static void what_was_said_before_a_reset_is_heard(void)
{
    int line[2];
    struct tm_handoff got, handoff = make_give(0, -1), answer = {.type = TM_TAKEN, .index = 7};
    open_line(line);
    CHECK(tm_handoff_send(line[GIVER], &handoff) == 0);
    CHECK(tm_handoff_send(line[TAKER], &answer) == 0);
    CHECK(close(line[TAKER]) == 0);
    CHECK(tm_handoff_receive(line[GIVER], &got) == 1);
    CHECK_EQUAL(got.type, TM_TAKEN);
    CHECK(tm_handoff_receive(line[GIVER], &got) == 0);
    CHECK(close(line[GIVER]) == 0);
}

static void a_full_line_takes_no_more(void)
{
    int line[2], result, sent = 0;
    struct tm_handoff handoff = make_give(1, STDERR_FILENO), got;
    open_line(line);
    uint32_t before = open_descriptors();
    while ((result = tm_handoff_send(line[GIVER], &handoff)) == 0 && sent < 100000)
        sent++;
    CHECK(result == -EAGAIN && sent > 0);
    while (tm_handoff_receive(line[TAKER], &got) == 1) {
        tm_handoff_close(&got);
        sent--;
    }
    CHECK_EQUAL(sent, 0);
    CHECK_EQUAL(open_descriptors(), before);
    CHECK(tm_handoff_send(line[GIVER], &handoff) == 0);
    close_both(line);
}

/* The taker runs out of descriptors in the middle of one message. */
static void what_does_not_fit_comes_without_any(void)
{
    int line[2], pipe_ends[2];
    struct rlimit old, few;
    open_line(line);
    CHECK(pipe2(pipe_ends, O_CLOEXEC) == 0);
    uint32_t before = open_descriptors();
    struct tm_handoff handoff = make_give(15, pipe_ends[1]), got;
    CHECK(tm_handoff_send(line[GIVER], &handoff) == 0);
    CHECK(getrlimit(RLIMIT_NOFILE, &old) == 0);
    few = old;
    int next = dup(STDERR_FILENO);
    CHECK(next >= 0 && close(next) == 0);
    few.rlim_cur = (rlim_t)next + 3; /* of the six that come */
    CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
    CHECK(tm_handoff_receive(line[TAKER], &got) == 1);
    CHECK(setrlimit(RLIMIT_NOFILE, &old) == 0);
    CHECK(got.conn.fd[0] == -1 && got.conn.fd[1] == -1 && got.conn.half[0].pipe.in == -1);
    CHECK_EQUAL(open_descriptors(), before);
    close_both(pipe_ends);
    close_both(line);
}

static void a_packet_of_another_size_is_refused(void)
{
    int line[2];
    char junk[sizeof(struct tm_handoff) + 1] = {TM_GIVE};
    static const size_t odd[] = {3, offsetof(struct tm_handoff, conn), /* a GIVE without a record */
                                 offsetof(struct tm_handoff, annex) - 1,
                                 sizeof(struct tm_handoff), /* an annex that the record has not */
                                 sizeof(junk)};
    struct tm_handoff got;
    open_line(line);
    for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); i++) {
        CHECK(send(line[GIVER], junk, odd[i], 0) == (ssize_t)odd[i]);
        CHECK(tm_handoff_receive(line[TAKER], &got) == -EPROTO);
    }
    close_both(line);
}

int main(void)
{
    RUN(every_combination_arrives);
    RUN(an_annex_arrives_with_its_descriptors);
    RUN(answers_carry_no_descriptors);
    RUN(an_empty_line_and_a_gone_giver);
    RUN(what_was_said_before_a_reset_is_heard);
    RUN(a_full_line_takes_no_more);
    RUN(what_does_not_fit_comes_without_any);
    RUN(a_packet_of_another_size_is_refused);
    return 0;
}
