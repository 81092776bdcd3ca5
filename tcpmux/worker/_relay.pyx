# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False
"""The worker's loop: one epoll over its listeners, connections and its line to the master.

Runs in a worker, without the GIL from start to end: nothing in here can wait for Python.

    forever:
        wait for events, timers or unfinished work
        look for a new table generation
        events: connections, listeners (a budget of accepts each), master, signals
        hand out due timers
        pump what used up its budget; free what ended
"""

from libc.errno cimport EAGAIN, EINTR, ENOMEM, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memset
from posix.signal cimport sigaddset, sigemptyset, sigset_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport close, getpid, read

from tcpmux.shm._layout cimport (
    AF_UNIX, TM_ANY_WORKER, TM_MAX_LISTENERS, TM_MAX_SHARDS, TM_NONE, tm_conn, tm_count, tm_image,
    tm_live, tm_live_begin, tm_live_generation_seen, tm_live_set_generation_seen, tm_live_set_heartbeat, tm_peer,
    tm_pipe_pool_destroy, tm_pipe_pool_init, tm_slot, tm_table, tm_table_generation,
    tm_table_image, tm_table_shard_owner, tm_ticket,
)
from tcpmux.shm._shm cimport Live, Table, Tickets
from tcpmux.worker._connection cimport (
    Worker, connection_event, connection_open, connection_timer, connections_free,
    connections_recover, connections_reset_all, connections_resume,
)
from tcpmux.worker._mechanism cimport (
    EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLLEXCLUSIVE, EPOLLIN, TM_MESSAGE_ADD,
    TM_MESSAGE_DRAIN, TM_MESSAGE_REMOVE, TM_MESSAGE_REMOVED, TM_MESSAGE_SEEN, TM_MESSAGE_WAKE,
    SFD_CLOEXEC, SFD_NONBLOCK, epoll_create1, epoll_ctl, epoll_event, epoll_wait, signalfd,
    signalfd_siginfo, tm_channel_receive, tm_channel_send, tm_message, tm_sock_accept, tm_sock_reset, tm_wheel_init, tm_wheel_pop,
    tm_wheel_wait,
)

cdef extern from "<signal.h>" nogil:
    enum: SIGQUIT, SIGTERM

cdef enum:
    EVENTS = 256            # taken from the kernel at once
    ACCEPT_BUDGET = 16      # per listener and wake-up: connections that exist come first
    BUFFER_SIZE = 65536     # of one recv; at most TM_PIPE_MIN, so that any rest fits a pipe
    PUMP_BUDGET = 1 << 20   # bytes per half and turn
    ACCEPT_RETRY_MS = 100   # after EMFILE and the like

    # Tags of events that are no connection's: a connection's generation is never 0.
    TAG_CHANNEL = 0
    TAG_SIGNALS = 1
    TAG_LISTENERS = 2

cdef struct Listener:
    uint32_t id
    uint32_t shard
    int fd          # -1: this place is free
    bint shared     # one socket for all workers
    bint polled     # in epoll now
    bint leaving    # being removed: serve the queue, then close

cdef struct Loop:
    Worker worker
    int channel     # -1: the master is gone
    int signals
    Listener *listeners
    uint32_t listener_count   # places, free ones included
    bint paused               # at the connection limit, or out of something
    uint64_t accept_retry_ms  # do not resume before; monotonic
    bint draining             # exit with the last connection
    bint quit                 # exit now


# --- listeners --------------------------------------------------------------------------------

cdef void poll_listener(Loop *loop, uint32_t place, bint wanted) noexcept nogil:
    cdef Listener *listener = &loop.listeners[place]
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


cdef void sync_listeners(Loop *loop) noexcept nogil:
    """Polls the shards that the table gives to this worker, unless paused."""
    cdef Listener *listener
    cdef uint32_t place
    cdef int owner
    for place in range(loop.listener_count):
        listener = &loop.listeners[place]
        if listener.fd < 0:
            continue
        owner = tm_table_shard_owner(loop.worker.table, listener.shard)
        poll_listener(loop, place, not loop.paused and (
            listener.shared or listener.leaving or owner == TM_ANY_WORKER
            or owner == <int>loop.worker.id))


cdef void pause(Loop *loop, uint64_t retry_ms) noexcept nogil:
    loop.paused = True
    loop.accept_retry_ms = retry_ms
    tm_count(&loop.worker.live.counters.accept_pauses, 1)
    sync_listeners(loop)


cdef void close_listener(Loop *loop, uint32_t place) noexcept nogil:
    """The queue has been served. When it was the listener's last shard, tells the master."""
    cdef Listener *listener = &loop.listeners[place]
    cdef tm_message message
    cdef uint32_t id = listener.id
    cdef uint32_t other
    # The socket lives on in other processes, so close alone would leave it in epoll.
    poll_listener(loop, place, False)
    close(listener.fd)
    listener.fd = -1
    for other in range(loop.listener_count):
        if loop.listeners[other].fd >= 0 and loop.listeners[other].id == id:
            return
    memset(&message, 0, sizeof(message))
    message.type = TM_MESSAGE_REMOVED
    message.listener = id
    if loop.channel >= 0:
        tm_channel_send(loop.channel, &message)


cdef bint accept_some(Loop *loop, uint32_t place, uint32_t budget) noexcept nogil:
    """Accepts up to `budget` connections. True: the queue is empty."""
    cdef Worker *w = &loop.worker
    cdef Listener *listener = &loop.listeners[place]
    cdef tm_peer peer
    cdef uint32_t route
    cdef int fd
    while budget:
        if w.free == TM_NONE and w.live.records_used == w.capacity:
            # Some may have ended in this batch. Their events can be told by generation.
            connections_free(w)
            if w.free == TM_NONE:
                pause(loop, 0)
                return False
        fd = tm_sock_accept(listener.fd, &peer)
        if fd == -EAGAIN:
            return True
        if fd < 0:
            tm_count(&w.live.counters.accept_errors, 1)
            pause(loop, w.now_ms + ACCEPT_RETRY_MS)
            return False
        budget -= 1
        tm_count(&w.live.counters.accepted, 1)
        route = w.image.route_of_listener[listener.id]
        if route == TM_NONE:
            tm_count(&w.live.counters.no_route, 1)
            tm_sock_reset(fd)
        else:
            connection_open(w, fd, &peer, route)
    return False


cdef void listener_event(Loop *loop, uint32_t place) noexcept nogil:
    cdef Listener *listener = &loop.listeners[place]
    if listener.fd >= 0 and listener.polled:
        if accept_some(loop, place, ACCEPT_BUDGET) and listener.leaving:
            close_listener(loop, place)


cdef void serve_leaving(Loop *loop) noexcept nogil:
    """Serves the queues of listeners that are being removed, and closes those it has emptied.

    A pause interrupts it. An empty queue makes no event, so the end of the pause calls again.
    """
    cdef Listener *listener
    cdef uint32_t place
    for place in range(loop.listener_count):
        listener = &loop.listeners[place]
        if listener.fd >= 0 and listener.leaving:
            if not loop.paused and accept_some(loop, place, TM_NONE):
                close_listener(loop, place)
    sync_listeners(loop)


cdef void remove_listener(Loop *loop, uint32_t id, bint every) noexcept nogil:
    """Stops accepting on a listener (or on every one), after its queue is served.

    Each worker serves all shards, so that nothing depends on who owned which.
    """
    cdef Listener *listener
    cdef uint32_t place
    for place in range(loop.listener_count):
        listener = &loop.listeners[place]
        if listener.fd >= 0 and (every or listener.id == id):
            listener.leaving = True
    serve_leaving(loop)


cdef void maybe_resume(Loop *loop) noexcept nogil:
    cdef Worker *w = &loop.worker
    # The low mark keeps a full worker from adding and removing listeners for each connection.
    if loop.paused and w.now_ms >= loop.accept_retry_ms and (
            w.connections + w.capacity // 32 + 1 <= w.capacity):
        loop.paused = False
        serve_leaving(loop)


cdef int add_listener(Loop *loop, uint32_t id, uint32_t shard, int fd,
                      bint shared) noexcept nogil:
    """0, or -ENOMEM with the descriptor closed."""
    cdef Listener *grown
    cdef uint32_t place = 0
    while place < loop.listener_count and loop.listeners[place].fd >= 0:
        place += 1
    if place == loop.listener_count:
        grown = <Listener *>realloc(loop.listeners, (place + 1) * 2 * sizeof(Listener))
        if grown == NULL:
            close(fd)
            return -ENOMEM
        loop.listeners = grown
        loop.listener_count = (place + 1) * 2
        memset(&grown[place], 0, (place + 2) * sizeof(Listener))
        for free_place in range(place, loop.listener_count):
            grown[free_place].fd = -1
    loop.listeners[place] = Listener(
        id=id, shard=shard, fd=fd, shared=shared, polled=False, leaving=False)
    return 0


# --- the master -------------------------------------------------------------------------------

cdef void look_at_table(Loop *loop) noexcept nogil:
    """Takes a new generation into use, if there is one, and tells so."""
    cdef Worker *w = &loop.worker
    cdef uint64_t generation = tm_table_generation(w.table)
    # What this worker last saw in any of its lives: its counters outlive it.
    cdef uint64_t before = tm_live_generation_seen(w.live)
    cdef const tm_image *image
    cdef tm_message message
    cdef uint32_t i
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
    for i in range(image.endpoint_count):
        if image.endpoints[i].born > before:
            memset(&w.live.slots[image.endpoints[i].slot], 0, sizeof(tm_slot))
    w.image = image
    w.generation = generation
    tm_live_set_generation_seen(w.live, generation)
    memset(&message, 0, sizeof(message))
    message.type = TM_MESSAGE_SEEN
    message.value = generation
    if loop.channel >= 0:
        # If the line is full the master finds it in the live region.
        tm_channel_send(loop.channel, &message)


cdef void channel_event(Loop *loop) noexcept nogil:
    cdef tm_message message
    cdef int fds[TM_MAX_SHARDS]
    cdef uint32_t count, i
    cdef int got
    while loop.channel >= 0:
        got = tm_channel_receive(loop.channel, &message, fds, &count)
        if got == -EAGAIN:
            break
        if got <= 0:
            # The master is gone. Traffic goes on.
            close(loop.channel)
            loop.channel = -1
            break
        if message.type == TM_MESSAGE_ADD:
            for i in range(count):
                add_listener(loop, message.listener, message.first + i, fds[i], message.shared)
        elif message.type == TM_MESSAGE_REMOVE:
            remove_listener(loop, message.listener, False)
        elif message.type == TM_MESSAGE_DRAIN:
            loop.draining = True
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
        if loop.channel < 0:
            loop.draining = True
            remove_listener(loop, 0, True)


# --- the loop ---------------------------------------------------------------------------------

cdef inline uint64_t monotonic_ms() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000 + <uint64_t>now.tv_nsec // 1000000


cdef int wait_time(Loop *loop, bint unfinished) noexcept nogil:
    """How long epoll may wait, ms; -1 = for ever."""
    cdef int wait = tm_wheel_wait(&loop.worker.wheel, loop.worker.now_ms)
    if unfinished:
        return 0
    if loop.paused and (wait < 0 or wait > ACCEPT_RETRY_MS):
        return ACCEPT_RETRY_MS
    return wait


cdef void dispatch(Loop *loop, const epoll_event *event) noexcept nogil:
    cdef uint32_t generation = <uint32_t>(event.data.u64 >> 32)
    cdef uint32_t low = <uint32_t>event.data.u64
    if generation:
        connection_event(&loop.worker, low >> 1, generation, <int>(low & 1), event.events)
    elif low == TAG_CHANNEL:
        channel_event(loop)
    elif low == TAG_SIGNALS:
        signal_event(loop)
    else:
        listener_event(loop, low - TAG_LISTENERS)


cdef int run_loop(Loop *loop) noexcept nogil:
    """Until told to stop. 0, or -errno when epoll itself fails."""
    cdef Worker *w = &loop.worker
    cdef epoll_event events[EVENTS]
    cdef bint unfinished = False
    cdef uint32_t index
    cdef int count, i
    # While paused, queues that are to be served before the end may not have been.
    while not loop.quit and not (loop.draining and w.connections == 0 and not loop.paused):
        count = epoll_wait(w.epoll, events, EVENTS, wait_time(loop, unfinished))
        if count < 0 and errno != EINTR:
            return -errno
        w.now_ms = monotonic_ms()
        tm_live_set_heartbeat(w.live, w.now_ms)
        tm_count(&w.live.counters.wakeups, 1)
        look_at_table(loop)
        for i in range(count):
            dispatch(loop, &events[i])
        # After the events: one of them may be what a deadline waits for, and a timed-out connect
        # is tried again under the same tag, which no event of this batch may meet.
        index = tm_wheel_pop(&w.wheel, w.records, w.now_ms)
        while index != TM_NONE:
            connection_timer(w, index)
            index = tm_wheel_pop(&w.wheel, w.records, w.now_ms)
        connections_resume(w)
        connections_free(w)
        maybe_resume(loop)
        unfinished = w.ready != TM_NONE
        if w.pump.fallbacks:
            tm_count(&w.live.counters.pipe_fallbacks, w.pump.fallbacks)
            w.pump.fallbacks = 0
    connections_reset_all(w)
    return 0


cdef int begin(Loop *loop, uint32_t capacity, uint32_t pipes) noexcept nogil:
    """0 or -errno."""
    cdef Worker *w = &loop.worker
    cdef epoll_event event
    cdef sigset_t watched
    w.epoll = epoll_create1(EPOLL_CLOEXEC)
    if w.epoll < 0:
        return -errno
    w.capacity = capacity
    w.now_ms = monotonic_ms()
    w.pump.buffer_size = BUFFER_SIZE
    w.pump.budget = PUMP_BUDGET
    w.pump.buffer = <unsigned char *>malloc(BUFFER_SIZE)
    if w.pump.buffer == NULL:
        return -ENOMEM
    tm_pipe_pool_init(&w.pump.pool, pipes)
    tm_wheel_init(&w.wheel, w.now_ms)
    connections_recover(w)
    event.events = EPOLLIN
    event.data.u64 = TAG_CHANNEL
    if epoll_ctl(w.epoll, EPOLL_CTL_ADD, loop.channel, &event) < 0:
        return -errno
    # The master blocked both before the fork, so none has been missed.
    sigemptyset(&watched)
    sigaddset(&watched, SIGTERM)
    sigaddset(&watched, SIGQUIT)
    loop.signals = signalfd(-1, &watched, SFD_NONBLOCK | SFD_CLOEXEC)
    if loop.signals < 0:
        return -errno
    event.data.u64 = TAG_SIGNALS
    if epoll_ctl(w.epoll, EPOLL_CTL_ADD, loop.signals, &event) < 0:
        return -errno
    # From here on the table's image is in use and this worker counts as started.
    tm_live_begin(w.live, getpid())
    look_at_table(loop)
    sync_listeners(loop)
    return 0


def run(int worker, Table table not None, Tickets tickets not None, Live live not None,
        int channel, listeners, uint32_t pipes):
    """Relays until told to stop; returns when the worker has nothing left to do.

    channel: this worker's end of the line to the master. listeners: (id, shard, descriptor,
    shared) for each listening socket; the descriptors are the worker's from here on.
    pipes: how many it may open. SIGQUIT means end at once and, when the master is gone,
    SIGTERM drain, then end; both must be blocked. Raises OSError when the loop can't start or go on.
    """
    cdef Loop *loop = <Loop *>calloc(1, sizeof(Loop))
    cdef int result = 0
    if loop == NULL:
        raise MemoryError
    try:
        loop.worker.id = worker
        loop.worker.table = table.table()
        loop.worker.tickets = tickets.tickets()
        loop.worker.live = live.live()
        loop.worker.records = live.live().records
        loop.channel = channel
        for listener_id, shard, fd, shared in listeners:
            if add_listener(loop, listener_id, shard, fd, shared) < 0:
                raise MemoryError
        with nogil:
            result = begin(loop, loop.worker.live.capacity, pipes)
            if result == 0:
                result = run_loop(loop)
        if result == 0:
            tm_pipe_pool_destroy(&loop.worker.pump.pool)
    finally:
        free(loop.worker.pump.buffer)
        free(loop.listeners)
        free(loop)
    if result < 0:
        raise OSError(-result, "the worker's loop failed")
