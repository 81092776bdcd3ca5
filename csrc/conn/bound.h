/* A peer that may not read is given little: at once, and in its queue, until it has shown that it
 * reads. What it does not take stays where it comes from. */
#ifndef TM_BOUND_H
#define TM_BOUND_H

#include "worker.h"

/* Around a pump from `side` to a peer that is not TM_PROVEN yet. */
void tm_bound_before(struct tm_worker *w, uint32_t index, int side);
void tm_bound_after(struct tm_worker *w, uint32_t index, int side);

/* `side` is given bulk. */
void tm_bound_do_not_pace(struct tm_worker *w, uint32_t index, int side);

#endif
