/* Closing connections so that their clients come again, and get a destination by the weights in
 * force: which ones control decides, and whether this is the moment, the worker that has it. */
#ifndef TM_CONVERGE_H
#define TM_CONVERGE_H

#include "worker.h"

/* Orders that are older are not carried out: those that a stopped worker finds would all come at
 * once. */
#define TM_CONVERGE_FRESH_MS 1000

/* Carries out a message CONVERGE: `order` is its value, as worker/messages.py has it. Does nothing
 * unless it is that connection's turn to speak for its client: a request that has not been answered
 * is never cut off, nor is an answer. What the client sends after that is answered by RST, as it is
 * passed on to nobody. late: resets it, whatever it does. */
void tm_converge(struct tm_worker *w, uint32_t index, uint64_t order, uint32_t quiet_ms, bool late);

/* Whether an order is for a connection that is relayed here, and not too old. */
bool tm_converge_may_obey(const struct tm_worker *w, uint32_t index, uint64_t order);

/* Whether nothing is under way for it, and nobody has said anything for so long. */
bool tm_converge_is_moment(struct tm_worker *w, uint32_t index, uint32_t quiet_ms);

#endif
