"""The C mechanism by which one process watches over another: csrc/watch.h."""

from libc.stdint cimport uint32_t, uint64_t
from posix.types cimport pid_t


cdef extern from "watch.h" nogil:
    enum tm_verdict: TM_AT_WORK, TM_SEEN_STOPPED, TM_SEEN_HANGING
    struct tm_watch_limits:
        uint32_t tick_ms, busy_ms, blocked_ms, grace_ms
    struct tm_watch_sample:
        uint64_t now_ms, step, cpu_us
        bint resting, stopped, runnable
    struct tm_watch:
        uint64_t cpu_us, step_cpu_us
        bint overdue
    void tm_watch_begin(tm_watch *watch, const tm_watch_sample *sample)
    tm_verdict tm_watch_assess(tm_watch *watch, const tm_watch_limits *limits,
                              const tm_watch_sample *sample)
    bint tm_watch_wonders(const tm_watch *watch, const tm_watch_sample *sample)
    uint64_t tm_process_cpu_us(pid_t pid, uint64_t otherwise)
    char tm_process_state(pid_t pid)
