/* csrc/descriptors.c: every open descriptor is found, and belongs to one claim at most. */
#include "descriptors.h"

#include "pairs.h"

static void everything_open_is_listed(void)
{
    struct tm_descriptors all;
    int ends[2], count = 0;
    make_pair(AF_UNIX, ends, 0);
    CHECK(fcntl(ends[0], F_DUPFD, 700) == 700); /* far above the rest: the list grows */
    CHECK(tm_descriptors_list(&all) == 0);
    for (int fd = tm_descriptors_next(&all, 0); fd >= 0; fd = tm_descriptors_next(&all, fd + 1)) {
        CHECK(fcntl(fd, F_GETFD) >= 0);
        count++;
    }
    CHECK(tm_descriptors_claim(&all, ends[0]) && tm_descriptors_claim(&all, ends[1]) &&
          tm_descriptors_claim(&all, 700));
    CHECK_EQUAL(tm_descriptors_next(&all, 700), -1);
    tm_descriptors_free(&all);
    /* As open_descriptors() counts: "." and ".." and the directory itself besides. */
    CHECK_EQUAL(count + 3, open_descriptors());
    CHECK(close(700) == 0 && close(ends[0]) == 0 && close(ends[1]) == 0);
}

static void a_claim_is_for_one_and_for_what_is_open(void)
{
    struct tm_descriptors all;
    int ends[2];
    make_pair(AF_UNIX, ends, 0);
    CHECK(close(ends[1]) == 0);
    CHECK(tm_descriptors_list(&all) == 0);
    CHECK(tm_descriptors_claim(&all, ends[0]));
    CHECK(!tm_descriptors_claim(&all, ends[0])); /* taken */
    CHECK(!tm_descriptors_claim(&all, ends[1])); /* not open */
    CHECK(!tm_descriptors_claim(&all, -1) && !tm_descriptors_claim(&all, 1 << 30));
    for (int fd = tm_descriptors_next(&all, 0); fd >= 0; fd = tm_descriptors_next(&all, fd + 1))
        CHECK(fd != ends[0]);
    tm_descriptors_free(&all);
    CHECK(!tm_descriptors_claim(&all, ends[0])); /* freed: nothing is open */
    CHECK(close(ends[0]) == 0);
}

static void kinds_are_told_apart(void)
{
    int ends[2], pipe_ends[2], others[2], line[2];
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    make_pair(AF_INET, ends, 0);
    CHECK(pipe(pipe_ends) == 0);
    CHECK(pipe(others) == 0 && socketpair(AF_UNIX, SOCK_SEQPACKET, 0, line) == 0);
    CHECK(tm_is_socket(ends[0]) && !tm_is_pipe(ends[0], ends[1]));
    CHECK(tm_is_pipe(pipe_ends[1], pipe_ends[0]) && !tm_is_socket(pipe_ends[0]));
    CHECK(!tm_is_pipe(pipe_ends[1], others[0]) && !tm_is_pipe(others[1], pipe_ends[0]));
    CHECK(tm_stream_family(ends[0]) == AF_INET && tm_stream_family(pipe_ends[0]) < 0);
    CHECK(tm_is_line(line[0]) && tm_stream_family(line[0]) < 0 && !tm_is_line(ends[0]));
    CHECK(listen(listener, 1) == 0 && tm_is_listening(listener));
    CHECK(tm_stream_family(listener) < 0 && !tm_is_listening(ends[0]) && !tm_is_line(listener));
    CHECK(close(ends[0]) == 0 && close(ends[1]) == 0 && close(listener) == 0);
    CHECK(close(pipe_ends[0]) == 0 && close(pipe_ends[1]) == 0);
    CHECK(close(others[0]) == 0 && close(others[1]) == 0);
    CHECK(close(line[0]) == 0 && close(line[1]) == 0);
    CHECK(!tm_is_socket(ends[0]) && !tm_is_pipe(pipe_ends[1], pipe_ends[0]));
    CHECK(tm_stream_family(-1) < 0 && !tm_is_line(-1) && !tm_is_listening(1 << 30));
}

static void what_is_open_is_counted(void)
{
    uint32_t before = tm_descriptors_count();
    int fd = dup(0);
    CHECK(fd >= 0);
    if (before) /* Linux 6.2 */
        CHECK_EQUAL(tm_descriptors_count(), before + 1);
    CHECK(close(fd) == 0);
}

int main(void)
{
    RUN(what_is_open_is_counted);
    RUN(everything_open_is_listed);
    RUN(a_claim_is_for_one_and_for_what_is_open);
    RUN(kinds_are_told_apart);
    return 0;
}
