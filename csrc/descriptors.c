/* Accounts of descriptors. Runs in a worker, at the start of each incarnation. */
#include "descriptors.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

enum { CLOSED = 0, UNCLAIMED, CLAIMED };
enum { MAX_DESCRIPTORS = 1 << 24 }; /* descriptors: far above any RLIMIT_NOFILE (fs.nr_open) */

static int note_open(struct tm_descriptors *all, int fd)
{
    if (fd >= all->size) {
        int32_t size = all->size ? all->size : 256;
        while (size <= fd)
            size *= 2;
        uint8_t *grown = realloc(all->states, (size_t)size);
        if (!grown)
            return -ENOMEM;
        memset(grown + all->size, CLOSED, (size_t)(size - all->size));
        all->states = grown;
        all->size = size;
    }
    all->states[fd] = UNCLAIMED;
    return 0;
}

/* Where /proc is not available: asks for every number. */
static int list_one_by_one(struct tm_descriptors *all)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return -errno;
    int most = limit.rlim_cur < MAX_DESCRIPTORS ? (int)limit.rlim_cur : MAX_DESCRIPTORS;
    int error = 0;
    for (int fd = 0; fd < most && !error; fd++)
        if (fcntl(fd, F_GETFD) >= 0)
            error = note_open(all, fd);
    return error;
}

int tm_descriptors_list(struct tm_descriptors *all)
{
    *all = (struct tm_descriptors){0};
    int error = 0;
    DIR *directory = opendir("/proc/self/fd");
    if (!directory)
        return list_one_by_one(all);
    struct dirent *entry;
    while (!error && (entry = readdir(directory))) {
        char *end;
        long fd = strtol(entry->d_name, &end, 10);
        if (end != entry->d_name && *end == '\0' && fd >= 0 && fd < MAX_DESCRIPTORS &&
            fd != dirfd(directory))
            error = note_open(all, (int)fd);
    }
    closedir(directory);
    return error;
}

bool tm_descriptors_free_to_claim(const struct tm_descriptors *all, int fd)
{
    return fd >= 0 && fd < all->size && all->states[fd] == UNCLAIMED;
}

bool tm_descriptors_claim(struct tm_descriptors *all, int fd)
{
    if (!tm_descriptors_free_to_claim(all, fd))
        return false;
    all->states[fd] = CLAIMED;
    return true;
}

int tm_descriptors_next(const struct tm_descriptors *all, int from)
{
    for (int fd = from; fd < all->size; fd++)
        if (all->states[fd] == UNCLAIMED)
            return fd;
    return -1;
}

void tm_descriptors_free(struct tm_descriptors *all)
{
    free(all->states);
    *all = (struct tm_descriptors){0};
}

static mode_t kind(int fd)
{
    struct stat found;
    return fstat(fd, &found) < 0 ? 0 : found.st_mode & S_IFMT;
}

bool tm_is_socket(int fd)
{
    return kind(fd) == S_IFSOCK;
}

static int option(int fd, int name)
{
    int value = -1;
    socklen_t size = sizeof(value);
    return getsockopt(fd, SOL_SOCKET, name, &value, &size) < 0 ? -1 : value;
}

int tm_stream_family(int fd)
{
    int family = option(fd, SO_DOMAIN);
    if (option(fd, SO_TYPE) != SOCK_STREAM || option(fd, SO_ACCEPTCONN) != 0)
        return -1;
    return family == AF_INET || family == AF_INET6 || family == AF_UNIX ? family : -1;
}

bool tm_is_listening(int fd)
{
    return option(fd, SO_TYPE) == SOCK_STREAM && option(fd, SO_ACCEPTCONN) == 1;
}

bool tm_is_line(int fd)
{
    return option(fd, SO_DOMAIN) == AF_UNIX && option(fd, SO_TYPE) == SOCK_SEQPACKET &&
           option(fd, SO_ACCEPTCONN) == 0;
}

bool tm_is_pipe(int in, int out)
{
    struct stat one, other;
    return fstat(in, &one) == 0 && fstat(out, &other) == 0 && S_ISFIFO(one.st_mode) &&
           S_ISFIFO(other.st_mode) && one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

uint32_t tm_descriptors_count(void)
{
    struct stat found;
    return stat("/proc/self/fd", &found) < 0 || found.st_size < 0 ? 0 : (uint32_t)found.st_size;
}
