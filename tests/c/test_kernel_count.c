/* csrc/kernel_count.c: the kernel's counts of real connections, in every state that one can be
 * in when a worker has died. */
#include "kernel_count.h"

#include "pairs.h"

/* Both ends of a connection, ends[0] having called connect(), and what each has done. */
struct link {
    int ends[2];
    uint64_t written[2], read[2];
};

static struct link open_link(void)
{
    struct link link = {0};
    make_pair(AF_INET, link.ends, 0);
    return link;
}

static void close_link(struct link *link)
{
    for (int i = 0; i < 2; i++)
        if (link->ends[i] >= 0)
            CHECK(close(link->ends[i]) == 0);
}

static void write_some(struct link *link, int end, size_t size)
{
    static char block[1 << 16];
    CHECK(size <= sizeof(block));
    CHECK_EQUAL(send(link->ends[end], block, size, MSG_NOSIGNAL), size);
    link->written[end] += size;
    wait_readable_bytes(link->ends[1 - end], (uint32_t)(link->written[end] - link->read[1 - end]));
}

static void read_some(struct link *link, int end, size_t size)
{
    static char block[1 << 16];
    CHECK_EQUAL(recv(link->ends[end], block, size, 0), size);
    link->read[end] += size;
}

static void expect_counts(const struct link *link)
{
    for (int end = 0; end < 2; end++) {
        uint64_t bytes = 99, before = link->read[end] ? random_below(link->read[end] + 1) : 0;
        CHECK(tm_kernel_consumed(link->ends[end], before, &bytes) == 0);
        CHECK_EQUAL(bytes, link->read[end] - before);
        before = link->written[end] ? random_below(link->written[end] + 1) : 0;
        CHECK(tm_kernel_written(link->ends[end], end == 0, before, &bytes) == 0);
        CHECK_EQUAL(bytes, link->written[end] - before);
        CHECK(!tm_kernel_was_reset(link->ends[end], link->read[end]));
        CHECK(tm_kernel_untouched(link->ends[end], end == 0) ==
              (link->read[end] == 0 && link->written[end] == 0));
    }
}

static void both_ways_in_any_order(void)
{
    for (int round = 0; round < 50; round++) {
        struct link link = open_link();
        expect_counts(&link);
        for (int step = 0; step < 30; step++) {
            int end = (int)random_below(2);
            uint64_t there = link.written[1 - end] - link.read[end];
            if (random_below(2) && there)
                read_some(&link, end, 1 + random_below(there < 65536 ? there : 65536));
            else if (link.written[end] - link.read[1 - end] < 50000)
                write_some(&link, end, 1 + random_below(9000));
            expect_counts(&link);
        }
        close_link(&link);
    }
}

static void a_full_send_queue_counts(void)
{
    static char block[1 << 16];
    struct link link = {0};
    make_pair(AF_INET, link.ends, 20000);
    for (;;) {
        ssize_t sent = send(link.ends[1], block, sizeof(block), MSG_NOSIGNAL);
        if (sent < 0)
            break;
        link.written[1] += (uint64_t)sent;
    }
    CHECK(errno == EAGAIN);
    uint64_t bytes = 0;
    CHECK(tm_kernel_written(link.ends[1], false, 0, &bytes) == 0);
    CHECK_EQUAL(bytes, link.written[1]);
    close_link(&link);
}


/* One end sends FIN, then the other; counts hold before and after each FIN is read. */
static void ends_of_input_are_no_bytes(void)
{
    for (int first = 0; first < 2; first++) {
        struct link link = open_link();
        int second = 1 - first;
        char byte;
        write_some(&link, first, 3000);
        read_some(&link, second, 1000);
        CHECK(!tm_kernel_fin_sent(link.ends[first]) && tm_kernel_fin_missing(link.ends[first]));
        CHECK(shutdown(link.ends[first], SHUT_WR) == 0);
        CHECK(tm_kernel_fin_sent(link.ends[first]) && !tm_kernel_fin_sent(link.ends[second]));
        CHECK(!tm_kernel_fin_missing(link.ends[first]));
        struct pollfd half = {.fd = link.ends[second], .events = POLLRDHUP};
        CHECK(poll(&half, 1, DEADLINE_MS) == 1);
        uint64_t bytes = 0;
        CHECK(tm_kernel_consumed(link.ends[second], 0, &bytes) == 0);
        CHECK_EQUAL(bytes, 1000); /* FIN is there, behind 2,000 bytes */
        read_some(&link, second, 2000);
        CHECK(tm_kernel_consumed(link.ends[second], 0, &bytes) == 0);
        CHECK_EQUAL(bytes, 3000);
        CHECK(recv(link.ends[second], &byte, 1, 0) == 0);
        CHECK(tm_kernel_consumed(link.ends[second], 0, &bytes) == 0);
        CHECK_EQUAL(bytes, 3000); /* and read */
        write_some(&link, second, 500);
        CHECK(tm_kernel_written(link.ends[second], second == 0, 0, &bytes) == 0);
        CHECK_EQUAL(bytes, 500);
        CHECK(shutdown(link.ends[second], SHUT_WR) == 0);
        half = (struct pollfd){.fd = link.ends[first], .events = POLLRDHUP};
        CHECK(poll(&half, 1, DEADLINE_MS) == 1);
        /* Both are closed now: by FIN, which is not a reset, whatever has been read. */
        CHECK(!tm_kernel_was_reset(link.ends[first], 0));
        CHECK(tm_kernel_consumed(link.ends[first], 0, &bytes) == 0);
        CHECK_EQUAL(bytes, 0);
        read_some(&link, first, 500);
        CHECK(tm_kernel_consumed(link.ends[first], 0, &bytes) == 0);
        CHECK_EQUAL(bytes, 500);
        CHECK(!tm_kernel_was_reset(link.ends[first], 500));
        close_link(&link);
    }
}

static uint32_t consumed(int fd)
{
    uint64_t bytes = 0;
    CHECK(tm_kernel_consumed(fd, 0, &bytes) == 0);
    return (uint32_t)bytes;
}

static int take_error(int fd)
{
    int error = 0;
    socklen_t size = sizeof(error);
    CHECK(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0);
    return error;
}

static void a_reset_is_told_from_an_end(void)
{
    for (int error_taken = 0; error_taken < 2; error_taken++) {
        for (int shut = 0; shut < 2; shut++) {
            struct link link = open_link();
            uint64_t bytes = 0;
            write_some(&link, 0, 2000);
            read_some(&link, 1, 700);
            if (shut) /* our FIN first: then both ways could have ended well */
                CHECK(shutdown(link.ends[1], SHUT_WR) == 0);
            reset_close(link.ends[0]);
            link.ends[0] = -1;
            CHECK(wait_events(link.ends[1], 0) & POLLERR);
            if (error_taken)
                CHECK_EQUAL(take_error(link.ends[1]), ECONNRESET);
            for (int times = 0; times < 2; times++)
                CHECK_EQUAL(consumed(link.ends[1]), 700);
            CHECK(tm_kernel_was_reset(link.ends[1], 700));
            CHECK(tm_kernel_written(link.ends[1], false, 0, &bytes) == -ECONNRESET);
            close_link(&link);
        }
    }
}

/* As often as it is asked, whatever has been read, and whether the error has been taken. */
static void a_reset_behind_a_fin_is_no_byte(void)
{
    for (int left = 0; left < 3; left++) { /* 1,300 bytes, none, not even the FIN */
        for (int taken = 0; taken < 2; taken++) {
            struct link link = open_link();
            char byte;
            write_some(&link, 0, 2000);
            read_some(&link, 1, 700);
            CHECK(shutdown(link.ends[0], SHUT_WR) == 0);
            CHECK(wait_events(link.ends[1], POLLRDHUP) & POLLRDHUP);
            reset_close(link.ends[0]);
            link.ends[0] = -1;
            CHECK(wait_events(link.ends[1], 0) & POLLERR);
            if (taken)
                CHECK_EQUAL(take_error(link.ends[1]), EPIPE);
            if (left > 0)
                read_some(&link, 1, 1300);
            if (left > 1)
                CHECK(recv(link.ends[1], &byte, 1, 0) == 0);
            for (int times = 0; times < 2; times++)
                CHECK_EQUAL(consumed(link.ends[1]), left ? 2000 : 700);
            close_link(&link);
        }
    }
}

/* All is read, and a call has taken the error. */
static void a_reset_that_a_read_has_met_is_no_byte(void)
{
    struct link link = open_link();
    char byte;
    write_some(&link, 0, 2000);
    reset_close(link.ends[0]);
    link.ends[0] = -1;
    CHECK(wait_events(link.ends[1], 0) & POLLERR);
    read_some(&link, 1, 2000);
    CHECK(recv(link.ends[1], &byte, 1, 0) < 0 && errno == ECONNRESET);
    for (int times = 0; times < 2; times++)
        CHECK_EQUAL(consumed(link.ends[1]), 2000);
    close_link(&link);
}

static void unix_sockets_are_not_counted(void)
{
    int ends[2];
    uint64_t bytes;
    make_pair(AF_UNIX, ends, 0);
    CHECK(tm_kernel_consumed(ends[0], 0, &bytes) < 0);
    CHECK(tm_kernel_written(ends[0], true, 0, &bytes) < 0);
    CHECK(!tm_kernel_was_reset(ends[0], 0) && !tm_kernel_fin_sent(ends[0]));
    CHECK(!tm_kernel_fin_missing(ends[0])); /* that can't be told */
    CHECK(tm_kernel_untouched(ends[0], true));
    CHECK(close(ends[0]) == 0 && close(ends[1]) == 0);
}

static void counts_that_make_no_sense_are_refused(void)
{
    struct link link = open_link();
    uint64_t bytes;
    write_some(&link, 0, 100);
    read_some(&link, 1, 100);
    CHECK(tm_kernel_consumed(link.ends[1], 101, &bytes) == -EUCLEAN);
    CHECK(tm_kernel_written(link.ends[0], true, 101, &bytes) == -EUCLEAN);
    close_link(&link);
}

static void a_pipe_says_what_it_holds(void)
{
    int ends[2];
    CHECK(pipe(ends) == 0);
    CHECK_EQUAL(tm_kernel_piped(ends[0]), 0);
    CHECK(write(ends[1], "seven b", 7) == 7);
    CHECK_EQUAL(tm_kernel_piped(ends[0]), 7);
    CHECK(close(ends[0]) == 0 && close(ends[1]) == 0);
    CHECK(tm_kernel_piped(ends[0]) == -EBADF);
}

int main(void)
{
    random_seed();
    RUN(both_ways_in_any_order);
    RUN(a_full_send_queue_counts);
    RUN(ends_of_input_are_no_bytes);
    RUN(a_reset_is_told_from_an_end);
    RUN(a_reset_behind_a_fin_is_no_byte);
    RUN(a_reset_that_a_read_has_met_is_no_byte);
    RUN(unix_sockets_are_not_counted);
    RUN(counts_that_make_no_sense_are_refused);
    RUN(a_pipe_says_what_it_holds);
    return 0;
}
