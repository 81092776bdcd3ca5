/* Rate limits: when a half may be read, and how much at once. The arithmetic is in shape.h.
 *
 * destination: the connection's, in the image in force; NULL = a reload has removed it, and no
 * limit applies any more. */
#ifndef TM_RATE_H
#define TM_RATE_H

#include "worker.h"

/* Whether a half may be read now; sets the pump's budget. If not, it is paused. */
bool tm_rate_may_read(struct tm_worker *w, uint32_t index, const struct tm_destination *destination,
                      int side);
/* After that and the pump: puts what was moved on the accounts. True: it is paused now. */
bool tm_rate_pay(struct tm_worker *w, uint32_t index, const struct tm_destination *destination,
                 int side, uint64_t moved);
/* Whether a paused half's time has come. */
bool tm_rate_is_due(const struct tm_worker *w, uint32_t index, int side);
/* When a paused half is to be looked at; monotonic. */
uint64_t tm_rate_look_ms(const struct tm_worker *w, uint32_t index, int side);
/* Ends the pause before its time; what the half had reserved goes back to the shared account. */
void tm_rate_end_pause(struct tm_worker *w, uint32_t index,
                       const struct tm_destination *destination, int side);
/* At each look: nobody waits longer than the rates in force demand. */
void tm_rate_shorten_pause(struct tm_worker *w, uint32_t index,
                           const struct tm_destination *destination, int side);
/* How much may be moved at once: 2^power bytes. */
void tm_rate_allow(struct tm_worker *w, uint32_t power);
/* Another image is to be in force. */
void tm_rate_use_image(struct tm_worker *w, const struct tm_image *image);

#endif
