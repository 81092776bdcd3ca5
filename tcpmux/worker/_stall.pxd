"""Connections whose peer has stopped reading: what they pin, and when that is too much."""

from libc.stdint cimport uint64_t

from tcpmux.worker._connection cimport Worker

# Goes on looking at those of this worker, a part in each turn of the loop; resets what is too much.
cdef void look_at_stalled(Worker *w) noexcept nogil
