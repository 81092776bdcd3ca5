/* Which endpoint of a destination a connection is given.
 *
 * All that is known is in shared memory: whose turns they are (the image), how many connections
 * each has in all workers and which has just failed (commons). An endpoint that has failed a moment
 * ago is passed over while there are others, those of later tiers (backups) among them.
 *
 * What an endpoint can't take is spread over all others of its tier: its turn is skipped, and not
 * given to whoever stands next to it; and a client that goes with an endpoint by its address always
 * gets the same other one.
 */
#ifndef TM_CONN_ENDPOINT_H
#define TM_CONN_ENDPOINT_H

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

/* The endpoint to be tried next: an index in the destination, and its tier. Looks from `tier` on;
 * none that has just failed (for whatever connection), unless they are `all` there are. TM_NONE:
 * none is left. */
uint32_t tm_endpoint_next(struct tm_worker *w, struct tm_cold *cold,
                          const struct tm_destination *destination, struct tm_tier *tier, bool all)
    __attribute__((warn_unused_result));

#endif
