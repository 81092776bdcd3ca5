# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False
"""The worker's loop: one epoll over its listeners, connections and its line to the master.

Runs in a worker, without the GIL from start to end: nothing in here can wait for Python.

    take up what an earlier incarnation of this worker has left behind
    forever:
        wait for events, timers or unfinished work
        look for a new table generation
        events: connections, listeners (a budget of accepts each), master, signals
        hand out due timers
        pump what used up its budget; free what ended
"""

from libc.errno cimport EINTR, ENOMEM, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from posix.signal cimport sigaddset, sigemptyset, sigset_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.types cimport pid_t, uid_t
from posix.unistd cimport getpid, getppid, read

from tcpmux.shm.c_live cimport (
    tm_count, tm_listening, tm_live_advance, tm_live_begin, tm_live_ending,
    tm_live_guardian_pid, tm_live_mend, tm_live_order, tm_live_rest, tm_live_set_descriptors,
    tm_live_set_ending, tm_live_set_heartbeat, tm_live_set_presence, TM_MAX_LINES,
    TM_ORDER_DRAIN, TM_ORDER_RETIRE, TM_OVER, TM_PRESENT, TM_REPLACED, TM_UNENDED,
)
from tcpmux.shm.c_table cimport TM_NONE, tm_table_busy_poll
from tcpmux.shm._commons cimport Commons
from tcpmux.shm._live cimport Live
from tcpmux.shm._table cimport Table
from tcpmux.worker._listeners cimport (
    claim_listeners, listener_event, maybe_resume, remove_listener, serve_leaving, sync_listeners,
)
from tcpmux.worker._master_line cimport (
    begin_watching, channel_event, claim_lines, look_at_table, takeover_event, tell_all,
    watch_again, watch_lines,
)
from tcpmux.worker._plane cimport (
    EPOLL_CLOEXEC, epoll_create1, epoll_ctl, EPOLL_CTL_ADD, epoll_event, EPOLLIN, SFD_CLOEXEC,
    SFD_NONBLOCK, signalfd, signalfd_siginfo, tm_channel_tell, tm_clone_sharing_descriptors,
    tm_connection_deadlines, tm_connection_event, tm_descriptors, tm_descriptors_claim,
    tm_descriptors_count, tm_descriptors_free, tm_descriptors_list, TM_EXPECT_ANY,
    tm_handoff_event, tm_handoff_quota, tm_handoff_recover, tm_handoff_some, TM_MESSAGE_FDS,
    TM_MESSAGE_STARTED, tm_outcome_end_all, tm_pipe_pool_destroy, tm_pipe_pool_init,
    tm_rate_allow, tm_record_free_dead, tm_recover_records, tm_relay_resume, tm_resume_all,
    TM_SHAPE_MOST_POWER, tm_slice_ask, TM_SLICE_NS, tm_sock_host_paces, tm_stall_look,
    tm_waiter_init, tm_waiter_wait, tm_wheel_init, tm_wheel_wait, tm_worker, tm_worker_use,
)
from tcpmux.worker._state cimport (
    ACCEPT_RETRY_MS, Loop, TAG_CHANNEL, TAG_LINES, TAG_LISTENERS, TAG_SIGNALS, TAG_TAKEOVER,
)

cdef extern from "<signal.h>" nogil:
    enum: SIGQUIT, SIGTERM

cdef extern from "<sys/wait.h>" nogil:
    enum: WNOHANG
    pid_t waitpid(pid_t pid, int *status, int options)

cdef enum:
    EVENTS = 256            # taken from the kernel at once
    COUNT_MS = 1000         # between two counts of open descriptors, while there is work
    GUARDED_MS = 250        # without a master: between two looks whether the guardian lives


# --- waiting ----------------------------------------------------------------------------------

cdef inline void look_at_clock(tm_worker *w) noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    w.now_us = <uint64_t>now.tv_sec * 1000000 + <uint64_t>now.tv_nsec // 1000
    w.now_ms = w.now_us // 1000


cdef int wait_time(Loop *loop, bint unfinished) noexcept nogil:
    """How long epoll may wait, ms; -1 = for ever."""
    cdef tm_worker *w = &loop.worker
    cdef int wait = tm_wheel_wait(&w.wheel, w.now_ms)
    cdef uint64_t look = w.stall.look_ms, now = w.now_ms
    if unfinished or loop.accepting.leaving or (look and (look <= now or w.stall.cursor)):
        return 0
    if look and (wait < 0 or <uint64_t>wait > look - now):
        wait = <int>(look - now)
    if (loop.accepting.paused or loop.unwatched or loop.unguarded or loop.master.cramped
            or w.live.orders & TM_ORDER_RETIRE) and (wait < 0 or wait > ACCEPT_RETRY_MS):
        return ACCEPT_RETRY_MS
    if w.live.channel < 0 and (wait < 0 or wait > GUARDED_MS):
        return GUARDED_MS
    return wait


# --- events -----------------------------------------------------------------------------------

cdef void signal_event(Loop *loop) noexcept nogil:
    """SIGQUIT: end now. SIGTERM: drain, but only without a master, which has DRAIN for it: a
    worker that went by itself would leave its shards to nobody."""
    cdef signalfd_siginfo info
    while read(loop.signals, &info, sizeof(info)) == sizeof(info):
        if info.ssi_signo == SIGQUIT:
            loop.quit = True
            continue
        channel_event(loop, True)  # its end may be waiting behind this signal
        if loop.worker.live.channel < 0:
            tm_live_order(loop.worker.live, loop.worker.live.orders | TM_ORDER_DRAIN)
            remove_listener(loop, 0, True)


cdef void dispatch(Loop *loop, const epoll_event *event) noexcept nogil:
    cdef uint32_t generation = <uint32_t>(event.data.u64 >> 32)
    cdef uint32_t low = <uint32_t>event.data.u64
    tm_live_advance(loop.worker.live)
    if generation:
        tm_connection_event(&loop.worker, low >> 1, generation, <int>(low & 1), event.events)
        return
    # A fault from here on is not that of the connection before.
    loop.worker.pump.journal.current = TM_NONE
    if low == TAG_CHANNEL:
        channel_event(loop, False)
    elif low == TAG_SIGNALS:
        signal_event(loop)
    elif low == TAG_TAKEOVER:
        takeover_event(loop)
    elif low < TAG_LISTENERS:
        tm_handoff_event(&loop.worker, &loop.handoffs, low - TAG_LINES)
    else:
        listener_event(loop, low - TAG_LISTENERS)


# --- the guardian -----------------------------------------------------------------------------

cdef bint is_guarded(Loop *loop) noexcept nogil:
    """Whether the guardian lives: the parent or, made by this worker, a child. There must never
    be two of them, as each would begin the next incarnation. One that was made a moment ago may not
    have written its pid down yet."""
    return (getppid() == tm_live_guardian_pid(loop.worker.live)
            or (loop.guardian > 0 and waitpid(loop.guardian, NULL, WNOHANG) == 0))


cdef void look_after_guardian(Loop *loop) noexcept nogil:
    """Without a master nobody tells this worker that its guardian has died. What the kernel says is
    asked first, so that a corrupt number in the region does not make another one."""
    if loop.worker.live.channel < 0 and loop.worker.now_ms >= loop.look_guarded_ms:
        loop.look_guarded_ms = loop.worker.now_ms + GUARDED_MS
        if getppid() != loop.parent:
            loop.unguarded = True
    if loop.unguarded or loop.to_be_replaced:
        loop.unguarded = not is_guarded(loop)


cdef bint make_guardian(Loop *loop) noexcept nogil:
    """True in the process that is to be the guardian."""
    cdef pid_t self = getpid()
    loop.guardian = tm_clone_sharing_descriptors()
    if loop.guardian == 0:
        loop.guards = self  # which may have ended by now: getppid() would be another
        return True
    loop.unguarded = loop.guardian < 0  # no memory for it: try again
    return False


# --- the loop ---------------------------------------------------------------------------------

cdef bint is_over(const Loop *loop) noexcept nogil:
    # While paused, queues that are to be served before the end may not have been.
    return loop.quit or (loop.worker.live.orders and loop.worker.connections == 0
                         and not loop.accepting.paused and not loop.accepting.leaving)


cdef bint hand_over(Loop *loop) noexcept nogil:
    """True if there is more to be given away now."""
    if loop.worker.live.orders & TM_ORDER_RETIRE:
        return tm_handoff_some(&loop.worker, &loop.handoffs)
    return loop.handoffs.has_quota and tm_handoff_quota(&loop.worker, &loop.handoffs)


cdef void publish(Loop *loop) noexcept nogil:
    """What others read of this worker that is not counted as it happens."""
    cdef tm_worker *w = &loop.worker
    if w.now_ms >= loop.count_fds_ms:
        loop.count_fds_ms = w.now_ms + COUNT_MS
        tm_live_set_descriptors(w.live, tm_descriptors_count())
    if w.pump.fallbacks:
        tm_count(&w.live.counters.pipe_fallbacks, w.pump.fallbacks)
        w.pump.fallbacks = 0
    w.live.pipes = w.pump.pool.open
    w.live.pipe_bytes = w.pump.pool.held


cdef void serve(Loop *loop, const epoll_event *events, int count) noexcept nogil:
    """One turn's events, and what they leave to be done."""
    cdef tm_worker *w = &loop.worker
    cdef int i
    for i in range(count):
        dispatch(loop, &events[i])
    # After the events: one of them may be what a deadline waits for, and a timed-out connect
    # is tried again under the same tag, which no event of this batch may meet.
    tm_connection_deadlines(w)
    tm_relay_resume(w)
    if w.stall.look_ms and w.now_ms >= w.stall.look_ms:
        tm_stall_look(w)
    tm_record_free_dead(w)
    w.pump.journal.current = TM_NONE
    if loop.accepting.leaving:
        serve_leaving(loop)
    maybe_resume(loop)
    if loop.unwatched:
        watch_again(loop)


cdef int run_loop(Loop *loop) noexcept nogil:
    """Until told to stop. 0, or -errno when epoll itself fails."""
    cdef tm_worker *w = &loop.worker
    cdef epoll_event events[EVENTS]
    cdef bint unfinished = w.ready != TM_NONE
    cdef int count
    while not is_over(loop):
        w.pump.journal.current = TM_NONE
        tm_live_rest(w.live)
        count = tm_waiter_wait(
            &loop.waiter, w.epoll, events, EVENTS, wait_time(loop, unfinished),
            tm_table_busy_poll(w.table), w.expecting)
        look_at_clock(w)
        tm_live_set_heartbeat(w.live, w.now_ms)
        if count < 0 and errno != EINTR:
            return -errno
        tm_count(&w.live.counters.wakeups, 1)
        look_at_table(loop)
        serve(loop, events, count)
        look_after_guardian(loop)
        if loop.unguarded and make_guardian(loop):
            return 0
        # With nobody to hold its descriptors, its end would be that of its connections.
        if loop.to_be_replaced and not loop.unguarded:
            tm_live_set_ending(w.live, TM_REPLACED)
            loop.quit = True
        unfinished = hand_over(loop)
        unfinished |= w.ready != TM_NONE
        tell_all(loop)
        publish(loop)
    if tm_live_ending(w.live) == TM_UNENDED:
        tm_outcome_end_all(w)
        tm_pipe_pool_destroy(&w.pump.pool)
        tm_live_set_ending(w.live, TM_OVER)
    return 0


# --- the start of an incarnation ------------------------------------------------------------

cdef int claim_own(Loop *loop, tm_descriptors *all, const int *kept, uint32_t count) noexcept nogil:
    """What this worker holds besides connections. -ENOMEM when that can't be found out."""
    cdef uint32_t i
    if tm_descriptors_list(all) < 0:
        return -ENOMEM
    for i in range(count):
        tm_descriptors_claim(all, kept[i])
    claim_lines(loop, all)
    claim_listeners(loop, all)
    return 0


cdef void make_parts(Loop *loop, uint32_t pipes) noexcept nogil:
    cdef tm_worker *w = &loop.worker
    tm_live_mend(w.live, w.commons, w.id, w.capacity)
    look_at_clock(w)
    tm_rate_allow(w, TM_SHAPE_MOST_POWER)
    w.pump.buffer = w.live.buffer
    w.pump.journal = &w.live.journal
    tm_pipe_pool_init(&w.pump.pool, pipes)
    tm_wheel_init(&w.wheel, w.now_ms)
    tm_waiter_init(&loop.waiter)
    w.random = w.now_us * <uint64_t>0x9e3779b97f4a7c15 + w.id + 1
    w.expecting = TM_EXPECT_ANY


cdef int open_epoll(Loop *loop) noexcept nogil:
    """With the signals in it. 0 or -errno."""
    cdef epoll_event event
    cdef sigset_t watched
    loop.worker.epoll = epoll_create1(EPOLL_CLOEXEC)
    # The guardian blocked both, so none has been missed.
    sigemptyset(&watched)
    sigaddset(&watched, SIGTERM)
    sigaddset(&watched, SIGQUIT)
    loop.signals = signalfd(-1, &watched, SFD_NONBLOCK | SFD_CLOEXEC)
    event.events = EPOLLIN
    event.data.u64 = TAG_SIGNALS
    if loop.worker.epoll < 0 or loop.signals < 0 or epoll_ctl(
            loop.worker.epoll, EPOLL_CTL_ADD, loop.signals, &event) < 0:
        return -errno
    return 0


cdef int begin(Loop *loop, uint32_t pipes, const int *kept, uint32_t kept_count) noexcept nogil:
    """Takes up the work. 0 or -errno."""
    cdef tm_worker *w = &loop.worker
    cdef tm_descriptors all
    cdef int error
    loop.parent = getppid()
    make_parts(loop, pipes)
    if claim_own(loop, &all, kept, kept_count) < 0:
        return -ENOMEM
    # From here on the table's image is in use and this worker counts as started.
    tm_live_set_ending(w.live, TM_UNENDED)
    tm_live_begin(w.live, getpid())
    w.paced = tm_sock_host_paces()
    look_at_table(loop)
    tm_recover_records(w, &all)
    tm_descriptors_free(&all)
    error = open_epoll(loop)
    if error == 0 and begin_watching(loop) < 0:
        error = -errno
    if error < 0:
        return error
    tm_resume_all(w)
    watch_lines(loop)
    tm_handoff_recover(w)
    sync_listeners(loop)
    serve_leaving(loop)
    tm_channel_tell(w.live.channel, TM_MESSAGE_STARTED, 0, w.connections)
    tm_live_set_presence(w.live, TM_PRESENT)
    return 0


# --- for Python -------------------------------------------------------------------------------

def adopt(Live live not None, int channel, listeners):
    """Writes down, before the first incarnation of a worker, what it holds from then on.

    channel: this worker's end of the line to the master. listeners: (id, shard, descriptor,
    shared) for each listening socket.
    """
    cdef tm_listening *listener
    cdef uint32_t count = 0
    live.live().channel = channel
    for listener_id, shard, fd, shared in listeners:
        listener = &live.live().listening[count]
        listener.id, listener.shard, listener.fd, listener.shared = listener_id, shard, fd, shared
        listener.leaving = listener.polled = False
        count += 1
    live.live().listening_count = count
    for line in range(TM_MAX_LINES):
        live.live().lines[line] = -1
    live.live().gives_to = 0


def run(int worker, Table table not None, Commons commons not None, Live live not None,
        kept, offered, int takeover, uid_t owner, uint32_t pipes):
    """Relays until told to stop; the live region says how it ended.

    Returns 0, or in another process, a copy of this one, the pid of the worker that made it to
    be its guardian.

    kept: descriptors that are always there besides those in the live region. offered: those
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
    assert len(offered) <= TM_MESSAGE_FDS
    try:
        loop.worker.id = worker
        loop.worker.table = table.table()
        loop.worker.commons = commons.commons()
        tm_worker_use(&loop.worker, live.live(), live.capacity)
        loop.master.takeover = takeover
        loop.master.owner = owner
        loop.master.offered_count = len(offered)
        for i, fd in enumerate(offered):
            loop.master.offered[i] = fd
        for i, fd in enumerate(kept):
            fds[i] = fd
        tm_slice_ask(TM_SLICE_NS)  # a wish: what comes of it, the kernel decides
        with nogil:
            result = begin(loop, pipes, fds, count)
            if result == 0:
                result = run_loop(loop)
        guards = loop.guards
    finally:
        free(fds)
        free(loop.worker.stall.looked)
        free(loop)
    if result < 0:
        raise OSError(-result, "the worker's loop failed")
    return guards
