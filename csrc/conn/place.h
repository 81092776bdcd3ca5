/* Placing a connection within max_connections of a destination and its endpoints, or in its
 * queue. */
#ifndef TM_PLACE_H
#define TM_PLACE_H

#include "stage.h"

/* The destination, or each of its endpoints, is full: as its rule `on_full` says, waits or ends. */
struct tm_answer tm_place_full(struct tm_worker *w, uint32_t index,
                               const struct tm_destination *destination);

#endif
