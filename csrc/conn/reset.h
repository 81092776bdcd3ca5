/* A side has reset its connection, and the other one is still to get what was sent before. */
#ifndef TM_CONN_RESET_H
#define TM_CONN_RESET_H

#include "worker.h"

/* Since when a side was reset while the other one does not read: that one is reset after so long
 * without progress, as it would have been by a direct peer. */
#define TM_RESET_WAIT_MS 1000u
#define TM_RESET_LOOK_MS 10u

/* `side` is gone and all it sent is passed on: resets the other one, after that has arrived. */
void tm_reset_from(struct tm_worker *w, uint32_t index, int side);

/* A side was reset while the other one does not read. */
void tm_reset_await(struct tm_worker *w, uint32_t index);

#endif
