/* The epoll events that a worker asks for. Each socket is registered once, edge-triggered; its
 * events change only when a side is full or must not be read. */
#ifndef TM_INTEREST_H
#define TM_INTEREST_H

#include "worker.h"

/* EPOLLPRI: urgent data. A read stops short in front of it, with bytes left behind it. */
#define TM_BASE_EVENTS (EPOLLIN | EPOLLRDHUP | EPOLLPRI | EPOLLET)
/* What says that a short read does not mean "drained". */
#define TM_READ_TO_THE_END (EPOLLRDHUP | EPOLLHUP | EPOLLERR | EPOLLPRI)

/* Registers a side's socket for the events that its flags ask for. 0 or -1 with errno, as
 * epoll_ctl. */
int tm_interest_add(struct tm_worker *w, uint32_t index, int side);
/* Another process has the socket open too, so closing it here would leave it in epoll. */
void tm_interest_remove(struct tm_worker *w, uint32_t index, int side);

/* A socket that another record has registered is this one's now. */
void tm_interest_again(struct tm_worker *w, uint32_t index, int side);

/* The socket is full. Asks for writable edges, once per connection: most never fill a socket. */
void tm_interest_write(struct tm_worker *w, uint32_t index, int side);
/* Stops readable edges while the other side is full: each arriving segment would wake the worker
 * in vain. */
void tm_interest_stop_reading(struct tm_worker *w, uint32_t index, int side);
void tm_interest_read(struct tm_worker *w, uint32_t index, int side);

/* Writes down what an event says of all later reads from this side. */
static inline void tm_interest_note(struct tm_conn *conn, int side, uint32_t events)
{
    if (events & TM_READ_TO_THE_END) {
        conn->side_flags[side] |= TM_HUNG_UP;
        if (events & EPOLLPRI) /* the kernel counts urgent bytes, which are not passed on */
            conn->half[side].uncounted |= TM_UNCOUNTED_SOURCE;
    }
}

#endif
