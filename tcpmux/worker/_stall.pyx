# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False
"""What connections pin whose peer has stopped reading. Runs in a worker, without the GIL.

A half that is blocked, and of which nothing was sent for a second, has stalled. What it holds in the
kernel (both sockets' queues, a pipe) goes on accounts that all workers share (csrc/pinned.h): one for
each client that does not read, one for all. When an account is used up, stalled connections are reset,
none of them much smaller than the others.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from tcpmux.shm._layout cimport (
    AF_UNIX, TM_BUFFER_PER_SOURCE, TM_BUFFER_TOTAL, TM_CLIENT, TM_CLOSED_unread, tm_conn,
    TM_ENDPOINT, TM_HALF_OPEN, tm_pinned_add, tm_pinned_by, tm_pinned_epoch,
    TM_PINNED_EPOCH_MS, tm_pinned_free, tm_pinned_sum, TM_RELAYING, tm_source_key,
    tm_table_buffer,
)
from tcpmux.worker._connection cimport end, Worker
from tcpmux.worker._mechanism cimport tm_sock_held, tm_sock_sent_ago

cdef enum:
    PART = 512        # records looked at in one turn
    STALLED_MS = 1000
    # Parts of the average: smaller ones are spared, as they are not what uses up the memory.
    SPARED_PARTS = 4
    # Sums of so many epochs say that it is too much before anything is done about it.
    CERTAIN = 2
    ANY_ROUTE = 0xffffffff


cdef bint has_stalled(Worker *w, const tm_conn *conn, int side) noexcept nogil:
    """Whether what `side` sends has found no reader for a while."""
    cdef int other = 1 - side
    cdef uint16_t family = conn.client.family if other == TM_CLIENT else conn.endpoint.family
    if conn.half[side].blocked != 1 or conn.half[side].state != TM_HALF_OPEN:
        return False
    if family == AF_UNIX:
        return w.now_ms >= conn.last_activity_ms + STALLED_MS
    return tm_sock_sent_ago(conn.fd[other]) >= STALLED_MS


cdef uint64_t held_by(const tm_conn *conn) noexcept nogil:
    """Bytes of memory."""
    return (tm_sock_held(conn.fd[TM_CLIENT]) + tm_sock_held(conn.fd[TM_ENDPOINT])
            + conn.half[0].queued + conn.half[1].queued)


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
    w.has_blocked |= conn.half[0].blocked == 1 or conn.half[1].blocked == 1
    by_client = has_stalled(w, conn, TM_ENDPOINT)
    if not by_client and not has_stalled(w, conn, TM_CLIENT):
        return
    bytes = held_by(conn)
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
    if client != NULL and tm_pinned_sum(client, epoch) > most_of_one:
        w.unread_by_source += 1
    elif not (most and w.too_much >= CERTAIN and tm_pinned_sum(all_of_them, epoch) > most):
        return
    w.unread += 1
    tm_pinned_free(all_of_them, epoch, bytes)
    if client != NULL:
        tm_pinned_free(client, epoch, bytes)
    w.pump.journal.current = index
    end(w, index, TM_CLOSED_unread, True)


cdef void begin_look(Worker *w) noexcept nogil:
    cdef uint64_t most = tm_table_buffer(w.table, TM_BUFFER_TOTAL)
    w.stalled_before, w.pinned_before = w.stalled, w.pinned
    w.stalled = w.pinned = 0
    w.has_blocked = False
    if most and tm_pinned_sum(
            &w.commons.pinned.account, tm_pinned_epoch(w.now_ms)) > most:
        w.too_much += 1
    else:
        w.too_much = 0


cdef void look_at_stalled(Worker *w) noexcept nogil:
    cdef uint64_t epoch = tm_pinned_epoch(w.now_ms)
    cdef int part
    if w.look_cursor == 0:
        begin_look(w)
    for part in range(PART):
        if w.look_cursor >= w.live.records_used:
            w.look_cursor = 0
            w.look_ms = w.now_ms + TM_PINNED_EPOCH_MS if w.has_blocked else 0
            return
        look_at(w, w.look_cursor, epoch)
        w.look_cursor += 1
