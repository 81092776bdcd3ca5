/* What a worker is doing right now, in shared memory, for the one that takes up its work
 * when it has died.
 *
 * WRITER  the worker alone. READER  the next life of the same worker.
 *
 * A worker does one thing at a time, so one journal is enough for all its connections. It is
 * written with plain stores in program order: whoever reads it does so after the writer has
 * ended, and then sees every one of them. An entry says what is *about* to be done, and is
 * taken back when its result is in the record:
 *
 *     before = bytes passed on so far; operation = RECEIVE
 *     n = recv(source -> buffer)
 *     read = n;                        operation = SEND
 *     s = send(buffer -> destination)
 *     sent = s;                        operation = QUEUE    (only if s < n)
 *     write(buffer + s -> pipe)
 *     bytes and queued are up to date; operation = NOTHING
 *
 * What a call returned is lost if the worker dies before it is written down. Then the kernel
 * is asked: it counts what it took from and gave to each TCP socket (tcp_info(7), SIOCINQ,
 * SIOCOUTQ), and what is in a pipe (FIONREAD). It does not count for UNIX sockets, nor past
 * TCP urgent data; there recvmmsg and sendmmsg are used, which write the length into
 * `received` and `passed` here before they return.
 */
#ifndef TM_JOURNAL_H
#define TM_JOURNAL_H

#include <stdatomic.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum tm_operation {
    TM_NOTHING = 0,
    TM_ACCEPT,    /* an accepted socket may not be in a record yet */
    TM_CONNECT,   /* a socket to an endpoint may not be in its record yet */
    TM_SHUT,      /* passing FIN on: shutdown may have been called */
    TM_RECEIVE,   /* source -> buffer */
    TM_SEND,      /* buffer -> destination */
    TM_QUEUE,     /* rest of the buffer -> pipe */
    TM_PEEK_SEND, /* as SEND; the bytes are still in the source as well */
    TM_PEEK_TAKE, /* dropping `sent` bytes from the source */
    TM_TAKE,      /* what another worker gives may not be in a record yet: it has it as well */
};

#define TM_UNKNOWN UINT32_MAX /* in a cell: the call has not returned a length */

/* A message header whose length the kernel fills in. The pointers mean something only to
 * the process that wrote them. */
struct tm_cell {
    struct mmsghdr message;
    struct iovec data;
};

struct tm_journal {
    uint32_t current;   /* record being worked on, TM_NONE = none */
    uint8_t operation;  /* enum tm_operation */
    uint8_t side;       /* of the half that it is about */
    uint32_t listener;  /* ACCEPT: from which */
    uint32_t read;      /* bytes in the buffer */
    uint32_t sent;      /* bytes of them that the destination took */
    uint64_t before;    /* bytes of the half passed on before this */
    struct tm_cell received, passed;
};

/* The compiler may not move stores across; the processor does not, for its own thread. */
static inline void tm_journal_note(struct tm_journal *journal, enum tm_operation operation)
{
    atomic_signal_fence(memory_order_seq_cst);
    __atomic_store_n(&journal->operation, (uint8_t)operation, __ATOMIC_RELAXED);
    atomic_signal_fence(memory_order_seq_cst);
}

#endif
