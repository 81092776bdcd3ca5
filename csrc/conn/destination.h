/* The destination of a connection: picked by weight, or another one of its route. */
#ifndef TM_CONN_DESTINATION_H
#define TM_CONN_DESTINATION_H

#include "worker.h"

/* In the image in force; NULL if a reload has removed it. */
const struct tm_route *tm_route_of(struct tm_worker *w, uint32_t index);
const struct tm_destination *tm_destination_of(struct tm_worker *w, uint32_t index);

/* Goes on with another destination, `to`, or TM_NONE: whichever has room. */
enum tm_change {
    TM_UNCHANGED, /* none has room, and nothing has happened */
    TM_CHANGED,   /* it is a connection of that one now, and has a place there */
    TM_HOMELESS,  /* none has, and its own place has been taken meanwhile */
};
enum tm_change tm_pick_change(struct tm_worker *w, uint32_t index, uint32_t to,
                              enum tm_pick_reason reason) __attribute__((warn_unused_result));

#endif
