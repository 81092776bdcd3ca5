/* What the shim and the test that switches it share: one mapped file, named by the environment
 * variable FAULT_CONTROL. control.py has the same layout.
 *
 * WRITERS  the test writes the rules while `enabled` is 0; workers under test count.
 */
#ifndef FAULT_SHIM_H
#define FAULT_SHIM_H

#include <stdint.h>

/* One row for each kind of call that csrc/ makes: (name, the symbol that is wrapped). */
#define FAULT_SITES(SITE)                                                                      \
    SITE(accept4, accept4)                                                                     \
    SITE(socket, socket)                                                                       \
    SITE(connect, connect)                                                                     \
    SITE(setsockopt_nodelay, setsockopt)                                                       \
    SITE(setsockopt_linger, setsockopt)                                                        \
    SITE(getsockopt, getsockopt)                                                               \
    SITE(getpeername, getpeername)                                                             \
    SITE(recv, recv)                                                                           \
    SITE(recv_peek, recv)                                                                      \
    SITE(recv_drop, recv)                                                                      \
    SITE(recvmmsg, recvmmsg)                                                                   \
    SITE(recvmmsg_peek, recvmmsg)                                                              \
    SITE(recvmmsg_drop, recvmmsg)                                                              \
    SITE(send, send)                                                                           \
    SITE(send_nothing, send)                                                                   \
    SITE(send_message, send)                                                                   \
    SITE(sendmmsg, sendmmsg)                                                                   \
    SITE(splice_in, splice)                                                                    \
    SITE(splice_out, splice)                                                                   \
    SITE(tee, tee)                                                                             \
    SITE(write, write)                                                                         \
    SITE(read, read)                                                                           \
    SITE(pipe2, pipe2)                                                                         \
    SITE(fcntl, fcntl)                                                                         \
    SITE(fcntl_size, fcntl)                                                                    \
    SITE(ioctl, ioctl)                                                                         \
    SITE(shutdown, shutdown)                                                                   \
    SITE(close, close)                                                                         \
    SITE(epoll_create1, epoll_create1)                                                         \
    SITE(epoll_ctl_add, epoll_ctl)                                                             \
    SITE(epoll_ctl_mod, epoll_ctl)                                                             \
    SITE(epoll_ctl_del, epoll_ctl)                                                             \
    SITE(epoll_wait, epoll_wait)                                                               \
    SITE(recvmsg, recvmsg)                                                                     \
    SITE(sendmsg, sendmsg)                                                                     \
    SITE(signalfd, signalfd)                                                                   \
    SITE(opendir, opendir)                                                                     \
    SITE(fstat, fstat)                                                                         \
    SITE(getrlimit, getrlimit)                                                                 \
    SITE(clone, syscall)

enum fault_site {
#define SITE(name, symbol) FAULT_##name,
    FAULT_SITES(SITE)
#undef SITE
    FAULT_SITE_COUNT
};

enum { FAULT_MOST_SITES = 64, FAULT_MOST_RULES = 256 };

/* Values of `error` that are no errno: the call is made, for less than was asked; or the worker
 * dies by SIGKILL, when it is about to make the call or has just made it. */
enum { FAULT_ONE_BYTE = -1, FAULT_HALF = -2, FAULT_DIE_BEFORE = -3, FAULT_DIE_AFTER = -4 };

/* Calls of `site` number first, first + every, ... fail, `count` times at most. `chance`: of
 * 2^32, for each call from `first` on; then `every` is 1. */
struct fault_rule {
    uint32_t site;
    int32_t error;
    uint32_t first; /* 1 = the next one */
    uint32_t every;
    uint32_t count;
    uint32_t chance;
    uint32_t fired;
    uint32_t unused;
};

struct fault_control {
    uint32_t enabled;
    uint32_t rule_count;
    uint64_t random;                   /* state of the generator */
    uint64_t clocks;                   /* bit n: clock n has been asked */
    int64_t realtime_offset;           /* s: added to CLOCK_REALTIME, for everybody */
    uint32_t started_pid;              /* the worker that was started last */
    uint32_t ended_pid;                /* the one that died by a rule last */
    uint64_t calls[FAULT_MOST_SITES];  /* while enabled */
    uint64_t deaths[FAULT_MOST_SITES]; /* by a rule, there */
    struct fault_rule rules[FAULT_MOST_RULES];
};

#endif
