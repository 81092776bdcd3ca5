/* Watching another process for progress: watch.h */
#include "watch.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

void tm_watch_begin(struct tm_watch *watch, const struct tm_watch_sample *sample)
{
    *watch = (struct tm_watch){
        .looked_ms = sample->now_ms,
        .step = sample->step,
        .cpu_us = sample->cpu_us,
        .step_cpu_us = sample->cpu_us,
        .moved_ms = sample->now_ms,
    };
}

/* The watching process has not run for a while, and maybe the machine has not. */
static void leave_out_pause(struct tm_watch *watch, uint32_t tick_ms, uint64_t now_ms)
{
    uint64_t pause = now_ms - watch->looked_ms;
    if (pause <= 2 * (uint64_t)tick_ms)
        return;
    watch->moved_ms += pause - tick_ms;
    if (watch->since_ms)
        watch->since_ms += pause - tick_ms;
}

bool tm_watch_wonders(const struct tm_watch *watch, const struct tm_watch_sample *sample)
{
    return !sample->resting && sample->step == watch->step && sample->cpu_us == watch->cpu_us;
}

enum tm_verdict tm_watch_assess(struct tm_watch *watch, const struct tm_watch_limits *limits,
                               const struct tm_watch_sample *sample)
{
    leave_out_pause(watch, limits->tick_ms, sample->now_ms);
    if (sample->resting || sample->step != watch->step)
        watch->step_cpu_us = sample->cpu_us;
    if (!tm_watch_wonders(watch, sample) || sample->runnable)
        watch->moved_ms = sample->now_ms;
    watch->step = sample->step;
    watch->cpu_us = sample->cpu_us;
    watch->looked_ms = sample->now_ms;
    bool busy = sample->cpu_us - watch->step_cpu_us >= 1000 * (uint64_t)limits->busy_ms;
    bool blocked = sample->now_ms - watch->moved_ms >= limits->blocked_ms;
    if (!sample->stopped && !busy && !blocked) {
        watch->since_ms = 0;
        watch->overdue = false;
        return TM_AT_WORK;
    }
    if (watch->since_ms == 0)
        watch->since_ms = sample->now_ms;
    bool circles = busy && !blocked && !sample->stopped; /* if it gets CPU time, or if it will */
    watch->overdue = circles ? sample->cpu_us - watch->step_cpu_us >=
                                   1000 * ((uint64_t)limits->busy_ms + limits->grace_ms)
                             : sample->now_ms - watch->since_ms >= limits->grace_ms;
    return sample->stopped ? TM_SEEN_STOPPED : TM_SEEN_HANGING;
}

uint64_t tm_process_cpu_us(pid_t pid, uint64_t otherwise)
{
    clockid_t clock;
    struct timespec used;
    if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &used) != 0)
        return otherwise;
    return (uint64_t)used.tv_sec * 1000000 + (uint64_t)used.tv_nsec / 1000;
}

char tm_process_state(pid_t pid)
{
    char text[128];
    (void)snprintf(text, sizeof(text), "/proc/%d/stat", (int)pid);
    int fd = open(text, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t size = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (size <= 0)
        return 0;
    text[size] = 0;
    const char *end = strrchr(text, ')'); /* of its name, which may have any character in it */
    if (end == NULL || end[1] != ' ')
        return 0;
    return end[2];
}
