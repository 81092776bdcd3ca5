/* Connects to the destination's endpoints, one after the other, until one accepts. */
#ifndef TM_CONNECT_H
#define TM_CONNECT_H

#include "stage.h"

/* An endpoint that has accepted, written and sent RST before its connect was looked at: what it
 * wrote is delivered before the reset, as a direct peer would have read it. */
#define TM_ANSWERED_AND_RESET (TM_RESET | TM_HUNG_UP)

/* For a later stage: this endpoint, connected as it is, will not do; with `error`, 0 = in time. The
 * next one is tried. */
struct tm_answer tm_connect_again(struct tm_worker *w, uint32_t index, int error);

/* The deadline of a connect has come. */
void tm_connect_timeout(struct tm_worker *w, uint32_t index);
/* An event of the endpoint's socket. */
void tm_connect_event(struct tm_worker *w, uint32_t index, uint32_t events);
/* After a death: goes on with a connect that may have succeeded, failed, or be under way. */
void tm_connect_recover(struct tm_worker *w, uint32_t index);

#endif
