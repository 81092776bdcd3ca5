# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False
"""Connections move from a worker that is to end to those that stay. Runs in both, without the
GIL. The protocol is in csrc/handover.h.

A connection that is on its way (`moving`) is served by nobody: it is out of epoll, timers and
pumps, for as long as the message and its answer take.
"""

from libc.errno cimport EAGAIN
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.unistd cimport close

from tcpmux.shm._layout cimport (
    TM_CLIENT, tm_conn, tm_conn_enter, tm_conn_possible, tm_conn_replace, tm_conn_set_fd,
    tm_conn_state, TM_CONNECTING, tm_count, TM_ENDING,
    tm_journal_note, tm_live_set_connections, TM_MAX_LINES, TM_NONE, TM_NOTHING,
    tm_pipe_pool_adopt, TM_RELAYING, TM_RESETTING, TM_TAKE, TM_UNARMED,
)
from tcpmux.worker._descriptors cimport tm_is_pipe, tm_stream_family
from tcpmux.worker._connection cimport Worker, connection_leave, connection_place, connection_retire, slot_of, watch
from tcpmux.worker._mechanism cimport (
    EPOLL_CTL_DEL, TM_AGAIN, tm_gift, tm_gift_close, tm_gift_receive, tm_gift_send, TM_GIVE,
    TM_GONE, TM_REFUSED, TM_TAKEN, tm_wheel_disarm,
)
from tcpmux.worker._recovery cimport take_up

cdef enum:
    BUDGET = 64        # connections given in one turn
    RETRY_MS = 100     # after all others were full
    OLD_US = 100000


# --- giving -----------------------------------------------------------------------------------

cdef int give(Worker *w, uint32_t index, uint32_t line, bint again) noexcept nogil:
    """0 or -errno. The record says that it is on its way before it is."""
    cdef tm_conn *conn = &w.records[index]
    cdef tm_gift gift
    gift.type = TM_GIVE
    gift.again = again
    gift.index = index
    gift.generation = conn.generation
    gift.conn = conn[0]
    conn.moving = <uint8_t>(line + 1)
    return tm_gift_send(w.live.lines[line], &gift)


cdef void stop_serving(Worker *w, uint32_t index) noexcept nogil:
    cdef tm_conn *conn = &w.records[index]
    cdef int side
    for side in range(2):
        if conn.fd[side] >= 0:
            # The socket lives on elsewhere, so closing it here would leave it in epoll.
            watch(w, index, side, EPOLL_CTL_DEL, 0)
    tm_wheel_disarm(&w.wheel, w.records, index)


cdef void take_back(Worker *w, uint32_t index) noexcept nogil:
    w.records[index].moving = 0
    take_up(w, index)


cdef bint can_go(const tm_conn *conn) noexcept nogil:
    return not conn.moving and (conn.state == TM_RELAYING or conn.state == TM_CONNECTING
                                or conn.state == TM_RESETTING)


cdef uint32_t next_line(Worker *w, Handover *handover) noexcept nogil:
    """The lines take turns; TM_NONE if there is none."""
    cdef uint32_t line
    cdef int step
    for step in range(TM_MAX_LINES):
        line = (handover.line + <uint32_t>step) % TM_MAX_LINES
        if w.live.lines[line] >= 0 and w.live.gives_to & (<uint64_t>1 << line):
            handover.line = line + 1
            return line
    return TM_NONE


cdef bint handover_some(Worker *w, Handover *handover) noexcept nogil:
    cdef uint32_t line, looked = 0, given = 0
    cdef uint32_t index
    if w.now_ms < handover.retry_ms:
        return False
    while looked < w.live.records_used and given < BUDGET:
        index = handover.cursor % w.live.records_used
        handover.cursor = index + 1
        looked += 1
        if not can_go(&w.records[index]):
            continue
        line = next_line(w, handover)
        if line == TM_NONE:
            return False
        stop_serving(w, index)
        if give(w, index, line, False) < 0:
            take_back(w, index)
            return False  # full: an answer will make room
        given += 1
    return given == BUDGET


cdef bint is_old(Worker *w, const tm_conn *conn) noexcept nogil:
    """Likely to stay: most connections that live this long do."""
    return (conn.state == TM_RELAYING and not conn.moving
            and conn.accepted_at_us + OLD_US <= w.now_us)


cdef bint handover_quota(Worker *w, Handover *handover) noexcept nogil:
    """Gives what the master wants others to have. What can't be given now is left: the master
    looks again."""
    cdef uint32_t index, given = 0
    cdef int line
    for line in range(TM_MAX_LINES):
        index = 0
        while handover.quota[line] and index < w.live.records_used and given < BUDGET:
            if w.live.lines[line] < 0:
                handover.quota[line] = 0
            elif is_old(w, &w.records[index]):
                stop_serving(w, index)
                handover.quota[line] -= 1
                given += 1
                if give(w, index, <uint32_t>line, False) < 0:
                    take_back(w, index)
                    handover.quota[line] = 0
            index += 1
        if given < BUDGET:
            handover.quota[line] = 0  # there are no more
    handover.has_quota = given == BUDGET
    return handover.has_quota


cdef void was_taken(Worker *w, uint32_t index) noexcept nogil:
    """The other worker has it: what is here goes without a word to either peer."""
    cdef tm_conn *conn = &w.records[index]
    w.pump.journal.current = index
    connection_leave(conn)
    conn.moving = 0
    tm_count(&slot_of(w, conn.route_slot).moved_out, 1)
    if conn.destination_slot != TM_NONE:
        tm_count(&slot_of(w, conn.destination_slot).moved_out, 1)
    if conn.endpoint_slot != TM_NONE:
        tm_count(&slot_of(w, conn.endpoint_slot).moved_out, 1)
    connection_retire(w, index)


cdef void let_go(Worker *w, uint32_t index) noexcept nogil:
    """It won't be given again: it can be free."""
    cdef tm_conn *conn = &w.records[index]
    if conn.kept:
        conn.kept = 0
        conn.next = w.dead
        w.dead = index


cdef void handover_lose(Worker *w, uint32_t line) noexcept nogil:
    """The other worker is gone for good: what it has not confirmed stays here."""
    cdef uint32_t index
    cdef int fd = w.live.lines[line]
    w.live.lines[line] = -1
    w.live.gives_to &= ~(<uint64_t>1 << line)
    close(fd)
    for index in range(w.live.records_used):
        if w.records[index].moving == line + 1:
            take_back(w, index)
        if w.records[index].origin.worker == line + 1:
            let_go(w, index)


# --- taking -----------------------------------------------------------------------------------

cdef inline bint is_from(const tm_conn *conn, uint32_t giver, const tm_gift *gift) noexcept nogil:
    return (conn.origin.worker == giver + 1 and conn.origin.index == gift.index
            and conn.origin.generation == gift.generation)


cdef uint32_t find(Worker *w, uint32_t giver, const tm_gift *gift) noexcept nogil:
    """The record into which this very connection has been taken before; TM_NONE = it has not."""
    cdef uint32_t index
    for index in range(w.live.records_used):
        if is_from(&w.records[index], giver, gift):
            return index
    return TM_NONE


cdef bint can_be_taken(Worker *w, tm_conn *conn) noexcept nogil:
    """The giver's word is not enough: what can't be true stays there."""
    cdef int side
    if not tm_conn_possible(conn, w.now_us) or conn.state == TM_ENDING:
        return False
    for side in range(2):
        if conn.fd[side] < 0:
            if conn.state == TM_RELAYING or (conn.state == TM_CONNECTING and side == TM_CLIENT):
                return False
        elif tm_stream_family(conn.fd[side]) != (
                conn.client.family if side == TM_CLIENT else conn.endpoint.family):
            return False
        tm_conn_set_fd(conn, side, conn.fd[side])  # here it has another number: seals it
        if conn.half[side].pipe.to >= 0 or conn.half[side].pipe.from_ >= 0:
            if not tm_is_pipe(conn.half[side].pipe.to, conn.half[side].pipe.from_):
                return False
        elif conn.half[side].queued:
            return False
    return True


cdef uint32_t take(Worker *w, uint32_t giver, tm_gift *gift) noexcept nogil:
    """The record it is in; TM_NONE: there is no room for it."""
    cdef tm_conn *conn
    cdef uint32_t index = find(w, giver, gift) if gift.again else <uint32_t>TM_NONE
    cdef uint8_t state
    cdef int side
    if index != TM_NONE:
        tm_gift_close(gift)
        return index
    if gift.conn.fd[0] < 0 and gift.conn.fd[1] < 0:
        return TM_NONE  # descriptors have run out on the way
    if not can_be_taken(w, &gift.conn):
        return TM_NONE
    index = connection_place(w)
    if index == TM_NONE:
        return TM_NONE
    gift.conn.origin.worker = giver + 1
    gift.conn.origin.index = gift.index
    gift.conn.origin.generation = gift.generation
    conn = &w.records[index]
    w.pump.journal.current = index
    gift.conn.timer_place = TM_UNARMED
    gift.conn.next = TM_NONE
    gift.conn.ready = gift.conn.listed = gift.conn.moving = gift.conn.kept = gift.conn.faults = 0
    state = gift.conn.state
    tm_conn_replace(conn, &gift.conn)
    for side in range(2):
        if conn.half[side].pipe.to >= 0:
            tm_pipe_pool_adopt(&w.pump.pool, &conn.half[side].pipe)
    tm_conn_enter(conn, <tm_conn_state>state)  # from here on it is there, whatever happens
    tm_journal_note(w.pump.journal, TM_NOTHING)
    tm_count(&slot_of(w, conn.route_slot).moved_in, 1)
    if conn.destination_slot != TM_NONE:
        tm_count(&slot_of(w, conn.destination_slot).moved_in, 1)
    if conn.endpoint_slot != TM_NONE:
        tm_count(&slot_of(w, conn.endpoint_slot).moved_in, 1)
    w.connections += 1
    tm_live_set_connections(w.live, w.connections)
    take_up(w, index)
    return index


cdef void answer(Worker *w, uint32_t line, int type, const tm_gift *gift,
                 uint32_t taken) noexcept nogil:
    cdef tm_gift reply
    memset(&reply, 0, sizeof(reply))
    reply.type = <uint32_t>type
    reply.index = gift.index
    reply.generation = gift.generation
    reply.taken = taken
    # A full line: the giver has as many answers to read, and gives once more what it misses
    # when either begins a new life. It can't be full for long: it gives no more than it hears of.
    if tm_gift_send(w.live.lines[line], &reply) < 0:
        pass


cdef void give_again(Worker *w, uint32_t line) noexcept nogil:
    cdef uint32_t index
    for index in range(w.live.records_used):
        if w.records[index].moving == line + 1 and give(w, index, line, True) < 0:
            return  # full of others; their answers come first, and then AGAIN finds the rest


cdef void confirm(Worker *w, uint32_t giver) noexcept nogil:
    """Says TAKEN once more of all that came from there: an answer, or GONE, may have died with
    an earlier life of the giver."""
    cdef uint32_t index
    cdef tm_gift about
    memset(&about, 0, sizeof(about))
    for index in range(w.live.records_used):
        if w.records[index].origin.worker == giver + 1:
            about.index = w.records[index].origin.index
            about.generation = w.records[index].origin.generation
            answer(w, giver, TM_TAKEN, &about, index)


cdef void handover_event(Worker *w, Handover *handover, uint32_t other) noexcept nogil:
    cdef tm_gift gift
    cdef tm_conn *conn
    cdef uint32_t taken
    cdef int got
    while w.live.lines[other] >= 0:
        w.pump.journal.current = TM_NONE
        tm_journal_note(w.pump.journal, TM_TAKE)
        got = tm_gift_receive(w.live.lines[other], &gift)
        if got <= 0 or gift.type != TM_GIVE:
            tm_journal_note(w.pump.journal, TM_NOTHING)
        if got == -EAGAIN:
            return
        if got <= 0:
            handover_lose(w, other)
            handover.lost |= <uint64_t>1 << other
            return
        if gift.type == TM_GIVE:
            taken = take(w, other, &gift)
            if taken != TM_NONE:
                answer(w, other, TM_TAKEN, &gift, taken)
            else:
                tm_gift_close(&gift)
                answer(w, other, TM_REFUSED, &gift, taken)
            tm_journal_note(w.pump.journal, TM_NOTHING)
            continue
        if gift.type == TM_GONE:
            if gift.taken < w.live.records_used and is_from(&w.records[gift.taken], other, &gift):
                w.records[gift.taken].origin.worker = 0
                let_go(w, gift.taken)
            continue
        if gift.type == TM_AGAIN:
            confirm(w, other)
            give_again(w, other)
            continue
        if gift.index >= w.live.records_used:
            continue
        conn = &w.records[gift.index]
        if gift.type == TM_TAKEN:
            if conn.generation == gift.generation and conn.moving == other + 1:
                was_taken(w, gift.index)
            answer(w, other, TM_GONE, &gift, gift.taken)
            continue
        if conn.generation != gift.generation or conn.moving != other + 1:
            continue  # a second answer
        if gift.type == TM_REFUSED:
            take_back(w, gift.index)
            handover.retry_ms = w.now_ms + RETRY_MS


cdef void handover_line(Worker *w, Handover *handover, uint32_t other, int fd) noexcept nogil:
    """A line to `other`. If there is one already, from an earlier master: both ends read that to
    its end, and what is not answered then is given once more over the new one."""
    cdef int old
    handover_event(w, handover, other)
    old = w.live.lines[other]
    w.live.lines[other] = fd
    if old >= 0:
        close(old)
    give_again(w, other)


cdef void handover_recover(Worker *w) noexcept nogil:
    cdef tm_gift hello
    cdef uint32_t index
    cdef int line
    for index in range(w.live.records_used):
        line = w.records[index].moving - 1
        if line >= 0 and (line >= TM_MAX_LINES or w.live.lines[line] < 0):
            take_back(w, index)  # nobody is there to answer
    memset(&hello, 0, sizeof(hello))
    hello.type = TM_AGAIN
    for line in range(TM_MAX_LINES):
        if w.live.lines[line] >= 0:
            give_again(w, <uint32_t>line)
            if tm_gift_send(w.live.lines[line], &hello) < 0:
                pass
