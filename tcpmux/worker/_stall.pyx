# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False
"""What connections pin whose peer has stopped reading. Runs in a worker, without the GIL.

A half that is blocked has stalled if, at the rate at which its reader takes bytes, what the connection
holds in the kernel (both sockets' queues, pipes) would take it more than ten seconds: two looks in a
row, so half a second at least. So who reads a little now and then does not get around it. What those
hold goes on accounts that all workers share (csrc/pinned.h): one for each client that does not read, one
for all.

That a program pauses for some seconds (it collects garbage, writes to a disk) says nothing against it. So
when an account is used up, those are reset that would take more than a minute and have done so
for half a minute. At twice the limit these are all that have stalled, for a quarter of a minute, and
so on: the more it is, the sooner. At four times the limit (with `auto`, where the host starts to save memory)
they are reset at once. None of them is much smaller than the others.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc

from tcpmux.shm._layout cimport (
    AF_UNIX, TM_BUFFER_PER_SOURCE, TM_BUFFER_TOTAL, TM_CLIENT, TM_CLOSED_unread, tm_conn,
    TM_ENDPOINT, TM_HALF_OPEN, tm_pinned_add, tm_pinned_by, tm_pinned_epoch,
    tm_pinned_free, tm_pinned_next, tm_pinned_sum, tm_pipe_is_tight, tm_pipe_shrink, TM_RELAYING,
    tm_source_key, tm_table_buffer,
)
from tcpmux.worker._connection cimport end, Looked, Worker
from tcpmux.worker._mechanism cimport tm_sock_acknowledged, tm_sock_held

cdef enum:
    PART = 512        # records looked at in one turn
    SLOW_EPOCHS = 20  # what takes longer to be read than so many is not being read
    STALLED = 2       # looks in a row
    IDLE_EPOCHS = 120  # the same two of what is reset when a limit is reached,
    IDLE = 60
    TOO_SLOW = 2      # and so many times the limit is where those are that have stalled,
    AT_ONCE = 4       # and so many times, where they are reset at once
    # Parts of the average: smaller ones are spared, as they are not what uses up the memory.
    SPARED_PARTS = 4
    # Sums of so many epochs say that it is too much before anything is done about it.
    CERTAIN = 2
    ANY_ROUTE = 0xffffffff


cdef bint is_blocked(const tm_conn *conn, int side) noexcept nogil:
    """Whether what `side` sends finds no room at the other one."""
    return conn.half[side].blocked == 1 and conn.half[side].state == TM_HALF_OPEN


cdef uint32_t taken_by(const tm_conn *conn, int side) noexcept nogil:
    """Bytes, the low bits. A UNIX socket has what it was sent at once, and little room."""
    cdef uint16_t family = conn.client.family if side == TM_CLIENT else conn.endpoint.family
    cdef uint32_t count
    if family != AF_UNIX and tm_sock_acknowledged(conn.fd[side], &count):
        return count
    return <uint32_t>conn.half[1 - side].bytes


cdef inline uint8_t one_more(uint8_t looks) noexcept nogil:
    return looks + 1 if looks < IDLE else IDLE


cdef bint has_stalled(Worker *w, uint32_t index, uint64_t held) noexcept nogil:
    """Whether a reader has taken next to nothing of it for a while. Compares with the look before."""
    cdef const tm_conn *conn = &w.records[index]
    cdef Looked *looked = &w.looked[index]
    cdef bint is_new = looked.generation != conn.generation, slow = False, idle = False
    cdef uint32_t taken
    cdef uint64_t lately
    cdef int side
    for side in range(2):
        if is_blocked(conn, 1 - side):
            taken = taken_by(conn, side)
            lately = <uint32_t>(taken - looked.acknowledged[side])
            slow |= lately * SLOW_EPOCHS < held
            idle |= lately * IDLE_EPOCHS < held
            looked.acknowledged[side] = taken
    looked.generation = conn.generation
    looked.slow = one_more(looked.slow) if slow and not is_new else 0
    looked.idle = one_more(looked.idle) if idle and not is_new else 0
    return looked.slow >= STALLED


cdef uint64_t held_by(const tm_conn *conn) noexcept nogil:
    """Bytes of memory."""
    return (tm_sock_held(conn.fd[TM_CLIENT]) + tm_sock_held(conn.fd[TM_ENDPOINT])
            + conn.half[0].queued + conn.half[1].queued)


cdef void give_back_pages(Worker *w, const tm_conn *conn) noexcept nogil:
    """What its pipes do not need of what a user's pipes may have, others do."""
    cdef int side
    if tm_pipe_is_tight(&w.pump.pool):
        for side in range(2):
            if conn.half[side].pipe.to >= 0:
                tm_pipe_shrink(&w.pump.pool, &conn.half[side].pipe)


cdef inline bint is_too_much(uint64_t sum, uint64_t most, const Looked *looked) noexcept nogil:
    """For this connection to stay: the further above the limit, the less patience."""
    cdef uint64_t looks = looked.slow if sum // TOO_SLOW > most else looked.idle
    return sum > most and looks >= STALLED and (
        looks * sum >= IDLE * most or sum // AT_ONCE > most)


cdef bint is_used_up(const void *client, const void *all_of_them, uint64_t most,
                     uint64_t epoch, const Looked *looked) noexcept nogil:
    """A client has no more than all have: else its account is corrupt."""
    cdef uint64_t sum = tm_pinned_sum(client, epoch)
    return is_too_much(sum, most, looked) and sum <= tm_pinned_sum(all_of_them, epoch)


cdef bint is_small(Worker *w, uint64_t bytes) noexcept nogil:
    return (w.stalled_before != 0
            and bytes < w.pinned_before // w.stalled_before // SPARED_PARTS)


cdef void look_at(Worker *w, uint32_t index, uint64_t epoch) noexcept nogil:
    cdef tm_conn *conn = &w.records[index]
    cdef void *all_of_them = &w.commons.pinned.account
    cdef void *client = NULL
    cdef uint64_t most = tm_table_buffer(w.table, TM_BUFFER_TOTAL)
    cdef uint64_t most_of_one = tm_table_buffer(w.table, TM_BUFFER_PER_SOURCE)
    cdef uint64_t bytes
    cdef bint by_client
    if conn.state != TM_RELAYING or conn.moving:
        return
    by_client = is_blocked(conn, TM_ENDPOINT)
    if not by_client and not is_blocked(conn, TM_CLIENT):
        return
    w.has_blocked = True
    bytes = held_by(conn)
    if not has_stalled(w, index, bytes):
        return
    give_back_pages(w, conn)
    w.stalled += 1
    w.pinned += bytes
    tm_pinned_add(all_of_them, epoch, bytes)
    if by_client and most_of_one and conn.client.family != AF_UNIX:
        client = tm_pinned_by(
            &w.commons.pinned, tm_source_key(
                w.commons, ANY_ROUTE, conn.client.family, conn.client.ip), epoch)
        if client != NULL:
            tm_pinned_add(client, epoch, bytes)
    if is_small(w, bytes):
        return
    if client != NULL and is_used_up(
            client, all_of_them, most_of_one, epoch, &w.looked[index]):
        w.unread_by_source += 1
    elif not (most and w.too_much >= CERTAIN
              and is_too_much(tm_pinned_sum(all_of_them, epoch), most, &w.looked[index])):
        return
    w.unread += 1
    tm_pinned_free(all_of_them, epoch, bytes)
    if client != NULL:
        tm_pinned_free(client, epoch, bytes)
    w.pump.journal.current = index
    end(w, index, TM_CLOSED_unread, True)


cdef bint begin_look(Worker *w) noexcept nogil:
    """False: there is no memory for what it sees."""
    cdef uint64_t most = tm_table_buffer(w.table, TM_BUFFER_TOTAL)
    w.stalled_before, w.pinned_before = w.stalled, w.pinned
    w.stalled = w.pinned = 0
    w.has_blocked = False
    if most and tm_pinned_sum(
            &w.commons.pinned.account, tm_pinned_epoch(w.now_ms)) > most:
        w.too_much += 1
    else:
        w.too_much = 0
    if w.looked == NULL:
        w.looked = <Looked *>calloc(w.capacity, sizeof(Looked))
    return w.looked != NULL


cdef void look_at_stalled(Worker *w) noexcept nogil:
    cdef uint64_t epoch = tm_pinned_epoch(w.now_ms)
    cdef int part
    if w.look_cursor == 0 and not begin_look(w):
        w.look_ms = tm_pinned_next(w.now_ms)
        return
    for part in range(PART):
        if w.look_cursor >= w.live.records_used:
            w.look_cursor = 0
            w.look_ms = tm_pinned_next(w.now_ms) if w.has_blocked else 0
            return
        look_at(w, w.look_cursor, epoch)
        w.look_cursor += 1
