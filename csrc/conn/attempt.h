/* A connect to one endpoint, as records and counters have it. */
#ifndef TM_ATTEMPT_H
#define TM_ATTEMPT_H

#include "worker.h"

/* Begins a connect: the record, counted there already, names the endpoint from then on. The socket,
 * or -errno. */
int tm_attempt_open(struct tm_worker *w, uint32_t index, const struct tm_endpoint *endpoint)
    __attribute__((warn_unused_result));

/* Counts a failed connect: timed out with error 0. A failure of this host is not held against the
 * endpoint. */
void tm_attempt_failed(struct tm_worker *w, uint32_t index, int error);

/* The endpoint is one of those that it need not try again. */
void tm_attempt_note_tried(struct tm_cold *cold, uint32_t at);

/* Of a record that is no connection: a place in its destination, which is in the image in force,
 * and in one of that's endpoints that it has not tried and that is not `not_this` (a slot). NULL:
 * there is none. */
const struct tm_endpoint *tm_attempt_place(struct tm_worker *w, uint32_t index, uint32_t not_this)
    __attribute__((warn_unused_result));

#endif
