"""A worker's line to the master, and its waiting for a new one without it."""

from tcpmux.worker._state cimport Loop
from tcpmux.worker._plane cimport tm_descriptors

# Takes a new generation into use, if there is one, and tells so.
cdef void look_at_table(Loop *loop) noexcept nogil
cdef void channel_event(Loop *loop, bint all) noexcept nogil
# A new master: its connection is the line to it from here on.
cdef void takeover_event(Loop *loop) noexcept nogil
# What the master is to know, each kind at most so often.
cdef void tell_all(Loop *loop) noexcept nogil
# Once more for what epoll had no memory for.
cdef void watch_again(Loop *loop) noexcept nogil
# At the start of an incarnation. 0 or -errno.
cdef int begin_watching(Loop *loop) noexcept nogil
cdef void watch_lines(Loop *loop) noexcept nogil
# After a death: nothing that a client can write to is taken for a line.
cdef void claim_lines(Loop *loop, tm_descriptors *all) noexcept nogil
