/* What the parts of the load generator share. main.c says how it is used.
 *
 * One process is either the server or the clients; it has one epoll instance and one table of
 * connections. An event's data is the place of its connection in the table, or from MAX_CONNS on
 * something that is no connection. All times are microseconds of CLOCK_MONOTONIC.
 */
#ifndef GENERATOR_H
#define GENERATOR_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    CHUNK = 64 * 1024, /* bytes of one read or write */
    MAX_CONNS = 16384,      /* connections at a time: all that come in 20 s, at 500 a second */
    LISTENER = MAX_CONNS,   /* event data of the server's listening socket, */
    INPUT = MAX_CONNS + 1,  /* and of stdin, whose end ends the process's work */
};

enum kind { FREE = 0, ECHO, BULK, SMALL, NEW };

struct conn {
    enum kind kind;
    int fd;
    bool connected, shut, writable;
    uint32_t number; /* of its kind, in the order in which they began */
    uint64_t key;    /* of its content, see content.c */
    uint64_t sent, received;
    uint64_t allowed; /* may be sent up to here */
    uint64_t due;     /* of the next burst or message */
    uint64_t began;   /* message, connection or last progress under way; 0 = nothing is */
    unsigned char *buffer; /* ECHO: read and not yet written; kept for the next of this place */
    size_t held, start;
};

/* main.c */
extern struct conn conns[MAX_CONNS];
extern int used; /* no place from here on has ever been used */
extern int poller;
uint64_t now_us(void);
_Noreturn void fail(const char *what);
struct conn *place(enum kind kind, int fd);
void watch(int fd, uint32_t data);
void drop(struct conn *conn);

/* server.c: echoes until stdin ends */
void serve(void);

/* clients.c: drives load until stdin ends, and a little longer; prints what it saw */
struct demand {
    struct sockaddr_in to;
    int bulk, small; /* streams */
    int rate;        /* new connections a second */
    uint64_t seed;
    uint64_t patience; /* without progress for so long, a connection is lost */
};
void drive(const struct demand *demand);

/* content.c: what byte `place` of a stream has to be */
uint64_t mix(uint64_t value);
void fill(unsigned char *to, size_t size, uint64_t key, uint64_t place);
size_t matching(const unsigned char *got, size_t size, uint64_t key, uint64_t place);
bool displacement(const unsigned char *got, size_t size, uint64_t key, uint64_t place,
                  int64_t *shift);

/* report.c: the record of what clients saw */
enum cause { REFUSED, RESET, ENDED, SILENT, WRONG, OTHER, CAUSES };
enum figure { ECHO_DELAY, CONNECTION_TIME, FIGURES };
struct seen {
    uint64_t streams, streams_lost[CAUSES];
    uint64_t opened, opened_lost[CAUSES];
    uint64_t bytes, wrong, messages;
    char first_loss[200]; /* in words, no quotation marks */
};
extern struct seen seen;
void note_time(enum figure figure, uint64_t took);
void report(void);

#endif
