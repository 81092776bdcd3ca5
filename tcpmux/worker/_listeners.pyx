# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False
"""The listening sockets that a worker polls, and accepting on them.

Runs in a worker, without the GIL."""

from libc.errno cimport EAGAIN, ENOSPC
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp
from posix.unistd cimport close

from tcpmux.shm.c_live cimport (
    TM_ACCEPT, tm_count, tm_journal_note, tm_listening, tm_listening_checked,
    tm_listening_possible, tm_live_advance, TM_MAX_LISTENING, TM_NOTHING, TM_ORDER_RETIRE,
    tm_peer,
)
from tcpmux.shm.c_table cimport (
    AF_INET, TM_ANY_WORKER, tm_image, TM_MAX_LISTENERS, TM_MAX_SHARDS, TM_NONE,
    tm_table_generation, tm_table_image, tm_table_shard_owner,
)
from tcpmux.shm._live cimport Live
from tcpmux.worker._state cimport ACCEPT_RETRY_MS, Loop, TAG_LISTENERS
from tcpmux.worker._plane cimport (
    epoll_ctl, EPOLL_CTL_ADD, EPOLL_CTL_DEL, epoll_event, EPOLLEXCLUSIVE, EPOLLIN, tm_admission,
    tm_admission_of, TM_ADMITTED, tm_channel_tell, tm_connection_open, tm_descriptors,
    tm_descriptors_claim, tm_descriptors_free_to_claim, tm_is_listening, TM_LOOPED,
    TM_MESSAGE_FULL, TM_MESSAGE_LOOPED, TM_MESSAGE_REMOVED, TM_MESSAGE_ROOM,
    TM_MESSAGE_UNACCEPTED, tm_peer_from, tm_record_available, tm_shadow_make_room,
    tm_sock_accept, tm_sock_local, tm_sock_reset, tm_worker,
)

cdef enum:
    ACCEPT_BUDGET = 16      # per listener and wake-up: connections that exist come first
    LEAVING_BUDGET = 128    # for all listeners that leave together, before others have their turn
    LOOP_MS = 1000          # between two messages of connections that go round
    UNACCEPTED_MS = 1000    # between two messages of calls of accept that failed


# --- polling ----------------------------------------------------------------------------------

cdef void poll_listener(Loop *loop, uint32_t index, bint wanted) noexcept nogil:
    cdef tm_listening *listener = &loop.worker.live.listening[index]
    cdef epoll_event event
    if listener.polled == wanted:
        return
    # Level-triggered: what a budget leaves in the queue is announced again. One socket in
    # several workers' epolls: wake one of them.
    event.events = EPOLLIN | (EPOLLEXCLUSIVE if listener.shared else 0)
    event.data.u64 = TAG_LISTENERS + index
    if epoll_ctl(loop.worker.epoll, EPOLL_CTL_ADD if wanted else EPOLL_CTL_DEL,
                 listener.fd, &event) == 0:
        listener.polled = wanted
    else:
        loop.unwatched = True


cdef void sync_listeners(Loop *loop) noexcept nogil:
    cdef tm_worker *w = &loop.worker
    cdef tm_listening *listener
    cdef uint32_t index
    cdef int owner
    for index in range(w.live.listening_count):
        listener = &w.live.listening[index]
        if listener.fd < 0:
            continue
        owner = tm_table_shard_owner(w.table, listener.shard)
        poll_listener(loop, index, not loop.accepting.paused and not (
            w.live.orders & TM_ORDER_RETIRE) and (
            listener.shared or listener.leaving or owner == TM_ANY_WORKER
            or owner == <int>w.id))


cdef void pause(Loop *loop, uint64_t retry_ms) noexcept nogil:
    loop.accepting.paused = True
    loop.accepting.retry_ms = retry_ms
    tm_count(&loop.worker.live.counters.accept_pauses, 1)
    sync_listeners(loop)
    if retry_ms == 0 and not loop.accepting.told_full:
        # Others may have room for what waits in the queues of this one.
        loop.accepting.told_full = True
        tm_channel_tell(loop.worker.live.channel, TM_MESSAGE_FULL, 0, 0)


cdef void maybe_resume(Loop *loop) noexcept nogil:
    cdef tm_worker *w = &loop.worker
    # The low mark keeps a full worker from adding and removing listeners for each connection.
    if loop.accepting.paused and w.now_ms >= loop.accepting.retry_ms and (
            w.connections + w.capacity // 32 + 1 <= w.capacity):
        loop.accepting.paused = False
        if loop.accepting.told_full:
            loop.accepting.told_full = False
            tm_channel_tell(w.live.channel, TM_MESSAGE_ROOM, 0, 0)
        serve_leaving(loop)


# --- accepting --------------------------------------------------------------------------------

cdef void refuse(Loop *loop, int fd, tm_admission admission, uint32_t listener) noexcept nogil:
    cdef tm_worker *w = &loop.worker
    tm_sock_reset(fd)
    tm_journal_note(w.pump.journal, TM_NOTHING)
    if admission == TM_LOOPED and w.now_ms >= loop.accepting.tell_loop_ms:
        loop.accepting.tell_loop_ms = w.now_ms + LOOP_MS
        tm_channel_tell(w.live.channel, TM_MESSAGE_LOOPED, listener, 0)


cdef void tell_unaccepted(Loop *loop, uint64_t error) noexcept nogil:
    cdef tm_worker *w = &loop.worker
    if w.now_ms >= loop.accepting.tell_unaccepted_ms:
        loop.accepting.tell_unaccepted_ms = w.now_ms + UNACCEPTED_MS
        tm_channel_tell(w.live.channel, TM_MESSAGE_UNACCEPTED, 0, error)


cdef bint accept_some(Loop *loop, uint32_t index, uint32_t *budget) noexcept nogil:
    """Accepts up to `budget` connections, and takes them off it. True: the queue is empty."""
    cdef tm_worker *w = &loop.worker
    cdef tm_listening *listener = &w.live.listening[index]
    cdef tm_admission admission
    cdef tm_peer peer
    cdef uint32_t route = TM_NONE
    cdef int fd
    while budget[0]:
        w.pump.journal.current = TM_NONE  # a fault in here is not the last one's
        if not tm_record_available(w) and not (
                tm_shadow_make_room(w) and tm_record_available(w)):
            pause(loop, 0)
            return False
        tm_live_advance(w.live)
        w.pump.journal.listener = listener.id
        tm_journal_note(w.pump.journal, TM_ACCEPT)
        fd = tm_sock_accept(listener.fd, &peer)
        if fd < 0:
            tm_journal_note(w.pump.journal, TM_NOTHING)
        if fd == -EAGAIN:
            return True
        if fd < 0:
            tm_count(&w.live.counters.accept_errors, 1)
            pause(loop, w.now_ms + ACCEPT_RETRY_MS)
            tell_unaccepted(loop, <uint64_t>-fd)
            return False
        budget[0] -= 1
        tm_count(&w.live.counters.accepted, 1)
        admission = tm_admission_of(w, listener.id, fd, &peer, &route)
        if admission == TM_ADMITTED:
            tm_connection_open(w, fd, &peer, route)
        else:
            refuse(loop, fd, admission, listener.id)
    return False


cdef void listener_event(Loop *loop, uint32_t index) noexcept nogil:
    cdef tm_listening *listener = &loop.worker.live.listening[index]
    cdef uint32_t budget = ACCEPT_BUDGET
    if listener.fd >= 0 and listener.polled:
        if accept_some(loop, index, &budget) and listener.leaving:
            close_listener(loop, index)


# --- coming and going -------------------------------------------------------------------------

cdef int add_listener(Loop *loop, uint32_t id, uint32_t shard, int fd,
                      bint shared) noexcept nogil:
    cdef tm_listening *all = loop.worker.live.listening
    cdef uint32_t index
    cdef uint32_t count = loop.worker.live.listening_count
    for index in range(count):
        if all[index].fd >= 0 and all[index].id == id and all[index].shard == shard:
            close(fd)  # told twice, as the first time might have been lost with an incarnation
            return 0
    if id >= TM_MAX_LISTENERS or shard >= TM_MAX_SHARDS:
        close(fd)
        return -ENOSPC
    index = 0
    while index < count and all[index].fd >= 0:
        index += 1
    if index == TM_MAX_LISTENING:
        close(fd)
        return -ENOSPC
    all[index] = tm_listening(
        fd=fd, id=id, shard=shard, shared=shared, leaving=False, polled=False)
    if index == count:
        loop.worker.live.listening_count = count + 1
    return 0


cdef void close_listener(Loop *loop, uint32_t index) noexcept nogil:
    """The queue has been served. When it was the listener's last shard, tells the master."""
    cdef tm_worker *w = &loop.worker
    cdef tm_listening *listener = &w.live.listening[index]
    cdef uint32_t id = listener.id
    cdef int fd = listener.fd
    # The socket lives on in other processes, so close alone would leave it in epoll.
    poll_listener(loop, index, False)
    listener.fd = -1
    close(fd)
    for index in range(w.live.listening_count):
        listener = &w.live.listening[index]
        if listener.fd >= 0 and listener.id == id:
            return
    tm_channel_tell(w.live.channel, TM_MESSAGE_REMOVED, id, 0)


cdef void serve_leaving(Loop *loop) noexcept nogil:
    """Accepts what is queued on listeners that are being removed. Interrupted by a pause: an empty
    queue makes no event, so this is called again when the pause ends, and in the next turn of the
    loop if the budget was not enough."""
    cdef tm_listening *listener
    cdef uint32_t budget = LEAVING_BUDGET
    cdef uint32_t index
    loop.accepting.leaving = False
    for index in range(loop.worker.live.listening_count):
        listener = &loop.worker.live.listening[index]
        if listener.fd < 0 or not listener.leaving or loop.accepting.paused:
            continue
        if accept_some(loop, index, &budget):
            close_listener(loop, index)
        elif not loop.accepting.paused:
            loop.accepting.leaving = True
    sync_listeners(loop)


cdef void remove_listener(Loop *loop, uint32_t id, bint every) noexcept nogil:
    """Each worker serves all shards, so that nothing depends on who owned which."""
    cdef tm_listening *listener
    cdef uint32_t index
    for index in range(loop.worker.live.listening_count):
        listener = &loop.worker.live.listening[index]
        if listener.fd >= 0 and (every or listener.id == id):
            listener.leaving = True
    serve_leaving(loop)


# --- after a death ----------------------------------------------------------------------------

cdef bint is_at_its_address(const tm_image *image, const tm_listening *listener) noexcept nogil:
    """False: it is another's or nobody's id, whose route its clients would get."""
    cdef tm_peer here, there
    cdef uint32_t i
    for i in range(image.listener_count):
        if image.listeners[i].id == listener.id:
            tm_sock_local(listener.fd, &here)
            tm_peer_from(&there, &image.listeners[i].address)
            return here.port == there.port and (
                here.family == there.family
                # [::] is 0.0.0.0 on a host without IPv6.
                or (here.family == AF_INET and memcmp(there.ip, here.ip, 16) == 0))
    return False


cdef void claim_listeners(Loop *loop, tm_descriptors *all) noexcept nogil:
    cdef const tm_image *image = tm_table_image(
        loop.worker.table, tm_table_generation(loop.worker.table))
    cdef tm_listening *listener
    cdef uint32_t index
    for index in range(loop.worker.live.listening_count):
        listener = &loop.worker.live.listening[index]
        listener.polled = False
        if not (tm_listening_possible(listener)
                and tm_descriptors_free_to_claim(all, listener.fd)
                and tm_is_listening(listener.fd)
                and is_at_its_address(image, listener)
                and tm_descriptors_claim(all, listener.fd)):
            listener.fd = -1


def listening(Live live not None):
    """Descriptors of the listening sockets that a worker holds; numbers in its process."""
    cdef uint32_t index
    return [live.live().listening[index].fd
            for index in range(tm_listening_checked(live.live()))
            if tm_is_listening(live.live().listening[index].fd)]
