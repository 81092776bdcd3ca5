/* Taking connections that other workers give: handoff.h. */
#ifndef TM_TAKE_H
#define TM_TAKE_H

#include "handoff_message.h"
#include "worker.h"

/* The record into which a GIVE was taken, now or before; TM_NONE: there is no room, or the message
 * is impossible. Its descriptors belong to the record now, or are closed. */
uint32_t tm_take(struct tm_worker *w, uint32_t giver, struct tm_handoff *handoff);

/* Whether a record has come with such a message. */
bool tm_take_is_from(const struct tm_worker *w, uint32_t index, uint32_t giver,
                     const struct tm_handoff *handoff);

#endif
