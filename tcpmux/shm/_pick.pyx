# cython: language_level=3
"""The pick of csrc/pick.h: what the master plans for a route, and what workers make of it."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from tcpmux.shm.c_table cimport TM_MAX_DESTINATIONS, tm_pick, tm_pick_plan, tm_route


def pick_plan(weights):
    """(period, stride, cumulative thresholds) for a route's weights: see csrc/pick.h."""
    cdef uint32_t given[64]
    cdef uint32_t cumulative[64]
    cdef uint32_t period, stride
    cdef uint32_t count = len(weights)
    if count > TM_MAX_DESTINATIONS:
        raise ValueError(f"at most {TM_MAX_DESTINATIONS} destinations a route, got {count}")
    for i, weight in enumerate(weights):
        if not 0 <= weight <= 1000000:
            raise ValueError(f"a weight is 0..1000000, got {weight}")
        given[i] = weight
    tm_pick_plan(given, count, &period, &stride, cumulative)
    return period, stride, tuple(cumulative[i] for i in range(count))



def pick(weights, uint64_t ticket):
    """Index of the destination that ticket number `ticket` goes to. Needs a positive weight."""
    cdef tm_route route
    memset(&route, 0, sizeof(route))
    route.period, route.stride, thresholds = pick_plan(weights)
    if route.period == 0:
        raise ValueError("no weight is positive")
    route.destination_count = len(thresholds)
    for i, threshold in enumerate(thresholds):
        route.cumulative[i] = threshold
    return tm_pick(&route, ticket)
