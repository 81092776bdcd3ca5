/* The endpoint of a connection is exchanged for another one, which a scout (rehome.h) has.
 *
 * Socket, slots, counts over all workers and what was said to the endpoint change places between
 * the two records, all or nothing: what both are to be stands in the buffer before either is
 * touched, and the journal says so. A later incarnation writes it again. So at any moment each
 * socket is in one record or in that text, and each count in one record.
 */
#ifndef TM_SWAP_H
#define TM_SWAP_H

#include "worker.h"

/* Nothing of the connection is under way: pipes and queues are empty, and both halves open. From
 * then on the scout has its old endpoint, and rehomed as its reason. */
void tm_swap(struct tm_worker *w, uint32_t index, uint32_t scout);

/* After a death, before anything else is done with the records. */
void tm_swap_recover(struct tm_worker *w);

#endif
