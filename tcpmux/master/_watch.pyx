# cython: language_level=3
"""csrc/watch.h for Python: what one process sees of another, and what it makes of that."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset
from posix.types cimport pid_t

from tcpmux.shm._declared import HANGING, PRESENT, STOPPED
from tcpmux.worker._watch cimport (
    TM_AT_WORK, tm_process_cpu_us, tm_process_state, TM_SEEN_STOPPED, tm_verdict, tm_watch,
    tm_watch_begin, tm_watch_assess, tm_watch_limits, tm_watch_sample, tm_watch_wonders,
)


def process_cpu_us(pid_t pid, uint64_t otherwise):
    """CPU time of a process, us; `otherwise` if the kernel does not say."""
    return tm_process_cpu_us(pid, otherwise)


def process_state(pid_t pid):
    """Its state as in proc_pid_stat(5): R, S, D, T ...; "" if /proc does not say."""
    cdef char state = tm_process_state(pid)
    return chr(state) if state else ""


cdef class Watch:
    """Over one process that never rests for long: it has to make steps. Begins with what a first
    look has shown; times as in watch.h."""

    cdef tm_watch state
    cdef tm_watch_sample taken

    def __init__(self, uint64_t now_ms, uint64_t steps, uint64_t cpu_us):
        memset(&self.taken, 0, sizeof(self.taken))
        self.taken.now_ms, self.taken.step, self.taken.cpu_us = now_ms, steps, cpu_us
        tm_watch_begin(&self.state, &self.taken)

    def check(self, uint64_t now_ms, uint64_t steps, uint64_t cpu_us, str process_state):
        """One more. Returns whether it has neither made a step nor had CPU time since the last;
        assess() comes next."""
        self.taken.now_ms, self.taken.step, self.taken.cpu_us = now_ms, steps, cpu_us
        self.taken.runnable = process_state == "R"
        self.taken.stopped = False
        return bool(tm_watch_wonders(&self.state, &self.taken))

    def assess(self, bint stopped, uint32_t tick_ms, uint32_t busy_ms, uint32_t blocked_ms,
              uint32_t grace_ms):
        """PRESENT, STOPPED or HANGING. stopped: what the state of the process means."""
        cdef tm_watch_limits limits
        limits.tick_ms, limits.busy_ms = tick_ms, busy_ms
        limits.blocked_ms, limits.grace_ms = blocked_ms, grace_ms
        self.taken.stopped = stopped
        cdef tm_verdict verdict = tm_watch_assess(&self.state, &limits, &self.taken)
        if verdict == TM_AT_WORK:
            return PRESENT
        return STOPPED if verdict == TM_SEEN_STOPPED else HANGING

    @property
    def overdue(self):
        """Whether it has been what assess() said for grace_ms."""
        return self.state.overdue

    @property
    def circling_us(self):
        """CPU time that it has had since its last step."""
        return self.state.cpu_us - self.state.step_cpu_us
