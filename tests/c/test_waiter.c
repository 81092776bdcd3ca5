/* csrc/waiter.c: it looks where looking was worth it. No time is measured. */
#include "waiter.h"

#include <stdbool.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "check.h"

struct bench {
    struct tm_waiter waiter;
    int epoll, source;
    struct epoll_event events[4];
};

static void open_bench(struct bench *bench)
{
    struct epoll_event event = {.events = EPOLLIN};
    tm_waiter_init(&bench->waiter);
    bench->epoll = epoll_create1(EPOLL_CLOEXEC);
    bench->source = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    CHECK(bench->epoll >= 0 && bench->source >= 0);
    CHECK(epoll_ctl(bench->epoll, EPOLL_CTL_ADD, bench->source, &event) == 0);
}

static void close_bench(struct bench *bench)
{
    CHECK(close(bench->epoll) == 0 && close(bench->source) == 0);
}

static void set(struct bench *bench, bool readable)
{
    uint64_t value = 1;
    if (readable)
        CHECK(write(bench->source, &value, sizeof(value)) == sizeof(value));
    else
        (void)!read(bench->source, &value, sizeof(value));
}

static int wait_for(struct bench *bench, int timeout_ms, int busy_poll,
                    enum tm_expecting expecting)
{
    return tm_waiter_wait(&bench->waiter, bench->epoll, bench->events, 4, timeout_ms, busy_poll,
                          expecting);
}

static void events_come_either_way(void)
{
    static const int MODES[] = {TM_POLL_AUTO, 0, 50};
    struct bench bench;
    open_bench(&bench);
    for (int i = 0; i < 3; i++) {
        set(&bench, true);
        CHECK_EQUAL(wait_for(&bench, -1, MODES[i], TM_EXPECT_ANY), 1);
        CHECK_EQUAL(wait_for(&bench, 0, MODES[i], TM_EXPECT_ANY), 1);
        set(&bench, false);
        CHECK_EQUAL(wait_for(&bench, 0, MODES[i], TM_EXPECT_ANY), 0);
        CHECK_EQUAL(wait_for(&bench, 1, MODES[i], TM_EXPECT_ANY), 0);
    }
    close_bench(&bench);
}

static void what_is_in_vain_ends(void)
{
    struct bench bench;
    open_bench(&bench);
    uint8_t first = bench.waiter.score[TM_EXPECT_ANSWER], last = first;
    for (int i = 0; i < 1000 && bench.waiter.slept[TM_EXPECT_ANSWER] == 0; i++) {
        last = bench.waiter.score[TM_EXPECT_ANSWER];
        CHECK_EQUAL(wait_for(&bench, 1, TM_POLL_AUTO, TM_EXPECT_ANSWER), 0);
    }
    CHECK(bench.waiter.slept[TM_EXPECT_ANSWER] == 1 && last < first);
    CHECK_EQUAL(bench.waiter.score[TM_EXPECT_CLIENT], first); /* learned apart */
    /* Then an answer comes at once each time: it finds out, and looks again. */
    set(&bench, true);
    for (int i = 0; i < 10000; i++)
        CHECK_EQUAL(wait_for(&bench, -1, TM_POLL_AUTO, TM_EXPECT_ANSWER), 1);
    CHECK(bench.waiter.score[TM_EXPECT_ANSWER] > first);
    close_bench(&bench);
}

static void many_events_a_turn_need_no_looking(void)
{
    struct bench bench;
    struct epoll_event event = {.events = EPOLLIN};
    int more[3];
    open_bench(&bench);
    for (int i = 0; i < 3; i++) {
        more[i] = eventfd(1, EFD_CLOEXEC);
        CHECK(more[i] >= 0 && epoll_ctl(bench.epoll, EPOLL_CTL_ADD, more[i], &event) == 0);
    }
    set(&bench, true);
    for (int i = 0; i < 100; i++)
        CHECK_EQUAL(wait_for(&bench, -1, TM_POLL_AUTO, TM_EXPECT_CLIENT), 4);
    uint8_t score = bench.waiter.score[TM_EXPECT_CLIENT];
    for (int i = 0; i < 100; i++)
        CHECK_EQUAL(wait_for(&bench, -1, TM_POLL_AUTO, TM_EXPECT_CLIENT), 4);
    CHECK_EQUAL(bench.waiter.score[TM_EXPECT_CLIENT], score);
    for (int i = 0; i < 3; i++)
        CHECK(close(more[i]) == 0);
    /* One at a time again. */
    for (int i = 0; i < 100; i++)
        CHECK_EQUAL(wait_for(&bench, -1, TM_POLL_AUTO, TM_EXPECT_CLIENT), 1);
    CHECK(bench.waiter.score[TM_EXPECT_CLIENT] > score);
    close_bench(&bench);
}

static void bulk_needs_no_looking(void)
{
    struct bench bench;
    open_bench(&bench);
    struct tm_waiter before = bench.waiter;
    for (int i = 0; i < 10; i++)
        CHECK_EQUAL(wait_for(&bench, 1, TM_POLL_AUTO, TM_EXPECT_BULK), 0);
    CHECK(memcmp(&before, &bench.waiter, sizeof(before)) == 0);
    close_bench(&bench);
}

int main(void)
{
    RUN(bulk_needs_no_looking);
    RUN(events_come_either_way);
    RUN(what_is_in_vain_ends);
    RUN(many_events_a_turn_need_no_looking);
    return 0;
}
