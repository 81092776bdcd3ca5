/* Chooses the endpoint of a destination for a connection.
 *
 * Everything that the choice depends on is in shared memory: the turns of the endpoints (the
 * image), the number of connections of each in all workers and which have just failed (commons).
 * An endpoint that has just failed is passed over while there are others, including those of later
 * tiers (backups).
 *
 * The share of an endpoint that can't be used is spread over all others of its tier: its turn is
 * skipped rather than given to its neighbour. A client that is mapped to an endpoint by its address
 * is always mapped to the same substitute.
 */
#ifndef TM_CONN_ENDPOINT_H
#define TM_CONN_ENDPOINT_H

#include <errno.h>

#include "worker.h"

/* Endpoints of one priority: of a destination's turns the first, and how many; 0 = no tier. */
struct tm_tier {
    uint32_t first, count;
};

static inline struct tm_tier tm_tier_first(const struct tm_destination *destination)
{
    return (struct tm_tier){0, destination->turn_count};
}

struct tm_tier tm_tier_after(const struct tm_worker *w, const struct tm_destination *destination,
                             struct tm_tier tier);

/* Whether the connection has tried nobody of a tier yet. */
bool tm_tier_is_untried(const struct tm_worker *w, const struct tm_cold *cold,
                        const struct tm_destination *destination, struct tm_tier tier);

/* Whether somebody there can be expected to take a connection. */
bool tm_is_promising(const struct tm_worker *w, const struct tm_destination *destination);

/* The endpoint to try next, as an index in the destination, and its tier. Starts at `tier`. Leaves
 * out endpoints that have just failed (for any connection), unless `all`. TM_NONE: none is left. */
uint32_t tm_endpoint_next(struct tm_worker *w, struct tm_cold *cold,
                          const struct tm_destination *destination, struct tm_tier *tier, bool all)
    __attribute__((warn_unused_result));

/* A connect there has failed with `error`; 0 = it took too long. One that refuses TLS alone is held
 * to be as good as before: it may serve clients without it. */
#define TM_REFUSES_TLS EPROTONOSUPPORT /* of starttls.c; no connect fails with that */
void tm_endpoint_failed(struct tm_worker *w, struct tm_common *endpoint, uint32_t error);

#endif
