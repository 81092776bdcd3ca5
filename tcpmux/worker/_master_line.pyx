# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False
"""A worker's line to the master: the master's orders, and the worker's reports. Without a master
the worker waits for the next one.

Runs in a worker, without the GIL. The messages are in tcpmux/worker/messages.py."""

from libc.errno cimport EAGAIN, EEXIST, EMFILE, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset
from posix.unistd cimport close, dup2, getpid, STDERR_FILENO

from tcpmux.shm.c_live cimport (
    tm_listening, tm_live_add_master, tm_live_generation_seen, tm_live_order,
    tm_live_set_generation_seen, TM_MAX_LINES, TM_ORDER_DRAIN, TM_ORDER_RETIRE, tm_peer,
    tm_slot, tm_times,
)
from tcpmux.shm.c_table cimport (
    TM_BUFFER_PIPE, TM_BUFFER_PIPES, tm_image, TM_NONE, tm_table_buffer, tm_table_generation,
    tm_table_image,
)
from tcpmux.worker._listeners cimport add_listener, remove_listener, sync_listeners
from tcpmux.worker._state cimport Loop, TAG_CHANNEL, TAG_LINES, TAG_TAKEOVER
from tcpmux.worker._plane cimport (
    epoll_ctl, EPOLL_CTL_ADD, EPOLL_CTL_DEL, epoll_event, EPOLLIN, tm_channel_receive,
    tm_channel_send_fds, tm_channel_tell, tm_converge, tm_descriptors, tm_descriptors_claim,
    tm_descriptors_next, TM_GIVE_ALL, tm_handoff_line, tm_is_line, tm_message, TM_MESSAGE_ADD,
    TM_MESSAGE_CLAIM, TM_MESSAGE_CONVERGE, TM_MESSAGE_CRAMPED, TM_MESSAGE_DENIED, TM_MESSAGE_DRAIN,
    TM_MESSAGE_FDS, TM_MESSAGE_GIVE, TM_MESSAGE_GREW, TM_MESSAGE_GUARD, TM_MESSAGE_KILL,
    TM_MESSAGE_LINE, TM_MESSAGE_OFFER, TM_MESSAGE_QUIT, TM_MESSAGE_REHOME, TM_MESSAGE_REMOVE,
    TM_MESSAGE_REPLACE, TM_MESSAGE_RETIRE, TM_MESSAGE_SEEN, TM_MESSAGE_STDERR, TM_MESSAGE_SYNC,
    TM_MESSAGE_SYNCED, tm_message_type, TM_MESSAGE_UNLINED, TM_MESSAGE_UNREAD, tm_outcome_kill,
    tm_pipe_pool_bound, TM_PIPE_SIZE, tm_rate_use_image, tm_rehome, tm_sock_accept,
    tm_sock_peer_is, tm_worker,
)

cdef enum:
    # Between two messages of a kind.
    CRAMPED_MS = 1000
    DENIED_MS = 1000
    UNREAD_MS = 1000
    GROWTH_MS = 100
    GROWTH = 8              # connections, and one in so many, that are worth a message
    ORDERS_AT_ONCE = 4      # to connections, each with a few system calls: others wait meanwhile

cdef uint64_t NO_BOUND = <uint64_t>-1


# --- the table --------------------------------------------------------------------------------

cdef inline void look_at_buffers(tm_worker *w) noexcept nogil:
    """A change of these, or of the number of workers, makes no new generation."""
    cdef uint64_t most = tm_table_buffer(w.table, TM_BUFFER_PIPE)
    cdef uint64_t all = tm_table_buffer(w.table, TM_BUFFER_PIPES)
    cdef uint32_t workers = w.table.worker_count
    tm_pipe_pool_bound(&w.pump.pool, <uint32_t>most if most else TM_PIPE_SIZE,
                       all // (workers or 1) if all else NO_BOUND)


cdef void clear_new_slots(tm_worker *w, const tm_image *image) noexcept nogil:
    """A slot that was given to a new name starts from zero. Nothing counts in it any more: the
    master re-uses a slot only when no connection is left in it."""
    # The last generation that any incarnation of this worker saw: its counters outlive it.
    cdef uint64_t before = tm_live_generation_seen(w.live)
    cdef uint32_t i
    for i in range(image.route_count):
        if image.routes[i].since_generation > before:
            memset(&w.live.slots[image.routes[i].slot], 0, sizeof(tm_slot))
    for i in range(image.pick_rule_count):
        if image.pick_rules[i].since_generation > before:
            memset(&w.live.slots[image.pick_rules[i].slot], 0, sizeof(tm_slot))
    for i in range(image.destination_count):
        if image.destinations[i].since_generation > before:
            memset(&w.live.slots[image.destinations[i].slot], 0, sizeof(tm_slot))
            memset(&w.live.times[image.destinations[i].slot], 0, sizeof(tm_times))
    for i in range(image.endpoint_count):
        if image.endpoints[i].since_generation > before:
            memset(&w.live.slots[image.endpoints[i].slot], 0, sizeof(tm_slot))


cdef void look_at_table(Loop *loop) noexcept nogil:
    cdef tm_worker *w = &loop.worker
    cdef uint64_t generation = tm_table_generation(w.table)
    cdef const tm_image *image
    look_at_buffers(w)
    if generation == w.generation:
        return
    image = tm_table_image(w.table, generation)
    clear_new_slots(w, image)
    tm_rate_use_image(w, image)
    w.image = image
    w.generation = generation
    tm_live_set_generation_seen(w.live, generation)
    tell(loop, TM_MESSAGE_SEEN, 0, generation)


# --- what the master is told ------------------------------------------------------------------

cdef bint tell(Loop *loop, tm_message_type type, uint32_t listener, uint64_t value) noexcept nogil:
    """False: nobody is there, or the line is full."""
    return tm_channel_tell(loop.worker.live.channel, type, listener, value)


cdef void tell_lost_lines(Loop *loop) noexcept nogil:
    cdef int other
    for other in range(TM_MAX_LINES):
        if loop.handoffs.lost >> other & 1:
            tell(loop, TM_MESSAGE_UNLINED, <uint32_t>other, 0)
    loop.handoffs.lost = 0


cdef void tell_unread(Loop *loop) noexcept nogil:
    """Clients have lost their connections: for the log, once a second."""
    cdef tm_worker *w = &loop.worker
    if w.stall.reset == 0 or w.now_ms < loop.master.tell_unread_ms or w.live.channel < 0:
        return
    loop.master.tell_unread_ms = w.now_ms + UNREAD_MS
    if tell(loop, TM_MESSAGE_UNREAD, w.stall.reset_by_source, w.stall.reset):
        w.stall.reset = w.stall.reset_by_source = 0


cdef void tell_growth(Loop *loop) noexcept nogil:
    """That there may be something to be shared out, if there is, and not too often."""
    cdef tm_worker *w = &loop.worker
    if w.connections < loop.master.told_connections:
        loop.master.told_connections = w.connections
    if (w.connections >= loop.master.told_connections + GROWTH
            + loop.master.told_connections // GROWTH
            and w.now_ms >= loop.master.tell_growth_ms):
        loop.master.told_connections = w.connections
        loop.master.tell_growth_ms = w.now_ms + GROWTH_MS
        tell(loop, TM_MESSAGE_GREW, 0, w.connections)


cdef void tell_cramped(Loop *loop) noexcept nogil:
    """The master gives once more what has not arrived, and again until there is room."""
    if loop.master.cramped and loop.worker.now_ms >= loop.master.tell_cramped_ms:
        loop.master.cramped = False
        loop.master.tell_cramped_ms = loop.worker.now_ms + CRAMPED_MS
        tell(loop, TM_MESSAGE_CRAMPED, 0, 0)


cdef void tell_denied(Loop *loop) noexcept nogil:
    cdef tm_worker *w = &loop.worker
    if w.denied and w.now_ms >= loop.master.tell_denied_ms:
        w.denied = False
        loop.master.tell_denied_ms = w.now_ms + DENIED_MS
        tell(loop, TM_MESSAGE_DENIED, w.denied_slot, 0)


cdef void tell_all(Loop *loop) noexcept nogil:
    if loop.handoffs.lost:
        tell_lost_lines(loop)
    tell_cramped(loop)
    tell_growth(loop)
    tell_unread(loop)
    tell_denied(loop)


# --- a new master -----------------------------------------------------------------------------

cdef void watch_takeover(Loop *loop, bint wanted) noexcept nogil:
    """Without a master this worker waits for the next one."""
    cdef epoll_event event
    event.events = EPOLLIN  # all are woken: the first one may be stopped
    event.data.u64 = TAG_TAKEOVER
    if loop.master.takeover < 0 or loop.master.taking == wanted:
        return
    if epoll_ctl(loop.worker.epoll, EPOLL_CTL_ADD if wanted else EPOLL_CTL_DEL,
                 loop.master.takeover, &event) == 0:
        loop.master.taking = wanted
    else:
        loop.unwatched = True


cdef int watch_channel(Loop *loop) noexcept nogil:
    cdef epoll_event event
    event.events = EPOLLIN
    event.data.u64 = TAG_CHANNEL
    return epoll_ctl(loop.worker.epoll, EPOLL_CTL_ADD, loop.worker.live.channel, &event)


cdef void lose_channel(Loop *loop) noexcept nogil:
    """The master is gone. Traffic goes on."""
    cdef int channel = loop.worker.live.channel
    loop.worker.live.channel = -1
    close(channel)
    watch_takeover(loop, True)


cdef void takeover_event(Loop *loop) noexcept nogil:
    cdef tm_peer peer
    cdef int fd
    if loop.worker.live.channel >= 0:
        return
    fd = tm_sock_accept(loop.master.takeover, &peer)
    if fd < 0:
        return
    if not tm_sock_peer_is(fd, loop.master.owner):
        close(fd)
        return
    loop.worker.live.channel = fd
    tm_live_add_master(loop.worker.live)
    watch_takeover(loop, False)
    loop.accepting.told_full = False
    if watch_channel(loop) < 0:
        lose_channel(loop)


cdef void offer(Loop *loop, uint64_t position) noexcept nogil:
    """Answers a new master: the regions first, then one listening socket per message. The master
    asks again for whatever does not arrive."""
    cdef tm_worker *w = &loop.worker
    cdef const tm_listening *listener
    cdef tm_message message
    cdef const int *fds = NULL
    cdef uint32_t count = w.live.listening_count, fd_count = 0
    memset(&message, 0, sizeof(message))
    message.type = TM_MESSAGE_OFFER
    message.listener = TM_NONE
    if position == 0:
        message.first = w.id
        message.shared = <uint32_t>getpid()
        message.value = 1
        fds, fd_count = loop.master.offered, loop.master.offered_count
    else:
        while position <= count and w.live.listening[position - 1].fd < 0:
            position += 1
        if position <= count:
            listener = &w.live.listening[position - 1]
            message.listener = listener.id
            message.first = listener.shard
            message.shared = listener.shared
            message.value = position + 1
            fds, fd_count = <const int *>&listener.fd, 1
    if tm_channel_send_fds(w.live.channel, &message, fds, fd_count) < 0:
        return


# --- lines to other workers -------------------------------------------------------------------

cdef void watch_line(Loop *loop, uint32_t other) noexcept nogil:
    cdef epoll_event event
    event.events = EPOLLIN
    event.data.u64 = TAG_LINES + other
    if epoll_ctl(loop.worker.epoll, EPOLL_CTL_ADD, loop.worker.live.lines[other], &event) < 0:
        if errno != EEXIST:
            loop.unwatched = True


cdef void watch_lines(Loop *loop) noexcept nogil:
    cdef int other
    for other in range(TM_MAX_LINES):
        if loop.worker.live.lines[other] >= 0:
            watch_line(loop, <uint32_t>other)


cdef void watch_again(Loop *loop) noexcept nogil:
    loop.unwatched = False
    watch_lines(loop)
    watch_takeover(loop, loop.worker.live.channel < 0)
    sync_listeners(loop)


cdef int begin_watching(Loop *loop) noexcept nogil:
    if loop.worker.live.channel >= 0:
        return watch_channel(loop)
    watch_takeover(loop, True)
    return 0


cdef void add_line(Loop *loop, uint32_t other, int fd) noexcept nogil:
    """Connections come and go over it, to and from worker `other`."""
    if other >= TM_MAX_LINES:
        close(fd)
        return
    tm_handoff_line(&loop.worker, &loop.handoffs, other, fd)
    watch_line(loop, other)


cdef void give_to(Loop *loop, uint32_t other, uint64_t number) noexcept nogil:
    if other >= TM_MAX_LINES or loop.worker.live.lines[other] < 0:
        return  # it has died meanwhile: the master makes another line
    if number == TM_GIVE_ALL:
        loop.worker.live.gives_to |= <uint64_t>1 << other
    else:
        loop.handoffs.quota[other] = number
        loop.handoffs.has_quota = True


# --- messages ---------------------------------------------------------------------------------

cdef void take_descriptors(Loop *loop, const tm_message *message, const int *fds,
                           uint32_t count) noexcept nogil:
    """What comes with descriptors: they are ours."""
    cdef uint32_t i
    for i in range(count):
        if message.type == TM_MESSAGE_ADD:
            add_listener(loop, message.listener, message.first + i, fds[i], message.shared)
        elif message.type == TM_MESSAGE_LINE and count == 1:
            add_line(loop, message.listener, fds[i])
        elif message.type == TM_MESSAGE_STDERR and count == 1:
            dup2(fds[i], STDERR_FILENO)
            close(fds[i])
        else:
            close(fds[i])


cdef void obey(Loop *loop, const tm_message *message) noexcept nogil:
    cdef tm_worker *w = &loop.worker
    if message.type == TM_MESSAGE_REMOVE:
        remove_listener(loop, message.listener, False)
    elif message.type == TM_MESSAGE_DRAIN:
        tm_live_order(w.live, w.live.orders | TM_ORDER_DRAIN)
    elif message.type == TM_MESSAGE_RETIRE:
        tm_live_order(w.live, w.live.orders | TM_ORDER_RETIRE)
    elif message.type == TM_MESSAGE_GIVE:
        give_to(loop, message.listener, message.value)
    elif message.type == TM_MESSAGE_KILL:
        tm_outcome_kill(w, message.listener, <uint32_t>message.value)
    elif message.type == TM_MESSAGE_CONVERGE:
        tm_converge(w, message.listener, message.value, message.first, message.shared != 0)
    elif message.type == TM_MESSAGE_REHOME:
        tm_rehome(w, message.listener, message.value, message.first, message.shared)
    elif message.type == TM_MESSAGE_SYNC:
        tell(loop, TM_MESSAGE_SYNCED, 0, message.value)
    elif message.type == TM_MESSAGE_CLAIM:
        offer(loop, message.value)
        # What the guardian has said before this answer, the new master has not listened to.
        tm_live_add_master(w.live)
    elif message.type == TM_MESSAGE_GUARD:
        loop.unguarded = True
    elif message.type == TM_MESSAGE_REPLACE:
        loop.to_be_replaced = True
    elif message.type == TM_MESSAGE_QUIT:
        loop.quit = True


cdef inline bint is_to_a_connection(const tm_message *message) noexcept nogil:
    return (message.type == TM_MESSAGE_CONVERGE or message.type == TM_MESSAGE_REHOME
            or message.type == TM_MESSAGE_KILL)


cdef void channel_event(Loop *loop, bint all) noexcept nogil:
    """all: to the last message there is. Else control's orders, of which hundreds may come at once,
    are obeyed a few in each turn of the loop, so that no connection waits for all of them."""
    cdef tm_message message
    cdef int fds[TM_MESSAGE_FDS]
    cdef uint32_t count, orders = 0
    cdef int got
    while loop.worker.live.channel >= 0 and (all or orders < ORDERS_AT_ONCE):
        got = tm_channel_receive(loop.worker.live.channel, &message, fds, &count)
        if got == -EAGAIN:
            break
        if got == -EMFILE:
            loop.master.cramped = True
            continue
        if got <= 0:
            lose_channel(loop)
            break
        take_descriptors(loop, &message, fds, count)
        obey(loop, &message)
        orders += is_to_a_connection(&message)
    look_at_table(loop)
    sync_listeners(loop)


# --- after a death ----------------------------------------------------------------------------

cdef void claim_lines(Loop *loop, tm_descriptors *all) noexcept nogil:
    cdef tm_worker *w = &loop.worker
    cdef int line, fd
    if not (tm_is_line(w.live.channel) and tm_descriptors_claim(all, w.live.channel)):
        w.live.channel = -1
    for line in range(TM_MAX_LINES):
        if not (tm_is_line(w.live.lines[line]) and tm_descriptors_claim(all, w.live.lines[line])):
            w.live.lines[line] = -1
    # A line that nobody names is that to the master: a corrupt number must not lose it, and one
    # just accepted may not have been written down.
    fd = tm_descriptors_next(all, 0)
    while fd >= 0 and w.live.channel < 0:
        if tm_is_line(fd) and tm_descriptors_claim(all, fd):
            w.live.channel = fd
        fd = tm_descriptors_next(all, fd + 1)
