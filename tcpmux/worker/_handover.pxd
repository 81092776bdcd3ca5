"""Handing connections over to another worker, and taking them."""

from libc.stdint cimport uint32_t, uint64_t

from tcpmux.shm._layout cimport TM_MAX_LINES
from tcpmux.worker._connection cimport Worker


cdef struct Handover:
    uint32_t cursor      # the next record to look at
    uint32_t line        # the next line to give over
    uint64_t retry_ms    # do not give before, monotonic: nobody had room
    uint64_t lost        # lines that have come to their end, and the master does not know it
    bint has_quota
    uint64_t quota[TM_MAX_LINES]  # connections to be given over each line, for a balance


# Something has come over the line to worker `other`.
cdef void handover_event(Worker *w, Handover *handover, uint32_t other) noexcept nogil
# Gives away some connections. True if there are more that could be given now.
cdef bint handover_some(Worker *w, Handover *handover) noexcept nogil
# Gives away what the quotas say. True if there is more to be given.
cdef bint handover_quota(Worker *w, Handover *handover) noexcept nogil
# From now on `fd` is the line to worker `other`.
cdef void handover_line(Worker *w, Handover *handover, uint32_t other, int fd) noexcept nogil
# A life begins: gives once more what is on its way, and asks the others to do so.
cdef void handover_recover(Worker *w) noexcept nogil
