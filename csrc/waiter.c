/* Waiting for events. Runs in a worker. */
#include "waiter.h"

#include <stdbool.h>
#include <time.h>

enum {
    BEST = 15,       /* of a score */
    WORTH_IT = 8,    /* from here on it looks */
    PROBE_EVERY = 64 /* waits, below that */,
    BATCH_ONE = 16,
    MAX_BATCH = 24, /* one and a half events a turn */
};

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

void tm_waiter_init(struct tm_waiter *waiter)
{
    *waiter = (struct tm_waiter){.batch = BATCH_ONE};
    for (int i = 0; i < TM_EXPECTATIONS; i++)
        waiter->score[i] = WORTH_IT;
}

static bool looks(struct tm_waiter *waiter, enum tm_expecting expecting)
{
    if (expecting == TM_EXPECT_BULK || waiter->batch > MAX_BATCH)
        return false;
    if (waiter->score[expecting] >= WORTH_IT)
        return true;
    waiter->slept[expecting]++;
    return waiter->slept[expecting] % PROBE_EVERY == 0;
}

static void learn(struct tm_waiter *waiter, enum tm_expecting expecting, bool worth_it)
{
    if (expecting == TM_EXPECT_BULK)
        return;
    uint8_t *score = &waiter->score[expecting];
    if (worth_it && *score < BEST)
        ++*score;
    else if (!worth_it && *score > 0)
        --*score;
}

/* Looks for up to `limit` ns. */
static int look(int epoll, struct epoll_event *events, int size, int64_t limit)
{
    int64_t end = now_ns() + limit;
    for (;;) {
        int count = epoll_wait(epoll, events, size, 0);
        if (count != 0 || now_ns() >= end)
            return count;
    }
}

int tm_waiter_wait(struct tm_waiter *waiter, int epoll, struct epoll_event *events, int size,
                   int timeout_ms, int busy_poll, enum tm_expecting expecting)
{
    bool adaptive = busy_poll == TM_POLL_AUTO;
    int64_t limit = 1000 * (adaptive ? (int64_t)TM_POLL_AUTO_US : busy_poll);
    int count = 0;
    if (timeout_ms != 0 && limit > 0 && (!adaptive || looks(waiter, expecting))) {
        count = look(epoll, events, size, limit);
        learn(waiter, expecting, count > 0);
    }
    if (count == 0)
        count = epoll_wait(epoll, events, size, timeout_ms);
    if (count > 0)
        waiter->batch += (uint32_t)count * (BATCH_ONE / 8) - waiter->batch / 8;
    return count;
}
