/* The weighted pick: exact, lock-free, without tables.
 *
 *     S = sum of weights / their greatest common divisor      (the period)
 *     n = atomic_add(ticket, 1)
 *     x = (n mod S) * stride mod S                            (stride coprime to S)
 *     destination = the first i with x < cumulative[i]
 *
 * n -> n * stride mod S is a bijection on any S consecutive n, so any S
 * consecutive connections of a route hold exactly its weight of each
 * destination, whichever workers took the tickets. A stride near S / golden
 * ratio spreads the short windows too.
 *
 * Bounds: 64 weights of at most 1,000,000 give S <= 64,000,000 < 2^26, so the
 * product stays below 2^52.
 */
#ifndef TM_PICK_H
#define TM_PICK_H

#include <assert.h>
#include <stdint.h>

#include "route_table.h"

static inline uint32_t tm_pick_position(uint64_t n, uint32_t period, uint32_t stride)
{
    return (uint32_t)((n % period) * stride % period);
}

/* Index within the route of the destination for ticket `n`. period must not be 0. */
static inline uint32_t tm_pick(const struct tm_route *route, uint64_t n)
{
    uint32_t x = tm_pick_position(n, route->period, route->stride);
    uint32_t i = 0;
    while (x >= route->cumulative[i])
        i++;
    assert(i < route->destination_count);
    return i;
}

/* Works out period, stride and cumulative[count] for `weights`.
 * All weights 0 (or count 0): *period = 0, nothing may be picked.
 * count <= TM_MAX_DESTINATIONS, each weight <= TM_MAX_WEIGHT. pick.c; the master's. */
void tm_pick_plan(const uint32_t *weights, uint32_t count, uint32_t *period, uint32_t *stride,
                  uint32_t *cumulative);

#endif
