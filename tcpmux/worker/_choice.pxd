"""Which endpoint of a destination a connection is given."""

from libc.stdint cimport uint32_t

from tcpmux.shm._layout cimport tm_conn, tm_destination
from tcpmux.worker._connection cimport Worker

# One of the destination's turns; turn_count must not be 0.
cdef uint32_t choose_turn(Worker *w, const tm_conn *conn,
                          const tm_destination *destination) noexcept nogil
# The endpoint to be tried next, from conn.first_turn on: an index in the destination; TM_NONE =
# none is left.
cdef uint32_t next_endpoint(Worker *w, const tm_conn *conn,
                            const tm_destination *destination) noexcept nogil
