# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False
"""What a connection counts in, over all workers. Runs in a worker, without the GIL.

A record says in `holds` where it has been counted, and so does not forget to give back. What was
under way when a worker died is in its region's tm_author: csrc/commons.h.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stddef cimport size_t

from tcpmux.shm._layout cimport (
    TM_CLOSED_overflow, TM_CLOSED_rate_limited, tm_author, tm_author_begin, tm_author_did,
    tm_author_end, tm_author_step, tm_conn, tm_connect_allowed, tm_count, TM_COUNT_DOWN,
    tm_count_down, TM_COUNT_NOTHING, TM_COUNT_UP, tm_count_up, tm_counted, tm_destination,
    TM_HOLDS_DESTINATION, TM_HOLDS_ENDPOINT, TM_HOLDS_LISTENER, TM_HOLDS_QUEUE, TM_HOLDS_ROUTE,
    TM_HOLDS_SOURCE, TM_KEY_BITS, TM_MAX_SLOTS, TM_MAX_SOURCES, TM_NO_LIMIT, tm_note_suspicion, tm_place_of,
    tm_route,
    tm_source_allowed, TM_SOURCE_FULL, tm_source_key, TM_SOURCE_NO_ROOM, tm_source_up,
)
from tcpmux.worker._connection cimport Worker

cdef extern from "<sys/socket.h>" nogil:
    int AF_UNIX


cdef void suspect(Worker *w, const tm_conn *conn) noexcept nogil:
    if conn.endpoint_slot < TM_MAX_SLOTS:
        tm_note_suspicion(
            &w.commons.slots[conn.endpoint_slot],
            tm_source_key(w.commons, conn.route_slot, conn.client.family, conn.client.ip)
            << (64 - TM_KEY_BITS))


cdef bint hold(Worker *w, uint32_t index, int what, uint64_t limit) noexcept nogil:
    cdef tm_conn *conn = &w.records[index]
    cdef tm_author *author = &w.live.author
    cdef tm_counted *place = tm_place_of(w.commons, conn, what)
    cdef bint held
    if conn.holds & what or place == NULL:
        return True  # since before this life; or it has forgotten where
    author.record = index
    tm_author_begin(author, TM_COUNT_UP, <uint8_t>what)
    held = tm_count_up(
        w.commons, place, limit if limit else TM_NO_LIMIT, author)
    if held:
        conn.holds |= <uint8_t>what
    tm_author_end(author)
    return held


cdef void let_go_of(Worker *w, uint32_t index, int what) noexcept nogil:
    cdef tm_conn *conn = &w.records[index]
    cdef tm_counted *place = tm_place_of(w.commons, conn, what)
    if not conn.holds & what:
        return
    if place != NULL:
        w.live.author.record = index
        tm_author_begin(&w.live.author, TM_COUNT_DOWN, <uint8_t>what)
        tm_count_down(w.commons, place, &w.live.author)
        conn.holds &= ~<uint8_t>what
        tm_author_end(&w.live.author)
    conn.holds &= ~<uint8_t>what


cdef void let_go_of_all(Worker *w, uint32_t index) noexcept nogil:
    cdef int what = TM_HOLDS_LISTENER
    while what <= TM_HOLDS_QUEUE:
        let_go_of(w, index, what)
        what <<= 1


cdef int hold_source(Worker *w, uint32_t index, const tm_route *route) noexcept nogil:
    """0, TM_SOURCE_FULL, or TM_SOURCE_NO_ROOM: there are too many clients to count this one."""
    cdef tm_conn *conn = &w.records[index]
    cdef tm_author *author = &w.live.author
    cdef uint64_t limit = route.rules.source_max_connections
    cdef uint64_t key
    cdef int place
    if conn.holds & TM_HOLDS_SOURCE:
        return 0
    key = tm_source_key(w.commons, conn.route_slot, conn.client.family, conn.client.ip)
    author.record = index
    tm_author_begin(author, TM_COUNT_UP, TM_HOLDS_SOURCE)
    place = tm_source_up(
        w.commons, key, limit if limit else TM_NO_LIMIT, w.now_us * 1000, author)
    if place >= 0:
        conn.source = <uint32_t>place
        conn.holds |= TM_HOLDS_SOURCE
    tm_author_end(author)
    return place if place < 0 else 0


cdef bint let_in(Worker *w, uint32_t index, const tm_route *route, int *reason) noexcept nogil:
    cdef tm_conn *conn = &w.records[index]
    cdef uint64_t now_ns = w.now_us * 1000
    cdef int source = TM_SOURCE_NO_ROOM
    cdef bint has_source = conn.client.family != AF_UNIX and (
        route.rules.source_max_connections or route.rules.source_interval_ns)
    if conn.holds & TM_HOLDS_ROUTE:
        return True  # the last step: all have been taken
    reason[0] = TM_CLOSED_overflow
    if not hold(w, index, TM_HOLDS_LISTENER, route.rules.listener_max_connections):
        return False
    if has_source:
        source = hold_source(w, index, route)
        if source == TM_SOURCE_FULL:
            return False
    if not hold(w, index, TM_HOLDS_ROUTE, route.rules.max_connections):
        return False
    # Rates come last: whoever finds a limit reached looks again, and pays once.
    if has_source and source == TM_SOURCE_NO_ROOM:
        tm_count(&w.live.counters.sources_untracked, 1)
    elif has_source and route.rules.source_interval_ns and not tm_source_allowed(
            &w.commons.sources[conn.source], now_ns, route.rules.source_interval_ns,
            route.rules.source_burst):
        reason[0] = TM_CLOSED_rate_limited
        return False
    if route.rules.interval_ns and not tm_connect_allowed(
            &w.commons.slots[conn.route_slot], now_ns, route.rules.interval_ns,
            route.rules.burst):
        reason[0] = TM_CLOSED_rate_limited
        return False
    return True


cdef void recover_counting(Worker *w) noexcept nogil:
    cdef tm_author *author = &w.live.author
    cdef bint was_up = tm_author_step(author) == TM_COUNT_UP
    cdef tm_conn *conn
    cdef tm_counted *place
    if tm_author_step(author) == TM_COUNT_NOTHING:
        return
    if author.record < w.live.records_used:
        conn = &w.records[author.record]
        if author.what == TM_HOLDS_SOURCE and was_up and author.source < TM_MAX_SOURCES:
            conn.source = author.source
        place = tm_place_of(w.commons, conn, author.what)
        if place != NULL:
            # It counts if the step up has happened, or the one down has not.
            if tm_author_did(w.commons, place, author) == was_up:
                conn.holds |= author.what
            else:
                conn.holds &= ~author.what
    tm_author_end(author)
