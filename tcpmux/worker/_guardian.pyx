# cython: language_level=3
"""What a guardian does that Python can't: a child that shares its descriptors, and a watch
over it. Runs in the guardian, which does little else, so that nothing in it can go wrong.
"""

from libc.errno cimport errno
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from posix.signal cimport kill, sigaddset, sigemptyset, sigset_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.types cimport pid_t
from posix.unistd cimport close, getpid, getppid

from tcpmux.shm.c_live cimport (
    TM_ABSENT, TM_HANGING, tm_live, tm_live_awake, tm_live_masters, tm_live_presence,
    tm_live_progress, tm_live_set_presence, TM_PRESENT, TM_STOPPED,
)
from tcpmux.shm._live cimport Live
from tcpmux.worker._plane cimport (
    tm_channel_tell, tm_clone_sharing_descriptors, tm_is_line, TM_MESSAGE_GUARD,
    TM_MESSAGE_PRESENCE, tm_message_type,
)
from tcpmux.worker._watch cimport (
    TM_AT_WORK, tm_process_cpu_us, tm_process_state, TM_SEEN_HANGING, TM_SEEN_STOPPED,
    tm_verdict, tm_watch, tm_watch_begin, tm_watch_assess, tm_watch_limits, tm_watch_sample,
    tm_watch_wonders,
)

cdef extern from *:
    """
    #include <signal.h>
    #include <sys/prctl.h>
    #include <sys/wait.h>
    """
    int sigtimedwait(const sigset_t *signals, void *info, const timespec *timeout) nogil
    int sigprocmask(int how, const sigset_t *signals, sigset_t *old) nogil
    pid_t waitpid(pid_t pid, int *status, int options) nogil
    bint WIFSTOPPED(int status) nogil
    bint WIFCONTINUED(int status) nogil
    int prctl(int option, unsigned long first) nogil
    enum: PR_SET_CHILD_SUBREAPER
    enum: SIG_BLOCK, SIGCHLD, SIGKILL, WCONTINUED, WNOHANG, WUNTRACED

cdef extern from "<sys/syscall.h>" nogil:
    enum: SYS_pidfd_open, SYS_pidfd_send_signal
    long syscall(long number, ...)

cdef extern from "Python.h":
    void PyOS_BeforeFork()
    void PyOS_AfterFork_Child()
    void PyOS_AfterFork_Parent()

cdef enum:
    TICK_MS = 25       # between two looks at its progress
    HANGING_MS = 75    # at one event: of CPU time, or blocked; watch.h
    GRACE_MS = 2000 # stopped or hanging for longer, it is killed; also to take up its work


def spawn():
    """As os.fork(), but the child shares this process's table of descriptors. Raises OSError."""
    PyOS_BeforeFork()
    cdef pid_t pid = tm_clone_sharing_descriptors()
    cdef int error = errno
    if pid == 0:
        PyOS_AfterFork_Child()
        return 0
    PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(error, "can't start the worker")
    return pid


def adopt_orphans():
    """Processes below this one whose parent dies become its children (prctl(2)): a worker whose
    guardian was killed is not left to init."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


cdef uint64_t monotonic_ms() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000 + <uint64_t>now.tv_nsec // 1000000


cdef bint tell(tm_live *live, tm_message_type kind, uint64_t value) noexcept nogil:
    """Whether the message was sent. A corrupt descriptor number may be that of a client's socket,
    which must not get it."""
    cdef int channel = live.channel
    return tm_is_line(channel) and tm_channel_tell(channel, kind, 0, value)


def tell_master(Live live not None, uint32_t kind, uint64_t value):
    """Sends a message (tcpmux.worker.process has the kinds) to the master, if there is one."""
    tell(live.live(), <tm_message_type>kind, value)


cdef void note_presence(tm_live *live, int presence) noexcept nogil:
    if <int>tm_live_presence(live) == presence:
        return
    tm_live_set_presence(live, presence)
    tell(live, TM_MESSAGE_PRESENCE, <uint64_t>presence)


# The number of the master that has been told who guards, as tm_live_masters(). -1 = none.
cdef int64_t greeted = -1


cdef void greet(tm_live *live) noexcept nogil:
    """Tells a master that does not know yet that this process is the guardian. The kernel tells
    it who that is."""
    global greeted
    cdef int64_t masters = tm_live_masters(live)
    if greeted != masters and tell(live, TM_MESSAGE_GUARD, <uint64_t>getpid()):
        greeted = masters


cdef struct Watch:
    tm_live *live
    tm_watch state
    pid_t pid
    bint is_child       # else it is the parent, and has made this process
    bint stopped
    bint killed         # by this guardian, for hanging
    bint began          # it has taken up its work


cdef void end_parent(pid_t pid) noexcept nogil:
    """Kills the worker that made this process. A parent that ends is followed by another at once,
    so while it is the parent its number is its own; and the descriptor, got before that is asked,
    can mean nobody else afterwards. It is there for a moment only: in the table that is shared
    with the worker nothing may be that neither of them knows about."""
    cdef int pidfd = <int>syscall(SYS_pidfd_open, pid, 0)
    if getppid() == pid:
        if pidfd >= 0:
            syscall(SYS_pidfd_send_signal, pidfd, <int>SIGKILL, NULL, 0)
        else:  # not permitted in some containers
            kill(pid, SIGKILL)
    if pidfd >= 0:
        close(pidfd)


cdef bint is_stopped_state(char state) noexcept nogil:
    return state == c"T" or state == c"t"


cdef bint look(Watch *watch, int *status) noexcept nogil:
    """True: it has ended."""
    cdef pid_t got
    if not watch.is_child:
        status[0] = 0
        watch.stopped = is_stopped_state(tm_process_state(watch.pid))
        return getppid() != watch.pid
    got = waitpid(watch.pid, status, WNOHANG | WUNTRACED | WCONTINUED)
    while got == watch.pid:
        if WIFSTOPPED(status[0]):
            watch.stopped = True
        elif WIFCONTINUED(status[0]):
            watch.stopped = False
        else:
            return True
        got = waitpid(watch.pid, status, WNOHANG | WUNTRACED | WCONTINUED)
    return False


cdef void sample(const Watch *watch, tm_watch_sample *taken) noexcept nogil:
    taken.now_ms = monotonic_ms()
    taken.step = tm_live_progress(watch.live)
    taken.cpu_us = tm_process_cpu_us(watch.pid, taken.now_ms * 1000)
    taken.stopped = watch.stopped
    taken.runnable = False
    taken.resting = tm_live_presence(watch.live) != TM_ABSENT and not tm_live_awake(watch.live)


cdef void assess(Watch *watch) noexcept nogil:
    """Is it at work? Says so when that changes, and ends it when it has not been for long."""
    cdef tm_watch_limits limits
    cdef tm_watch_sample taken
    cdef tm_verdict verdict
    cdef char state
    cdef bint absent = tm_live_presence(watch.live) == TM_ABSENT  # has not taken up its work yet
    watch.began |= tm_live_presence(watch.live) == TM_PRESENT
    limits.tick_ms = TICK_MS
    limits.busy_ms = limits.blocked_ms = GRACE_MS if absent else HANGING_MS
    limits.grace_ms = GRACE_MS
    sample(watch, &taken)
    # Not before it has looked its descriptors over: one of ours would be a stranger there.
    if not absent and tm_watch_wonders(&watch.state, &taken):
        state = tm_process_state(watch.pid)
        taken.runnable = state == c"R"
        if not state:  # there is no descriptor left to look with, say
            limits.blocked_ms = GRACE_MS
    verdict = tm_watch_assess(&watch.state, &limits, &taken)
    if verdict == TM_AT_WORK:
        if not absent:
            note_presence(watch.live, TM_PRESENT)
        return
    note_presence(watch.live, TM_STOPPED if verdict == TM_SEEN_STOPPED else TM_HANGING)
    if watch.state.overdue and not watch.killed:
        watch.killed = verdict == TM_SEEN_HANGING
        if watch.is_child:
            kill(watch.pid, SIGKILL)  # not reaped yet, so the number is its own
        else:
            end_parent(watch.pid)


def begin():
    """First of all, in each process that becomes a guardian. Keeps the end of a child for
    wait_for_end() to be told of."""
    global greeted
    cdef sigset_t signals
    # What has been copied from the guardian before it, by way of the worker, is what that one told.
    greeted = -1
    sigemptyset(&signals)
    sigaddset(&signals, SIGCHLD)
    sigprocmask(SIG_BLOCK, &signals, NULL)


def wait_for_end(Live live not None, int32_t pid, bint is_child):
    """Watches over the worker `pid` until it ends; (wait status, killed for hanging, whether it
    had taken up its work).

    One that hangs or is stopped for GRACE_MS is killed. is_child: of this process; if it
    is not, it is the parent, and the status is 0.
    """
    cdef Watch watch
    cdef tm_watch_sample begun
    cdef sigset_t signals
    cdef timespec tick
    cdef int status = 0
    watch.live = live.live()
    watch.pid = pid
    watch.is_child = is_child
    watch.stopped = watch.killed = watch.began = False
    sample(&watch, &begun)
    tm_watch_begin(&watch.state, &begun)
    tick.tv_sec = 0
    tick.tv_nsec = TICK_MS * 1000000
    sigemptyset(&signals)
    sigaddset(&signals, SIGCHLD)
    with nogil:
        greet(watch.live)
        while not look(&watch, &status):
            greet(watch.live)
            assess(&watch)
            sigtimedwait(&signals, NULL, &tick)
    return status, watch.killed, bool(
        watch.began or tm_live_presence(watch.live) == TM_PRESENT)
