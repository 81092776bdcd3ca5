/* csrc/watch.c: what is taken for hanging, and what is not. Time is made up, but for the last tests. */
#include "watch.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static const struct tm_watch_limits LIMITS = {
    .tick_ms = 25, .busy_ms = 75, .blocked_ms = 75, .grace_ms = 2000};

struct bench {
    struct tm_watch watch;
    struct tm_watch_sample sample;
};

static void begin(struct bench *bench)
{
    *bench = (struct bench){.sample = {.now_ms = 1000, .step = 7, .cpu_us = 5000}};
    tm_watch_begin(&bench->watch, &bench->sample);
}

/* So many ms later, with so much CPU time more. */
static enum tm_verdict look(struct bench *bench, uint64_t ms, uint64_t cpu_us)
{
    bench->sample.now_ms += ms;
    bench->sample.cpu_us += cpu_us;
    return tm_watch_assess(&bench->watch, &LIMITS, &bench->sample);
}

static void steps_are_work_however_long_a_turn_is(void)
{
    struct bench bench;
    begin(&bench);
    for (int i = 0; i < 1000; i++) {
        bench.sample.step++;
        CHECK_EQUAL(look(&bench, 25, 25000), TM_AT_WORK);
        CHECK(!bench.watch.overdue);
    }
}

static void circles_are_found_by_their_cpu_time(void)
{
    struct bench bench;
    begin(&bench);
    bench.sample.runnable = true;
    CHECK_EQUAL(look(&bench, 25, 25000), TM_AT_WORK);
    CHECK_EQUAL(look(&bench, 25, 25000), TM_AT_WORK);
    CHECK_EQUAL(look(&bench, 25, 25000), TM_SEEN_HANGING);
    for (int i = 0; i < 79; i++) {
        CHECK_EQUAL(look(&bench, 25, 25000), TM_SEEN_HANGING);
        CHECK(!bench.watch.overdue);
    }
    CHECK_EQUAL(look(&bench, 25, 25000), TM_SEEN_HANGING);
    CHECK(bench.watch.overdue);
    bench.sample.step++;
    CHECK_EQUAL(look(&bench, 25, 25000), TM_AT_WORK);
    CHECK(!bench.watch.overdue);
}

static void a_circle_that_gets_little_cpu_time_is_not_killed_for_that(void)
{
    struct bench bench;
    begin(&bench);
    bench.sample.runnable = true;
    CHECK_EQUAL(look(&bench, 25, 75000), TM_SEEN_HANGING);
    for (int i = 0; i < 1000; i++) {
        CHECK_EQUAL(look(&bench, 25, i % 25 ? 0 : 25000), TM_SEEN_HANGING);
        CHECK(!bench.watch.overdue);
    }
    CHECK_EQUAL(look(&bench, 25, 1000000), TM_SEEN_HANGING);
    CHECK(bench.watch.overdue);
}

static void waiting_for_a_cpu_is_no_fault(void)
{
    struct bench bench;
    begin(&bench);
    bench.sample.runnable = true;
    for (int i = 0; i < 1000; i++)
        CHECK_EQUAL(look(&bench, 25, 0), TM_AT_WORK);
    for (int i = 0; i < 70; i++) /* little of it: 70 ms in all */
        CHECK_EQUAL(look(&bench, 25, 1000), TM_AT_WORK);
}

static void waiting_for_the_kernel_in_the_middle_of_work_is(void)
{
    struct bench bench;
    begin(&bench);
    CHECK_EQUAL(look(&bench, 25, 0), TM_AT_WORK);
    CHECK_EQUAL(look(&bench, 25, 0), TM_AT_WORK);
    CHECK_EQUAL(look(&bench, 25, 0), TM_SEEN_HANGING);
    bench.sample.resting = true;
    CHECK_EQUAL(look(&bench, 25, 0), TM_AT_WORK);
    CHECK_EQUAL(look(&bench, 2500, 0), TM_AT_WORK);
}

static void a_stop_is_told_at_once(void)
{
    struct bench bench;
    begin(&bench);
    bench.sample.resting = bench.sample.stopped = true;
    for (int i = 0; i < 80; i++) {
        CHECK_EQUAL(look(&bench, 25, 0), TM_SEEN_STOPPED);
        CHECK(!bench.watch.overdue);
    }
    CHECK_EQUAL(look(&bench, 25, 0), TM_SEEN_STOPPED);
    CHECK(bench.watch.overdue);
    bench.sample.stopped = false;
    CHECK_EQUAL(look(&bench, 25, 0), TM_AT_WORK);
}

static void a_pause_of_the_watching_one_counts_for_nothing(void)
{
    struct bench bench;
    begin(&bench);
    CHECK_EQUAL(look(&bench, 100000, 0), TM_AT_WORK);
    CHECK_EQUAL(look(&bench, 25, 0), TM_AT_WORK);
    CHECK_EQUAL(look(&bench, 25, 0), TM_SEEN_HANGING);
    CHECK_EQUAL(look(&bench, 100000, 0), TM_SEEN_HANGING);
    CHECK(!bench.watch.overdue);
    for (int i = 0; i < 78; i++) { /* nor is what was counted before forgotten */
        look(&bench, 25, 0);
        CHECK(!bench.watch.overdue);
    }
    look(&bench, 25, 0);
    CHECK(bench.watch.overdue);
}

static void a_process_is_seen_as_it_is(void)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0)
        for (;;)
            ;
    uint64_t end = now_ms() + (uint64_t)patient(20000), before = tm_process_cpu_us(child, 0);
    while (tm_process_cpu_us(child, 0) == before && now_ms() < end)
        usleep(1000);
    CHECK(tm_process_cpu_us(child, 0) > before);
    CHECK_EQUAL(tm_process_state(child), 'R');
    CHECK(kill(child, SIGSTOP) == 0 && waitpid(child, NULL, WUNTRACED) == child);
    CHECK_EQUAL(tm_process_state(child), 'T');
    CHECK(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
    CHECK_EQUAL(tm_process_state(child), 0);
    CHECK_EQUAL(tm_process_cpu_us(child, 77), 77);
}

static void nothing_is_left_open(void)
{
    uint32_t before = open_descriptors();
    CHECK_EQUAL(tm_process_state(getpid()), 'R');
    CHECK(tm_process_cpu_us(getpid(), 0) > 0);
    CHECK_EQUAL(open_descriptors(), before);
}

int main(void)
{
    RUN(steps_are_work_however_long_a_turn_is);
    RUN(circles_are_found_by_their_cpu_time);
    RUN(a_circle_that_gets_little_cpu_time_is_not_killed_for_that);
    RUN(waiting_for_a_cpu_is_no_fault);
    RUN(waiting_for_the_kernel_in_the_middle_of_work_is);
    RUN(a_stop_is_told_at_once);
    RUN(a_pause_of_the_watching_one_counts_for_nothing);
    RUN(a_process_is_seen_as_it_is);
    RUN(nothing_is_left_open);
    return 0;
}
