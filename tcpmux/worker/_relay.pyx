# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False
"""The worker's loop: one epoll over its listeners, connections and its line to the master.

Runs in a worker, without the GIL from start to end: nothing in here can wait for Python.

    take up what an earlier life of this worker has left behind
    forever:
        wait for events, timers or unfinished work
        look for a new table generation
        events: connections, listeners (a budget of accepts each), master, signals
        hand out due timers
        pump what used up its budget; free what ended
"""

from libc.errno cimport EAGAIN, EEXIST, EINTR, EMFILE, ENOMEM, ENOSPC, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memset
from posix.signal cimport sigaddset, sigemptyset, sigset_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.types cimport pid_t, uid_t
from posix.unistd cimport close, getpid, getppid, read

from tcpmux.shm._layout cimport (
    AF_INET, TM_ACCEPT, tm_admitted, TM_ANY_WORKER, tm_count, tm_image, tm_journal_note, tm_listening,
    tm_live_set_descriptors,
    tm_listening_checked, tm_listening_possible, tm_live_add_master, tm_live_advance,
    tm_live_begin, tm_live_ending, tm_live_generation_seen, tm_live_guardian_pid, tm_live_mend,
    tm_live_order, tm_live_rest, tm_live_set_ending, tm_live_set_generation_seen,
    tm_live_set_heartbeat, tm_live_set_presence, TM_MAX_LINES, TM_MAX_LISTENERS,
    TM_MAX_LISTENING, TM_MAX_SHARDS, TM_NONE, TM_NOTHING, TM_ORDER_DRAIN,
    TM_ORDER_RETIRE, TM_OVER, tm_peer, tm_pipe_pool_destroy, tm_pipe_pool_init, TM_PRESENT,
    TM_BUFFER_PIPE, TM_BUFFER_PIPES, tm_pipe_pool_bound, TM_PIPE_SIZE, TM_REPLACED, TM_SHAPE_MOST_POWER, tm_slot,
    tm_table_buffer, tm_table_busy_poll, tm_table_generation, tm_table_image,
    tm_table_shard_owner, tm_times, TM_UNENDED,
)
from tcpmux.shm._shm cimport Live, Table, Commons
from tcpmux.worker._connection cimport (
    connection_event, connection_kill, connection_open, connection_timer, connections_free,
    connections_reset_all, connections_resume, Worker,
)
from tcpmux.worker._descriptors cimport (
    tm_descriptors_count, tm_descriptors, tm_descriptors_claim, tm_descriptors_free, tm_descriptors_free_to_claim,
    tm_descriptors_list, tm_descriptors_next, tm_is_line, tm_is_listening,
)
from tcpmux.worker._handover cimport (
    Handover, handover_event, handover_line, handover_quota, handover_recover, handover_some,
)
from tcpmux.worker._mechanism cimport (
    EPOLL_CLOEXEC, epoll_create1, epoll_ctl, EPOLL_CTL_ADD, EPOLL_CTL_DEL, epoll_event,
    EPOLLEXCLUSIVE, EPOLLIN, SFD_CLOEXEC, SFD_NONBLOCK, signalfd, signalfd_siginfo,
    tm_channel_receive, tm_channel_send, tm_channel_send_fds, TM_EXPECT_ANY, TM_GIVE_ALL,
    tm_message, TM_MESSAGE_ADD, TM_MESSAGE_CLAIM, TM_MESSAGE_DRAIN, TM_MESSAGE_FDS,
    TM_MESSAGE_CRAMPED, TM_MESSAGE_DENIED, TM_MESSAGE_FULL, TM_MESSAGE_GIVE, TM_MESSAGE_GREW, TM_MESSAGE_GUARD,
    TM_MESSAGE_KILL,
    TM_MESSAGE_LINE, TM_MESSAGE_LOOPED, TM_MESSAGE_UNREAD, TM_MESSAGE_OFFER, TM_MESSAGE_QUIT, TM_MESSAGE_REMOVE,
    TM_MESSAGE_REMOVED, TM_MESSAGE_REPLACE, TM_MESSAGE_RETIRE, TM_MESSAGE_ROOM, TM_MESSAGE_SEEN,
    TM_MESSAGE_STARTED, TM_MESSAGE_SYNC, TM_MESSAGE_SYNCED, TM_MESSAGE_UNLINED, tm_peer_from,
    tm_sock_accept, tm_sock_host_paces, tm_sock_local, tm_sock_peer_is, tm_sock_reset,
    tm_trace_is_loop, tm_waiter, tm_waiter_init, tm_waiter_wait, tm_wheel_init, tm_wheel_pop,
    tm_wheel_wait,
)
from tcpmux.worker._recovery cimport recover_connections, recover_records
from tcpmux.worker._shape cimport allow_at_once, look_at_rates
from tcpmux.worker._stall cimport look_at_stalled

cdef extern from "<signal.h>" nogil:
    enum: SIGQUIT, SIGTERM

cdef extern from "<sys/wait.h>" nogil:
    enum: WNOHANG
    pid_t waitpid(pid_t pid, int *status, int options)

cdef extern from "sharing.h" nogil:
    pid_t tm_clone_sharing_descriptors()

cdef enum:
    EVENTS = 256            # taken from the kernel at once
    ACCEPT_BUDGET = 16      # per listener and wake-up: connections that exist come first
    LEAVING_BUDGET = 128    # for all listeners that leave together, before others have their turn
    ACCEPT_RETRY_MS = 100   # after EMFILE and the like
    GROWTH = 8              # connections, and one in so many, that are worth a message
    CRAMPED_MS = 1000       # between two messages of that kind
    COUNT_MS = 1000         # between two counts of open descriptors, while there is work
    DENIED_MS = 1000        # between two messages of that kind
    GUARDED_MS = 250        # without a master: between two looks whether the guardian lives
    GROWTH_MS = 100         # between two of them
    UNREAD_MS = 1000        # between two messages of connections that were not read
    LOOP_MS = 1000          # between two messages of connections that go round

    # Tags of events that are no connection's: a connection's generation is never 0.
    TAG_CHANNEL = 0
    TAG_SIGNALS = 1
    TAG_TAKEOVER = 2
    TAG_LINES = 3
    TAG_LISTENERS = TAG_LINES + TM_MAX_LINES

cdef uint64_t NO_BOUND = <uint64_t>-1


cdef struct Loop:
    Worker worker
    int signals
    # For a master that takes over: the descriptors that any worker can hand out.
    int takeover              # listening socket where it asks; -1 = none
    uid_t owner               # as whom masters run
    int estate[TM_MESSAGE_FDS]
    uint32_t estate_count
    bint taking               # the takeover socket is in epoll
    bint paused               # at the connection limit, or out of something
    bint unwatched            # epoll had no memory for a listener or a line: try again
    bint leaving              # listeners that are being removed have more in their queues
    bint told_full
    uint32_t told_connections # when the master was last told of growth, or fewer since
    uint64_t tell_unread_ms
    uint64_t tell_growth_ms   # not before; monotonic
    uint64_t tell_loop_ms     # the same
    uint64_t accept_retry_ms  # do not resume before; monotonic
    uint64_t count_fds_ms     # when to count descriptors again; monotonic
    uint64_t tell_denied_ms   # the same of what an endpoint does not permit
    bint cramped              # a message of the master found no room here for its descriptors
    uint64_t tell_cramped_ms  # not before; monotonic
    pid_t parent              # when this life began: the guardian, unless that has been made here
    uint64_t look_guarded_ms  # not before; monotonic
    bint unguarded            # the guardian may be dead: if so, another is to be made
    pid_t guardian            # made by this worker; 0 = none
    bint to_be_replaced       # by the next build
    Handover handover
    tm_waiter waiter
    pid_t guards              # this process is another: guard this worker, which made it
    bint quit                 # exit now


cdef bint tell(Loop *loop, int type, uint32_t listener, uint64_t value) noexcept nogil:
    """Sends a message to the master, if there is one; returns whether it took it. If the line is
    full, the master finds what matters in the live region."""
    cdef tm_message message
    if loop.worker.live.channel < 0:
        return False
    memset(&message, 0, sizeof(message))
    message.type = <uint32_t>type
    message.listener = listener
    message.value = value
    return tm_channel_send(loop.worker.live.channel, &message) == 0


# --- listeners --------------------------------------------------------------------------------

cdef void poll_listener(Loop *loop, uint32_t place, bint wanted) noexcept nogil:
    cdef tm_listening *listener = &loop.worker.live.listening[place]
    cdef epoll_event event
    if listener.polled == wanted:
        return
    # Level-triggered: what a budget leaves in the queue is announced again. One socket in
    # several workers' epolls: wake one of them.
    event.events = EPOLLIN | (EPOLLEXCLUSIVE if listener.shared else 0)
    event.data.u64 = TAG_LISTENERS + place
    if epoll_ctl(loop.worker.epoll, EPOLL_CTL_ADD if wanted else EPOLL_CTL_DEL,
                 listener.fd, &event) == 0:
        listener.polled = wanted
    else:
        loop.unwatched = True


cdef void sync_listeners(Loop *loop) noexcept nogil:
    """Polls the shards that the table gives to this worker, unless paused."""
    cdef tm_listening *listener
    cdef uint32_t place
    cdef int owner
    for place in range(loop.worker.live.listening_count):
        listener = &loop.worker.live.listening[place]
        if listener.fd < 0:
            continue
        owner = tm_table_shard_owner(loop.worker.table, listener.shard)
        poll_listener(loop, place, not loop.paused and not (
            loop.worker.live.orders & TM_ORDER_RETIRE) and (
            listener.shared or listener.leaving or owner == TM_ANY_WORKER
            or owner == <int>loop.worker.id))


cdef void pause(Loop *loop, uint64_t retry_ms) noexcept nogil:
    loop.paused = True
    loop.accept_retry_ms = retry_ms
    tm_count(&loop.worker.live.counters.accept_pauses, 1)
    sync_listeners(loop)
    if retry_ms == 0 and not loop.told_full:
        # Others may have room for what waits in the queues of this one.
        loop.told_full = True
        tell(loop, TM_MESSAGE_FULL, 0, 0)


cdef void close_listener(Loop *loop, uint32_t place) noexcept nogil:
    """The queue has been served. When it was the listener's last shard, tells the master."""
    cdef tm_listening *listener = &loop.worker.live.listening[place]
    cdef uint32_t id = listener.id
    cdef int fd = listener.fd
    # The socket lives on in other processes, so close alone would leave it in epoll.
    poll_listener(loop, place, False)
    listener.fd = -1
    close(fd)
    for place in range(loop.worker.live.listening_count):
        listener = &loop.worker.live.listening[place]
        if listener.fd >= 0 and listener.id == id:
            return
    tell(loop, TM_MESSAGE_REMOVED, id, 0)


cdef void tell_loop(Loop *loop, uint32_t listener) noexcept nogil:
    if loop.worker.now_ms >= loop.tell_loop_ms:
        loop.tell_loop_ms = loop.worker.now_ms + LOOP_MS
        tell(loop, TM_MESSAGE_LOOPED, listener, 0)


cdef bint accept_some(Loop *loop, uint32_t place, uint32_t *budget) noexcept nogil:
    """Accepts up to `budget` connections, and takes them off it. True: the queue is empty."""
    cdef Worker *w = &loop.worker
    cdef tm_listening *listener = &loop.worker.live.listening[place]
    cdef tm_peer peer
    cdef uint32_t route
    cdef int fd
    while budget[0]:
        w.pump.journal.current = TM_NONE  # a fault in here is not the last one's
        if w.free == TM_NONE and w.live.records_used == w.capacity:
            # Some may have ended in this batch. Their events can be told by generation.
            connections_free(w)
            if w.free == TM_NONE:
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
            return False
        budget[0] -= 1
        tm_count(&w.live.counters.accepted, 1)
        route = w.image.route_of_listener[listener.id]
        if route == TM_NONE:
            tm_count(&w.live.counters.no_route, 1)
            tm_sock_reset(fd)
            tm_journal_note(w.pump.journal, TM_NOTHING)
        elif not tm_admitted(w.image, &w.image.routes[route], peer.family, peer.ip):
            tm_count(&w.live.slots[w.image.routes[route].slot].denied, 1)
            tm_sock_reset(fd)
            tm_journal_note(w.pump.journal, TM_NOTHING)
        elif tm_trace_is_loop(&w.commons.traces, fd, &peer, w.image.routes[route].slot):
            tm_count(&w.live.slots[w.image.routes[route].slot].looped, 1)
            tm_sock_reset(fd)
            tm_journal_note(w.pump.journal, TM_NOTHING)
            tell_loop(loop, listener.id)
        else:
            connection_open(w, fd, &peer, route)
    return False


cdef void listener_event(Loop *loop, uint32_t place) noexcept nogil:
    cdef tm_listening *listener = &loop.worker.live.listening[place]
    cdef uint32_t budget = ACCEPT_BUDGET
    if listener.fd >= 0 and listener.polled:
        if accept_some(loop, place, &budget) and listener.leaving:
            close_listener(loop, place)


cdef void serve_leaving(Loop *loop) noexcept nogil:
    """Serves the queues of listeners that are being removed, and closes those it has emptied.

    A pause interrupts it. An empty queue makes no event, so the end of the pause calls again; and
    so does the next turn of the loop, if this one's budget was not enough.
    """
    cdef tm_listening *listener
    cdef uint32_t budget = LEAVING_BUDGET
    cdef uint32_t place
    loop.leaving = False
    for place in range(loop.worker.live.listening_count):
        listener = &loop.worker.live.listening[place]
        if listener.fd < 0 or not listener.leaving or loop.paused:
            continue
        if accept_some(loop, place, &budget):
            close_listener(loop, place)
        elif not loop.paused:
            loop.leaving = True
    sync_listeners(loop)


cdef void remove_listener(Loop *loop, uint32_t id, bint every) noexcept nogil:
    """Stops accepting on a listener (or on every one), after its queue is served.

    Each worker serves all shards, so that nothing depends on who owned which.
    """
    cdef tm_listening *listener
    cdef uint32_t place
    for place in range(loop.worker.live.listening_count):
        listener = &loop.worker.live.listening[place]
        if listener.fd >= 0 and (every or listener.id == id):
            listener.leaving = True
    serve_leaving(loop)


cdef void maybe_resume(Loop *loop) noexcept nogil:
    cdef Worker *w = &loop.worker
    # The low mark keeps a full worker from adding and removing listeners for each connection.
    if loop.paused and w.now_ms >= loop.accept_retry_ms and (
            w.connections + w.capacity // 32 + 1 <= w.capacity):
        loop.paused = False
        if loop.told_full:
            loop.told_full = False
            tell(loop, TM_MESSAGE_ROOM, 0, 0)
        serve_leaving(loop)


cdef int add_listener(Loop *loop, uint32_t id, uint32_t shard, int fd,
                      bint shared) noexcept nogil:
    """0, or -ENOSPC with the descriptor closed."""
    cdef tm_listening *all = loop.worker.live.listening
    cdef uint32_t place
    cdef uint32_t count = loop.worker.live.listening_count
    for place in range(count):
        if all[place].fd >= 0 and all[place].id == id and all[place].shard == shard:
            close(fd)  # told twice, as the first time might have been lost with a life
            return 0
    if id >= TM_MAX_LISTENERS or shard >= TM_MAX_SHARDS:
        close(fd)
        return -ENOSPC
    place = 0
    while place < count and all[place].fd >= 0:
        place += 1
    if place == TM_MAX_LISTENING:
        close(fd)
        return -ENOSPC
    all[place] = tm_listening(
        fd=fd, id=id, shard=shard, shared=shared, leaving=False, polled=False)
    if place == count:
        loop.worker.live.listening_count = count + 1
    return 0


# --- the master -------------------------------------------------------------------------------

cdef inline void look_at_buffers(Worker *w) noexcept nogil:
    """A change of these, or of the number of workers, makes no new generation."""
    cdef uint64_t most = tm_table_buffer(w.table, TM_BUFFER_PIPE)
    cdef uint64_t all = tm_table_buffer(w.table, TM_BUFFER_PIPES)
    cdef uint32_t workers = w.table.worker_count
    tm_pipe_pool_bound(&w.pump.pool, <uint32_t>most if most else TM_PIPE_SIZE,
                       all // (workers or 1) if all else NO_BOUND)


cdef void look_at_table(Loop *loop) noexcept nogil:
    """Takes a new generation into use, if there is one, and tells so."""
    cdef Worker *w = &loop.worker
    cdef uint64_t generation = tm_table_generation(w.table)
    # What this worker last saw in any of its lives: its counters outlive it.
    cdef uint64_t before = tm_live_generation_seen(w.live)
    cdef const tm_image *image
    cdef uint32_t i
    look_at_buffers(w)
    if generation == w.generation:
        return
    image = tm_table_image(w.table, generation)
    # A slot that was given to a new name starts from zero. Nothing counts in it any more: the
    # master re-uses it only when it has no connection left.
    for i in range(image.route_count):
        if image.routes[i].born > before:
            memset(&w.live.slots[image.routes[i].slot], 0, sizeof(tm_slot))
    for i in range(image.destination_count):
        if image.destinations[i].born > before:
            memset(&w.live.slots[image.destinations[i].slot], 0, sizeof(tm_slot))
            memset(&w.live.times[image.destinations[i].slot], 0, sizeof(tm_times))
    for i in range(image.endpoint_count):
        if image.endpoints[i].born > before:
            memset(&w.live.slots[image.endpoints[i].slot], 0, sizeof(tm_slot))
    look_at_rates(w, image)
    w.image = image
    w.generation = generation
    tm_live_set_generation_seen(w.live, generation)
    tell(loop, TM_MESSAGE_SEEN, 0, generation)


cdef void watch_takeover(Loop *loop, bint wanted) noexcept nogil:
    """Without a master this worker waits for the next one."""
    cdef epoll_event event
    event.events = EPOLLIN  # all are woken: the first one may be stopped
    event.data.u64 = TAG_TAKEOVER
    if loop.takeover < 0 or loop.taking == wanted:
        return
    if epoll_ctl(loop.worker.epoll, EPOLL_CTL_ADD if wanted else EPOLL_CTL_DEL, loop.takeover,
                 &event) == 0:
        loop.taking = wanted
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
    """A new master: its connection is the line to it from here on."""
    cdef tm_peer peer
    cdef int fd
    if loop.worker.live.channel >= 0:
        return
    fd = tm_sock_accept(loop.takeover, &peer)
    if fd < 0:
        return
    if not tm_sock_peer_is(fd, loop.owner):
        close(fd)
        return
    loop.worker.live.channel = fd
    tm_live_add_master(loop.worker.live)
    watch_takeover(loop, False)
    loop.told_full = False
    if watch_channel(loop) < 0:
        lose_channel(loop)


cdef void offer(Loop *loop, uint64_t place) noexcept nogil:
    """Answers a new master: the regions first, then one listening socket a message."""
    cdef tm_listening *listener
    cdef tm_message message
    cdef uint32_t count = loop.worker.live.listening_count
    memset(&message, 0, sizeof(message))
    message.type = TM_MESSAGE_OFFER
    message.listener = TM_NONE
    if place == 0:
        message.first = loop.worker.id
        message.shared = <uint32_t>getpid()
        message.value = 1
        tm_channel_send_fds(loop.worker.live.channel, &message, loop.estate, loop.estate_count)
        return
    while place <= count and loop.worker.live.listening[place - 1].fd < 0:
        place += 1
    if place <= count:
        listener = &loop.worker.live.listening[place - 1]
        message.listener = listener.id
        message.first = listener.shard
        message.shared = listener.shared
        message.value = place + 1
        tm_channel_send_fds(loop.worker.live.channel, &message, <const int *>&listener.fd, 1)
    else:
        tm_channel_send(loop.worker.live.channel, &message)


cdef void watch_line(Loop *loop, uint32_t other) noexcept nogil:
    cdef epoll_event event
    event.events = EPOLLIN
    event.data.u64 = TAG_LINES + other
    if epoll_ctl(loop.worker.epoll, EPOLL_CTL_ADD, loop.worker.live.lines[other], &event) < 0:
        if errno != EEXIST:
            loop.unwatched = True


cdef void watch_again(Loop *loop) noexcept nogil:
    """Once more for what epoll had no memory for."""
    cdef int other
    loop.unwatched = False
    for other in range(TM_MAX_LINES):
        if loop.worker.live.lines[other] >= 0:
            watch_line(loop, <uint32_t>other)
    watch_takeover(loop, loop.worker.live.channel < 0)
    sync_listeners(loop)


cdef void add_line(Loop *loop, uint32_t other, int fd) noexcept nogil:
    """Connections come and go over it, to and from worker `other`."""
    if other >= TM_MAX_LINES:
        close(fd)
        return
    handover_line(&loop.worker, &loop.handover, other, fd)
    watch_line(loop, other)


cdef void give_to(Loop *loop, uint32_t other, uint64_t number) noexcept nogil:
    if other >= TM_MAX_LINES or loop.worker.live.lines[other] < 0:
        return  # it has died meanwhile: the master makes another line
    if number == TM_GIVE_ALL:
        loop.worker.live.gives_to |= <uint64_t>1 << other
    else:
        loop.handover.quota[other] = number
        loop.handover.has_quota = True


cdef void tell_lost_lines(Loop *loop) noexcept nogil:
    cdef int other
    for other in range(TM_MAX_LINES):
        if loop.handover.lost >> other & 1:
            tell(loop, TM_MESSAGE_UNLINED, <uint32_t>other, 0)
    loop.handover.lost = 0


cdef void tell_unread(Loop *loop) noexcept nogil:
    """Clients have lost their connections: for the log, once a second."""
    cdef Worker *w = &loop.worker
    if w.unread == 0 or w.now_ms < loop.tell_unread_ms or w.live.channel < 0:
        return
    loop.tell_unread_ms = w.now_ms + UNREAD_MS
    if tell(loop, TM_MESSAGE_UNREAD, w.unread_by_source, w.unread):
        w.unread = w.unread_by_source = 0


cdef void tell_growth(Loop *loop) noexcept nogil:
    """That there may be something to be shared out, if there is, and not too often."""
    cdef Worker *w = &loop.worker
    if w.connections < loop.told_connections:
        loop.told_connections = w.connections
    if (w.connections >= loop.told_connections + GROWTH + loop.told_connections // GROWTH
            and w.now_ms >= loop.tell_growth_ms):
        loop.told_connections = w.connections
        loop.tell_growth_ms = w.now_ms + GROWTH_MS
        tell(loop, TM_MESSAGE_GREW, 0, w.connections)


cdef void channel_message(Loop *loop, const tm_message *message, const int *fds,
                          uint32_t count) noexcept nogil:
    cdef uint32_t i
    if message.type == TM_MESSAGE_ADD:
        for i in range(count):
            add_listener(loop, message.listener, message.first + i, fds[i], message.shared)
        return
    if message.type == TM_MESSAGE_REMOVE:
        remove_listener(loop, message.listener, False)
    elif message.type == TM_MESSAGE_DRAIN:
        tm_live_order(loop.worker.live, loop.worker.live.orders | TM_ORDER_DRAIN)
    elif message.type == TM_MESSAGE_RETIRE:
        tm_live_order(loop.worker.live, loop.worker.live.orders | TM_ORDER_RETIRE)
    elif message.type == TM_MESSAGE_LINE and count == 1:
        add_line(loop, message.listener, fds[0])
        return
    elif message.type == TM_MESSAGE_GIVE:
        give_to(loop, message.listener, message.value)
    elif message.type == TM_MESSAGE_KILL:
        connection_kill(&loop.worker, message.listener, <uint32_t>message.value)
    elif message.type == TM_MESSAGE_SYNC:
        tell(loop, TM_MESSAGE_SYNCED, 0, message.value)
    elif message.type == TM_MESSAGE_CLAIM:
        offer(loop, message.value)
        # What the guardian has said before this answer, the new master has not listened to.
        tm_live_add_master(loop.worker.live)
    elif message.type == TM_MESSAGE_GUARD:
        loop.unguarded = True
    elif message.type == TM_MESSAGE_REPLACE:
        loop.to_be_replaced = True
    elif message.type == TM_MESSAGE_QUIT:
        loop.quit = True
    for i in range(count):
        close(fds[i])


cdef void channel_event(Loop *loop) noexcept nogil:
    cdef tm_message message
    cdef int fds[TM_MESSAGE_FDS]
    cdef uint32_t count
    cdef int got
    while loop.worker.live.channel >= 0:
        got = tm_channel_receive(loop.worker.live.channel, &message, fds, &count)
        if got == -EAGAIN:
            break
        if got == -EMFILE:
            loop.cramped = True
            continue
        if got <= 0:
            lose_channel(loop)
            break
        channel_message(loop, &message, fds, count)
    look_at_table(loop)
    sync_listeners(loop)


cdef void signal_event(Loop *loop) noexcept nogil:
    """SIGQUIT: end now. SIGTERM: drain, but only without a master, which has DRAIN for it: a
    worker that went by itself would leave its shards to nobody."""
    cdef signalfd_siginfo info
    while read(loop.signals, &info, sizeof(info)) == sizeof(info):
        if info.ssi_signo == SIGQUIT:
            loop.quit = True
            continue
        channel_event(loop)  # its end may be waiting behind this signal
        if loop.worker.live.channel < 0:
            tm_live_order(loop.worker.live, loop.worker.live.orders | TM_ORDER_DRAIN)
            remove_listener(loop, 0, True)


# --- the loop ---------------------------------------------------------------------------------

cdef inline void look_at_clock(Worker *w) noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    w.now_us = <uint64_t>now.tv_sec * 1000000 + <uint64_t>now.tv_nsec // 1000
    w.now_ms = w.now_us // 1000


cdef int wait_time(Loop *loop, bint unfinished) noexcept nogil:
    """How long epoll may wait, ms; -1 = for ever."""
    cdef int wait = tm_wheel_wait(&loop.worker.wheel, loop.worker.now_ms)
    cdef uint64_t look = loop.worker.look_ms, now = loop.worker.now_ms
    if unfinished or (look and (look <= now or loop.worker.look_cursor)):
        return 0
    if look and (wait < 0 or <uint64_t>wait > look - now):
        wait = <int>(look - now)
    if (loop.paused or loop.unwatched or loop.unguarded or loop.cramped
            or loop.worker.live.orders & TM_ORDER_RETIRE) and (
            wait < 0 or wait > ACCEPT_RETRY_MS):
        return ACCEPT_RETRY_MS
    if loop.worker.live.channel < 0 and (wait < 0 or wait > GUARDED_MS):
        return GUARDED_MS
    return wait


cdef void dispatch(Loop *loop, const epoll_event *event) noexcept nogil:
    cdef uint32_t generation = <uint32_t>(event.data.u64 >> 32)
    cdef uint32_t low = <uint32_t>event.data.u64
    tm_live_advance(loop.worker.live)
    if generation:
        connection_event(&loop.worker, low >> 1, generation, <int>(low & 1), event.events)
        return
    # A fault from here on is not that of the connection before.
    loop.worker.pump.journal.current = TM_NONE
    if low == TAG_CHANNEL:
        channel_event(loop)
    elif low == TAG_SIGNALS:
        signal_event(loop)
    elif low == TAG_TAKEOVER:
        takeover_event(loop)
    elif low < TAG_LISTENERS:
        handover_event(&loop.worker, &loop.handover, low - TAG_LINES)
    else:
        listener_event(loop, low - TAG_LISTENERS)


cdef bint is_over(const Loop *loop) noexcept nogil:
    # While paused, queues that are to be served before the end may not have been.
    return loop.quit or (loop.worker.live.orders and loop.worker.connections == 0
                         and not loop.paused and not loop.leaving)


cdef bint is_guarded(Loop *loop) noexcept nogil:
    """Whether the guardian lives: the parent or, made by this worker, a child. There must never
    be two of them, as each would begin the next life. One that was made a moment ago may not
    have written its pid down yet."""
    return (getppid() == tm_live_guardian_pid(loop.worker.live)
            or (loop.guardian > 0 and waitpid(loop.guardian, NULL, WNOHANG) == 0))


cdef void look_after_guardian(Loop *loop) noexcept nogil:
    """Without a master nobody tells this worker that its guardian has died. What the kernel says is
    asked first, so that a corrupt number in the region does not make another one."""
    if loop.worker.live.channel >= 0 or loop.worker.now_ms < loop.look_guarded_ms:
        return
    loop.look_guarded_ms = loop.worker.now_ms + GUARDED_MS
    if getppid() != loop.parent:
        loop.unguarded = True


cdef void tell_cramped(Loop *loop) noexcept nogil:
    """The master gives once more what has not arrived, and again until there is room."""
    if loop.cramped and loop.worker.now_ms >= loop.tell_cramped_ms:
        loop.cramped = False
        loop.tell_cramped_ms = loop.worker.now_ms + CRAMPED_MS
        tell(loop, TM_MESSAGE_CRAMPED, 0, 0)


cdef int run_loop(Loop *loop) noexcept nogil:
    """Until told to stop. 0, or -errno when epoll itself fails."""
    cdef Worker *w = &loop.worker
    cdef epoll_event events[EVENTS]
    cdef bint unfinished = w.ready != TM_NONE
    cdef uint32_t index
    cdef pid_t self
    cdef int count, i
    while not is_over(loop):
        w.pump.journal.current = TM_NONE
        tm_live_rest(w.live)
        count = tm_waiter_wait(
            &loop.waiter, w.epoll, events, EVENTS, wait_time(loop, unfinished or loop.leaving),
            tm_table_busy_poll(w.table), w.expecting)
        look_at_clock(w)
        tm_live_set_heartbeat(w.live, w.now_ms)
        if count < 0 and errno != EINTR:
            return -errno
        tm_count(&w.live.counters.wakeups, 1)
        look_at_table(loop)
        for i in range(count):
            dispatch(loop, &events[i])
        # After the events: one of them may be what a deadline waits for, and a timed-out connect
        # is tried again under the same tag, which no event of this batch may meet.
        index = tm_wheel_pop(&w.wheel, w.records, w.now_ms)
        while index != TM_NONE:
            tm_live_advance(w.live)
            connection_timer(w, index)
            index = tm_wheel_pop(&w.wheel, w.records, w.now_ms)
        connections_resume(w)
        if w.look_ms and w.now_ms >= w.look_ms:
            look_at_stalled(w)
        connections_free(w)
        w.pump.journal.current = TM_NONE
        if loop.leaving:
            serve_leaving(loop)
        maybe_resume(loop)
        if loop.unwatched:
            watch_again(loop)
        look_after_guardian(loop)
        if loop.unguarded or loop.to_be_replaced:
            loop.unguarded = not is_guarded(loop)
        if loop.unguarded:
            self = getpid()
            loop.guardian = tm_clone_sharing_descriptors()
            if loop.guardian == 0:
                loop.guards = self  # which may have ended by now: getppid() would be another
                return 0
            loop.unguarded = loop.guardian < 0  # no memory for it: try again
        # With nobody to hold its descriptors, its end would be that of its connections.
        if loop.to_be_replaced and not loop.unguarded:
            tm_live_set_ending(w.live, TM_REPLACED)
            loop.quit = True
        unfinished = w.ready != TM_NONE
        if w.live.orders & TM_ORDER_RETIRE:
            unfinished = handover_some(w, &loop.handover) or w.ready != TM_NONE
        elif loop.handover.has_quota:
            unfinished = handover_quota(w, &loop.handover) or w.ready != TM_NONE
        if loop.handover.lost:
            tell_lost_lines(loop)
        tell_cramped(loop)
        tell_growth(loop)
        tell_unread(loop)
        if w.now_ms >= loop.count_fds_ms:
            loop.count_fds_ms = w.now_ms + COUNT_MS
            tm_live_set_descriptors(w.live, tm_descriptors_count())
        if w.denied and w.now_ms >= loop.tell_denied_ms:
            w.denied = False
            loop.tell_denied_ms = w.now_ms + DENIED_MS
            tell(loop, TM_MESSAGE_DENIED, w.denied_slot, 0)
        if w.pump.fallbacks:
            tm_count(&w.live.counters.pipe_fallbacks, w.pump.fallbacks)
            w.pump.fallbacks = 0
        w.live.pipes = w.pump.pool.open
        w.live.pipe_bytes = w.pump.pool.held
    if tm_live_ending(w.live) == TM_UNENDED:
        connections_reset_all(w)
        tm_pipe_pool_destroy(&w.pump.pool)
        tm_live_set_ending(w.live, TM_OVER)
    return 0


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


cdef void claim_listener(Loop *loop, tm_listening *listener, tm_descriptors *all) noexcept nogil:
    """What is not claimed will be closed; the master gives it once more."""
    listener.polled = False
    if not (tm_listening_possible(listener)
            and tm_descriptors_free_to_claim(all, listener.fd)
            and tm_is_listening(listener.fd)
            and is_at_its_address(tm_table_image(
                loop.worker.table, tm_table_generation(loop.worker.table)), listener)
            and tm_descriptors_claim(all, listener.fd)):
        listener.fd = -1


cdef void claim_lines(Worker *w, tm_descriptors *all) noexcept nogil:
    """To the master and to other workers: nothing that a client can write to is taken for one."""
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


cdef int claim_own(Loop *loop, tm_descriptors *all, const int *kept, uint32_t count) noexcept nogil:
    """What this worker holds besides connections. -ENOMEM when that can't be found out."""
    cdef uint32_t i
    if tm_descriptors_list(all) < 0:
        return -ENOMEM
    for i in range(count):
        tm_descriptors_claim(all, kept[i])
    claim_lines(&loop.worker, all)
    for i in range(loop.worker.live.listening_count):
        claim_listener(loop, &loop.worker.live.listening[i], all)
    return 0


cdef int begin(Loop *loop, uint32_t pipes, const int *kept, uint32_t kept_count) noexcept nogil:
    """Takes up the work. 0 or -errno."""
    cdef Worker *w = &loop.worker
    cdef epoll_event event
    cdef sigset_t watched
    cdef tm_descriptors all
    cdef int other
    loop.parent = getppid()
    tm_live_mend(w.live, w.commons, w.id, w.capacity)
    look_at_clock(w)
    allow_at_once(w, TM_SHAPE_MOST_POWER)
    w.pump.buffer = w.live.buffer
    w.pump.journal = &w.live.journal
    tm_pipe_pool_init(&w.pump.pool, pipes)
    tm_wheel_init(&w.wheel, w.now_ms)
    tm_waiter_init(&loop.waiter)
    w.random = w.now_us * <uint64_t>0x9e3779b97f4a7c15 + w.id + 1
    w.expecting = TM_EXPECT_ANY
    if claim_own(loop, &all, kept, kept_count) < 0:
        return -ENOMEM
    # From here on the table's image is in use and this worker counts as started.
    tm_live_set_ending(w.live, TM_UNENDED)
    tm_live_begin(w.live, getpid())
    w.paced = tm_sock_host_paces()
    look_at_table(loop)
    recover_records(w, &all)
    tm_descriptors_free(&all)
    w.epoll = epoll_create1(EPOLL_CLOEXEC)
    # The guardian blocked both, so none has been missed.
    sigemptyset(&watched)
    sigaddset(&watched, SIGTERM)
    sigaddset(&watched, SIGQUIT)
    loop.signals = signalfd(-1, &watched, SFD_NONBLOCK | SFD_CLOEXEC)
    event.events = EPOLLIN
    event.data.u64 = TAG_SIGNALS
    if w.epoll < 0 or loop.signals < 0 or epoll_ctl(
            w.epoll, EPOLL_CTL_ADD, loop.signals, &event) < 0:
        return -errno
    if w.live.channel < 0:
        watch_takeover(loop, True)
    elif watch_channel(loop) < 0:
        return -errno
    recover_connections(w)
    for other in range(TM_MAX_LINES):
        if w.live.lines[other] >= 0:
            watch_line(loop, <uint32_t>other)
    handover_recover(w)
    sync_listeners(loop)
    serve_leaving(loop)
    tell(loop, TM_MESSAGE_STARTED, 0, w.connections)
    tm_live_set_presence(w.live, TM_PRESENT)
    return 0


def adopt(Live live not None, int channel, listeners):
    """Writes down, before the first life of a worker, what it holds from then on.

    channel: this worker's end of the line to the master. listeners: (id, shard, descriptor,
    shared) for each listening socket.
    """
    cdef tm_listening *place
    cdef uint32_t count = 0
    live.live().channel = channel
    for listener_id, shard, fd, shared in listeners:
        place = &live.live().listening[count]
        place.id, place.shard, place.fd, place.shared = listener_id, shard, fd, shared
        place.leaving = place.polled = False
        count += 1
    live.live().listening_count = count
    for line in range(TM_MAX_LINES):
        live.live().lines[line] = -1
    live.live().gives_to = 0


def listening(Live live not None):
    """Descriptors of the listening sockets that a worker holds; numbers in its process."""
    cdef uint32_t place
    return [live.live().listening[place].fd
            for place in range(tm_listening_checked(live.live()))
            if tm_is_listening(live.live().listening[place].fd)]


def run(int worker, Table table not None, Commons commons not None, Live live not None,
        kept, estate, int takeover, uid_t owner, uint32_t pipes):
    """Relays until told to stop; the live region says how it ended.

    Returns 0, or in another process, a copy of this one, the pid of the worker that made it to
    be its guardian.

    kept: descriptors that are always there besides those in the live region. estate: those
    of them that a new master gets. takeover: where it asks, -1 = nowhere. owner: its user. pipes:
    how many the worker may open. SIGQUIT means end at once and, when the master is gone, SIGTERM
    drain, then end; both must be blocked. Raises OSError when the loop can't start or go on.
    """
    cdef Loop *loop = <Loop *>calloc(1, sizeof(Loop))
    cdef int *fds = <int *>calloc(len(kept) + 1, sizeof(int))
    cdef uint32_t count = len(kept)
    cdef int result = 0
    if loop == NULL or fds == NULL:
        raise MemoryError
    assert len(estate) <= TM_MESSAGE_FDS
    try:
        loop.worker.id = worker
        loop.worker.table = table.table()
        loop.worker.commons = commons.commons()
        loop.worker.live = live.live()
        loop.worker.records = live.live().records
        loop.worker.capacity = live.capacity
        loop.takeover = takeover
        loop.owner = owner
        loop.estate_count = len(estate)
        for i, fd in enumerate(estate):
            loop.estate[i] = fd
        for i, fd in enumerate(kept):
            fds[i] = fd
        with nogil:
            result = begin(loop, pipes, fds, count)
            if result == 0:
                result = run_loop(loop)
        guards = loop.guards
    finally:
        free(fds)
        free(loop.worker.looked)
        free(loop)
    if result < 0:
        raise OSError(-result, "the worker's loop failed")
    return guards
