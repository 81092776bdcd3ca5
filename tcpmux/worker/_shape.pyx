# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False
"""Limited rates of connections and routes. Runs in a worker, without the GIL.

A half that has to wait is paused, in its record, until the time that is there. A pause is looked at
once a second, as the rates may be others by then.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from tcpmux.shm._layout cimport (
    TM_BUFFER_SIZE, tm_bytes_ahead, tm_bytes_forgive, tm_bytes_reserve, tm_bytes_settle,
    TM_CLIENT, tm_conn, tm_destination, tm_half, TM_HUNG_UP, tm_image, TM_PAUSED, tm_route,
    TM_RESERVED, tm_shape_cost, TM_SHAPE_EARLY, TM_SHAPE_MOST_POWER, tm_shape_pay,
    tm_shape_power, TM_UNPAUSED,
)
from tcpmux.worker._connection cimport Worker
from tcpmux.worker._mechanism cimport tm_sock_unread

cdef enum:
    LOOK_MS = 1000


cdef inline uint64_t own_rate(const tm_destination *destination, int side) noexcept nogil:
    """Bytes/s; 0 = no limit."""
    return destination.rules.up if side == TM_CLIENT else destination.rules.down


cdef inline uint64_t shared_rate(Worker *w, const tm_destination *destination,
                                 int side) noexcept nogil:
    cdef const tm_route *route = &w.image.routes[destination.route]
    return route.rules.up if side == TM_CLIENT else route.rules.down


cdef void allow_at_once(Worker *w, int power) noexcept nogil:
    cdef uint32_t budget = <uint32_t>1 << power
    w.pump.budget = budget
    w.pump.buffer_size = TM_BUFFER_SIZE if budget > TM_BUFFER_SIZE else <size_t>budget
    w.pump.splice_size = budget


cdef inline bint is_reserved(const tm_half *half) noexcept nogil:
    return TM_RESERVED <= half.paused <= TM_RESERVED + TM_SHAPE_MOST_POWER


cdef bint is_due(Worker *w, const tm_half *half) noexcept nogil:
    return half.paid_ns <= w.now_us * 1000 + TM_SHAPE_EARLY


cdef uint64_t look_ms(Worker *w, const tm_half *half) noexcept nogil:
    cdef uint64_t due = half.paid_ns // 1000000 + 1
    return due if due < w.now_ms + LOOK_MS else w.now_ms + LOOK_MS


cdef bint has_more(const tm_conn *conn, int side) noexcept nogil:
    """Whether there may be something to be moved, or an end to be passed on."""
    return (conn.half[side].queued != 0 or conn.side_flags[side] & TM_HUNG_UP
            or tm_sock_unread(conn.fd[side]) != 0)


cdef bint may_read(Worker *w, tm_conn *conn, const tm_destination *destination,
                   int side) noexcept nogil:
    cdef tm_half *half = &conn.half[side]
    cdef uint64_t own = 0, shared = 0, now_ns = w.now_us * 1000, ahead, start
    cdef uint32_t power = TM_SHAPE_MOST_POWER, given
    if destination != NULL:
        own = own_rate(destination, side)
        shared = shared_rate(w, destination, side)
    w.reserved_ns = 0
    if own:
        power = tm_shape_power(own, 0)
    if shared and is_reserved(half):
        power = half.paused - TM_RESERVED
        w.reserved_ns = tm_shape_cost(<uint64_t>1 << power, shared)
    elif shared:
        ahead = tm_bytes_ahead(&w.commons.slots[conn.route_slot], side, now_ns)
        given = tm_shape_power(shared, ahead)
        power = given if given < power else power
        if ahead <= TM_SHAPE_EARLY or has_more(conn, side):
            w.reserved_ns = tm_shape_cost(<uint64_t>1 << power, shared)
            start = tm_bytes_reserve(
                &w.commons.slots[conn.route_slot], side, now_ns, w.reserved_ns)
            if start > now_ns + TM_SHAPE_EARLY:
                half.paid_ns = start
                half.paused = <uint8_t>(TM_RESERVED + power)
                return False
    half.paused = TM_UNPAUSED
    allow_at_once(w, power)
    return True


cdef bint pay(Worker *w, tm_conn *conn, const tm_destination *destination, int side,
              uint64_t moved) noexcept nogil:
    cdef tm_half *half = &conn.half[side]
    cdef uint64_t own, shared
    if destination == NULL:
        return False
    own = own_rate(destination, side)
    shared = shared_rate(w, destination, side)
    if shared:
        tm_bytes_settle(&w.commons.slots[conn.route_slot], side,
                        <int64_t>(tm_shape_cost(moved, shared) - w.reserved_ns))
    if own and moved:
        half.paid_ns = tm_shape_pay(half.paid_ns, w.now_us * 1000, tm_shape_cost(moved, own))
        if not is_due(w, half):
            half.paused = TM_PAUSED
            return True
    return False


cdef void end_pause(Worker *w, tm_conn *conn, const tm_destination *destination,
                    int side) noexcept nogil:
    cdef tm_half *half = &conn.half[side]
    cdef uint64_t shared = shared_rate(w, destination, side) if destination != NULL else 0
    if shared and is_reserved(half):
        tm_bytes_settle(
            &w.commons.slots[conn.route_slot], side,
            -<int64_t>tm_shape_cost(<uint64_t>1 << (half.paused - TM_RESERVED), shared))
    half.paused = TM_UNPAUSED


cdef void shorten_pause(Worker *w, const tm_conn *conn, const tm_destination *destination,
                        tm_half *half, int side) noexcept nogil:
    cdef uint64_t most = w.now_us * 1000, rate
    if destination != NULL:
        rate = own_rate(destination, side)
        if rate:  # the rest of a pipe may be more than is moved at once
            most += 4 * tm_shape_cost(<uint64_t>1 << tm_shape_power(rate, 0), rate)
        if shared_rate(w, destination, side):
            most += tm_bytes_ahead(&w.commons.slots[conn.route_slot], side, w.now_us * 1000)
    if half.paid_ns > most:
        half.paid_ns = most


cdef const tm_route *route_before(Worker *w, uint32_t slot, uint32_t likely) noexcept nogil:
    """In the image that was in force; NULL: it is new."""
    cdef uint32_t i
    if w.image == NULL:
        return NULL
    if likely < w.image.route_count and w.image.routes[likely].slot == slot:
        return &w.image.routes[likely]
    for i in range(w.image.route_count):
        if w.image.routes[i].slot == slot:
            return &w.image.routes[i]
    return NULL


cdef void look_at_rates(Worker *w, const tm_image *image) noexcept nogil:
    cdef const tm_route *route
    cdef const tm_route *before
    cdef uint32_t i
    w.shapes = False
    for i in range(image.route_count):
        route = &image.routes[i]
        if not route.rules.up and not route.rules.down:
            continue
        w.shapes = True
        before = route_before(w, route.slot, i)
        if before == NULL:
            continue
        if before.rules.up != route.rules.up:
            tm_bytes_forgive(&w.commons.slots[route.slot], 0, w.now_us * 1000)
        if before.rules.down != route.rules.down:
            tm_bytes_forgive(&w.commons.slots[route.slot], 1, w.now_us * 1000)
    for i in range(image.destination_count):
        w.shapes |= image.destinations[i].rules.up or image.destinations[i].rules.down
    if not w.shapes:
        allow_at_once(w, TM_SHAPE_MOST_POWER)
