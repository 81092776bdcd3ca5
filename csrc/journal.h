/* What a worker is doing right now, in shared memory, for the one that takes up its work
 * when it has died.
 *
 * WRITER  the worker alone. READER  the next incarnation of the same worker.
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
 *
 * No fences are needed: the reader begins after the writer's process has ended, and the kernel
 * has ordered the two (wait, clone). The compiler is held by signal fences.
 *
 * A header of ours that goes ahead of all stands at the start of the buffer, with PREPEND, until
 * something is read: it is read behind it, and both are sent at once. Then `besides` has its size,
 * and the half's base tells whether it is known to be sent. With nothing to read it is sent alone.
 *
 * A header of the client's that is to be skipped is read with what follows it: `besides` has its
 * size, and the half's base tells how much of it is known to have been read. Where there is one of
 * ours as well, that is copied to the place directly ahead of the payload:
 *
 *     ours | room for the copy, with the end of what is skipped: the copy | payload
 *
 * An operation is stored with its complement, so that a corrupt one is noticed and not acted on:
 * bytes would be lost or another connection's delivered.
 */
#ifndef TM_JOURNAL_H
#define TM_JOURNAL_H

#include <stdatomic.h>
#include <stdbool.h>
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
    TM_CONSUME,   /* dropping `read` bytes from the source, which nobody gets */
    TM_PREPEND,   /* sending `read` bytes of the buffer, which are no payload, ahead of it */
    TM_SWAP,      /* the buffer has what two records are to be: conn/swap.h */
    TM_OPERATIONS,
    TM_GARBLED = TM_OPERATIONS, /* never stored: the journal does not say what it was */
};

/* Only a connection that is relayed has bytes on their way. */
static inline bool tm_moves_bytes(enum tm_operation operation)
{
    return operation >= TM_SHUT && operation <= TM_PEEK_TAKE;
}

#define TM_UNKNOWN UINT32_MAX /* in a cell: the call has not returned a length */

/* A message header whose length the kernel fills in. The pointers mean something only to
 * the process that wrote them. */
struct tm_cell {
    struct mmsghdr message;
    struct iovec data;
};

struct tm_journal {
    uint32_t current;   /* record being worked on, TM_NONE = none */
    uint16_t sealed;    /* enum tm_operation and, in the high byte, its complement */
    uint8_t side;       /* of the half that it is about */
    uint8_t uncounted;  /* as the half has it: whether the cells or the kernel's counts are right */
    uint32_t listener;  /* ACCEPT: from which */
    uint32_t read;      /* bytes in the buffer, behind `besides` */
    uint32_t sent;      /* bytes of them that the destination took */
    uint64_t before;    /* bytes of the half passed on before this */
    uint64_t besides;   /* RECEIVE, SEND, QUEUE: bytes of the buffer that are no payload: those that
                         * are sent first, and those that are skipped; as tm_base_seal() has them */
    struct tm_cell received, passed;
};

/* The compiler may not move stores across; the processor does not, for its own thread. */
static inline void tm_journal_note(struct tm_journal *journal, enum tm_operation operation)
{
    atomic_signal_fence(memory_order_seq_cst);
    __atomic_store_n(&journal->sealed, (uint16_t)(operation | (~operation & 0xff) << 8),
                     __ATOMIC_RELAXED);
    atomic_signal_fence(memory_order_seq_cst);
}

static inline enum tm_operation tm_journal_operation(const struct tm_journal *journal)
{
    uint32_t operation = journal->sealed & 0xff;
    if ((journal->sealed >> 8 ^ operation) != 0xff || operation >= TM_OPERATIONS)
        return TM_GARBLED;
    return (enum tm_operation)operation;
}

#endif
