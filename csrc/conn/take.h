/* Taking connections that other workers give: handoff.h. */
#ifndef TM_TAKE_H
#define TM_TAKE_H

#include "handoff_message.h"
#include "worker.h"

/* The record that a GIVE is in now, or has been taken into before; TM_NONE: there is no room for
 * it, or it can't be true. What came with it is the record's, or closed. */
uint32_t tm_take(struct tm_worker *w, uint32_t giver, struct tm_handoff *handoff);

/* Whether a record has come with such a message. */
bool tm_take_is_from(const struct tm_cold *cold, uint32_t giver, const struct tm_handoff *handoff);

#endif
