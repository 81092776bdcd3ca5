/* A pump that dies, and what of it survives: for test_pump_recover.c and test_pump_skip.c. Test
 * programs only. */
#ifndef TM_TEST_PUMP_DEATHS_H
#define TM_TEST_PUMP_DEATHS_H

#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <ucontext.h>

#include "kernel_count.h"
#include "pump_rig.h"

#define EVERYTHING (UINT64_C(1) << 40)

/* What survives: in the proxy it is in shared memory. */
struct shared {
    struct tm_half half;
    struct tm_journal journal;
    struct tm_talk talk;
    unsigned char buffer[BUFFER_SIZE];
    uint64_t instructions; /* made by a child that is to be cut off */
};

static inline struct shared *share(struct rig *rig)
{
    struct shared *shared =
        mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    shared->half = rig->half;
    rig->pump.journal = &shared->journal;
    free(rig->pump.buffer);
    rig->pump.buffer = shared->buffer;
    tm_journal_note(&shared->journal, TM_NOTHING);
    return shared;
}

static inline void unshare_all(struct rig *rig, struct shared *shared)
{
    rig->half = shared->half;
    rig->pump.journal = &rig->journal;
    rig->pump.buffer = malloc(1);
    CHECK(munmap(shared, sizeof(*shared)) == 0);
}

static inline void pump_once(struct rig *rig, struct tm_half *half, bool hung_up)
{
    enum tm_pump_result result =
        tm_pump_run(&rig->pump, half, rig->source, rig->destination, hung_up);
    CHECK(result == TM_PUMP_DRAINED || result == TM_PUMP_BLOCKED || result == TM_PUMP_YIELD);
}

/* A header of ours that goes ahead of the first bytes. */
enum { AHEAD = 300 };

static inline unsigned char ahead_at(int place)
{
    return (unsigned char)(place * 7 + 1);
}

static inline void make_ahead(unsigned char *bytes)
{
    for (int i = 0; i < AHEAD; i++)
        bytes[i] = ahead_at(i);
}

static inline void check_ahead(struct rig *rig)
{
    unsigned char got[AHEAD];
    wait_readable_bytes(rig->server, AHEAD);
    CHECK_EQUAL(recv(rig->server, got, AHEAD, 0), AHEAD);
    for (int i = 0; i < AHEAD; i++)
        CHECK_EQUAL(got[i], ahead_at(i));
}

/* The child works with a pipe that the parent has as well: with its only half it gives that
 * one back to its pool, and takes it from there again. */
static inline void lend_pipe(struct rig *rig, struct shared *shared, uint32_t pipes)
{
    if (pipes && shared->half.pipe.in < 0)
        CHECK(tm_pipe_take(&rig->pump.pool, &shared->half.pipe));
}

#ifdef __x86_64__
enum { TRAP_FLAG = 1 << 8 }; /* of the processor: a signal after each instruction */

static struct { uint64_t *made, until; volatile bool done; } stepping;

/* Behind an instruction; and at first, when it is raised. */
static inline void stepped(int number, siginfo_t *info, void *context)
{
    greg_t *flags = &((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL];
    (void)number;
    *stepping.made += info->si_code > 0; /* by the processor */
    if (*stepping.made == stepping.until)
        kill(getpid(), SIGKILL);
    *flags = stepping.done ? *flags & ~TRAP_FLAG : *flags | TRAP_FLAG;
}

/* In a child, which is killed after so many instructions. Returns whether it was not done by then.
 * It counts them itself: to stop for its parent at each takes it several times as long. */
static inline bool cut_off(struct rig *rig, struct shared *shared, struct tm_pipe lent,
                           void step(struct rig *, struct shared *, struct tm_pipe),
                           uint64_t instructions, uint64_t *made)
{
    struct sigaction action = {.sa_sigaction = stepped, .sa_flags = SA_SIGINFO};
    int status;
    shared->instructions = 0;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        stepping.made = &shared->instructions, stepping.until = instructions;
        CHECK(sigaction(SIGTRAP, &action, NULL) == 0 && raise(SIGTRAP) == 0);
        step(rig, shared, lent);
        stepping.done = true;
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    *made = shared->instructions;
    if (WIFSIGNALED(status)) {
        CHECK(WTERMSIG(status) == SIGKILL && *made == instructions);
        return true;
    }
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0 && *made > 0);
    return false;
}
#else
/* In a child, which is killed after so many instructions. Returns whether it was not done by then. */
static inline bool cut_off(struct rig *rig, struct shared *shared, struct tm_pipe lent,
                           void step(struct rig *, struct shared *, struct tm_pipe),
                           uint64_t instructions, uint64_t *made)
{
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0 && raise(SIGSTOP) == 0);
        step(rig, shared, lent);
        _exit(0);
    }
    for (*made = 0; waitpid(child, &status, 0) == child && WIFSTOPPED(status); ++*made) {
        CHECK(WSTOPSIG(status) == SIGSTOP || WSTOPSIG(status) == SIGTRAP);
        if (*made == instructions) {
            CHECK(kill(child, SIGKILL) == 0);
            CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
            return true;
        }
        CHECK(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) == 0);
    }
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return false;
}

#endif

#endif
