# cython: language_level=3
"""The pick of csrc/pick.h: what the master plans for a split, and what workers make of it."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from tcpmux.shm.c_table cimport TM_MAX_DESTINATIONS, tm_pick, tm_pick_plan, tm_split


cdef int plan_split(tm_split *split, weights) except -1:
    """All of it but its ticket."""
    cdef uint32_t given[64]
    cdef uint32_t count = len(weights)
    if count > TM_MAX_DESTINATIONS:
        raise ValueError(f"at most {TM_MAX_DESTINATIONS} destinations a route, got {count}")
    for i, weight in enumerate(weights):
        if not 0 <= weight <= 1000000:
            raise ValueError(f"a weight is 0..1000000, got {weight}")
        given[i] = weight
    tm_pick_plan(given, count, split)
    return 0



def pick_plan(weights):
    """(period, stride, cumulative thresholds) for a route's weights: see csrc/pick.h."""
    cdef tm_split split
    memset(&split, 0, sizeof(split))
    plan_split(&split, weights)
    return split.period, split.stride, tuple(split.cumulative[i] for i in range(len(weights)))



def pick(weights, uint64_t ticket):
    """Index of the destination that ticket number `ticket` goes to. Needs a positive weight."""
    cdef tm_split split
    memset(&split, 0, sizeof(split))
    plan_split(&split, weights)
    if split.period == 0:
        raise ValueError("no weight is positive")
    return tm_pick(&split, ticket)
