/* The destination that a sticky route's client belongs to. Runs in a worker. */
#ifndef TM_CONN_STICKY_H
#define TM_CONN_STICKY_H

#include "worker.h"

/* Whether the connection has what its route goes by: *key is the client's. */
bool tm_sticky_key_of(struct tm_worker *w, uint32_t index, const struct tm_route *route,
                      uint64_t *key);

/* By its index in the route; TM_NONE: none has weight in the split. */
uint32_t tm_sticky_home(const struct tm_image *image, const struct tm_split *split, uint64_t key);

/* The next best: none of `not_these` (a bit each) and none that can't serve. */
uint32_t tm_sticky_other(const struct tm_image *image, const struct tm_route *route,
                         const struct tm_split *split, uint64_t key, uint64_t not_these);

#endif
