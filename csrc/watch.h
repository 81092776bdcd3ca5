/* Watching another process for progress. Runs in a guardian (over its worker) and in the master
 * (over control and the log process).
 *
 * The watched process counts its steps in shared memory. A period without a step is not judged by
 * wall-clock time alone, which says nothing on a machine with too few CPUs:
 *
 *   stopped  by a signal or a debugger
 *   busy     it has used `busy_ms` of CPU time since its last step: an endless loop
 *   blocked  in every check for `blocked_ms` it neither used CPU time nor waited for a CPU: it
 *            is blocked in the kernel
 *
 * A process that waits for a CPU, for however long, is none of these. After `grace_ms` in any of
 * them it may be killed; one that is busy, after as much CPU time, so that it is not killed for
 * getting little. Time in which the watching process itself did not run is not counted.
 */
#ifndef TM_WATCH_H
#define TM_WATCH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum tm_verdict { TM_AT_WORK = 0, TM_SEEN_STOPPED, TM_SEEN_HANGING };

struct tm_watch_limits {
    uint32_t tick_ms; /* between two looks */
    uint32_t busy_ms;
    uint32_t blocked_ms;
    uint32_t grace_ms;
};

/* What one look at it has shown. */
struct tm_watch_sample {
    uint64_t now_ms;  /* monotonic */
    uint64_t step;    /* its count of steps: any other value than before is a step */
    uint64_t cpu_us;  /* CPU time it has had */
    bool resting;     /* it waits for others, as it should */
    bool stopped;
    bool runnable;    /* running, or waiting for a CPU */
};

struct tm_watch {
    uint64_t looked_ms;  /* last look */
    uint64_t step;
    uint64_t cpu_us;     /* at the last look, */
    uint64_t step_cpu_us; /* and at the last step */
    uint64_t moved_ms;   /* when it last had CPU time, wanted some, or rested */
    uint64_t since_ms;   /* when it was first seen stopped or hanging; 0 = it is at work */
    bool overdue;        /* it may be killed: see above */
};

/* What a program that the master has started writes down for it, in memory that only the two of
 * them have. Who writes it may be in strangers' hands: any change of `steps` is a step, and nothing
 * else is read into it. */
struct tm_beat {
    _Atomic uint64_t steps;
    _Atomic uint64_t told; /* by the log process: lines dropped of which its log has told */
};

static inline void tm_beat_step(struct tm_beat *beat)
{
    atomic_fetch_add_explicit(&beat->steps, 1, memory_order_relaxed);
}

static inline uint64_t tm_beat_steps(const struct tm_beat *beat)
{
    return atomic_load_explicit(&beat->steps, memory_order_relaxed);
}

static inline void tm_beat_tell(struct tm_beat *beat, uint64_t told)
{
    atomic_store_explicit(&beat->told, told, memory_order_relaxed);
}

static inline uint64_t tm_beat_told(const struct tm_beat *beat)
{
    return atomic_load_explicit(&beat->told, memory_order_relaxed);
}

/* Begins with what a first look has shown. */
void tm_watch_begin(struct tm_watch *watch, const struct tm_watch_sample *sample);

/* One more look. The sample's `runnable` matters only when tm_watch_wonders() about the rest of
 * it. */
enum tm_verdict tm_watch_assess(struct tm_watch *watch, const struct tm_watch_limits *limits,
                               const struct tm_watch_sample *sample);

/* Whether it has neither made a step nor had CPU time since the last look, and does not rest. */
bool tm_watch_wonders(const struct tm_watch *watch, const struct tm_watch_sample *sample);

/* CPU time of a process, us; `otherwise` if the kernel does not say. Opens no descriptor. */
uint64_t tm_process_cpu_us(pid_t pid, uint64_t otherwise);

/* Its state as in proc_pid_stat(5): R, S, D, T ...; 0 if /proc does not say. */
char tm_process_state(pid_t pid);

#endif
