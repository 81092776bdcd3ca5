/* The end of a connection: its reason, its counters and log entry, and what it implies for the
 * health of its endpoint. */
#ifndef TM_OUTCOME_H
#define TM_OUTCOME_H

#include "worker.h"

/* Closes both sides, by RST if `reset`. The record is free after this batch. */
void tm_outcome_end(struct tm_worker *w, uint32_t index, enum tm_close_reason reason, bool reset);

/* Resets one by order of an operator, if it is still there. */
void tm_outcome_kill(struct tm_worker *w, uint32_t index, uint32_t generation);
/* Resets every connection: the end of the worker. */
void tm_outcome_end_all(struct tm_worker *w);

/* It is relayed from now on: for the log, if that wants to know. */
void tm_outcome_log_start(struct tm_worker *w, uint32_t index);

/* A client that was reset on accept, for the log. fd: its socket. route_slot: TM_NONE = no route.
 */
void tm_outcome_log_refused(struct tm_worker *w, int fd, const struct tm_peer *client,
                            uint32_t route_slot, enum tm_refusal refusal);

#endif
