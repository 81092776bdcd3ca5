/* The interface of csrc/conn/ to a worker's loop. */
#ifndef TM_CONNECTION_H
#define TM_CONNECTION_H

#include "worker.h"

/* Takes an accepted socket over: its stages, relay, end. route: index in the image. There is a free
 * record. */
void tm_connection_open(struct tm_worker *w, int fd, const struct tm_peer *peer, uint32_t route);

/* An epoll event for one side; `generation` is the one that the event carries. */
void tm_connection_event(struct tm_worker *w, uint32_t index, uint32_t generation, int side,
                         uint32_t events);

/* Every deadline that has come. */
void tm_connection_deadlines(struct tm_worker *w);

#endif
