/* Waiting for events: asleep or, for a moment, awake.
 *
 * Going to sleep and being woken costs a worker as much CPU as some ten microseconds of looking
 * again and again, and the one that waits for its answer several times that. So where the next
 * event has come soon after the last ones, the worker looks for a while before it sleeps. Whether
 * it does is learned apart for what it expects:
 *
 *   - the answer of an endpoint, after it has passed something on from a client
 *   - the next thing a client says, after an answer
 *   - anything, after the rest (a connection came or went)
 *
 * For each the score goes up when looking was worth it, and down when it was in vain; below half
 * it sleeps at once, and looks only now and then to see whether that has changed. A worker whose
 * turns bring many events at once is never kept waiting long: there looking would only make its
 * batches smaller, and it sleeps at once as well. So it does in the middle of bulk: the less often
 * it looks there, the more it finds (measured: 0.24 s of CPU a GB looking, 0.12 to 0.18 asleep).
 */
#ifndef TM_WAITER_H
#define TM_WAITER_H

#include <stdint.h>
#include <sys/epoll.h>

enum tm_expecting {
    TM_EXPECT_ANSWER = 0,
    TM_EXPECT_CLIENT,
    TM_EXPECT_ANY,
    TM_EXPECTATIONS, /* those that are learned */
    TM_EXPECT_BULK = TM_EXPECTATIONS,
};

#define TM_POLL_AUTO (-1)
#define TM_POLL_AUTO_US 100u /* longest look of TM_POLL_AUTO */

struct tm_waiter {
    uint8_t score[TM_EXPECTATIONS];
    uint8_t slept[TM_EXPECTATIONS]; /* waits since the last look */
    uint32_t batch;                 /* events of a turn, smoothed; 16 = one */
};

void tm_waiter_init(struct tm_waiter *waiter);

/* As epoll_wait. busy_poll: TM_POLL_AUTO, 0 = sleep at once, else microseconds to look for each
 * time. */
int tm_waiter_wait(struct tm_waiter *waiter, int epoll, struct epoll_event *events, int size,
                   int timeout_ms, int busy_poll, enum tm_expecting expecting);

#endif
