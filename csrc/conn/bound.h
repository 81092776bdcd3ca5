/* Bounds what is sent to a peer until it has shown that it reads: bytes at a time, and bytes in
 * its send queue. What it does not take stays in the sender's socket. */
#ifndef TM_BOUND_H
#define TM_BOUND_H

#include "worker.h"

/* Around a pump from `side` to a peer that is not TM_PROVEN yet. */
void tm_bound_before(struct tm_worker *w, uint32_t index, int side);
void tm_bound_after(struct tm_worker *w, uint32_t index, int side);

/* `side` is given bulk. */
void tm_bound_do_not_pace(struct tm_worker *w, uint32_t index, int side);

#endif
