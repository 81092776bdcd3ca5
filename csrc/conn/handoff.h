/* Moves connections from one worker to another: all of them when a worker retires, some of them for
 * balance. The protocol is in handoff_message.h.
 *
 * While a connection is moving (`moving`) no worker serves it: it is out of epoll, timers and
 * pumps until the message is answered.
 */
#ifndef TM_HANDOFF_H
#define TM_HANDOFF_H

#include "worker.h"

struct tm_handoffs {
    uint32_t cursor;   /* the next record to look at */
    uint32_t line;     /* the next line to give over */
    uint64_t retry_ms; /* do not give before, monotonic: nobody had room */
    uint64_t lost;     /* lines that have come to their end, and the master does not know it */
    bool has_quota;
    uint64_t quota[TM_MAX_LINES]; /* connections to be given over each line, for a balance */
};

/* One more, or less, that is open in this worker. */
void tm_handoff_count(struct tm_worker *w, uint32_t index, bool came);
/* Something has come over the line to worker `other`. */
void tm_handoff_event(struct tm_worker *w, struct tm_handoffs *handoffs, uint32_t other);
/* Gives away some connections. True if there are more that could be given now. */
bool tm_handoff_some(struct tm_worker *w, struct tm_handoffs *handoffs);
/* Gives away what the quotas say. True if there is more to be given. */
bool tm_handoff_quota(struct tm_worker *w, struct tm_handoffs *handoffs);
/* From now on `fd` is the line to worker `other`. */
void tm_handoff_line(struct tm_worker *w, struct tm_handoffs *handoffs, uint32_t other, int fd);
/* An incarnation begins: gives once more what is on its way, and asks the others to do so. */
void tm_handoff_recover(struct tm_worker *w);

#endif
