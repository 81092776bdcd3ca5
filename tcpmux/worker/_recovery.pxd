"""Taking up the work of a worker that has died."""

from libc.stdint cimport uint32_t

from tcpmux.worker._connection cimport Worker
from tcpmux.worker._descriptors cimport tm_descriptors


# Claims what the records hold, refuses those that make no sense, finds a record for a socket
# that was just being accepted, and closes what nobody has claimed. Needs the image in force;
# opens nothing before it, so that no number that a record may wrongly name comes to mean
# something new.
cdef void recover_records(Worker *w, tm_descriptors *all) noexcept nogil
# Goes on with every connection. Needs the epoll instance.
cdef void recover_connections(Worker *w) noexcept nogil
# Serves a connection that has been out of epoll and timers, in whatever state it is.
cdef void take_up(Worker *w, uint32_t index) noexcept nogil
