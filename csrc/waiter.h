/* Waiting for events: sleeping, or polling for a moment before that.
 *
 * Going to sleep and being woken costs a worker as much CPU as some ten microseconds of polling,
 * and adds several times that to the latency. So where the next event has usually come soon, the
 * worker polls for a while before it sleeps. Whether it does is learned separately for what it
 * expects:
 *
 *   - an endpoint's response, after passing on a client's bytes
 *   - a client's next request, after a response
 *   - anything, after the rest (a connection was opened or closed)
 *
 * Each has a score that rises when polling paid off and falls when it was in vain; below half the
 * worker sleeps at once, and polls only now and then to see whether that has changed. A worker that
 * gets many events per iteration never waits long: polling would only make its batches smaller, so
 * it sleeps at once. It does so during bulk transfer too: the less often it polls there, the more
 * it finds (measured: 0.24 s of CPU per GB polling, 0.12 to 0.18 sleeping).
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
