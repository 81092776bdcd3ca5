/* Where an endpoint knows its client (converge.protocol redis), the next one is told before the
 * connection moves there: protocol/kept.h has what, protocol/redis.h how it is said.
 *
 * It goes ahead of all that the client says there, as a PROXY header does, and what is answered is
 * taken in by nobody: both are counted in the halves of the scout, and go with its endpoint. After
 * a death the scout ends, and nothing was said. */
#ifndef TM_REPLAY_H
#define TM_REPLAY_H

#include "worker.h"

enum tm_replay {
    TM_REPLAY_WAITS, /* for answers */
    TM_REPLAY_DONE,  /* all of it was taken, or there was nothing to tell */
    TM_REPLAY_REFUSED,
};

/* Whether a connection can go on at another endpoint: all that this one knows can be told. */
bool tm_replay_is_possible(struct tm_worker *w, uint32_t index);

/* Says it, to the endpoint of a scout that has connected. 0 or -errno: it can't. */
int tm_replay_send(struct tm_worker *w, uint32_t scout, uint32_t index)
    __attribute__((warn_unused_result));

/* Takes in what has come. */
enum tm_replay tm_replay_hear(struct tm_worker *w, uint32_t scout);

/* Whether it is still so: nothing has changed since it was said. */
bool tm_replay_holds(struct tm_worker *w, uint32_t scout, uint32_t index);

#endif
