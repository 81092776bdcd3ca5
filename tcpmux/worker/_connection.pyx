# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False
"""The life of a connection: pick, connect, relay, end. Runs in a worker, without the GIL.

    CONNECTING --established--> RELAYING --a side was reset--> RESETTING --+
        |                          |                                      |
        +--no endpoint took it-----+--both sides sent FIN, idle, stop-----+--> ENDING --> DEAD

A connection has two halves, half[TM_CLIENT] (client to endpoint) and
half[TM_ENDPOINT]. Each is open, shut (FIN passed on) or aborted, on its own.

A worker may die between any two instructions, and its next life goes on from the records
(_recovery.pyx). Therefore a record never names a descriptor that is closed already: the
number is taken out first. And each step is in the record, or in the journal, before it is
taken.
"""

from libc.errno cimport EACCES, EAGAIN, ENOTCONN, EPERM
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport close

from tcpmux.shm._layout cimport (
    AF_UNIX, tm_avoid, TM_BIG_READ, TM_BULK_RUN, TM_CLIENT,
    TM_CLOSED_client_reset, TM_CLOSED_connect_failed, TM_CLOSED_connect_timeout,
    TM_CLOSED_endpoint_reset, TM_CLOSED_finished, TM_CLOSED_idle_timeout, TM_CLOSED_killed,
    TM_CLOSED_lifetime, TM_CLOSED_local_error, TM_CLOSED_no_endpoint, TM_CLOSED_overflow,
    TM_CLOSED_passed_on, TM_CLOSED_retries_used_up, TM_CLOSED_shutdown, tm_common, tm_conn,
    tm_conn_enter, tm_conn_replace, tm_conn_set_fd, tm_conn_state, TM_CONNECT,
    TM_CONNECTING, tm_count, tm_counted_now, TM_DEAD, tm_destination, tm_duration_bounds_us,
    TM_ENDING, TM_ENDPOINT, tm_endpoint, TM_FALL_BACK, TM_FREE, TM_FULL_QUEUE, TM_FULL_SPILL,
    tm_half, TM_HALF_ABORTED, TM_HALF_OPEN, TM_HALF_SHUT, tm_histogram_add, TM_HOLD,
    TM_HOLDS_DESTINATION, TM_HOLDS_ENDPOINT, TM_HOLDS_LISTENER, TM_HOLDS_QUEUE, TM_HOLDS_ROUTE,
    TM_HOLDS_SOURCE, TM_HUNG_UP, tm_journal_note,
    TM_KEPT_ALIVE, TM_BOUNDED, tm_pinned_next, TM_PROVEN, TM_SHAPE_MOST_POWER,
    tm_table_buffer, tm_latency_bounds_us, tm_live_advance, tm_live_next_record,
    tm_live_set_connections, tm_log_commit,
    TM_LOG_END, tm_log_entry, tm_log_place, TM_LOG_START, TM_LOG_STARTS, TM_MAX_LINES, tm_mix,
    TM_NONE, tm_note_answer, tm_note_failure, tm_note_success, TM_NOTHING, TM_OPEN, tm_peer, tm_pick,
    tm_pick_other, TM_PICKED_failed_over, TM_PICKED_only, TM_PICKED_spilled, TM_PICKED_weighted,
    tm_pipe_give_back, TM_PUMP_BLOCKED, TM_PUMP_DESTINATION_ERROR, TM_PUMP_DRAINED,
    TM_PUMP_EOF, TM_PUMP_HOST_ERROR, tm_pump_release, tm_pump_result, tm_pump_run,
    TM_PUMP_SOURCE_ERROR, TM_PUMP_YIELD, TM_READ_UNWATCHED, TM_READY, TM_RELAYING, TM_RESET,
    TM_RESETTING, tm_retry_earn, tm_retry_take, tm_rota_take, tm_route, TM_SHUT, tm_slot,
    tm_table_log_capacity, tm_table_log_kinds, tm_ticket_take, TM_UNARMED,
    TM_UNCOUNTED_DESTINATION, TM_UNCOUNTED_SOURCE, TM_UNPACED, TM_UNPAUSED, TM_WRITE_WATCHED,
)
from tcpmux.worker._choice cimport (
    first_tier, is_promising, is_untried, next_endpoint, Tier, tier_after,
)
from tcpmux.worker._limits cimport hold, let_go_of, let_go_of_all, let_in, suspect
from tcpmux.worker._shape cimport allow_at_once, end_pause, is_due, look_ms, may_read, pay, shorten_pause
from tcpmux.worker._mechanism cimport (
    epoll_ctl, EPOLL_CTL_ADD, EPOLL_CTL_MOD, epoll_event, EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN,
    EPOLLOUT, EPOLLPRI, EPOLLRDHUP, TM_EXPECT_ANSWER, TM_EXPECT_ANY, TM_EXPECT_BULK,
    TM_EXPECT_CLIENT, tm_peer_from, tm_sock_acknowledge, tm_sock_closed_by_peer,
    tm_sock_bound_unread, tm_sock_bound_unsent, tm_sock_unbind_unread, tm_sock_connect, tm_sock_do_not_pace, tm_sock_error, tm_sock_established,
    tm_sock_has_answered, tm_sock_keep_alive, tm_sock_local, tm_sock_local_failure, tm_sock_outstanding, tm_sock_sent_ago,
    tm_sock_shut_write, tm_sock_unacknowledged, tm_sock_unread, tm_sock_will_reset,
    tm_trace_connect, tm_wheel_arm, tm_wheel_disarm,
)

cdef extern from "<assert.h>" nogil:
    void check "assert" (bint condition)

cdef enum:
    # How long a reset waits for what was sent before it to arrive. Past that the
    # receiver is not reading, and a direct sender's RST would not have waited.
    RESET_WAIT_MS = 1000
    RESET_RECHECK_MS = 10
    # Until a peer has taken PROOF bytes it may be one that never reads: it is given so much at once.
    # What kernels take for a program that does not read is half of that.
    AT_ONCE_POWER = 14
    AT_ONCE = 1 << AT_ONCE_POWER
    PROOF = 1 << 17
    NEXT_TO_NOTHING = AT_ONCE >> 2
    DEFAULT_BOUND = 1 << 14
    UNBOUNDED = 1 << 30
    # How long the end of a lifetime waits for a moment when nothing is under way.
    END_WAIT_MS = 1000
    # An endpoint that has just failed is passed over for so long, while there are others.
    AVOID_MS = 1000
    # How often a connection looks whether what it waits for is there.
    WAIT_LOOK_MS = 10
    # A connection that finds a limit reached looks again for so long.
    NEW_US = 200000
    # Connections that live so long have their peers looked after by TCP.
    KEEPALIVE_AFTER_MS = 15000
    # What says that a short read does not mean "drained".
    READ_TO_THE_END = EPOLLRDHUP | EPOLLHUP | EPOLLERR | EPOLLPRI


cdef uint64_t NEVER = <uint64_t>1 << 62


# --- small parts ------------------------------------------------------------------------------

cdef tm_slot *slot_of(Worker *w, uint32_t slot) noexcept nogil:
    return &w.live.slots[slot]


cdef inline uint64_t clock_us() noexcept nogil:
    """Where a turn of the loop is too coarse: 20 ns, no system call."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000000 + <uint64_t>now.tv_nsec // 1000


cdef inline uint32_t at_most_32_bits(uint64_t us) noexcept nogil:
    return <uint32_t>us if us < TM_NONE else <uint32_t>TM_NONE


cdef inline void set_state(tm_conn *conn, tm_conn_state state) noexcept nogil:
    # The only legal moves; anything else is a bug, and the worker must not go on with it.
    check((state == TM_CONNECTING and conn.state == TM_FREE)
          or (state == TM_RELAYING and conn.state == TM_CONNECTING)
          or (state == TM_RESETTING and conn.state == TM_RELAYING)
          or (state == TM_ENDING and (conn.state == TM_CONNECTING or conn.state == TM_RELAYING
                                      or conn.state == TM_RESETTING))
          or (state == TM_DEAD and conn.state == TM_ENDING)
          or (state == TM_FREE and conn.state == TM_DEAD))
    tm_conn_enter(conn, state)


cdef int watch(Worker *w, uint32_t index, int side, int operation,
                      uint32_t events) noexcept nogil:
    cdef tm_conn *conn = &w.records[index]
    cdef epoll_event event
    event.events = events
    event.data.u64 = (<uint64_t>conn.generation << 32) | (index << 1) | <uint32_t>side
    return epoll_ctl(w.epoll, operation, conn.fd[side], &event)


cdef void watch_write(Worker *w, uint32_t index, int side) noexcept nogil:
    """The socket is full. Asks for writable edges, once in a connection's life: most never fill
    one."""
    cdef tm_conn *conn = &w.records[index]
    if conn.side_flags[side] & TM_WRITE_WATCHED:
        return
    conn.side_flags[side] |= TM_WRITE_WATCHED
    watch_again(w, index, side)


cdef void watch_again(Worker *w, uint32_t index, int side) noexcept nogil:
    """MOD looks at the socket again: an edge that came before is not lost."""
    cdef tm_conn *conn = &w.records[index]
    cdef uint32_t events = BASE_EVENTS
    if conn.side_flags[side] & TM_READ_UNWATCHED:
        events &= ~<uint32_t>(EPOLLIN | EPOLLPRI)
    if conn.side_flags[side] & TM_WRITE_WATCHED:
        events |= EPOLLOUT
    check(watch(w, index, side, EPOLL_CTL_MOD, events) == 0)


cdef void unwatch_read(Worker *w, uint32_t index, int side) noexcept nogil:
    """Whatever arrives wakes the worker, and in bulk that is often, while the other side takes
    nothing."""
    cdef tm_conn *conn = &w.records[index]
    if not conn.side_flags[side] & TM_READ_UNWATCHED:
        conn.side_flags[side] |= TM_READ_UNWATCHED
        watch_again(w, index, side)


cdef void watch_read(Worker *w, uint32_t index, int side) noexcept nogil:
    cdef tm_conn *conn = &w.records[index]
    if conn.side_flags[side] & TM_READ_UNWATCHED:
        conn.side_flags[side] &= ~TM_READ_UNWATCHED
        watch_again(w, index, side)


cdef void arm(Worker *w, uint32_t index, uint64_t deadline_ms) noexcept nogil:
    tm_wheel_arm(&w.wheel, w.records, index, deadline_ms)


cdef inline uint8_t always_read_on(uint16_t family) noexcept nogil:
    """A read from a UNIX socket also stops short in front of passed descriptors."""
    return TM_HUNG_UP if family == AF_UNIX else 0


cdef void close_side(tm_conn *conn, int side, bint reset) noexcept nogil:
    cdef int fd = conn.fd[side]
    if fd >= 0:
        if reset:
            tm_sock_will_reset(fd)
        tm_conn_set_fd(conn, side, -1)
        close(fd)


cdef inline bint both_unix(tm_conn *conn) noexcept nogil:
    """Between UNIX sockets a close is more than an end of input: a peer that writes hears of it
    at once. A TCP peer learns it from the answer to what it writes, here as directly."""
    return conn.client.family == AF_UNIX and conn.endpoint.family == AF_UNIX


cdef void push_ready(Worker *w, uint32_t index, int side) noexcept nogil:
    cdef tm_conn *conn = &w.records[index]
    conn.ready |= <uint8_t>(1 << side)
    if not conn.listed:
        conn.listed = 1
        conn.next = w.ready
        w.ready = index


# --- the log ----------------------------------------------------------------------------------

cdef void local_address(int fd, uint16_t port, tm_peer *local) noexcept nogil:
    tm_sock_local(fd, local)
    if local.port == 0:
        local.port = port


cdef void write_log(Worker *w, uint32_t index, int kind) noexcept nogil:
    """For the log process, if it keeps up; its sockets must be open still."""
    cdef tm_conn *conn = &w.records[index]
    cdef tm_log_entry *entry = tm_log_place(&w.live.log, tm_table_log_capacity(w.table))
    if entry == NULL:
        return
    entry.kind = <uint8_t>kind
    entry.close_reason = conn.close_reason
    entry.pick_reason = conn.pick_reason
    entry.attempts = <uint8_t>(conn.attempts if conn.attempts < 255 else 255)
    entry.route_slot = conn.route_slot
    entry.destination_slot = conn.destination_slot
    entry.endpoint_slot = conn.endpoint_slot
    entry.index = index
    entry.generation = conn.generation
    entry.connect_us = 0 if conn.state == TM_CONNECTING else conn.connect_us
    entry.first_byte_us = conn.first_byte_us
    entry.table_generation = conn.table_generation
    entry.accepted_at_us = conn.accepted_at_us
    entry.at_us = w.now_us
    entry.bytes[TM_CLIENT] = conn.half[TM_CLIENT].bytes
    entry.bytes[TM_ENDPOINT] = conn.half[TM_ENDPOINT].bytes
    entry.client = conn.client
    entry.endpoint = conn.endpoint
    local_address(conn.fd[TM_CLIENT], conn.local_port[TM_CLIENT], &entry.client_local)
    local_address(conn.fd[TM_ENDPOINT], conn.local_port[TM_ENDPOINT], &entry.endpoint_local)
    tm_log_commit(&w.live.log)


cdef void log_start(Worker *w, uint32_t index, uint32_t kinds) noexcept nogil:
    """Also notes what the kernel forgets when a socket is reset."""
    cdef tm_conn *conn = &w.records[index]
    cdef tm_peer local
    cdef int side
    for side in range(2):
        tm_sock_local(conn.fd[side], &local)
        conn.local_port[side] = local.port
    if kinds & TM_LOG_STARTS:
        write_log(w, index, TM_LOG_START)


# --- the end ----------------------------------------------------------------------------------

cdef void judge(Worker *w, const tm_conn *conn, int reason) noexcept nogil:
    """What the end says about the endpoint. What a client sends can bring it about, so it is a
    suspicion at the most, and only where the configuration asks for it."""
    cdef const tm_destination *destination
    if conn.endpoint_slot == TM_NONE or conn.first_byte_us or conn.state == TM_CONNECTING:
        return
    destination = destination_of(w, conn)
    if destination == NULL:
        return
    if reason == TM_CLOSED_endpoint_reset:
        if destination.rules.resets:
            suspect(w, conn)
    elif reason == TM_CLOSED_finished:
        if w.now_us - conn.accepted_at_us < destination.rules.early_close_ms * 1000:
            suspect(w, conn)
        else:
            tm_note_answer(&w.commons.slots[conn.endpoint_slot])


cdef void end(Worker *w, uint32_t index, int reason, bint reset) noexcept nogil:
    """Closes both sides, by RST if `reset`, and counts why. The record is free after this batch."""
    cdef tm_conn *conn = &w.records[index]
    cdef int side
    judge(w, conn, reason)
    for side in range(2):
        if conn.half[side].paused:
            end_pause(w, conn, destination_of(w, conn), side)
    conn.close_reason = <uint8_t>reason
    conn.by_reset = reset
    if tm_table_log_kinds(w.table):
        write_log(w, index, TM_LOG_END)
    set_state(conn, TM_ENDING)
    # Before its sockets are closed: who sees the end finds it counted.
    tm_count(&slot_of(w, conn.route_slot).closed[reason], 1)
    if conn.destination_slot != TM_NONE:
        tm_count(&slot_of(w, conn.destination_slot).closed[reason], 1)
        tm_histogram_add(&w.live.times[conn.destination_slot].duration, tm_duration_bounds_us,
                         w.now_us - conn.accepted_at_us)
    if conn.endpoint_slot != TM_NONE:
        tm_count(&slot_of(w, conn.endpoint_slot).closed[reason], 1)
    connection_finish(w, index)
    release(w, index)


cdef void release(Worker *w, uint32_t index) noexcept nogil:
    """A DEAD record will be free at the end of the batch."""
    cdef tm_conn *conn = &w.records[index]
    w.expecting = TM_EXPECT_ANY
    w.connections -= 1
    tm_live_set_connections(w.live, w.connections)
    if not conn.listed:  # else connections_resume() moves it on
        conn.next = w.dead
        w.dead = index


cdef void connection_leave(tm_conn *conn) noexcept nogil:
    conn.by_reset = False
    conn.close_reason = TM_OPEN  # it is not closed: recovery counts it as moved
    set_state(conn, TM_ENDING)


cdef void connection_retire(Worker *w, uint32_t index) noexcept nogil:
    connection_finish(w, index)
    release(w, index)


cdef void close_pipe(Worker *w, tm_half *half) noexcept nogil:
    """Never back to the pool: another worker uses it."""
    half.queued = 0
    if half.pipe.to >= 0:
        tm_pipe_give_back(&w.pump.pool, &half.pipe, False)


cdef void connection_finish(Worker *w, uint32_t index) noexcept nogil:
    cdef tm_conn *conn = &w.records[index]
    cdef int side
    if conn.close_reason != TM_OPEN:  # else it counts where it goes on
        # Before its sockets are closed: who sees the end may come again at once.
        let_go_of_all(w, index)
    for side in range(2):
        if conn.close_reason == TM_OPEN:
            close_pipe(w, &conn.half[side])
        else:
            tm_pump_release(&w.pump, &conn.half[side])
        close_side(conn, side, conn.by_reset)
    tm_wheel_disarm(&w.wheel, w.records, index)
    set_state(conn, TM_DEAD)


cdef void connections_free(Worker *w) noexcept nogil:
    cdef uint32_t index = w.dead
    cdef uint32_t next
    cdef tm_conn *conn
    w.dead = TM_NONE
    while index != TM_NONE:
        conn = &w.records[index]
        next = conn.next
        if conn.origin.worker and w.live.lines[(conn.origin.worker - 1) % TM_MAX_LINES] >= 0:
            conn.kept = 1  # it may be given once more: csrc/handover.h
        else:
            set_state(conn, TM_FREE)
            conn.next = w.free
            w.free = index
        index = next


cdef void has_gone(Worker *w, uint32_t index, int side) noexcept nogil:
    """`side` has reset it: for that one it is over, whatever the other side has still to get."""
    if side == TM_CLIENT:
        let_go_of(w, index, TM_HOLDS_LISTENER)
        let_go_of(w, index, TM_HOLDS_ROUTE)
        let_go_of(w, index, TM_HOLDS_SOURCE)
    else:
        let_go_of(w, index, TM_HOLDS_DESTINATION)
        let_go_of(w, index, TM_HOLDS_ENDPOINT)


cdef void side_was_reset(Worker *w, uint32_t index, int side) noexcept nogil:
    """`side` is gone and all it sent is passed on: reset the other one, after that has arrived."""
    cdef tm_conn *conn = &w.records[index]
    cdef int other = 1 - side
    cdef int reason = (
        TM_CLOSED_client_reset if side == TM_CLIENT else TM_CLOSED_endpoint_reset)
    cdef int half
    for half in range(2):
        conn.half[half].state = TM_HALF_ABORTED
        tm_pump_release(&w.pump, &conn.half[half])
    if conn.side_flags[other] & TM_RESET or tm_sock_unacknowledged(conn.fd[other]) == 0:
        end(w, index, reason, True)
        return
    has_gone(w, index, side)
    conn.close_reason = <uint8_t>reason
    conn.deadline_ms = w.now_ms + RESET_WAIT_MS
    set_state(conn, TM_RESETTING)
    close_side(conn, side, True)
    arm(w, index, w.now_ms + RESET_RECHECK_MS)


# --- relaying ---------------------------------------------------------------------------------

cdef void count_bytes(Worker *w, tm_conn *conn, int side) noexcept nogil:
    """Brings the counters up to what has been passed on from `side`."""
    cdef tm_half *half = &conn.half[side]
    cdef tm_slot *slot = slot_of(w, conn.destination_slot)
    tm_count(&slot.bytes_in if side == TM_CLIENT else &slot.bytes_out,
             <uint32_t>half.bytes - half.counted)
    half.counted = <uint32_t>half.bytes


cdef void first_byte(Worker *w, tm_conn *conn) noexcept nogil:
    cdef uint64_t us = clock_us() - conn.accepted_at_us
    conn.first_byte_us = at_most_32_bits(us) or 1
    tm_histogram_add(&w.live.times[conn.destination_slot].first_byte, tm_latency_bounds_us, us)
    tm_note_answer(&w.commons.slots[conn.endpoint_slot])


cdef inline uint64_t lower(uint64_t one, uint64_t other) noexcept nogil:
    """Of two limits, where 0 is none."""
    return other if one == 0 or (other and other < one) else one


cdef bint resume_paused(Worker *w, uint32_t index) noexcept nogil:
    """Reads again what may be read again. False: the connection is over."""
    cdef tm_conn *conn = &w.records[index]
    cdef const tm_destination *destination = destination_of(w, conn)
    cdef int side
    for side in range(2):
        if conn.half[side].paused:
            shorten_pause(w, conn, destination, &conn.half[side], side)
            if conn.half[side].state == TM_HALF_OPEN and is_due(w, &conn.half[side]):
                pump_half(w, index, side)
                if conn.state != TM_RELAYING:
                    return False
    return True


cdef void pause(Worker *w, uint32_t index, int side) noexcept nogil:
    """Its rate is limited: _shape has written down until when it is not read."""
    unwatch_read(w, index, side)
    arm(w, index, next_look(w, index))


cdef inline void do_not_pace(Worker *w, tm_conn *conn, int side) noexcept nogil:
    """`side` is given bulk."""
    if w.paced and not conn.side_flags[side] & TM_UNPACED:
        conn.side_flags[side] |= TM_UNPACED
        tm_sock_do_not_pace(
            conn.fd[side], &conn.client if side == TM_CLIENT else &conn.endpoint)


cdef inline int power_at_once(const tm_half *half) noexcept nogil:
    """More for who has taken more: calls cost more than bytes."""
    cdef int power = AT_ONCE_POWER
    while power < AT_ONCE_POWER + 2 and half.bytes >> (power + 1):
        power += 1
    return power


cdef void bound(Worker *w, tm_conn *conn, int side) noexcept nogil:
    """Before what `side` sends is passed on to a peer that may not read it: first a message, and
    then little at once, and only what it takes, so that the rest stays where it comes from."""
    cdef int other = 1 - side
    cdef tm_half *half = &conn.half[side]
    cdef uint64_t most = tm_table_buffer(w.table, other)
    if most == 0:
        most = DEFAULT_BOUND
    w.whole_budget = w.pump.budget
    if w.pump.budget >> power_at_once(half):
        allow_at_once(w, power_at_once(half))
    if half.bytes + half.queued < AT_ONCE or most >= UNBOUNDED:
        return
    if half.queued == 0 and tm_sock_outstanding(conn.fd[other]) < NEXT_TO_NOTHING:
        return  # it has taken all so far, and there is room for what comes at once
    w.pump.bounded = True
    if not conn.side_flags[other] & TM_BOUNDED:
        tm_sock_bound_unsent(conn.fd[other], <uint32_t>most)
        if not half.bound:  # else by an earlier life, which went no further
            half.bound = 1
            if not tm_sock_bound_unread(conn.fd[side]):
                half.bound = 0
        conn.side_flags[other] |= TM_BOUNDED


cdef void unbind(Worker *w, tm_conn *conn, int side) noexcept nogil:
    """After that: perhaps its peer has read enough by now to be trusted."""
    cdef int other = 1 - side
    cdef tm_half *half = &conn.half[side]
    w.pump.bounded = False
    if w.pump.budget < w.whole_budget:
        allow_at_once(w, TM_SHAPE_MOST_POWER)
    if half.bytes >= PROOF and half.bytes - tm_sock_unacknowledged(conn.fd[other]) >= PROOF:
        tm_sock_bound_unsent(conn.fd[other], 0)
        if half.bound:
            tm_sock_unbind_unread(conn.fd[side])
            half.bound = 0
        conn.side_flags[other] |= TM_PROVEN
        # So far it was given little at once, and paced it may never be given much.
        do_not_pace(w, conn, other)


cdef void pump_half(Worker *w, uint32_t index, int side) noexcept nogil:
    """Moves bytes from `side` to the other one as far as it goes now, and acts on the outcome."""
    cdef tm_conn *conn = &w.records[index]
    cdef tm_half *half = &conn.half[side]
    cdef int other = 1 - side
    cdef uint64_t moved
    cdef tm_pump_result result
    if half.paused and not is_due(w, half):
        return
    if not w.shapes:
        half.paused = TM_UNPAUSED
    elif not may_read(w, conn, destination_of(w, conn), side):
        pause(w, index, side)
        return
    if not conn.side_flags[other] & TM_PROVEN:
        bound(w, conn, side)
    w.pump.journal.side = <uint8_t>side
    result = tm_pump_run(
        &w.pump, half, conn.fd[side], conn.fd[other], conn.side_flags[side] & TM_HUNG_UP)
    moved = <uint32_t>half.bytes - half.counted
    if not conn.side_flags[other] & TM_PROVEN:
        unbind(w, conn, side)
    if w.shapes and pay(w, conn, destination_of(w, conn), side, moved):
        pause(w, index, side)
    if moved:
        if moved >= TM_BULK_RUN:
            do_not_pace(w, conn, other)
        conn.last_activity_ms = w.now_ms
        if side == TM_ENDPOINT and conn.first_byte_us == 0:
            first_byte(w, conn)
        w.expecting = (TM_EXPECT_BULK if moved >= TM_BIG_READ
                       else TM_EXPECT_ANSWER if side == TM_CLIENT else TM_EXPECT_CLIENT)
        count_bytes(w, conn, side)
    if result == TM_PUMP_DRAINED:
        if not half.paused:
            watch_read(w, index, side)
        return
    if result == TM_PUMP_BLOCKED:
        watch_write(w, index, other)
        if conn.side_flags[side] & TM_HUNG_UP:
            # Its reset may have been told while a budget was used up; it is not told again.
            side_error(w, index, side)
        if w.look_ms == 0:
            w.look_ms = tm_pinned_next(w.now_ms)
    elif result == TM_PUMP_YIELD:
        if not half.paused:
            push_ready(w, index, side)
    elif result == TM_PUMP_EOF:
        half_ended(w, index, side)
    elif result == TM_PUMP_SOURCE_ERROR:
        conn.side_flags[side] |= TM_RESET
        side_was_reset(w, index, side)
    elif result == TM_PUMP_HOST_ERROR:
        # Bytes may be in the buffer alone. The journal says so, until nobody waits for them.
        end(w, index, TM_CLOSED_local_error, True)
        tm_journal_note(w.pump.journal, TM_NOTHING)
    else:
        check(result == TM_PUMP_DESTINATION_ERROR)
        destination_failed(w, index, side)


cdef void shorten_idle(Worker *w, uint32_t index) noexcept nogil:
    """One side has ended: from here on half_open_timeout."""
    cdef tm_conn *conn = &w.records[index]
    cdef const tm_destination *destination = destination_of(w, conn)
    cdef uint64_t half_open = destination.rules.half_open_ms if destination != NULL else 0
    if half_open and lower(conn.idle_timeout_ms, half_open) == half_open:
        conn.idle_timeout_ms = <uint32_t>half_open
        conn.last_activity_ms = w.now_ms
        arm(w, index, next_look(w, index))


cdef void half_ended(Worker *w, uint32_t index, int side) noexcept nogil:
    cdef tm_conn *conn = &w.records[index]
    cdef int other = 1 - side
    cdef int error
    if conn.side_flags[side] & TM_RESET:
        # An earlier call has taken the socket's error: this end of input is no FIN.
        side_was_reset(w, index, side)
    elif conn.half[other].state == TM_HALF_SHUT:
        end(w, index, TM_CLOSED_finished, False)  # close sends the second FIN
    elif both_unix(conn) and tm_sock_closed_by_peer(conn.fd[side]):
        end(w, index, TM_CLOSED_finished, False)
    else:
        w.pump.journal.side = <uint8_t>side
        tm_journal_note(w.pump.journal, TM_SHUT)
        error = tm_sock_shut_write(conn.fd[other])
        if error == 0:
            conn.half[side].state = TM_HALF_SHUT
            shorten_idle(w, index)
        tm_journal_note(w.pump.journal, TM_NOTHING)
        if error < 0:
            check(error == -ENOTCONN)  # reset meanwhile
            destination_failed(w, index, side)


cdef void destination_failed(Worker *w, uint32_t index, int side) noexcept nogil:
    """What `side` sends can't be delivered any more: the other side has been reset."""
    cdef tm_conn *conn = &w.records[index]
    cdef int other = 1 - side
    conn.side_flags[other] |= TM_RESET | TM_HUNG_UP
    conn.half[side].state = TM_HALF_ABORTED
    tm_pump_release(&w.pump, &conn.half[side])
    if conn.half[other].state == TM_HALF_OPEN:
        # What it sent before is still to be delivered; its end of input resets `side`.
        if not conn.half[other].blocked:
            pump_half(w, index, other)
        if conn.state == TM_RELAYING and conn.half[other].blocked:
            await_reset(w, index)
    else:
        side_was_reset(w, index, other)


cdef void await_reset(Worker *w, uint32_t index) noexcept nogil:
    """A side was reset while the other one does not read: after RESET_WAIT_MS without progress
    that one is reset too, as it would have been by a direct peer."""
    cdef tm_conn *conn = &w.records[index]
    cdef int side
    for side in range(2):
        if conn.side_flags[side] & TM_RESET:
            has_gone(w, index, side)
    if conn.deadline_ms == 0:
        conn.deadline_ms = w.now_ms + RESET_WAIT_MS
        arm(w, index, conn.deadline_ms)


cdef void side_error(Worker *w, uint32_t index, int side) noexcept nogil:
    """EPOLLERR for a side that is not being read at the moment."""
    cdef tm_conn *conn = &w.records[index]
    if not conn.side_flags[side] & TM_RESET and tm_sock_error(conn.fd[side]) == 0:
        return
    conn.side_flags[side] |= TM_RESET | TM_HUNG_UP
    if conn.half[side].state == TM_HALF_OPEN:
        await_reset(w, index)
    else:
        side_was_reset(w, index, side)


cdef void relay_event(Worker *w, uint32_t index, int side, uint32_t events) noexcept nogil:
    cdef tm_conn *conn = &w.records[index]
    cdef int other = 1 - side
    if events & READ_TO_THE_END:
        conn.side_flags[side] |= TM_HUNG_UP
        if events & EPOLLPRI:  # the kernel counts urgent bytes, which are not passed on
            conn.half[side].uncounted |= TM_UNCOUNTED_SOURCE
    if events & EPOLLERR and conn.half[side].paused:
        # What is there to be read is so for the last time.
        end_pause(w, conn, destination_of(w, conn), side)
    if events & EPOLLOUT and conn.half[other].blocked and conn.half[other].state == TM_HALF_OPEN:
        pump_half(w, index, other)
        if conn.state != TM_RELAYING:
            return
    if conn.half[side].state == TM_HALF_OPEN:
        if conn.half[side].blocked or conn.half[side].paused:
            if events & EPOLLIN:
                unwatch_read(w, index, side)
        elif events & (EPOLLIN | READ_TO_THE_END):
            pump_half(w, index, side)
    if events & EPOLLERR and conn.state == TM_RELAYING:
        if conn.half[side].state != TM_HALF_OPEN or conn.half[side].blocked:
            side_error(w, index, side)
    elif events & EPOLLHUP and conn.state == TM_RELAYING and both_unix(conn):
        if conn.half[side].state == TM_HALF_SHUT:  # a half-close before, and now a close
            end(w, index, TM_CLOSED_finished, False)


# --- connecting -------------------------------------------------------------------------------

cdef const tm_destination *destination_of(Worker *w, const tm_conn *conn) noexcept nogil:
    """Its destination in the image in force; NULL if a reload has removed it."""
    cdef uint32_t i
    if (conn.destination < w.image.destination_count
            and w.image.destinations[conn.destination].slot == conn.destination_slot):
        return &w.image.destinations[conn.destination]
    for i in range(w.image.destination_count):
        if w.image.destinations[i].slot == conn.destination_slot:
            (<tm_conn *>conn).destination = i
            return &w.image.destinations[i]
    return NULL


cdef void attempt_failed(Worker *w, uint32_t index, int error, bint timed_out) noexcept nogil:
    """Counts a failed connect. A failure of this host is not held against the endpoint."""
    cdef tm_conn *conn = &w.records[index]
    cdef tm_slot *destination = slot_of(w, conn.destination_slot)
    cdef tm_slot *endpoint = slot_of(w, conn.endpoint_slot)
    # Of UNIX sockets these are about who may connect, of others about this host's firewall.
    cdef bint denied = conn.endpoint.family == AF_UNIX and (error == EACCES or error == EPERM)
    if denied:
        w.denied = True
        w.denied_slot = conn.endpoint_slot
    if timed_out:
        conn.close_reason = TM_CLOSED_connect_timeout
        tm_count(&destination.connect_timeouts, 1)
        tm_count(&endpoint.connect_timeouts, 1)
    elif tm_sock_local_failure(error) and not denied:
        conn.close_reason = TM_CLOSED_local_error
    else:
        conn.close_reason = TM_CLOSED_connect_failed
    if conn.close_reason != TM_CLOSED_local_error:
        tm_count(&destination.connect_failures, 1)
        tm_count(&endpoint.connect_failures, 1)
        tm_note_failure(&w.commons.slots[conn.endpoint_slot])
        tm_avoid(&w.commons.slots[conn.endpoint_slot], w.now_ms + AVOID_MS)
    tm_count(&endpoint.closed[conn.close_reason], 1)
    let_go_of(w, index, TM_HOLDS_ENDPOINT)
    conn.endpoint_slot = TM_NONE
    close_side(conn, TM_ENDPOINT, False)


cdef void established(Worker *w, uint32_t index) noexcept nogil:
    cdef tm_conn *conn = &w.records[index]
    cdef bint unix_client = conn.client.family == AF_UNIX
    cdef bint unix_endpoint = conn.endpoint.family == AF_UNIX
    cdef uint32_t kinds = tm_table_log_kinds(w.table)
    tm_note_success(&w.commons.slots[conn.endpoint_slot])
    conn.close_reason = 0
    conn.deadline_ms = 0
    conn.connect_us = (<uint32_t>clock_us() - conn.connect_us) or 1
    tm_histogram_add(&w.live.times[conn.destination_slot].connect, tm_latency_bounds_us,
                     conn.connect_us)
    conn.last_activity_ms = w.now_ms
    conn.half[TM_CLIENT].uncounted |= <uint8_t>(
        (TM_UNCOUNTED_SOURCE if unix_client else 0)
        | (TM_UNCOUNTED_DESTINATION if unix_endpoint else 0))
    conn.half[TM_ENDPOINT].uncounted |= <uint8_t>(
        (TM_UNCOUNTED_SOURCE if unix_endpoint else 0)
        | (TM_UNCOUNTED_DESTINATION if unix_client else 0))
    set_state(conn, TM_RELAYING)
    if kinds:
        log_start(w, index, kinds)
    arm(w, index, next_look(w, index))
    pump_half(w, index, TM_CLIENT)
    if not unix_endpoint and conn.state == TM_RELAYING:
        tm_sock_acknowledge(conn.fd[TM_ENDPOINT])


cdef bint has_used_up(const tm_conn *conn, const tm_route *route) noexcept nogil:
    """Whether the route allows no further connect for this connection, to whomever."""
    return conn.attempts != 0 and (
        (route.rules.max_attempts and conn.attempts >= route.rules.max_attempts)
        or (route.rules.retry_percent == 0 and route.rules.retry_burst == 0))


cdef bint is_replaced(const tm_conn *conn, const tm_route *route) noexcept nogil:
    """Whether it is with the fallback, as its own destination can't be reached."""
    return (route.rules.on_unavailable == TM_FALL_BACK
            and conn.pick_reason == TM_PICKED_failed_over
            and conn.destination == route.first_destination + route.rules.fallback)


cdef bint may_try(Worker *w, tm_conn *conn, const tm_destination *destination,
                  Tier tier, bint is_first) noexcept nogil:
    """Whether its route lets it connect to one of this tier. The first connect of all pays for
    others' retries. The first one to a later tier or to the fallback, which are there to take
    over, needs no budget: there is one of those for each connection at the most."""
    cdef const tm_route *route = &w.image.routes[destination.route]
    cdef tm_common *account = &w.commons.slots[destination.slot]
    if conn.attempts == 0:
        tm_retry_earn(account, route.rules.retry_percent)
        return True
    if conn.pick_reason == TM_PICKED_failed_over and tier.first == 0:
        is_first = is_first and is_replaced(conn, route)
    if has_used_up(conn, route) or not (
            is_first or tm_retry_take(account, route.rules.retry_burst)):
        conn.close_reason = TM_CLOSED_retries_used_up
        return False
    tm_count(&slot_of(w, destination.slot).retries, 1)
    return True


cdef void connect_next(Worker *w, uint32_t index) noexcept nogil:
    """Tries the destination's endpoints, each once, until one takes the connect: tier by tier those
    that have not just failed, then its fallback, then those that have.

    No byte of the client has been read so far, so any endpoint will do.
    """
    cdef tm_conn *conn = &w.records[index]
    cdef const tm_destination *destination = destination_of(w, conn)
    cdef const tm_endpoint *endpoint
    cdef uint32_t at
    cdef uint32_t events
    cdef bint full = False, all = False, is_first
    cdef bint queues = destination != NULL and destination.rules.on_full == TM_FULL_QUEUE
    cdef int fd, state
    cdef uint8_t flags
    cdef Tier tier
    if destination != NULL:
        tier = first_tier(destination)
    while destination != NULL and destination.turn_count:
        at = next_endpoint(w, conn, destination, &tier, all)
        if at == TM_NONE:
            if all or (full and queues):
                break
            if not full and fall_back(w, index, destination):
                return
            all = True
            tier = first_tier(destination)
            continue
        endpoint = &w.image.endpoints[destination.first_endpoint + at]
        is_first = conn.tried == 0 or is_untried(w, conn, destination, tier)
        conn.tried |= <uint32_t>1 << (at % 32)
        if conn.passed < 0xffff:
            conn.passed += 1
        conn.endpoint_slot = endpoint.slot
        if not hold(w, index, TM_HOLDS_ENDPOINT, endpoint.max_connections):
            conn.endpoint_slot = TM_NONE
            full = True
            continue
        if not may_try(w, conn, destination, tier, is_first):
            let_go_of(w, index, TM_HOLDS_ENDPOINT)
            conn.endpoint_slot = TM_NONE
            if all or has_used_up(conn, &w.image.routes[destination.route]):
                break
            tier = tier_after(w, destination, tier)
            continue
        if conn.attempts < 255:
            conn.attempts += 1
        tm_peer_from(&conn.endpoint, &endpoint.address)
        tm_count(&slot_of(w, endpoint.slot).opened, 1)
        conn.connect_us = <uint32_t>clock_us()
        tm_journal_note(w.pump.journal, TM_CONNECT)
        fd = tm_sock_connect(&endpoint.address)
        tm_conn_set_fd(conn, TM_ENDPOINT, fd if fd >= 0 else -1)
        tm_journal_note(w.pump.journal, TM_NOTHING)
        if fd < 0:
            attempt_failed(w, index, -fd, False)
            continue
        tm_trace_connect(&w.commons.traces, conn.fd[TM_CLIENT], &conn.client, fd, &conn.endpoint,
                         conn.route_slot, w.connects)
        w.connects += 1
        # On this host or a fast network the handshake is over by now: no need to wait for it.
        state = tm_sock_established(fd)
        flags = always_read_on(conn.endpoint.family)
        if state < 0:
            if not tm_sock_has_answered(fd):
                attempt_failed(w, index, -state, False)
                continue
            flags |= ANSWERED_AND_RESET
        events = BASE_EVENTS if state else BASE_EVENTS | EPOLLOUT
        conn.side_flags[TM_ENDPOINT] = flags | (0 if state else TM_WRITE_WATCHED)
        if watch(w, index, TM_ENDPOINT, EPOLL_CTL_ADD, events) < 0:
            end(w, index, TM_CLOSED_local_error, True)
        elif state:
            established(w, index)
        else:
            conn.deadline_ms = w.now_ms + conn.connect_timeout_ms
            arm(w, index, conn.deadline_ms)
        return
    if full and (conn.attempts == 0 or queues):
        if destination.rules.on_full != TM_FULL_SPILL or not spill(w, index, destination):
            wait_or_go(w, index, destination)
    elif not fail_over(w, index, destination):
        end(w, index, (conn.close_reason or TM_CLOSED_no_endpoint), True)


cdef void connect_event(Worker *w, uint32_t index, int side, uint32_t events) noexcept nogil:
    cdef tm_conn *conn = &w.records[index]
    cdef int error
    if side == TM_CLIENT:
        # Its bytes, FIN or RST wait in the socket until there is somebody to pass them to.
        if events & READ_TO_THE_END:
            conn.side_flags[TM_CLIENT] |= TM_HUNG_UP
            if events & EPOLLPRI:
                conn.half[TM_CLIENT].uncounted |= TM_UNCOUNTED_SOURCE
            if events & EPOLLERR and conn.fd[TM_ENDPOINT] < 0:  # it waits no longer
                end(w, index, TM_CLOSED_client_reset, True)
        return
    if not events & (EPOLLOUT | EPOLLERR | EPOLLHUP):
        return
    error = tm_sock_error(conn.fd[TM_ENDPOINT])
    if error == 0 and not events & EPOLLOUT:
        return
    if error < 0:
        if not tm_sock_has_answered(conn.fd[TM_ENDPOINT]):
            attempt_failed(w, index, -error, False)
            connect_next(w, index)
            return
        conn.side_flags[TM_ENDPOINT] |= ANSWERED_AND_RESET
    established(w, index)
    if conn.state == TM_RELAYING:
        relay_event(w, index, TM_ENDPOINT, events)


cdef uint32_t connection_place(Worker *w) noexcept nogil:
    cdef uint32_t index
    if w.free == TM_NONE and w.live.records_used == w.capacity:
        # Some may have ended in this batch. Their events can be told by generation.
        connections_free(w)
    index = w.free
    if index != TM_NONE:
        w.free = w.records[index].next
    elif w.live.records_used < w.capacity:
        index = tm_live_next_record(w.live)
    else:
        return TM_NONE
    check(w.records[index].state == TM_FREE)
    return index


cdef uint32_t connection_record(Worker *w, int fd, const tm_peer *peer,
                                const tm_route *chosen) noexcept nogil:
    """A record for an accepted socket; its index."""
    cdef uint32_t index = connection_place(w)
    cdef tm_conn *conn
    check(index != TM_NONE)
    conn = &w.records[index]
    w.pump.journal.current = index
    tm_conn_replace(conn, NULL)
    tm_conn_set_fd(conn, TM_CLIENT, fd)
    tm_conn_set_fd(conn, TM_ENDPOINT, -1)
    conn.half[0].pipe.to = conn.half[0].pipe.from_ = -1
    conn.half[1].pipe.to = conn.half[1].pipe.from_ = -1
    conn.timer_place = TM_UNARMED
    conn.client = peer[0]
    conn.side_flags[TM_CLIENT] = always_read_on(peer.family)
    conn.listener = <uint16_t>w.pump.journal.listener
    conn.accepted_at_us = w.now_us
    conn.table_generation = w.generation
    conn.route_slot = chosen.slot
    conn.destination_slot = TM_NONE
    conn.endpoint_slot = TM_NONE
    set_state(conn, TM_CONNECTING)
    tm_journal_note(w.pump.journal, TM_NOTHING)  # the record has the socket: no ACCEPT any more
    return index


cdef void connection_open(Worker *w, int fd, const tm_peer *peer, uint32_t route) noexcept nogil:
    cdef const tm_route *chosen = &w.image.routes[route]
    cdef uint32_t index = connection_record(w, fd, peer, chosen)
    w.connections += 1
    tm_live_set_connections(w.live, w.connections)
    tm_count(&slot_of(w, chosen.slot).opened, 1)
    if watch(w, index, TM_CLIENT, EPOLL_CTL_ADD, BASE_EVENTS) < 0:
        end(w, index, TM_CLOSED_local_error, True)
        return
    connection_route(w, index, chosen)


cdef void connection_route(Worker *w, uint32_t index, const tm_route *chosen) noexcept nogil:
    cdef tm_conn *conn = &w.records[index]
    cdef int reason
    if not let_in(w, index, chosen, &reason):
        if reason == TM_CLOSED_overflow and is_new(w, conn):
            let_go_of_all(w, index)  # meanwhile it stands in nobody's way
            conn.destination = <uint32_t>(chosen - w.image.routes)
            arm(w, index, w.now_ms + WAIT_LOOK_MS)
        else:
            end(w, index, reason, True)
    elif chosen.period == 0:
        await_destination(w, index, chosen)
    else:
        conn.deadline_ms = 0
        # A period of 1 is all weight on one destination: csrc/pick.h.
        give_destination(
            w, index, chosen.first_destination + tm_pick(
                chosen, tm_ticket_take(&w.commons.tickets[chosen.ticket])),
            TM_PICKED_only if chosen.period == 1 else TM_PICKED_weighted)


cdef bint is_new(Worker *w, const tm_conn *conn) noexcept nogil:
    """A limit is reached, but perhaps by one that is over: its client has seen that, or ended it,
    and another worker is about to hear of it. Not while there are many: they would fill this one."""
    return (w.now_us < conn.accepted_at_us + NEW_US
            and w.connections < w.capacity // 2)


cdef bint has_room(Worker *w, uint32_t index, uint32_t at) noexcept nogil:
    """Takes a place in a destination, if it has one."""
    cdef tm_conn *conn = &w.records[index]
    cdef const tm_destination *destination = &w.image.destinations[at]
    conn.destination = at
    conn.destination_slot = destination.slot
    if hold(w, index, TM_HOLDS_DESTINATION, destination.rules.max_connections):
        return True
    conn.destination_slot = TM_NONE
    return False


cdef bint seems_to_have_room(Worker *w, uint32_t at) noexcept nogil:
    cdef const tm_destination *destination = &w.image.destinations[at]
    cdef uint64_t limit = destination.rules.max_connections
    return limit == 0 or tm_counted_now(&w.commons.slots[destination.slot].connections) < limit


cdef bint somebody_has_room(Worker *w, uint32_t but) noexcept nogil:
    """Whether another() would find one now."""
    cdef const tm_route *route = &w.image.routes[w.image.destinations[but].route]
    cdef const tm_destination *destination
    cdef uint32_t at
    for at in range(route.first_destination,
                    route.first_destination + route.destination_count):
        destination = &w.image.destinations[at]
        if (at != but and destination.effective_weight and destination.turn_count
                and seems_to_have_room(w, at)):
            return True
    return False


cdef uint32_t another(Worker *w, uint32_t index, uint32_t but) noexcept nogil:
    """Takes a place in another destination of the route that has weight, endpoints and room: by
    their weights, exactly, while they have. TM_NONE: there is none."""
    cdef const tm_destination *destination = &w.image.destinations[but]
    cdef const tm_route *route = &w.image.routes[destination.route]
    cdef uint64_t not_these = <uint64_t>1 << (but - route.first_destination)
    cdef uint32_t other
    while True:
        other = tm_pick_other(w.image, route, not_these,
                              tm_rota_take(&w.commons.slots[destination.slot].rota))
        if other == TM_NONE or has_room(w, index, route.first_destination + other):
            break
        not_these |= <uint64_t>1 << other
    return other if other == TM_NONE else route.first_destination + other


cdef void give_destination(Worker *w, uint32_t index, uint32_t at, int reason) noexcept nogil:
    cdef tm_conn *conn = &w.records[index]
    cdef const tm_destination *destination = &w.image.destinations[at]
    cdef bint room = has_room(w, index, at)
    cdef uint32_t other = TM_NONE
    if not room and destination.rules.on_full == TM_FULL_SPILL:
        other = another(w, index, at)
        if other != TM_NONE:
            room = True
            reason = TM_PICKED_spilled
            at = other
    begin_with(w, index, at, reason)
    if room:
        connect_next(w, index)
    else:
        wait_or_go(w, index, destination)


cdef void begin_with(Worker *w, uint32_t index, uint32_t at, int reason) noexcept nogil:
    """From here on it is a connection of this destination."""
    cdef tm_conn *conn = &w.records[index]
    cdef const tm_destination *destination = &w.image.destinations[at]
    conn.destination = at
    conn.destination_slot = destination.slot
    conn.connect_timeout_ms = destination.connect_timeout_ms
    conn.idle_timeout_ms = destination.idle_timeout_ms
    conn.pick_reason = <uint8_t>reason
    conn.tried = 0
    conn.passed = 0
    tm_count(&slot_of(w, destination.slot).picked[conn.pick_reason], 1)
    tm_count(&slot_of(w, destination.slot).opened, 1)


cdef bint fail_over(Worker *w, uint32_t index, const tm_destination *destination) noexcept nogil:
    """To another destination, once and if the route says so."""
    cdef tm_conn *conn = &w.records[index]
    cdef int reason = conn.close_reason or TM_CLOSED_no_endpoint
    if (destination == NULL or conn.pick_reason == TM_PICKED_failed_over
            or not w.image.routes[destination.route].rules.across
            or reason == TM_CLOSED_local_error or reason == TM_CLOSED_retries_used_up):
        return False
    return leave_for(w, index, TM_NONE, TM_PICKED_failed_over)


cdef bint spill(Worker *w, uint32_t index, const tm_destination *destination) noexcept nogil:
    """Each of its endpoints is full: to another destination, once."""
    cdef const tm_conn *conn = &w.records[index]
    if conn.pick_reason == TM_PICKED_failed_over or conn.pick_reason == TM_PICKED_spilled:
        return False
    return leave_for(w, index, TM_NONE, TM_PICKED_spilled)


cdef bint fall_back(Worker *w, uint32_t index, const tm_destination *destination) noexcept nogil:
    """To the destination that takes over where this one can't, if its route names one and somebody
    there can be expected to answer."""
    cdef const tm_conn *conn = &w.records[index]
    cdef const tm_route *route = &w.image.routes[destination.route]
    cdef uint32_t to = route.first_destination + <uint32_t>route.rules.fallback
    cdef const tm_destination *other = &w.image.destinations[to]
    if (route.rules.on_unavailable != TM_FALL_BACK or to == conn.destination
            or conn.pick_reason == TM_PICKED_failed_over
            or conn.close_reason == TM_CLOSED_local_error or has_used_up(conn, route)
            or other.admin_state != TM_READY or not is_promising(w, other)):
        return False
    return leave_for(w, index, to, TM_PICKED_failed_over)


cdef bint leave_for(Worker *w, uint32_t index, uint32_t to, int pick) noexcept nogil:
    """Goes on with another destination, TM_NONE: whichever has room. False: none has, and nothing
    has changed."""
    cdef tm_conn *conn = &w.records[index]
    cdef uint32_t slot = conn.destination_slot
    cdef uint32_t before = conn.destination
    if not (somebody_has_room(w, before) if to == TM_NONE else seems_to_have_room(w, to)):
        return False
    let_go_of(w, index, TM_HOLDS_QUEUE)
    let_go_of(w, index, TM_HOLDS_DESTINATION)
    if to == TM_NONE:
        to = another(w, index, before)
    elif not has_room(w, index, to):
        to = TM_NONE
    if to != TM_NONE:
        tm_count(&slot_of(w, slot).closed[TM_CLOSED_passed_on], 1)
        begin_with(w, index, to, pick)
        connect_next(w, index)
        return True
    # Somebody was faster. Whether its own place is left is not certain either.
    conn.destination = before
    conn.destination_slot = slot
    if hold(w, index, TM_HOLDS_DESTINATION,
            w.image.destinations[before].rules.max_connections):
        return False
    end(w, index, TM_CLOSED_overflow, True)
    return True


# --- waiting ----------------------------------------------------------------------------------

cdef void await_destination(Worker *w, uint32_t index, const tm_route *route) noexcept nogil:
    """No destination can take it: some time may pass until one can."""
    cdef tm_conn *conn = &w.records[index]
    if route.rules.on_all_unavailable != TM_HOLD:
        end(w, index, TM_CLOSED_no_endpoint, True)
        return
    if conn.deadline_ms == 0:
        conn.deadline_ms = w.now_ms + route.rules.hold_ms
    conn.destination = <uint32_t>(route - w.image.routes)
    if w.now_ms < conn.deadline_ms:
        arm(w, index, w.now_ms + WAIT_LOOK_MS)
    else:
        end(w, index, TM_CLOSED_no_endpoint, True)


cdef void wait_or_go(Worker *w, uint32_t index, const tm_destination *destination) noexcept nogil:
    """The destination, or each of its endpoints, is full."""
    cdef tm_conn *conn = &w.records[index]
    if destination != NULL and destination.rules.on_full != TM_FULL_QUEUE and is_new(w, conn):
        arm(w, index, w.now_ms + WAIT_LOOK_MS)
        return
    if (destination == NULL or destination.rules.on_full != TM_FULL_QUEUE
            or not hold(w, index, TM_HOLDS_QUEUE, destination.rules.queue_size)):
        end(w, index, TM_CLOSED_overflow, True)
        return
    if conn.attempts:  # then deadline_ms is that of a connect
        conn.deadline_ms = conn.accepted_at_us // 1000 + destination.rules.queue_ms
    elif conn.deadline_ms == 0:
        conn.deadline_ms = w.now_ms + destination.rules.queue_ms
    if w.now_ms < conn.deadline_ms:
        arm(w, index, w.now_ms + WAIT_LOOK_MS)
    else:
        end(w, index, TM_CLOSED_overflow, True)


cdef const tm_route *route_of(Worker *w, const tm_conn *conn) noexcept nogil:
    """Of one that has no destination yet; NULL: a reload has removed it."""
    cdef uint32_t i
    if (conn.destination < w.image.route_count
            and w.image.routes[conn.destination].slot == conn.route_slot):
        return &w.image.routes[conn.destination]
    for i in range(w.image.route_count):
        if w.image.routes[i].slot == conn.route_slot:
            return &w.image.routes[i]
    return NULL


cdef void go_on_waiting(Worker *w, uint32_t index) noexcept nogil:
    """For whatever it waits: a destination, a place in one, or the next endpoint."""
    cdef tm_conn *conn = &w.records[index]
    cdef const tm_destination *destination
    cdef const tm_route *route
    if conn.destination_slot == TM_NONE:
        route = route_of(w, conn)
        if route == NULL:
            end(w, index, TM_CLOSED_no_endpoint, True)
        else:
            connection_route(w, index, route)
        return
    destination = destination_of(w, conn)
    if destination == NULL:
        end(w, index, TM_CLOSED_no_endpoint, True)
    elif not hold(w, index, TM_HOLDS_DESTINATION, destination.rules.max_connections):
        wait_or_go(w, index, destination)
    elif conn.holds & TM_HOLDS_QUEUE:
        conn.tried = 0
        conn.passed = 0
        connect_next(w, index)
        if conn.state != TM_DEAD and conn.endpoint_slot != TM_NONE:
            let_go_of(w, index, TM_HOLDS_QUEUE)
    else:
        if conn.attempts == 0:  # each was full
            conn.tried = 0
            conn.passed = 0
        connect_next(w, index)


# --- what the loop calls ----------------------------------------------------------------------

cdef void connection_event(Worker *w, uint32_t index, uint32_t generation, int side,
                           uint32_t events) noexcept nogil:
    cdef tm_conn *conn = &w.records[index]
    w.pump.journal.current = index
    if conn.generation != generation or conn.state == TM_DEAD or conn.state == TM_FREE:
        tm_count(&w.live.counters.stale_events, 1)
    elif conn.state == TM_CONNECTING:
        connect_event(w, index, side, events)
    elif conn.state == TM_RELAYING:
        relay_event(w, index, side, events)
    else:
        check(conn.state == TM_RESETTING)
        if events & (EPOLLERR | EPOLLHUP):  # it went first
            end(w, index, conn.close_reason, True)


cdef void connection_timer(Worker *w, uint32_t index) noexcept nogil:
    cdef tm_conn *conn = &w.records[index]
    cdef uint64_t deadline = conn.deadline_ms
    cdef int side
    w.pump.journal.current = index
    if conn.state == TM_RESETTING:
        side = TM_CLIENT if conn.fd[TM_CLIENT] >= 0 else TM_ENDPOINT
        if w.now_ms >= deadline or tm_sock_unacknowledged(conn.fd[side]) == 0:
            end(w, index, conn.close_reason, True)
        else:
            arm(w, index, w.now_ms + RESET_RECHECK_MS)
        return
    if conn.state == TM_CONNECTING:
        if conn.fd[TM_ENDPOINT] < 0:
            go_on_waiting(w, index)
        elif w.now_ms < deadline:
            arm(w, index, deadline)
        else:
            attempt_failed(w, index, 0, True)
            connect_next(w, index)
        return
    check(conn.state == TM_RELAYING)
    if deadline == 0:
        relaying_timer(w, index)
        return
    # await_reset()
    if conn.last_activity_ms + RESET_WAIT_MS > deadline:
        deadline = conn.last_activity_ms + RESET_WAIT_MS
    if w.now_ms < deadline:
        arm(w, index, deadline)
    else:
        end(w, index, TM_CLOSED_client_reset if conn.side_flags[TM_CLIENT] & TM_RESET
            else TM_CLOSED_endpoint_reset, True)


cdef uint64_t lifetime_ends_ms(Worker *w, uint32_t index,
                               const tm_destination *destination) noexcept nogil:
    """Monotonic; 0 = never. Jitter is the same whenever it is asked for."""
    cdef const tm_conn *conn = &w.records[index]
    cdef uint64_t most = destination.rules.lifetime_ms
    cdef uint64_t part
    if most == 0:
        return 0
    part = tm_mix(conn.accepted_at_us ^ (<uint64_t>conn.client.port << 48)) & 0xffff
    return (conn.accepted_at_us // 1000 + most
            - most * destination.rules.lifetime_jitter * part // (100 * 0xffff))


cdef uint64_t next_look(Worker *w, uint32_t index) noexcept nogil:
    """When a relaying connection has to be looked at next, if nothing happens to it."""
    cdef const tm_conn *conn = &w.records[index]
    cdef const tm_destination *destination = destination_of(w, conn)
    cdef uint64_t look = 0
    cdef int side
    if conn.deadline_ms:
        return conn.deadline_ms
    if conn.idle_timeout_ms:
        look = conn.last_activity_ms + conn.idle_timeout_ms
    if destination != NULL:
        look = lower(look, lifetime_ends_ms(w, index, destination))
        if not conn.side_flags[TM_CLIENT] & TM_KEPT_ALIVE and (
                destination.rules.keepalive_s or destination.rules.user_timeout_ms):
            look = lower(look, conn.accepted_at_us // 1000 + KEEPALIVE_AFTER_MS)
    for side in range(2):
        if conn.half[side].paused:
            look = lower(look, look_ms(w, &conn.half[side]))
    return look if look else NEVER


cdef void relaying_timer(Worker *w, uint32_t index) noexcept nogil:
    cdef tm_conn *conn = &w.records[index]
    cdef const tm_destination *destination = destination_of(w, conn)
    cdef uint64_t ends = 0
    cdef int side
    if not resume_paused(w, index):
        return
    if destination != NULL:
        ends = lifetime_ends_ms(w, index, destination)
        if (not conn.side_flags[TM_CLIENT] & TM_KEPT_ALIVE
                and w.now_ms >= conn.accepted_at_us // 1000 + KEEPALIVE_AFTER_MS):
            conn.side_flags[TM_CLIENT] |= TM_KEPT_ALIVE
            for side in range(2):
                tm_sock_keep_alive(
                    conn.fd[side], <int>destination.rules.keepalive_s,
                    <int>destination.rules.keepalive_interval_s,
                    <int>destination.rules.keepalive_count,
                    <int>destination.rules.user_timeout_ms)
    if ends and w.now_ms >= ends:
        end_in_time(w, index, ends + END_WAIT_MS)
    elif is_idle(w, conn):
        end(w, index, TM_CLOSED_idle_timeout, is_undelivered(conn))
    else:
        arm(w, index, next_look(w, index))


cdef void end_in_time(Worker *w, uint32_t index, uint64_t latest_ms) noexcept nogil:
    """Its lifetime is over: at a moment when nothing is under way, or at the latest then."""
    cdef bint undelivered = is_undelivered(&w.records[index])
    if undelivered and w.now_ms < latest_ms:
        arm(w, index, w.now_ms + RESET_RECHECK_MS)
    else:
        end(w, index, TM_CLOSED_lifetime, undelivered)


cdef bint is_undelivered(const tm_conn *conn) noexcept nogil:
    """Whether an end now cuts something off, and has to be a reset: a FIN would pretend that all
    was delivered. It may be in a pipe, before us as it could not or must not be read yet, or
    behind us as the peer has not acknowledged it."""
    cdef int side
    for side in range(2):
        if conn.half[side].queued or tm_sock_unacknowledged(conn.fd[side]):
            return True
        if conn.half[side].state == TM_HALF_OPEN and tm_sock_unread(conn.fd[side]):
            return True
    return False


cdef bint is_idle(Worker *w, tm_conn *conn) noexcept nogil:
    """What we hold back is not idle, nor is what goes on from a send queue."""
    cdef uint64_t since = conn.last_activity_ms, ago
    cdef int side
    if conn.idle_timeout_ms == 0 or w.now_ms < since + conn.idle_timeout_ms:
        return False
    for side in range(2):
        if conn.half[side].paused and conn.half[side].state == TM_HALF_OPEN and (
                conn.side_flags[side] & TM_HUNG_UP or tm_sock_unread(conn.fd[side])):
            since = w.now_ms
        if tm_sock_unacknowledged(conn.fd[side]):
            ago = tm_sock_sent_ago(conn.fd[side])
            if since + ago < w.now_ms:
                since = w.now_ms - ago
    conn.last_activity_ms = since
    return w.now_ms >= since + conn.idle_timeout_ms


cdef bint connections_resume(Worker *w) noexcept nogil:
    cdef uint32_t index = w.ready
    cdef uint32_t next
    cdef uint8_t sides
    cdef tm_conn *conn
    cdef int side
    w.ready = TM_NONE
    while index != TM_NONE:
        tm_live_advance(w.live)
        conn = &w.records[index]
        next = conn.next
        sides = conn.ready
        w.pump.journal.current = index
        conn.listed = 0
        conn.ready = 0
        if conn.state == TM_DEAD:
            conn.next = w.dead
            w.dead = index
        for side in range(2):
            if (sides & (1 << side) and conn.state == TM_RELAYING and not conn.moving
                    and conn.half[side].state == TM_HALF_OPEN and not conn.half[side].blocked):
                pump_half(w, index, side)
        index = next
    return w.ready != TM_NONE


cdef void connection_kill(Worker *w, uint32_t index, uint32_t generation) noexcept nogil:
    cdef tm_conn *conn
    if index >= w.live.records_used:
        return
    conn = &w.records[index]
    if conn.generation != generation or conn.moving:
        return
    w.pump.journal.current = index
    if (conn.state == TM_CONNECTING or conn.state == TM_RELAYING
            or conn.state == TM_RESETTING):
        end(w, index, TM_CLOSED_killed, True)


cdef void connections_reset_all(Worker *w) noexcept nogil:
    cdef uint32_t index
    for index in range(w.live.records_used):
        if w.records[index].state != TM_FREE and w.records[index].state != TM_DEAD:
            tm_live_advance(w.live)
            end(w, index, TM_CLOSED_shutdown, True)
    connections_resume(w)
    connections_free(w)
