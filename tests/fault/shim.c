/* Makes the relay's system calls fail. Preloaded into the process of a test and all below it;
 * acts on calls that come from tcpmux's own modules in a worker, and only while it is enabled.
 *
 * It does what Linux may do, and keeps the promises that come with it:
 *  - after "try again", or a read or write of less than was there, an edge follows: epoll is
 *    made to look at the descriptor once more;
 *  - when a write says that the other side is gone, reading finds the end of input;
 *  - accept that says ECONNABORTED has taken the connection from the queue, and it is reset;
 *  - connect that says EINTR goes on by itself;
 *  - close that fails has closed.
 */
#include "shim.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { MAX_RANGES = 64, MAX_DESCRIPTORS = 1 << 16 };

static struct fault_control *control;
static bool in_worker;

static struct range { uintptr_t start, end; } ranges[MAX_RANGES];
static unsigned range_count;

/* What the worker has asked epoll for, by descriptor. */
static struct watched { int epoll; struct epoll_event event; } watched[MAX_DESCRIPTORS];

#define REAL(name)                                                                             \
    static __typeof__(name) *real;                                                             \
    if (!real)                                                                                 \
        real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

#define CALLER ((uintptr_t)__builtin_return_address(0))

const char *fault_site_name(unsigned site)
{
    static const char *const names[] = {
#define SITE(name, symbol) #name,
        FAULT_SITES(SITE)
#undef SITE
    };
    return site < FAULT_SITE_COUNT ? names[site] : NULL;
}

const char *fault_site_symbol(unsigned site)
{
    static const char *const symbols[] = {
#define SITE(name, symbol) #symbol,
        FAULT_SITES(SITE)
#undef SITE
    };
    return site < FAULT_SITE_COUNT ? symbols[site] : NULL;
}

__attribute__((constructor)) static void map_control(void)
{
    const char *name = getenv("FAULT_CONTROL");
    int fd = name ? open(name, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *found = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (found != MAP_FAILED)
        control = found;
    close(fd);
}

/* --- whose call it is ------------------------------------------------------------------------ */

static int note_range(struct dl_phdr_info *object, size_t size, void *unused)
{
    (void)size;
    (void)unused;
    if (!strstr(object->dlpi_name, "/tcpmux/worker/"))
        return 0;
    for (int i = 0; i < object->dlpi_phnum && range_count < MAX_RANGES; i++) {
        const ElfW(Phdr) *part = &object->dlpi_phdr[i];
        if (part->p_type == PT_LOAD && part->p_flags & PF_X) {
            uintptr_t start = object->dlpi_addr + part->p_vaddr;
            ranges[range_count++] = (struct range){start, start + part->p_memsz};
        }
    }
    return 0;
}

static bool is_ours(uintptr_t caller)
{
    if (!range_count)
        dl_iterate_phdr(note_range, NULL);
    for (unsigned i = 0; i < range_count; i++)
        if (caller >= ranges[i].start && caller < ranges[i].end)
            return true;
    return false;
}

static uint32_t draw(void)
{
    control->random = control->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(control->random >> 32);
}

static enum fault_site dying_at;

/* Not when the test has ended while the call was waiting. */
static void die(void)
{
    if (!control->enabled)
        return;
    control->deaths[dying_at]++;
    control->ended_pid = (uint32_t)getpid();
    (void)syscall(SYS_kill, getpid(), SIGKILL);
}

static bool fires(struct fault_rule *rule, uint64_t call)
{
    if (call < rule->first || rule->fired >= rule->count)
        return false;
    if (rule->chance ? draw() >= rule->chance : (call - rule->first) % rule->every != 0)
        return false;
    rule->fired++;
    return true;
}

/* 0: go on. Else an errno or one of the values that make a call do less. */
static int fault(enum fault_site site, uintptr_t caller)
{
    if (!control || !control->enabled || !(in_worker || site == FAULT_clone) || !is_ours(caller))
        return 0;
    uint64_t call = ++control->calls[site];
    for (unsigned i = 0; i < control->rule_count; i++) {
        struct fault_rule *rule = &control->rules[i];
        if (rule->site != site || !fires(rule, call))
            continue;
        dying_at = site;
        if (rule->error == FAULT_DIE_BEFORE)
            die();
        return rule->error;
    }
    return 0;
}

/* --- keeping the kernel's promises ----------------------------------------------------------- */

static int really_epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
    return (int)syscall(SYS_epoll_ctl, epoll, operation, fd, event);
}

/* An edge comes again for what is ready. */
static void look_again(int fd)
{
    if (fd >= 0 && fd < MAX_DESCRIPTORS && watched[fd].event.events & EPOLLET)
        really_epoll_ctl(watched[fd].epoll, EPOLL_CTL_MOD, fd, &watched[fd].event);
}

static int fail_with(int error)
{
    errno = error;
    return -1;
}

/* The failing of a read from fd. */
static ssize_t fail_read(int fd, int error)
{
    if (error == EAGAIN)
        look_again(fd);
    return fail_with(error);
}

/* The failing of a write to fd. */
static ssize_t fail_write(int fd, int error)
{
    if (error == EPIPE || error == ECONNRESET || error == ENOTCONN)
        (void)syscall(SYS_shutdown, fd, SHUT_RD);
    return fail_read(fd, error);
}

static size_t less(int how, size_t size)
{
    return how == FAULT_HALF && size > 1 ? size / 2 : how == FAULT_ONE_BYTE && size ? 1 : size;
}

/* The end of a call that was made. */
#define MADE(call)                                                                             \
    ({                                                                                         \
        __typeof__(call) result_ = (call);                                                     \
        if (error == FAULT_DIE_AFTER)                                                          \
            die();                                                                             \
        result_;                                                                               \
    })

/* --- connections ----------------------------------------------------------------------------- */

int accept4(int fd, struct sockaddr *address, socklen_t *size, int flags)
{
    REAL(accept4);
    int error = fault(FAULT_accept4, CALLER);
    if (error == ECONNABORTED) {
        int taken = real(fd, address, size, flags);
        if (taken < 0)
            return taken;
        struct linger now = {.l_onoff = 1, .l_linger = 0};
        (void)syscall(SYS_setsockopt, taken, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
        (void)syscall(SYS_close, taken);
    }
    return error > 0 ? fail_with(error) : MADE(real(fd, address, size, flags));
}

int socket(int family, int type, int protocol)
{
    REAL(socket);
    int error = fault(FAULT_socket, CALLER);
    return error > 0 ? fail_with(error) : MADE(real(family, type, protocol));
}

int connect(int fd, const struct sockaddr *address, socklen_t size)
{
    REAL(connect);
    /* Without an address it disconnects, for which nothing can be missing. */
    int error = address->sa_family == AF_UNSPEC ? 0 : fault(FAULT_connect, CALLER);
    if (error == EINTR) {
        int result = real(fd, address, size);
        return result < 0 && errno != EINPROGRESS ? result : fail_with(EINTR);
    }
    return error > 0 ? fail_with(error) : MADE(real(fd, address, size));
}

int setsockopt(int fd, int level, int option, const void *value, socklen_t size)
{
    REAL(setsockopt);
    int error = fault(option == SO_LINGER && level == SOL_SOCKET ? FAULT_setsockopt_linger
                                                                 : FAULT_setsockopt_nodelay,
                      CALLER);
    return error > 0 ? fail_with(error) : MADE(real(fd, level, option, value, size));
}

int getsockopt(int fd, int level, int option, void *value, socklen_t *size)
{
    REAL(getsockopt);
    int error = fault(FAULT_getsockopt, CALLER);
    return error > 0 ? fail_with(error) : MADE(real(fd, level, option, value, size));
}

int getpeername(int fd, struct sockaddr *address, socklen_t *size)
{
    REAL(getpeername);
    int error = fault(FAULT_getpeername, CALLER);
    return error > 0 ? fail_with(error) : MADE(real(fd, address, size));
}

int shutdown(int fd, int how)
{
    REAL(shutdown);
    int error = fault(FAULT_shutdown, CALLER);
    return error > 0 ? (int)fail_write(fd, error) : MADE(real(fd, how));
}

int close(int fd)
{
    REAL(close);
    if (in_worker && fd >= 0 && fd < MAX_DESCRIPTORS)
        watched[fd].event.events = 0;
    int error = fault(FAULT_close, CALLER);
    int result = MADE(real(fd));
    return error > 0 && result == 0 ? fail_with(error) : result;
}

/* --- bytes ----------------------------------------------------------------------------------- */

static enum fault_site reading_site(enum fault_site plain, int flags)
{
    return (enum fault_site)(plain + (flags & MSG_PEEK ? 1 : flags & MSG_TRUNC ? 2 : 0));
}

ssize_t recv(int fd, void *data, size_t size, int flags)
{
    REAL(recv);
    int error = fault(reading_site(FAULT_recv, flags), CALLER);
    if (error > 0)
        return fail_read(fd, error);
    if (error == 0)
        return real(fd, data, size, flags);
    ssize_t got = MADE(real(fd, data, less(error, size), flags));
    int kept = errno;
    look_again(fd);
    errno = kept;
    return got;
}

int recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags, struct timespec *timeout)
{
    REAL(recvmmsg);
    int error = fault(reading_site(FAULT_recvmmsg, flags), CALLER);
    if (error > 0)
        return (int)fail_read(fd, error);
    if (error == 0)
        return real(fd, messages, count, flags, timeout);
    size_t *size = &messages->msg_hdr.msg_iov->iov_len, whole = *size;
    *size = less(error, whole);
    int got = MADE(real(fd, messages, count, flags, timeout));
    int kept = errno;
    *size = whole;
    look_again(fd);
    errno = kept;
    return got;
}

ssize_t send(int fd, const void *data, size_t size, int flags)
{
    REAL(send);
    int error = fault(size == 0              ? FAULT_send_nothing
                      : flags & MSG_DONTWAIT ? FAULT_send_message
                                             : FAULT_send,
                      CALLER);
    if (error > 0)
        return fail_write(fd, error);
    ssize_t sent = MADE(real(fd, data, less(error, size), flags));
    int kept = errno;
    if (error)
        look_again(fd);
    errno = kept;
    return sent;
}

int sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags)
{
    REAL(sendmmsg);
    int error = fault(FAULT_sendmmsg, CALLER);
    if (error > 0)
        return (int)fail_write(fd, error);
    if (error == 0)
        return real(fd, messages, count, flags);
    size_t *size = &messages->msg_hdr.msg_iov->iov_len, whole = *size;
    *size = less(error, whole);
    int sent = MADE(real(fd, messages, count, flags));
    int kept = errno;
    *size = whole;
    look_again(fd);
    errno = kept;
    return sent;
}

static bool is_pipe(int fd)
{
    struct stat found;
    return syscall(SYS_fstat, fd, &found) == 0 && S_ISFIFO(found.st_mode);
}

ssize_t splice(int in, off64_t *in_at, int out, off64_t *out_at, size_t size, unsigned flags)
{
    REAL(splice);
    bool into_pipe = is_pipe(out);
    int error = fault(into_pipe ? FAULT_splice_in : FAULT_splice_out, CALLER);
    if (error > 0)
        return into_pipe ? fail_read(in, error) : fail_write(out, error);
    ssize_t moved = MADE(real(in, in_at, out, out_at, less(error, size), flags));
    int kept = errno;
    if (error)
        look_again(into_pipe ? in : out);
    errno = kept;
    return moved;
}

ssize_t tee(int in, int out, size_t size, unsigned flags)
{
    REAL(tee);
    int error = fault(FAULT_tee, CALLER);
    return error > 0 ? fail_with(error) : MADE(real(in, out, less(error, size), flags));
}

ssize_t write(int fd, const void *data, size_t size)
{
    REAL(write);
    int error = fault(FAULT_write, CALLER);
    return error > 0 ? fail_with(error) : MADE(real(fd, data, less(error, size)));
}

ssize_t read(int fd, void *data, size_t size)
{
    REAL(read);
    int error = fault(FAULT_read, CALLER);
    return error > 0 ? fail_with(error) : MADE(real(fd, data, size));
}

/* --- descriptors ----------------------------------------------------------------------------- */

int pipe2(int ends[2], int flags)
{
    REAL(pipe2);
    int error = fault(FAULT_pipe2, CALLER);
    return error > 0 ? fail_with(error) : MADE(real(ends, flags));
}

int fcntl(int fd, int command, ...)
{
    REAL(fcntl);
    va_list list;
    va_start(list, command);
    void *argument = va_arg(list, void *);
    va_end(list);
    int error = fault(command == F_SETPIPE_SZ ? FAULT_fcntl_size : FAULT_fcntl, CALLER);
    return error > 0 ? fail_with(error) : MADE(real(fd, command, argument));
}

int ioctl(int fd, unsigned long request, ...)
{
    REAL(ioctl);
    va_list list;
    va_start(list, request);
    void *argument = va_arg(list, void *);
    va_end(list);
    int error = fault(FAULT_ioctl, CALLER);
    return error > 0 ? fail_with(error) : MADE(real(fd, request, argument));
}

DIR *opendir(const char *name)
{
    REAL(opendir);
    int error = fault(FAULT_opendir, CALLER);
    if (error > 0) {
        errno = error;
        return NULL;
    }
    return MADE(real(name));
}

int fstat(int fd, struct stat *found)
{
    REAL(fstat);
    int error = fault(FAULT_fstat, CALLER);
    return error > 0 ? fail_with(error) : MADE(real(fd, found));
}

int getrlimit(__rlimit_resource_t which, struct rlimit *limit)
{
    REAL(getrlimit);
    int error = fault(FAULT_getrlimit, CALLER);
    return error > 0 ? fail_with(error) : MADE(real(which, limit));
}

/* --- events ---------------------------------------------------------------------------------- */

int epoll_create1(int flags)
{
    REAL(epoll_create1);
    int error = fault(FAULT_epoll_create1, CALLER);
    return error > 0 ? fail_with(error) : MADE(real(flags));
}

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
    REAL(epoll_ctl);
    int error = fault(operation == EPOLL_CTL_ADD   ? FAULT_epoll_ctl_add
                      : operation == EPOLL_CTL_MOD ? FAULT_epoll_ctl_mod
                                                   : FAULT_epoll_ctl_del,
                      CALLER);
    if (error > 0)
        return fail_with(error);
    int result = MADE(real(epoll, operation, fd, event));
    if (result == 0 && in_worker && fd < MAX_DESCRIPTORS) {
        watched[fd] = (struct watched){.epoll = epoll};
        if (operation != EPOLL_CTL_DEL)
            watched[fd].event = *event;
    }
    return result;
}

int epoll_wait(int epoll, struct epoll_event *events, int count, int timeout)
{
    REAL(epoll_wait);
    int error = fault(FAULT_epoll_wait, CALLER);
    return error > 0 ? fail_with(error) : MADE(real(epoll, events, less(error, (size_t)count), timeout));
}

int signalfd(int fd, const sigset_t *signals, int flags)
{
    REAL(signalfd);
    int error = fault(FAULT_signalfd, CALLER);
    return error > 0 ? fail_with(error) : MADE(real(fd, signals, flags));
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
    REAL(recvmsg);
    int error = fault(FAULT_recvmsg, CALLER);
    return error > 0 ? fail_with(error) : MADE(real(fd, message, flags));
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    REAL(sendmsg);
    int error = fault(FAULT_sendmsg, CALLER);
    return error > 0 ? fail_with(error) : MADE(real(fd, message, flags));
}

/* --- processes and clocks --------------------------------------------------------------------- */

/* The guardian makes the worker by this, and a worker a new guardian; a worker asks for shorter
 * turns. */
long syscall(long number, ...)
{
    static long (*real)(long, ...);
    if (!real)
        real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    long argument[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        argument[i] = va_arg(list, long);
    va_end(list);
    bool clones = number == SYS_clone;
    int error = clones ? fault(FAULT_clone, CALLER) : 0;
    if (error > 0)
        return fail_with(error);
    long result = real(number, argument[0], argument[1], argument[2], argument[3], argument[4],
                       argument[5]);
    if (clones && result == 0) {
        in_worker = !in_worker;
        memset(watched, 0, sizeof(watched));
        if (control && in_worker)
            control->started_pid = (uint32_t)getpid();
    }
    return result;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    REAL(clock_gettime);
    int result = real(clock, now);
    if (!control || result < 0)
        return result;
    if (clock == CLOCK_REALTIME)
        now->tv_sec += control->realtime_offset;
    if (control->enabled && in_worker && clock >= 0 && clock < 64 && is_ours(CALLER))
        control->clocks |= UINT64_C(1) << clock;
    return result;
}
