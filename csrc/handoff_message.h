/* Connections on their way from one worker to another: a SOCK_SEQPACKET pair between the two.
 *
 *   giver -> taker   GIVE     a record, and its descriptors with it
 *   taker -> giver   TAKEN    it is in record `taken` here: yours can go
 *                    REFUSED  no room: keep it
 *   either           AGAIN    a new incarnation has begun here, which has given once more what was
 *                             not answered: do so too, and say TAKEN again of all you have from
 *                             here
 *   giver -> taker   GONE     it is not here any more, and won't be given again
 *
 * The giver stops serving a connection before it gives it, and keeps record and descriptors
 * until the answer. Either may die at any point: a new incarnation of the giver gives once more
 * what is marked as on its way, and the taker knows by the origin of its records what it has
 * already. Therefore it keeps such a record, over or not, until GONE or the end of the line.
 *
 * A message is as long as it has to be: a GIVE has the record and, if there is one, the annex;
 * others have neither.
 */
#ifndef TM_HANDOFF_MESSAGE_H
#define TM_HANDOFF_MESSAGE_H

#include <stdint.h>

#include "live.h"

enum tm_handoff_type { TM_GIVE = 1, TM_TAKEN, TM_REFUSED, TM_AGAIN, TM_GONE };

/* Descriptors of one connection: two sockets, two pipes of two ends, and those of its annex. */
#define TM_HANDOFF_FDS (6 + TM_ANNEX_FDS)

struct tm_handoff {
    uint32_t type;       /* enum tm_handoff_type */
    uint32_t again;      /* GIVE: it may have been given before */
    uint32_t index;      /* of the giver's record */
    uint32_t generation;
    uint32_t taken;      /* TAKEN, GONE: index of the taker's record */
    uint32_t unused;
    /* GIVE: */
    struct tm_conn conn;
    struct tm_cold cold;
    struct tm_moves moves; /* if cold.marks say so */
    struct tm_annex annex; /* if cold.annex is not 0 */
};

/* 0 or -errno; -EAGAIN: the line is full. Descriptors of a GIVE go along. */
int tm_handoff_send(int line, struct tm_handoff *handoff) __attribute__((warn_unused_result));

/* 1 a message, 0 the other end is gone, -EAGAIN none now, other -errno. In a GIVE the descriptors
 * are the receiver's own, -1 where there is none; all are -1 if they could not be received. */
int tm_handoff_receive(int line, struct tm_handoff *handoff) __attribute__((warn_unused_result));

/* Closes what came with a GIVE. */
void tm_handoff_close(struct tm_handoff *handoff);

#endif
