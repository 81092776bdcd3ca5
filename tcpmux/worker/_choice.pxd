"""Which endpoint of a destination a connection is given."""

from libc.stdint cimport uint32_t

from tcpmux.shm._layout cimport tm_conn, tm_destination
from tcpmux.worker._connection cimport Worker

# Endpoints of one priority: of a destination's turns the first, and how many.
cdef struct Tier:
    uint32_t first
    uint32_t count

cdef Tier first_tier(const tm_destination *destination) noexcept nogil
# The one after it; count 0: there is none.
cdef Tier tier_after(Worker *w, const tm_destination *destination, Tier tier) noexcept nogil
# The endpoint to be tried next: an index in the destination, and its tier. Looks from `tier` on;
# none that has just failed (for whatever connection), unless they are `all` there are. TM_NONE: none
# is left.
cdef uint32_t next_endpoint(Worker *w, tm_conn *conn, const tm_destination *destination,
                            Tier *tier, bint all) noexcept nogil
# Whether the connection has tried nobody of a tier yet.
cdef bint is_untried(Worker *w, const tm_conn *conn, const tm_destination *destination,
                     Tier tier) noexcept nogil
# Whether somebody there can be expected to take a connection.
cdef bint is_promising(Worker *w, const tm_destination *destination) noexcept nogil
