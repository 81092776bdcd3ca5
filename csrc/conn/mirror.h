/* `mirror` of a route: a shadow of some of its connections, which gets a copy of what their clients
 * send. Here is the connection's side, and shadow.h has the shadow's.
 *
 *     the relay begins    a ticket of the route tells, exactly by percent, who gets one: a record
 *                         of its own. What the client sends first goes to the endpoint, then the
 *                         shadow is connected
 *     bytes               tap.h: the endpoint first, then the shadow
 *     FIN                 goes to it when it has got all
 *     the end             what the endpoint has answered is held against what the shadow's does
 *
 * The connection never waits for any of it, and nothing that the shadow does ends it. One that goes
 * to another worker, or to another endpoint, leaves its shadow behind, which is given up.
 */
#ifndef TM_MIRROR_H
#define TM_MIRROR_H

#include "worker.h"

/* A connection is about to be relayed, of a route that has a mirror: its shadow; TM_NONE: it has
 * none. */
uint32_t tm_mirror_begin(struct tm_worker *w, uint32_t index, const struct tm_route *route)
    __attribute__((warn_unused_result));
/* What was there of it has been passed on. It may be over, and even so its shadow goes on. */
void tm_mirror_connect(struct tm_worker *w, uint32_t shadow);

/* Around a call of the pump, of a half that is TAPPED or COMPARED. moved: bytes passed on by it. */
void tm_mirror_before(struct tm_worker *w, uint32_t index, int side);
void tm_mirror_after(struct tm_worker *w, uint32_t index, int side, uint32_t moved);

/* Its client has sent FIN, and the endpoint has been told. */
void tm_mirror_fin(struct tm_worker *w, uint32_t index);
/* It ends; its counts of bytes are still there. */
void tm_mirror_ended(struct tm_worker *w, uint32_t index, enum tm_close_reason reason);
/* It goes on without. */
void tm_mirror_leave(struct tm_worker *w, uint32_t index);

/* Whether it has a shadow. */
bool tm_mirror_has(const struct tm_worker *w, uint32_t index);

#endif
