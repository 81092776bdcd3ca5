"""What a connection counts in, over all workers: csrc/commons.h."""

from libc.stdint cimport uint32_t, uint64_t

from tcpmux.shm._layout cimport tm_conn, tm_destination, tm_route
from tcpmux.worker._connection cimport Worker

# Has the connection count as one more, unless there are `limit` already (0 = no limit): then
# False. what: one bit of enum tm_holding; the record names the slot that it is about.
cdef bint hold(Worker *w, uint32_t index, int what, uint64_t limit) noexcept nogil
cdef void let_go_of(Worker *w, uint32_t index, int what) noexcept nogil
cdef void let_go_of_all(Worker *w, uint32_t index) noexcept nogil
# The limits of its route that concern all its connections. False: one is reached; *reason says
# for which reason it is to be closed.
cdef bint let_in(Worker *w, uint32_t index, const tm_route *route, int *reason) noexcept nogil
# The endpoint has ended the connection without a byte.
cdef void suspect(Worker *w, const tm_conn *conn) noexcept nogil
# In a worker's next life: what the dead one was counting.
cdef void recover_counting(Worker *w) noexcept nogil
