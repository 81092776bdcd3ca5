/* The counts over all workers that a connection is part of: of its listener, route, client,
 * destination and endpoint, or of its destination's queue.
 *
 * A record says in `holds` which counts it is part of, so that each is decremented once. A change
 * that was under way when a worker died is in its region's tm_intent: commons.h.
 */
#ifndef TM_OCCUPY_H
#define TM_OCCUPY_H

#include "worker.h"

/* Increments a count for the connection; false if it is at `limit` already (0 = no limit).
 * what: one bit of enum tm_holding; the record names the slot. */
bool tm_occupy(struct tm_worker *w, uint32_t index, int what, uint64_t limit);
void tm_vacate(struct tm_worker *w, uint32_t index, int what);
void tm_vacate_all(struct tm_worker *w, uint32_t index);

/* The same for its client, in a table of fixed size. Returns 0, TM_SOURCE_FULL, or
 * TM_SOURCE_NO_ROOM if there are too many clients to count this one. */
int tm_occupy_source(struct tm_worker *w, uint32_t index, uint64_t limit);

/* In a worker's next incarnation: what the dead one was counting. */
void tm_occupy_recover(struct tm_worker *w);

#endif
