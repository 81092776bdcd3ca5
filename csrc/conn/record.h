/* Allocation of connection records, and the list of those that continue without an event. */
#ifndef TM_RECORD_H
#define TM_RECORD_H

#include "worker.h"

/* A free record, taken off its list; TM_NONE: the connection limit is reached. */
uint32_t tm_record_take(struct tm_worker *w);
/* Whether there is one, without taking it. */
bool tm_record_available(struct tm_worker *w);

/* A record for an accepted socket of that route; its index. There is a free one. */
uint32_t tm_record_open(struct tm_worker *w, int fd, const struct tm_peer *peer,
                        const struct tm_route *route);

/* Closes one side's socket, by RST if `reset`. */
void tm_record_close_side(struct tm_worker *w, uint32_t index, int side, bool reset);

/* Closes all that an ENDING record has, and has it be DEAD. With close_reason TM_OPEN it goes on
 * elsewhere: its pipes are others' as well, and it counts where it goes. */
void tm_record_finish(struct tm_worker *w, uint32_t index);
/* A DEAD record leaves the number of connections; it is free at the end of the batch. */
void tm_record_release(struct tm_worker *w, uint32_t index);
/* Has a DEAD record be free at the end of the batch. */
void tm_record_bury(struct tm_worker *w, uint32_t index);
/* At the end of a batch: the only function that frees records. */
void tm_record_free_dead(struct tm_worker *w);

/* Has a half be pumped once more in this turn. */
void tm_record_push_ready(struct tm_worker *w, uint32_t index, int side);

/* A read from a UNIX socket stops short in front of passed descriptors, too. */
static inline uint8_t tm_first_flags(uint16_t family)
{
    return family == AF_UNIX ? TM_HUNG_UP : 0;
}

#endif
