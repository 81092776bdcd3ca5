/* A connection that is relayed: two halves, half[TM_CLIENT] (client to endpoint) and
 * half[TM_ENDPOINT]. Each is open, shut (FIN passed on) or aborted, on its own.
 *
 * FIN is passed on when the half's pipe is empty. After an RST what the dead side sent before is
 * delivered first, then the other side is reset.
 */
#ifndef TM_RELAY_H
#define TM_RELAY_H

#include "worker.h"

/* An event of a relayed connection. */
void tm_relay_event(struct tm_worker *w, uint32_t index, int side, uint32_t events);

/* Moves bytes from `side` to the other one as far as it goes now, and acts on the outcome. */
void tm_relay_pump(struct tm_worker *w, uint32_t index, int side);

/* Pumps once more every half that used up its budget; true if there are any again. */
bool tm_relay_resume(struct tm_worker *w);

/* Brings the counters up to what has been passed on from `side`. */
void tm_relay_count(struct tm_worker *w, uint32_t index, int side);

#endif
