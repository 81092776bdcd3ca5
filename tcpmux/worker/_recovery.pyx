# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False
"""The start of a worker's life: its connections are as an earlier life left them, at any
instruction. Runs in a worker, without the GIL, before its loop.

    recover_records       who has which descriptor; records that can't be true are given up;
                          the socket between accept and its record gets one; what is nobody's
                          is closed
    (epoll)
    recover_connections   finishes what was begun, watches every socket, pumps every half once

In a first life there are no records, and nothing happens.
"""

from libc.errno cimport ECONNREFUSED
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp
from posix.unistd cimport close

from tcpmux.shm._layout cimport (
    AF_UNIX, TM_ACCEPT, tm_admitted, TM_CLIENT, TM_CLOSED_client_reset, TM_CLOSED_local_error,
    TM_CLOSED_worker_lost, tm_close_reason_checked, tm_conn, tm_conn_enter,
    tm_conn_fd_sealed,
    tm_conn_possible, tm_conn_set_fd, TM_CONNECT, TM_CONNECTING, tm_count, TM_DEAD, TM_ENDING,
    TM_ENDPOINT, TM_FREE, tm_half, TM_HALF_OPEN, TM_HALF_SHUT, TM_HOLDS_ENDPOINT, TM_HUNG_UP,
    tm_image, tm_journal_mend, tm_journal_note, tm_journal_operation, tm_live_advance, tm_live_at_fault,
    tm_live_set_connections, tm_moves_bytes, tm_operation, TM_MAX_SLOTS, TM_NONE, TM_NOTHING, TM_OPEN, tm_peer,
    tm_pipe_pool_adopt, tm_pump_recover, TM_READ_UNWATCHED, TM_RELAYING, TM_RESET,
    TM_RESETTING, TM_SHUT, tm_slot, tm_slot_active, tm_source_mend, TM_TAKE, TM_UNARMED,
    TM_UNCOUNTED_DESTINATION, TM_UNCOUNTED_SOURCE, TM_WRITE_WATCHED,
)
from tcpmux.worker._connection cimport (
    ANSWERED_AND_RESET, arm, attempt_failed, BASE_EVENTS, close_side, connect_next,
    connection_finish, connection_record, count_bytes, end, go_on_waiting, next_look, push_ready,
    side_was_reset, slot_of, watch, Worker,
)
from tcpmux.worker._descriptors cimport (
    tm_descriptors, tm_descriptors_claim, tm_descriptors_free_to_claim, tm_descriptors_next,
    tm_is_pipe, tm_is_socket, tm_kernel_fin_missing, tm_kernel_fin_sent, tm_kernel_piped,
    tm_kernel_untouched, tm_kernel_was_reset, tm_stream_family,
)
from tcpmux.worker._limits cimport let_go_of, let_go_of_all, recover_counting
from tcpmux.worker._mechanism cimport (
    EPOLL_CTL_ADD, EPOLLOUT, tm_sock_connect_failed, tm_sock_error, tm_sock_has_answered,
    tm_sock_is_connection, tm_sock_local, tm_sock_not_shut, tm_sock_reset,
    tm_sock_will_reset,
)

cdef enum:
    MOST_FAULTS = 2  # lives that may end by a fault over one connection before it is given up


# --- who has what -----------------------------------------------------------------------------

cdef bint claim_pipe(const tm_conn *conn, tm_half *half, tm_descriptors *all) noexcept nogil:
    """False: what the record says of its pipe can't be true."""
    cdef bint lost = False
    cdef int queued
    if half.pipe.to < 0 or half.pipe.from_ < 0:
        # Never taken, or being given back, which only an empty one is without an end.
        lost = conn.state == TM_RELAYING and half.state == TM_HALF_OPEN and half.queued != 0
    elif not (tm_is_pipe(half.pipe.to, half.pipe.from_)
              and tm_descriptors_free_to_claim(all, half.pipe.to)
              and tm_descriptors_free_to_claim(all, half.pipe.from_)):
        lost = True
    else:
        queued = tm_kernel_piped(half.pipe.from_)
        tm_descriptors_claim(all, half.pipe.to)
        tm_descriptors_claim(all, half.pipe.from_)
        half.queued = <uint32_t>queued if queued >= 0 else 0
        return queued >= 0
    half.pipe.to = half.pipe.from_ = -1
    half.queued = 0
    return not lost


cdef bint claim_socket(tm_conn *conn, int side, tm_descriptors *all) noexcept nogil:
    """False: the record has no right socket where it must have one."""
    cdef int family = conn.client.family if side == TM_CLIENT else conn.endpoint.family
    if side == TM_ENDPOINT and conn.state == TM_CONNECTING and conn.endpoint_slot == TM_NONE:
        tm_conn_set_fd(conn, side, -1)  # a failed attempt, whose socket was about to be closed
    if conn.fd[side] < 0:
        return not (conn.state == TM_RELAYING
                    or (conn.state == TM_CONNECTING and side == TM_CLIENT))
    if (tm_conn_fd_sealed(conn, side) and tm_stream_family(conn.fd[side]) == family
            and tm_descriptors_claim(all, conn.fd[side])):
        return True
    tm_conn_set_fd(conn, side, -1)
    return False


cdef bint claim(Worker *w, tm_conn *conn, tm_descriptors *all) noexcept nogil:
    """Whether the record can be true: its fields in bounds, its descriptors its own. Afterwards
    it names only what it has claimed."""
    cdef bint whole = tm_conn_possible(conn, w.now_us)
    cdef int side
    for side in range(2):
        whole = claim_socket(conn, side, all) and whole
        whole = claim_pipe(conn, &conn.half[side], all) and whole
    return whole


cdef bint shut_is_true(const tm_conn *conn) noexcept nogil:
    """A half that is shut is not read any more: its FIN must have gone out. Only what is certain
    speaks against the record: a call that tells nothing must not cost a connection."""
    cdef int side, fd
    for side in range(2):
        if conn.state != TM_RELAYING or conn.half[side].state != TM_HALF_SHUT:
            continue
        fd = conn.fd[1 - side]
        if tm_sock_not_shut(fd) or tm_kernel_fin_missing(fd):
            return False
    return True


cdef void mend_sides(tm_conn *conn) noexcept nogil:
    """What follows from the kinds of its sockets."""
    cdef bint unix_client = conn.client.family == AF_UNIX
    cdef bint unix_endpoint = conn.endpoint.family == AF_UNIX
    if unix_client:
        conn.side_flags[TM_CLIENT] |= TM_HUNG_UP
        conn.half[TM_CLIENT].uncounted |= TM_UNCOUNTED_SOURCE
        conn.half[TM_ENDPOINT].uncounted |= TM_UNCOUNTED_DESTINATION
    if unix_endpoint and conn.fd[TM_ENDPOINT] >= 0:
        conn.side_flags[TM_ENDPOINT] |= TM_HUNG_UP
        conn.half[TM_ENDPOINT].uncounted |= TM_UNCOUNTED_SOURCE
        conn.half[TM_CLIENT].uncounted |= TM_UNCOUNTED_DESTINATION


cdef void adopt_pipes(Worker *w, const tm_conn *conn) noexcept nogil:
    cdef int side
    for side in range(2):
        if conn.half[side].pipe.to >= 0:
            tm_pipe_pool_adopt(&w.pump.pool, &conn.half[side].pipe)


cdef void give_up(Worker *w, tm_conn *conn) noexcept nogil:
    """Closes what it has claimed, sockets by RST if they are nobody else's."""
    cdef int32_t *ends[4]
    cdef int i
    cdef bint by_reset = not conn.moving  # else another worker may have the same sockets
    tm_count(&w.live.counters.abandoned, 1)
    if by_reset:  # else it counts in the other worker
        let_go_of_all(w, <uint32_t>(conn - w.records))
    tm_conn_enter(conn, TM_FREE)
    conn.moving = 0
    close_side(conn, TM_CLIENT, by_reset)
    close_side(conn, TM_ENDPOINT, by_reset)
    ends[0], ends[1] = &conn.half[0].pipe.to, &conn.half[0].pipe.from_
    ends[2], ends[3] = &conn.half[1].pipe.to, &conn.half[1].pipe.from_
    for i in range(4):
        if ends[i][0] >= 0:
            close(ends[i][0])
            ends[i][0] = -1


cdef bint came_from(Worker *w, int fd, uint32_t listener) noexcept nogil:
    """Whether a listener that this worker has is at the address that the client has come to: one
    of another route must not get it."""
    cdef tm_peer here, there
    cdef uint32_t place
    tm_sock_local(fd, &here)
    for place in range(w.live.listening_count):
        if (w.live.listening[place].fd >= 0 and w.live.listening[place].id == listener):
            tm_sock_local(w.live.listening[place].fd, &there)
            return here.family == there.family and here.port == there.port
    return False


cdef bint place_accepted(Worker *w, int fd) noexcept nogil:
    """A record for a socket that was accepted and not written down."""
    cdef tm_peer peer
    cdef uint32_t route, listener = w.pump.journal.listener
    if (not tm_sock_is_connection(fd, &peer) or not tm_kernel_untouched(fd, False)
            or not came_from(w, fd, listener)):
        return False
    route = w.image.route_of_listener[listener]
    if route == TM_NONE or not tm_admitted(
            w.image, &w.image.routes[route], peer.family, peer.ip):
        return False
    connection_record(w, fd, &peer, &w.image.routes[route])
    return True


cdef bint place_connected(Worker *w, int fd) noexcept nogil:
    """Back into its record with a socket whose connect has succeeded."""
    cdef uint32_t current = w.pump.journal.current
    cdef tm_peer peer
    if (current >= w.live.records_used or w.records[current].state != TM_CONNECTING
            or w.records[current].fd[TM_ENDPOINT] >= 0 or not tm_sock_is_connection(fd, &peer)
            or not tm_kernel_untouched(fd, True)
            or memcmp(&peer, &w.records[current].endpoint, sizeof(tm_peer)) != 0):
        return False
    tm_conn_set_fd(&w.records[current], TM_ENDPOINT, fd)
    return True


cdef void close_unclaimed(Worker *w, tm_descriptors *all) noexcept nogil:
    cdef int operation = tm_journal_operation(w.pump.journal)
    cdef uint32_t current = w.pump.journal.current
    cdef int fd = tm_descriptors_next(all, 0)
    # Of a connection that was ending well, a socket is closed as it would have been; one that
    # another worker was giving is still its own.
    cdef bint ending = current < w.live.records_used and (
        w.records[current].state == TM_ENDING or w.records[current].state == TM_DEAD)
    cdef bint by_reset = operation != TM_TAKE and not (
        ending and not w.records[current].by_reset)
    while fd >= 0:
        # While one socket is made no other descriptor is, so this is it.
        if tm_is_socket(fd) and ((operation == TM_ACCEPT and place_accepted(w, fd))
                                 or (operation == TM_CONNECT and place_connected(w, fd))):
            tm_journal_note(w.pump.journal, TM_NOTHING)
            operation = TM_NOTHING
        elif operation == TM_ACCEPT and tm_is_socket(fd):
            tm_sock_reset(fd)  # a client that can't be served
        else:
            if by_reset and tm_is_socket(fd):
                tm_sock_will_reset(fd)
            close(fd)
        fd = tm_descriptors_next(all, fd + 1)


cdef void recover_records(Worker *w, tm_descriptors *all) noexcept nogil:
    cdef uint32_t index, current
    cdef tm_conn *conn
    w.free = w.dead = w.ready = TM_NONE
    w.connections = 0
    tm_journal_mend(w.live, w.live.records_used)
    current = w.pump.journal.current
    recover_counting(w)
    for index in range(w.live.records_used):
        conn = &w.records[index]
        tm_live_advance(w.live)
        conn.timer_place = TM_UNARMED
        conn.listed = conn.ready = conn.kept = 0
        if index == current and tm_live_at_fault(w.live) and conn.faults < MOST_FAULTS:
            conn.faults += 1
        if conn.state != TM_FREE and conn.state != TM_DEAD:
            if not claim(w, conn, all) or not shut_is_true(conn) or conn.faults >= MOST_FAULTS:
                give_up(w, conn)
            else:
                mend_sides(conn)
                tm_source_mend(w.commons, conn)
                adopt_pipes(w, conn)
        if conn.state == TM_FREE or conn.state == TM_DEAD:
            conn.moving = 0
        if conn.state == TM_FREE:
            conn.next = w.free
            w.free = index
    close_unclaimed(w, all)


# --- counters ---------------------------------------------------------------------------------

cdef void reconcile(Worker *w, uint32_t slot, const uint32_t *open_now, int reason,
                    bint taken_over) noexcept nogil:
    """Opened and closed are counted apart from what they count. Whatever stands between them
    and the connections that there are was cut off by the death."""
    cdef tm_slot *counters
    cdef int64_t surplus
    if slot >= TM_MAX_SLOTS:
        return
    counters = slot_of(w, slot)
    surplus = <int64_t>(tm_slot_active(counters) - open_now[slot])
    if surplus > 0 and reason == TM_OPEN:  # it was leaving for another worker
        tm_count(&counters.moved_out, <uint64_t>surplus)
    elif surplus > 0:
        tm_count(&counters.closed[reason], <uint64_t>surplus)
    elif surplus < 0 and taken_over:
        tm_count(&counters.moved_in, <uint64_t>-surplus)
    elif surplus < 0:
        tm_count(&counters.opened, <uint64_t>-surplus)


cdef void reconcile_all(Worker *w) noexcept nogil:
    cdef uint32_t current = w.pump.journal.current
    cdef const tm_image *image = w.image
    cdef int reason = TM_CLOSED_worker_lost
    cdef bint taken_over = False
    cdef tm_conn *conn
    cdef uint32_t i
    cdef uint32_t *open_now = <uint32_t *>calloc(TM_MAX_SLOTS, sizeof(uint32_t))
    if open_now == NULL:
        return  # counters stay off by one; connections matter more
    if current < w.live.records_used:
        taken_over = w.records[current].origin.worker != 0
        if w.records[current].state == TM_DEAD:
            reason = tm_close_reason_checked(w.records[current].close_reason)
    for i in range(w.live.records_used):
        conn = &w.records[i]
        if conn.state != TM_FREE and conn.state != TM_DEAD and conn.state != TM_ENDING:
            open_now[conn.route_slot] += 1
            if conn.destination_slot != TM_NONE:
                open_now[conn.destination_slot] += 1
            if conn.endpoint_slot != TM_NONE:
                open_now[conn.endpoint_slot] += 1
        if conn.state == TM_ENDING:
            reason = conn.close_reason
    # Slots in use now, and those of a route that a reload has removed meanwhile.
    for i in range(image.route_count):
        reconcile(w, image.routes[i].slot, open_now, reason, taken_over)
    for i in range(image.destination_count):
        reconcile(w, image.destinations[i].slot, open_now, reason, taken_over)
    for i in range(image.endpoint_count):
        reconcile(w, image.endpoints[i].slot, open_now, reason, taken_over)
    for i in range(w.live.records_used):
        conn = &w.records[i]
        reconcile(w, conn.route_slot, open_now, reason, taken_over)
        reconcile(w, conn.destination_slot, open_now, reason, taken_over)
        reconcile(w, conn.endpoint_slot, open_now, reason, taken_over)
    free(open_now)


# --- going on ---------------------------------------------------------------------------------

cdef bint finish_operation(Worker *w, tm_conn *conn) noexcept nogil:
    """What the journal says was under way for this connection. False: it can't be finished."""
    cdef int side = w.pump.journal.side & 1
    cdef int other = 1 - side
    cdef int operation = tm_journal_operation(w.pump.journal)
    if conn.state == TM_CONNECTING:
        if tm_moves_bytes(<tm_operation>operation):
            return False  # one of the two is corrupt, and bytes in the buffer would be lost
        if conn.fd[TM_ENDPOINT] < 0:
            let_go_of(w, w.pump.journal.current, TM_HOLDS_ENDPOINT)
            conn.endpoint_slot = TM_NONE
            if operation == TM_CONNECT and conn.attempts:
                conn.attempts -= 1  # whether it was made nobody knows: once more
                conn.tried = 0
        return True
    if conn.state != TM_RELAYING:
        return True
    if operation == TM_SHUT and tm_kernel_fin_sent(conn.fd[other]):
        conn.half[side].state = TM_HALF_SHUT
    if conn.half[side].state == TM_HALF_OPEN and tm_pump_recover(
            &w.pump, &conn.half[side], conn.fd[side], conn.fd[other], other == TM_ENDPOINT) < 0:
        return False
    for side in range(2):
        count_bytes(w, conn, side)
        if not conn.half[side].uncounted & TM_UNCOUNTED_SOURCE and was_reset(conn, side):
            conn.side_flags[side] |= TM_RESET | TM_HUNG_UP
    return True


cdef bint was_reset(tm_conn *conn, int side) noexcept nogil:
    """Whether a reset has been told to a call that is not there any more to remember it."""
    cdef tm_half *half = &conn.half[side]
    if tm_sock_error(conn.fd[side]) < 0:
        return True
    if half.state == TM_HALF_OPEN:
        return tm_kernel_was_reset(conn.fd[side], half.bytes + half.queued)
    # Its FIN has come, ours has not been sent: nothing else closes it.
    return conn.half[1 - side].state == TM_HALF_OPEN and tm_kernel_fin_sent(conn.fd[side])


cdef bint refused_before(tm_conn *conn) noexcept nogil:
    """Whether the connect has failed. The dead life may have been told, and a socket tells an
    error once: without it, it looks established."""
    if not tm_sock_connect_failed(conn.fd[TM_ENDPOINT]):
        return False
    if not tm_sock_has_answered(conn.fd[TM_ENDPOINT]):
        return True
    conn.side_flags[TM_ENDPOINT] |= ANSWERED_AND_RESET
    return False


cdef void go_on_connecting(Worker *w, uint32_t index) noexcept nogil:
    cdef tm_conn *conn = &w.records[index]
    if conn.fd[TM_ENDPOINT] < 0:
        go_on_waiting(w, index)
    elif refused_before(conn):
        attempt_failed(w, index, -tm_sock_error(conn.fd[TM_ENDPOINT]) or ECONNREFUSED, False)
        connect_next(w, index)
    else:
        if conn.deadline_ms == 0:
            conn.deadline_ms = w.now_ms + conn.connect_timeout_ms
        arm(w, index, conn.deadline_ms)
        conn.side_flags[TM_ENDPOINT] |= TM_WRITE_WATCHED
        if watch(w, index, TM_ENDPOINT, EPOLL_CTL_ADD, BASE_EVENTS | EPOLLOUT) < 0:
            end(w, index, TM_CLOSED_local_error, True)


cdef void go_on_relaying(Worker *w, uint32_t index) noexcept nogil:
    """Events that the dead life had been given will not come again: each half is pumped once."""
    cdef tm_conn *conn = &w.records[index]
    cdef int side
    arm(w, index, next_look(w, index))
    for side in range(2):
        conn.half[side].blocked = 0
        if conn.half[side].state == TM_HALF_OPEN:
            push_ready(w, index, side)
        elif conn.side_flags[side] & TM_RESET:
            side_was_reset(w, index, side)
            return


cdef bint watch_sides(Worker *w, uint32_t index) noexcept nogil:
    cdef tm_conn *conn = &w.records[index]
    cdef int side
    for side in range(2):
        if conn.fd[side] < 0 or (conn.state == TM_CONNECTING and side == TM_ENDPOINT):
            continue
        conn.side_flags[side] &= ~TM_READ_UNWATCHED
        if watch(w, index, side, EPOLL_CTL_ADD, BASE_EVENTS | (
                EPOLLOUT if conn.side_flags[side] & TM_WRITE_WATCHED else 0)) < 0:
            return False
    return True


cdef void go_on(Worker *w, uint32_t index, bint whole) noexcept nogil:
    cdef tm_conn *conn = &w.records[index]
    w.connections += 1
    if not whole:
        tm_count(&w.live.counters.abandoned, 1)
        end(w, index, TM_CLOSED_worker_lost, True)
        return
    tm_count(&w.live.counters.recovered, 1)
    if not conn.moving:  # else another worker may have it already
        take_up(w, index)


cdef void take_up(Worker *w, uint32_t index) noexcept nogil:
    cdef tm_conn *conn = &w.records[index]
    if conn.state == TM_RESETTING:
        if conn.fd[TM_CLIENT] >= 0 and conn.fd[TM_ENDPOINT] >= 0:
            close_side(conn, TM_CLIENT if conn.close_reason == TM_CLOSED_client_reset
                       else TM_ENDPOINT, True)
        arm(w, index, w.now_ms)
    if not watch_sides(w, index):
        end(w, index, TM_CLOSED_local_error, True)
    elif conn.state == TM_CONNECTING:
        go_on_connecting(w, index)
    elif conn.state == TM_RELAYING:
        go_on_relaying(w, index)


cdef void recover_connections(Worker *w) noexcept nogil:
    cdef uint32_t index, current = w.pump.journal.current
    cdef tm_conn *conn
    cdef bint whole = True
    if w.live.records_used == 0:
        tm_live_set_connections(w.live, 0)
        tm_journal_note(w.pump.journal, TM_NOTHING)
        return
    # The one that the journal is about comes first, and keeps the journal until it is done: a
    # death in here is then put down to it as well.
    if current < w.live.records_used and w.records[current].state != TM_FREE:
        whole = finish_operation(w, &w.records[current])
    tm_journal_note(w.pump.journal, TM_NOTHING)
    reconcile_all(w)
    for index in range(w.live.records_used):
        conn = &w.records[index]
        tm_live_advance(w.live)
        w.pump.journal.current = index
        if conn.state == TM_ENDING:
            conn.moving = 0
            connection_finish(w, index)
        if conn.state == TM_DEAD:
            conn.next = w.dead
            w.dead = index
        elif conn.state != TM_FREE:
            go_on(w, index, whole or index != current)
    w.pump.journal.current = TM_NONE
    tm_live_set_connections(w.live, w.connections)
