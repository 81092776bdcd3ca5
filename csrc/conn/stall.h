/* Kernel memory pinned by connections whose peer has stopped reading.
 *
 * A blocked half has stalled if its reader, at its current rate, would need more than ten seconds
 * for what the connection holds in the kernel (both sockets' queues, pipes), in two checks in a
 * row, at least half a second apart. So reading a little now and then does not help. What stalled
 * connections hold is added to accounts that all workers share (pinned.h): one for each client that
 * does not read, and one for all.
 *
 * A program may well pause for some seconds (to collect garbage, to write to a disk). So when an
 * account is used up, only those connections are reset that would need more than a minute, and have
 * for half a minute. At twice the limit all that have stalled for a quarter of a minute are reset,
 * and so on: the larger the sum, the sooner. At four times the limit (with `auto`, where the host
 * starts to reclaim memory) they are reset at once.
 */
#ifndef TM_STALL_H
#define TM_STALL_H

#include "worker.h"

/* Continues checking this worker's connections, some in each iteration of the loop; resets those
 * over the limit. */
void tm_stall_look(struct tm_worker *w);

#endif
