"""One worker's state, and the life of a connection in it."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from tcpmux.shm._layout cimport (
    TM_HUNG_UP, TM_RESET, tm_conn, tm_conn_state, tm_image, tm_live, tm_peer, tm_pump, tm_route,
    tm_slot, tm_table, tm_commons,
)
from tcpmux.worker._mechanism cimport (
    EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLPRI, EPOLLRDHUP, tm_expecting,
    tm_wheel,
)


# What the last look at a connection has seen of it (_stall).
cdef struct Looked:
    uint32_t generation          # of the connection
    uint32_t acknowledged[2]     # by each side, the low bits
    uint8_t slow                 # how many looks in a row, at least
    uint8_t idle                 # the same: much slower


cdef struct Worker:
    uint32_t id
    int epoll
    uint64_t now_ms              # monotonic, read once a turn
    uint64_t now_us              # the same moment
    bint denied                  # by the UNIX socket of `denied_slot`; the master is to be told
    uint32_t denied_slot
    # Shared memory. The image is the one of `generation`.
    const tm_table *table
    const tm_image *image
    uint64_t generation
    tm_commons *commons
    tm_live *live
    tm_conn *records
    # Records: never-used ones lie behind live.records_used; the rest are in a list.
    uint32_t capacity            # the connection limit
    uint32_t connections
    uint32_t free                # heads; TM_NONE = empty
    uint32_t dead
    uint32_t ready
    tm_expecting expecting       # what the last thing done is likely to bring
    uint64_t random              # state of _choice's generator; not 0
    # _stall: connections whose peer does not read.
    Looked *looked               # by record; NULL = none was blocked so far in this life
    uint64_t look_ms             # when they are looked at next; 0 = there are none
    uint32_t look_cursor         # the next record to look at
    bint has_blocked             # in this look: some that may stall
    uint32_t stalled, stalled_before  # how many, in this look and the last one
    uint64_t pinned, pinned_before    # and the bytes that they hold
    uint32_t too_much            # sums in a row that are above the limit
    uint32_t unread, unread_by_source # reset since the master was told: all, for their client
    uint32_t whole_budget        # bytes that a half may move whose peer reads
    bint paced                   # the host's congestion control paces bulk: csrc/sock.h
    uint32_t connects            # started in this life: csrc/trace.h
    bint shapes                  # some route or destination limits bytes per second
    uint64_t reserved_ns         # on its route's account, for the half that is being read
    tm_pump pump
    tm_wheel wheel

cdef enum:
    # EPOLLPRI: urgent data. A read stops short in front of it, with bytes left behind it.
    BASE_EVENTS = EPOLLIN | EPOLLRDHUP | EPOLLPRI | EPOLLET
    # An endpoint that has accepted, written and sent RST before its connect was looked at: what
    # it wrote is delivered before the reset, as a direct peer would have read it.
    ANSWERED_AND_RESET = TM_RESET | TM_HUNG_UP

# Takes an accepted socket over: pick, connect, relay. route = index in the image.
cdef void connection_open(Worker *w, int fd, const tm_peer *peer, uint32_t route) noexcept nogil
# An epoll event for one side; `generation` is the one that the event carries.
cdef void connection_event(Worker *w, uint32_t index, uint32_t generation, int side,
                           uint32_t events) noexcept nogil
# The wheel has handed it out.
cdef void connection_timer(Worker *w, uint32_t index) noexcept nogil
# Pumps once more every half that used up its budget; True if there were any.
cdef bint connections_resume(Worker *w) noexcept nogil
# Frees what has ended in this batch: the one place where records become free.
cdef void connections_free(Worker *w) noexcept nogil
# Resets one by order of an operator, if it is still there.
cdef void connection_kill(Worker *w, uint32_t index, uint32_t generation) noexcept nogil
# Resets every connection: the end of the worker.
cdef void connections_reset_all(Worker *w) noexcept nogil

# Steps of a connection's life, for recovery and hand-over.
# Index of a record that is free, TM_NONE if there is none: the connection limit.
cdef uint32_t connection_place(Worker *w) noexcept nogil
# Ends a record whose connection goes on elsewhere: first its state, then the rest. Count nothing.
cdef void connection_leave(tm_conn *conn) noexcept nogil
cdef void connection_retire(Worker *w, uint32_t index) noexcept nogil
cdef uint32_t connection_record(Worker *w, int fd, const tm_peer *peer,
                                const tm_route *chosen) noexcept nogil
cdef void side_was_reset(Worker *w, uint32_t index, int side) noexcept nogil
cdef void connection_route(Worker *w, uint32_t index, const tm_route *chosen) noexcept nogil
cdef void go_on_waiting(Worker *w, uint32_t index) noexcept nogil
cdef uint64_t next_look(Worker *w, uint32_t index) noexcept nogil
cdef void attempt_failed(Worker *w, uint32_t index, int error, bint timed_out) noexcept nogil
cdef void connect_next(Worker *w, uint32_t index) noexcept nogil
cdef void connection_finish(Worker *w, uint32_t index) noexcept nogil
cdef void end(Worker *w, uint32_t index, int reason, bint reset) noexcept nogil
cdef void count_bytes(Worker *w, tm_conn *conn, int side) noexcept nogil
cdef void close_side(tm_conn *conn, int side, bint reset) noexcept nogil
cdef void push_ready(Worker *w, uint32_t index, int side) noexcept nogil
cdef void arm(Worker *w, uint32_t index, uint64_t deadline_ms) noexcept nogil
cdef int watch(Worker *w, uint32_t index, int side, int operation, uint32_t events) noexcept nogil
cdef tm_slot *slot_of(Worker *w, uint32_t slot) noexcept nogil
