/* What all modes of the load generator share. See common.h. */
#include "common.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static char pattern[PATTERN_PERIOD + CHUNK];

int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void fail(const char *what)
{
    fprintf(stderr, "loadgen: %s: %s\n", what, strerror(errno));
    exit(1);
}

int parse_loopback(const char *text, struct sockaddr_in *address)
{
    char host[INET_ADDRSTRLEN];
    const char *colon = strrchr(text, ':');
    if (colon == NULL || (size_t)(colon - text) >= sizeof host)
        return -EINVAL;
    memcpy(host, text, (size_t)(colon - text));
    host[colon - text] = '\0';
    char *end;
    unsigned long port = strtoul(colon + 1, &end, 10);
    *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (end == colon + 1 || *end != '\0' || port > 65535)
        return -EINVAL;
    if (inet_pton(AF_INET, host, &address->sin_addr) != 1)
        return -EINVAL;
    return ntohl(address->sin_addr.s_addr) >> 24 == 127 ? 0 : -EACCES;
}

void pattern_fill(void)
{
    uint64_t x = 0x9e3779b97f4a7c15u;
    for (size_t i = 0; i < PATTERN_PERIOD; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        pattern[i] = (char)(x >> 32);
    }
    for (size_t i = PATTERN_PERIOD; i < sizeof pattern; i++)
        pattern[i] = pattern[i - PATTERN_PERIOD];
}

const char *pattern_at(uint64_t position)
{
    return pattern + position % PATTERN_PERIOD;
}

uint64_t pattern_phase(uint64_t index)
{
    return index * 25013 % PATTERN_PERIOD;
}

int begin_connect(const struct sockaddr_in *address)
{
    int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0
        && (connect(fd, (const struct sockaddr *)address, sizeof *address) == 0
            || errno == EINPROGRESS))
        return fd;
    int error = errno;
    close(fd);
    return -error;
}

void watch(int poller, int fd, uint32_t events, uint64_t token)
{
    struct epoll_event event = {.events = events, .data.u64 = token};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0)
        fail("epoll_ctl");
}

void rewatch(int poller, int fd, uint32_t events, uint64_t token)
{
    struct epoll_event event = {.events = events, .data.u64 = token};
    if (epoll_ctl(poller, EPOLL_CTL_MOD, fd, &event) < 0)
        fail("epoll_ctl");
}

int wait_until(int64_t deadline)
{
    int64_t left = deadline - now_ns();
    return left <= 0 ? 0 : (int)(left / 1000000 + 1);
}

void end_connection(int fd, const struct options *options)
{
    struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    if (options->reset)
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(fd);
}

void histogram_add(struct histogram *histogram, int64_t nanoseconds)
{
    uint64_t value = nanoseconds < 0 ? 0 : (uint64_t)nanoseconds;
    size_t slot = value;
    if (value >= 256) {
        unsigned shift = 56u - (unsigned)__builtin_clzll(value);
        slot = shift * 128u + (value >> shift);
    }
    histogram->slots[slot < HISTOGRAM_SLOTS ? slot : HISTOGRAM_SLOTS - 1]++;
    histogram->count++;
    if (nanoseconds > histogram->largest)
        histogram->largest = nanoseconds;
}

/* The value below which `share` of the recorded values lie, in microseconds. */
static double quantile_us(const struct histogram *histogram, double share)
{
    uint64_t wanted = (uint64_t)(share * (double)(histogram->count - 1)) + 1, seen = 0;
    size_t slot = 0;
    for (;; slot++) {
        seen += histogram->slots[slot];
        if (seen >= wanted)
            break;
    }
    if (slot < 256)
        return (double)slot / 1e3;
    unsigned shift = (unsigned)(slot / 128 - 1);
    uint64_t low = (slot - shift * 128u) << shift;
    double middle = (double)low + (double)(UINT64_C(1) << shift) / 2;
    return (middle < (double)histogram->largest ? middle : (double)histogram->largest) / 1e3;
}

void count_error(struct tally *tally, const char *what, int error)
{
    if (tally->errors++ == 0) {
        tally->first_error = what;
        tally->first_errno = error;
    }
}

/* The curve has more points where it is steep. */
static const double CURVE[] = {0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9999};

static void report_latency(const struct histogram *latency)
{
    if (latency->count == 0) {
        printf(", \"p50_us\": null, \"p99_us\": null, \"max_us\": null, \"curve_us\": []");
        return;
    }
    printf(", \"p50_us\": %.2f, \"p99_us\": %.2f, \"max_us\": %.2f, \"curve_us\": [",
           quantile_us(latency, 0.50), quantile_us(latency, 0.99), (double)latency->largest / 1e3);
    for (size_t i = 0; i < sizeof CURVE / sizeof CURVE[0]; i++)
        printf("[%g, %.2f], ", CURVE[i], quantile_us(latency, CURVE[i]));
    printf("[1, %.2f]]", (double)latency->largest / 1e3);
}

void report(const char *mode, const struct tally *tally)
{
    printf("{\"mode\": \"%s\", \"units\": %" PRIu64 ", \"seconds\": %.6f, \"bytes\": %" PRIu64
           ", \"errors\": %" PRIu64,
           mode, tally->units, (double)(tally->ended - tally->began) / 1e9, tally->bytes,
           tally->errors);
    if (tally->errors == 0)
        printf(", \"first_error\": null");
    else
        printf(", \"first_error\": \"%s%s%s\"", tally->first_error,
               tally->first_errno ? ": " : "",
               tally->first_errno ? strerror(tally->first_errno) : "");
    report_latency(&tally->latency);
    if (tally->by[0] + tally->by[1] > 0)
        printf(", \"by\": [%" PRIu64 ", %" PRIu64 "]", tally->by[0], tally->by[1]);
    printf("}\n");
    fflush(stdout);
}
