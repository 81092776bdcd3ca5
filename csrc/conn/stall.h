/* What connections pin whose peer has stopped reading.
 *
 * A half that is blocked has stalled if, at the rate at which its reader takes bytes, what the
 * connection holds in the kernel (both sockets' queues, pipes) would take it more than ten seconds:
 * two looks in a row, so half a second at least. So who reads a little now and then does not get
 * around it. What those hold goes on accounts that all workers share (pinned.h): one for each
 * client that does not read, one for all.
 *
 * That a program pauses for some seconds (it collects garbage, writes to a disk) says nothing
 * against it. So when an account is used up, those are reset that would take more than a minute and
 * have done so for half a minute. At twice the limit these are all that have stalled, for a quarter
 * of a minute, and so on: the more it is, the sooner. At four times the limit (with `auto`, where
 * the host starts to save memory) they are reset at once. None of them is much smaller than the
 * others.
 */
#ifndef TM_STALL_H
#define TM_STALL_H

#include "worker.h"

/* Goes on looking at those of this worker, a part in each turn of the loop; resets what is too
 * much. */
void tm_stall_look(struct tm_worker *w);

#endif
