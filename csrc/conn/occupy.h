/* Where a connection counts, over all workers: in its listener, route, client, destination and
 * endpoint, or among those that wait for a destination.
 *
 * A record says in `holds` where it counts, and so does not forget to count down. What was under
 * way when a worker died is in its region's tm_intent: commons.h.
 */
#ifndef TM_OCCUPY_H
#define TM_OCCUPY_H

#include "worker.h"

/* Counts the connection once more, unless there are `limit` already (0 = no limit): then false.
 * what: one bit of enum tm_holding; the record names the slot that it is about. */
bool tm_occupy(struct tm_worker *w, uint32_t index, int what, uint64_t limit);
void tm_vacate(struct tm_worker *w, uint32_t index, int what);
void tm_vacate_all(struct tm_worker *w, uint32_t index);

/* The same of its client, in a table of fixed size: 0, TM_SOURCE_FULL, or TM_SOURCE_NO_ROOM: there
 * are too many clients to count this one. */
int tm_occupy_source(struct tm_worker *w, uint32_t index, uint64_t limit);

/* In a worker's next incarnation: what the dead one was counting. */
void tm_occupy_recover(struct tm_worker *w);

#endif
