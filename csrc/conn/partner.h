/* Another connect for a connection, in a record of its own: a scout (rehome.h) or a shadow
 * (shadow.h). Each of the two is the other's partner (moves.h). */
#ifndef TM_PARTNER_H
#define TM_PARTNER_H

#include "worker.h"

/* A record for one to the destination at `at` of the image, for the connection `index`, which does
 * not know of it yet. Not in use until tm_partner_enter(). TM_NONE: there is none. */
uint32_t tm_partner_take(struct tm_worker *w, uint32_t index, uint32_t at,
                         enum tm_pick_reason reason) __attribute__((warn_unused_result));

/* It is in use from now on, and its connection knows of it. */
void tm_partner_enter(struct tm_worker *w, uint32_t partner, uint32_t index,
                      enum tm_conn_state state);

#endif
