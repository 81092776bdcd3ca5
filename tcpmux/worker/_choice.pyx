# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False
"""Which endpoint of a destination a connection is given. Runs in a worker, without the GIL.

All that is known is in shared memory: whose turns they are (the image), how many connections
each has in all workers and which has just failed (commons). An endpoint that has failed a moment
ago is passed over while there are others.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from tcpmux.shm._layout cimport (
    tm_avoided, tm_best_place, tm_client_hash, tm_common, tm_conn, tm_counted_now,
    tm_destination, tm_endpoint, TM_LEAST_CONNECTIONS, TM_MAGLEV, TM_NONE, TM_RANDOM_TWO,
    TM_SOURCE_HASH, tm_ticket_take, tm_turn,
)
from tcpmux.worker._connection cimport Worker

cdef extern from "<sys/socket.h>" nogil:
    int AF_UNIX


cdef inline const tm_turn *turn_of(Worker *w, const tm_destination *destination,
                                   uint32_t turn) noexcept nogil:
    return &w.image.turns[destination.first_turn + turn]


cdef inline const tm_endpoint *endpoint_of(Worker *w, const tm_destination *destination,
                                           uint32_t index) noexcept nogil:
    return &w.image.endpoints[destination.first_endpoint + index]


cdef inline uint64_t load(Worker *w, const tm_endpoint *endpoint) noexcept nogil:
    """Connections for its weight, with the one that is to come, in thousandths."""
    cdef const tm_common *common = &w.commons.slots[endpoint.slot]
    cdef uint64_t weight = <uint64_t>endpoint.weight * endpoint.ramp
    if tm_avoided(common, w.now_ms):
        return <uint64_t>-1
    return (<uint64_t>tm_counted_now(&common.connections) + 1) * 100000 // (weight or 1)


cdef uint32_t least_loaded(Worker *w, const tm_destination *destination,
                           uint32_t start) noexcept nogil:
    """Among those that are equal, the first from `start` on."""
    cdef uint32_t best = start
    cdef uint32_t step, at
    cdef uint64_t now, lowest = <uint64_t>-1
    cdef const tm_turn *turn
    for step in range(destination.turn_count):
        at = start + step
        if at >= destination.turn_count:
            at -= destination.turn_count
        turn = turn_of(w, destination, at)
        if turn.number:  # another turn of one that has been looked at
            continue
        now = load(w, endpoint_of(w, destination, turn.endpoint))
        if now < lowest:
            lowest = now
            best = at
    return best


cdef inline uint64_t random(Worker *w) noexcept nogil:
    """xorshift64*, of each worker's own."""
    w.random ^= w.random >> 12
    w.random ^= w.random << 25
    w.random ^= w.random >> 27
    return w.random * <uint64_t>2685821657736338717


cdef uint32_t better_of_two(Worker *w, const tm_destination *destination) noexcept nogil:
    cdef uint64_t number = random(w)
    cdef uint32_t count = destination.turn_count
    cdef uint32_t one = <uint32_t>((number >> 32) % count)
    cdef uint32_t other = <uint32_t>number % (count - 1)
    if other >= one:
        other += 1
    if load(w, endpoint_of(w, destination, turn_of(w, destination, other).endpoint)) < load(
            w, endpoint_of(w, destination, turn_of(w, destination, one).endpoint)):
        return other
    return one


cdef uint32_t choose_turn(Worker *w, const tm_conn *conn,
                          const tm_destination *destination) noexcept nogil:
    cdef uint64_t balance = destination.rules.balance
    cdef uint64_t ticket
    if destination.turn_count == 1:
        return 0
    if balance == TM_RANDOM_TWO:
        return better_of_two(w, destination)
    if conn.client.family != AF_UNIX:  # those have no address
        if balance == TM_MAGLEV and destination.place_count:
            return w.image.places[
                destination.first_place + tm_client_hash(conn.client.family, conn.client.ip)
                % destination.place_count]
        if balance == TM_SOURCE_HASH or balance == TM_MAGLEV:
            return tm_best_place(
                w.image, destination, tm_client_hash(conn.client.family, conn.client.ip))
    ticket = tm_ticket_take(&w.commons.tickets[destination.ticket])
    if balance == TM_LEAST_CONNECTIONS:
        return least_loaded(w, destination, <uint32_t>(ticket % destination.turn_count))
    return <uint32_t>(ticket % destination.turn_count)


cdef uint32_t next_endpoint(Worker *w, const tm_conn *conn,
                            const tm_destination *destination) noexcept nogil:
    cdef uint32_t count = destination.turn_count
    cdef uint32_t step, index, avoided = TM_NONE
    for step in range(count):
        index = turn_of(w, destination, (conn.first_turn + step) % count).endpoint
        if conn.tried >> (index % 32) & 1:
            continue
        if not tm_avoided(
                &w.commons.slots[endpoint_of(w, destination, index).slot], w.now_ms):
            return index
        if avoided == TM_NONE:
            avoided = index
    return avoided
