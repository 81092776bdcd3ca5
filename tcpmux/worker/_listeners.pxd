"""The listening sockets that a worker polls, and accepting on them."""

from libc.stdint cimport uint32_t

from tcpmux.worker._state cimport Loop
from tcpmux.worker._plane cimport tm_descriptors

# 0, or -ENOSPC with the descriptor closed.
cdef int add_listener(Loop *loop, uint32_t id, uint32_t shard, int fd, bint shared) noexcept nogil
# Stops accepting on a listener (or on every one), after its queue is served.
cdef void remove_listener(Loop *loop, uint32_t id, bint every) noexcept nogil
# Polls the shards that the table gives to this worker, unless paused.
cdef void sync_listeners(Loop *loop) noexcept nogil
cdef void listener_event(Loop *loop, uint32_t index) noexcept nogil
# Serves the queues of listeners that are being removed, and closes those it has emptied.
cdef void serve_leaving(Loop *loop) noexcept nogil
# Accepts again, if it was paused and there is room now.
cdef void maybe_resume(Loop *loop) noexcept nogil
# After a death: what is not claimed will be closed; the master gives it once more.
cdef void claim_listeners(Loop *loop, tm_descriptors *all) noexcept nogil
