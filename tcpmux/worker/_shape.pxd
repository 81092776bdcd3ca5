"""Limited rates: when a half may be read, and how much at once. The arithmetic is csrc/shape.h."""

from libc.stdint cimport uint64_t

from tcpmux.shm._layout cimport tm_conn, tm_destination, tm_half, tm_image
from tcpmux.worker._connection cimport Worker

# destination: the connection's, in the image in force; NULL = a reload has removed it, and nothing
# limits it any more.

# Whether a half may be read now; sets the pump's budget. If not, it is paused.
cdef bint may_read(Worker *w, tm_conn *conn, const tm_destination *destination,
                   int side) noexcept nogil
# After may_read() and the pump: puts what was moved on the accounts. True: it is paused now.
cdef bint pay(Worker *w, tm_conn *conn, const tm_destination *destination, int side,
              uint64_t moved) noexcept nogil
# Whether a paused half's time has come.
cdef bint is_due(Worker *w, const tm_half *half) noexcept nogil
# When a paused half is to be looked at; monotonic.
cdef uint64_t look_ms(Worker *w, const tm_half *half) noexcept nogil
# It waits no longer, for another reason than its time: what it had reserved is others'.
cdef void end_pause(Worker *w, tm_conn *conn, const tm_destination *destination,
                    int side) noexcept nogil
# At each look: nobody waits longer than the rates in force demand.
cdef void shorten_pause(Worker *w, const tm_conn *conn, const tm_destination *destination,
                        tm_half *half, int side) noexcept nogil
# How much may be moved at once: 2^power bytes.
cdef void allow_at_once(Worker *w, int power) noexcept nogil
# Another image is to be in force.
cdef void look_at_rates(Worker *w, const tm_image *image) noexcept nogil
