/* What all modes of the load generator share: content, sockets, latency, report.
 *
 * The content of a stream is a fixed pattern with a prime period, begun at a
 * phase that differs from connection to connection. A byte that is lost,
 * repeated, changed or taken from another connection does not compare equal.
 *
 * The program stays on loopback and is bounded in connections, bytes and time.
 */
#ifndef LOADGEN_COMMON_H
#define LOADGEN_COMMON_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MAX_CONNECTIONS 16384u
#define MAX_MESSAGE 65536u
#define MAX_SECONDS 600.0
#define MAX_PIECE (UINT64_C(1) << 30)
#define MAX_RATE 1000000u
#define GRACE_NS (5 * INT64_C(1000000000)) /* for what is under way when the time is up */
#define CHUNK (256u * 1024u)               /* most bytes handed to one send or recv */
#define PATTERN_PERIOD 65521u              /* prime, so no buffer size divides it */
#define EVENT_BATCH 256

/* Opens every piece of a stream, client -> backend, in the machine's byte order. */
struct job {
    uint64_t phase;
    uint64_t length; /* bytes that follow, either from the source or to the sink */
};

/* Ends every uploaded piece, backend -> client. */
struct receipt {
    uint64_t received;
    uint64_t wrong; /* chunks that did not compare equal */
};

struct options {
    struct sockaddr_in address;
    unsigned connections;
    unsigned message;   /* bytes of one message */
    uint64_t piece;     /* bytes of a stream asked for at a time */
    uint64_t limit;     /* units, or bytes of a stream; no more is begun beyond it */
    int64_t duration;   /* ns; nothing new is begun after it */
    uint64_t rate;      /* exchanges begun a second, come what may; 0 = as fast as they end */
    bool reset;         /* connections end with RST, not FIN */
    const char *choice; /* role of the backend, direction of the stream */
};

/* Log-linear: 128 slots for each power of two, so a value is off by less than 0.8 %. */
#define HISTOGRAM_SLOTS 4608u
struct histogram {
    uint64_t count;
    int64_t largest; /* ns, exact */
    uint64_t slots[HISTOGRAM_SLOTS];
};

/* The outcome of one run. Errors are counted, the first one is kept in words. */
struct tally {
    uint64_t units;
    uint64_t bytes;
    uint64_t errors;
    uint64_t by[2]; /* mode ask: units by server */
    const char *first_error;
    int first_errno;
    int64_t began;
    int64_t ended;
    struct histogram latency;
};

int64_t now_ns(void);

/* Prints "loadgen: what: strerror" and exits 1. For what leaves nothing to measure. */
_Noreturn void fail(const char *what);

/* 0, or -EINVAL: not IPv4:port, or -EACCES: not within 127.0.0.0/8. */
int parse_loopback(const char *text, struct sockaddr_in *address)
    __attribute__((warn_unused_result));

void pattern_fill(void);
/* CHUNK readable bytes of the content from stream position `position` on. */
const char *pattern_at(uint64_t position);
/* A start for connection `index`, far from the start of its neighbours. */
uint64_t pattern_phase(uint64_t index);

/* A non-blocking TCP socket with TCP_NODELAY, connecting: fd, or -errno. */
int begin_connect(const struct sockaddr_in *address) __attribute__((warn_unused_result));
void watch(int poller, int fd, uint32_t events, uint64_t token);
void rewatch(int poller, int fd, uint32_t events, uint64_t token);
/* Milliseconds for epoll_wait until `deadline`, rounded up, never negative. */
int wait_until(int64_t deadline);
/* Closes with FIN, or with RST if the options say so. */
void end_connection(int fd, const struct options *options);

void histogram_add(struct histogram *histogram, int64_t nanoseconds);
void count_error(struct tally *tally, const char *what, int error);
/* One JSON line on stdout. Latency is null if none was recorded. */
void report(const char *mode, const struct tally *tally);

/* The modes. They return nothing: the outcome is the line they print. */
void run_backend(const struct options *options);
void run_stream(const struct options *options);
void run_roundtrip(const struct options *options);
void run_connect(const struct options *options);
void run_idle(const struct options *options);
void run_ask(const struct options *options);

#endif
