/* Whether a connection may try another endpoint: attempts and the budget of its route. */
#ifndef TM_RETRY_H
#define TM_RETRY_H

#include "endpoint.h"

/* Whether the route allows no further connect for this connection, to whomever. */
bool tm_retries_used_up(const struct tm_cold *cold, const struct tm_route *route);

/* Whether its route lets it connect to one of this tier. The first connect of all pays for others'
 * retries. The first one to a later tier or to the fallback, which are there to take over, needs no
 * budget: there is one of those for each connection at the most. */
bool tm_retry_allowed(struct tm_worker *w, uint32_t index, const struct tm_destination *destination,
                      struct tm_tier tier, bool is_first);

#endif
