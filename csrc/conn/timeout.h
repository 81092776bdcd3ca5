/* What a deadline means, by the state of its connection. */
#ifndef TM_TIMEOUT_H
#define TM_TIMEOUT_H

#include "worker.h"

/* The wheel has handed it out. */
void tm_timeout_due(struct tm_worker *w, uint32_t index);

/* When a relayed connection has to be looked at next, if nothing happens to it. Monotonic. */
uint64_t tm_timeout_next(struct tm_worker *w, uint32_t index);

#endif
