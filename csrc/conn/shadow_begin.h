/* The beginning of a shadow: its record, and the connect to an endpoint. shadow.h has the rest. */
#ifndef TM_SHADOW_BEGIN_H
#define TM_SHADOW_BEGIN_H

#include "worker.h"

/* One for a connection of this worker, of a destination of the image in force. TM_NONE: there is no
 * room for it. */
uint32_t tm_shadow_make(struct tm_worker *w, uint32_t index, uint32_t destination);
/* Its endpoints in turn, until one accepts. It may be over afterwards. */
void tm_shadow_connect(struct tm_worker *w, uint32_t shadow);

/* While it is being connected. */
void tm_shadow_connect_event(struct tm_worker *w, uint32_t shadow, uint32_t events);
void tm_shadow_connect_late(struct tm_worker *w, uint32_t shadow);

#endif
