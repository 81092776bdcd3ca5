/* The destination of a connection: picked by weight, or changed to another one of its route. */
#ifndef TM_CONN_DESTINATION_H
#define TM_CONN_DESTINATION_H

#include "worker.h"

/* Where a reload has put them. */
const struct tm_route *tm_route_look_up(struct tm_worker *w, uint32_t index);
const struct tm_destination *tm_destination_look_up(struct tm_worker *w, uint32_t index);

/* In the image in force; NULL if a reload has removed it. */
static inline const struct tm_route *tm_route_of(struct tm_worker *w, uint32_t index)
{
    const struct tm_cold *cold = &w->colds[index];
    const struct tm_image *image = w->image;
    if (cold->route < image->route_count && image->routes[cold->route].slot == cold->route_slot)
        return &image->routes[cold->route];
    return tm_route_look_up(w, index);
}

static inline const struct tm_destination *tm_destination_of(struct tm_worker *w, uint32_t index)
{
    uint32_t at = w->colds[index].destination;
    const struct tm_image *image = w->image;
    if (at < image->destination_count &&
        image->destinations[at].slot == w->records[index].destination_slot)
        return &image->destinations[at];
    return tm_destination_look_up(w, index);
}

/* Changes the connection's destination to `to`, or with TM_NONE to any that has room. */
enum tm_change {
    TM_UNCHANGED, /* none has room; nothing has changed */
    TM_CHANGED,   /* it belongs to, and is counted at, the other destination now */
    TM_HOMELESS,  /* none has room, and its own slot has been taken by another connection */
};
enum tm_change tm_pick_change(struct tm_worker *w, uint32_t index, uint32_t to,
                              enum tm_pick_reason reason) __attribute__((warn_unused_result));

#endif
