/* Allocation of connection records, and the list of those that continue without an event. */
#ifndef TM_RECORD_H
#define TM_RECORD_H

#include "worker.h"

/* A free record, taken off its list; TM_NONE: the connection limit is reached. */
uint32_t tm_record_take(struct tm_worker *w);
/* Whether there is one, without taking it. */
bool tm_record_available(struct tm_worker *w);

/* A free record is nobody's: no descriptor, no slot, of the next generation. */
void tm_record_clear(struct tm_conn *conn, struct tm_cold *cold);

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

/* Of its socket. */
static inline uint16_t tm_side_family(const struct tm_cold *cold, int side)
{
    return side == TM_CLIENT ? cold->client_family : cold->endpoint.family;
}

static inline void tm_record_note_spoke(struct tm_conn *conn, int side)
{
    conn->spoke = side == TM_CLIENT ? TM_SPOKE_CLIENT : TM_SPOKE_ENDPOINT;
}

/* What was said to one endpoint is not said to the next, nor was its answer the next one's. */
static inline void tm_record_forget_endpoint(struct tm_conn *conn)
{
    struct tm_half *half = conn->half;
    half[TM_CLIENT].base = tm_base_with_prepended(half[TM_CLIENT].base, 0);
    half[TM_ENDPOINT].base = tm_base_make(0, tm_base_prepended(half[TM_ENDPOINT].base));
}

/* Which of a connection's counts the kernel does not keep: those of UNIX sockets. */
static inline void tm_record_note_uncounted(struct tm_conn *conn, const struct tm_cold *cold)
{
    for (int side = 0; side < 2; side++)
        if (conn->fd[side] >= 0 && tm_side_family(cold, side) == AF_UNIX) {
            conn->half[side].uncounted |= TM_UNCOUNTED_SOURCE;
            conn->half[1 - side].uncounted |= TM_UNCOUNTED_DESTINATION;
        }
}

/* Whether a record in this state can be true without that side's socket. */
static inline bool tm_may_lack_socket(uint8_t state, int side)
{
    return state != TM_RELAYING && (side != TM_CLIENT || !tm_is_opening(state));
}

#endif
