# cython: language_level=3
"""What a guardian does that Python can't: a child that shares its descriptors, and a watch
over it. Runs in the guardian, which does little else, so that nothing in it can go wrong.
"""

from libc.errno cimport errno
from libc.stdint cimport int32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memset, strrchr
from posix.signal cimport kill, sigaddset, sigemptyset, sigset_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.types cimport pid_t
from posix.unistd cimport close, read

from tcpmux.shm._layout cimport (
    TM_ABSENT, TM_HANGING, tm_live, tm_live_awake, tm_live_heartbeat, tm_live_presence,
    tm_live_set_presence, TM_PRESENT, TM_STOPPED,
)
from tcpmux.shm._shm cimport Live
from tcpmux.worker._mechanism cimport TM_MESSAGE_PRESENCE, tm_channel_send, tm_message

cdef extern from *:
    """
    #include <signal.h>
    #include <sys/prctl.h>
    #include <sys/wait.h>
    #include "sharing.h"
    """
    pid_t tm_clone_sharing_descriptors() nogil
    int sigtimedwait(const sigset_t *signals, void *info, const timespec *timeout) nogil
    int sigprocmask(int how, const sigset_t *signals, sigset_t *old) nogil
    pid_t waitpid(pid_t pid, int *status, int options) nogil
    bint WIFSTOPPED(int status) nogil
    bint WIFCONTINUED(int status) nogil
    int prctl(int option, unsigned long first) nogil
    enum: PR_SET_CHILD_SUBREAPER
    enum: SIG_BLOCK, SIGCHLD, SIGKILL, WCONTINUED, WNOHANG, WUNTRACED

cdef extern from "<sys/syscall.h>" nogil:
    enum: SYS_pidfd_open
    long syscall(long number, ...)

cdef extern from "<fcntl.h>" nogil:
    enum: O_CLOEXEC, O_RDONLY
    int open_file "open" (const char *path, int flags, ...)

cdef extern from "<poll.h>" nogil:
    cdef struct pollfd:
        int fd
        short events
    enum: POLLIN
    int poll(pollfd *fds, unsigned long count, int timeout)

cdef extern from "Python.h":
    void PyOS_BeforeFork()
    void PyOS_AfterFork_Child()
    void PyOS_AfterFork_Parent()

cdef enum:
    TICK_MS = 25       # between two looks at the heartbeat
    HANGING_MS = 75    # without a turn of its loop; a full one takes about 50
    PATIENCE_MS = 2000 # stopped or hanging for longer, it is killed


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


cdef void note_presence(tm_live *live, int presence) noexcept nogil:
    cdef tm_message message
    if <int>tm_live_presence(live) == presence:
        return
    tm_live_set_presence(live, presence)
    if live.channel >= 0:
        memset(&message, 0, sizeof(message))
        message.type = TM_MESSAGE_PRESENCE
        message.value = <uint64_t>presence
        tm_channel_send(live.channel, &message)


cdef struct Watch:
    tm_live *live
    pid_t pid
    bint is_child       # else it is only known by its pid
    bint stopped
    bint killed         # by this guardian, for hanging
    uint64_t started_ms
    uint64_t looked_ms  # last look at it
    uint64_t since_ms   # when it was first seen stopped or hanging; 0 = all is well


cdef bint has_ended(pid_t pid) noexcept nogil:
    """Also of one that nobody has reaped. The descriptor is there for a moment only: in the table
    that is shared with the worker nothing may be that neither of them knows about."""
    cdef pollfd ended
    cdef bint over
    ended.fd = <int>syscall(SYS_pidfd_open, pid, 0)
    if ended.fd < 0:
        return kill(pid, 0) < 0
    ended.events = POLLIN
    over = poll(&ended, 1, 0) == 1
    close(ended.fd)
    return over


cdef bint is_stopped(pid_t pid) noexcept nogil:
    """By a signal. Of a process that is no child only /proc tells (proc_pid_stat(5)); it does not
    if it is not mounted."""
    cdef char text[64]
    cdef char *end
    cdef ssize_t size
    cdef int fd
    snprintf(text, sizeof(text), "/proc/%d/stat", <int>pid)
    fd = open_file(text, O_RDONLY | O_CLOEXEC)
    if fd < 0:
        return False
    size = read(fd, text, sizeof(text) - 1)
    close(fd)
    if size <= 0:
        return False
    text[size] = 0
    end = strrchr(text, c")")  # its name, which may have any character in it
    return end != NULL and end[1] == c" " and (end[2] == c"T" or end[2] == c"t")


cdef bint look(Watch *watch, int *status) noexcept nogil:
    """True: it has ended."""
    cdef pid_t got
    if not watch.is_child:
        status[0] = 0
        watch.stopped = is_stopped(watch.pid)
        return has_ended(watch.pid)
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


cdef void judge(Watch *watch) noexcept nogil:
    """Is it at work? Says so when that changes, and ends it when it has not been for long."""
    cdef uint64_t now = monotonic_ms()
    cdef bint slept = watch.looked_ms + HANGING_MS < now
    cdef uint64_t heartbeat = tm_live_heartbeat(watch.live)
    cdef bint hanging
    if tm_live_presence(watch.live) == TM_ABSENT:  # has not taken up its work yet
        hanging = watch.started_ms + PATIENCE_MS < now
    else:
        hanging = tm_live_awake(watch.live) and heartbeat + HANGING_MS < now
    watch.looked_ms = now
    if slept:
        # This process has not run either: the machine stood still, and the worker with it.
        watch.since_ms = 0
        return
    if not watch.stopped and not hanging:
        watch.since_ms = 0
        if tm_live_presence(watch.live) != TM_ABSENT:
            note_presence(watch.live, TM_PRESENT)
        return
    if watch.since_ms == 0:
        watch.since_ms = now
    note_presence(watch.live, TM_STOPPED if watch.stopped else TM_HANGING)
    if now - watch.since_ms > PATIENCE_MS and not watch.killed:
        watch.killed = not watch.stopped
        kill(watch.pid, SIGKILL)


def hold_signals():
    """Keeps the end of a child for wait_for_end() to be told of."""
    cdef sigset_t signals
    sigemptyset(&signals)
    sigaddset(&signals, SIGCHLD)
    sigprocmask(SIG_BLOCK, &signals, NULL)


def wait_for_end(Live live not None, int32_t pid, bint is_child):
    """Watches over the worker `pid` until it ends; (wait status, killed for hanging).

    One that hangs or is stopped for PATIENCE_MS is killed. is_child: of this process; if it
    is not, the status is 0.
    """
    cdef Watch watch
    cdef sigset_t signals
    cdef timespec tick
    cdef int status = 0
    watch.live = live.live()
    watch.pid = pid
    watch.is_child = is_child
    watch.stopped = watch.killed = False
    watch.since_ms = 0
    watch.started_ms = watch.looked_ms = monotonic_ms()
    tick.tv_sec = 0
    tick.tv_nsec = TICK_MS * 1000000
    sigemptyset(&signals)
    sigaddset(&signals, SIGCHLD)
    with nogil:
        while not look(&watch, &status):
            judge(&watch)
            sigtimedwait(&signals, NULL, &tick)
    return status, watch.killed
