/* What is read of a connection before its destination is picked.
 *
 * A part (prefaces.def) answers as a stage does: NEXT goes on with the next part. One that waits
 * for its client's bytes looks at them with MSG_PEEK, so that they stay in the socket:
 * tm_preface_peek(). What is of no use to the endpoint it takes out of the socket when it has all
 * of it: tm_preface_consume().
 */
#ifndef TM_PREFACE_H
#define TM_PREFACE_H

#include <stddef.h>
#include <sys/types.h>

#include "stage.h"

/* Copies up to `size` bytes of what the client has sent first. How many there are, 0 at the end of
 * its input, -EAGAIN: none so far, other -errno. */
ssize_t tm_preface_peek(struct tm_worker *w, uint32_t index, unsigned char *bytes, size_t size)
    __attribute__((warn_unused_result));

/* Drops the first `size` bytes, which have been peeked at: nobody gets them. False: they are not
 * there any more, and the connection has to end. */
bool tm_preface_consume(struct tm_worker *w, uint32_t index, uint32_t size)
    __attribute__((warn_unused_result));

/* Waits for the client's next bytes, until `timeout_ms` after it was accepted: then it ends for
 * `reason`. It ends at once if the client sends no more. */
struct tm_answer tm_preface_wait(struct tm_worker *w, uint32_t index, uint64_t timeout_ms,
                                 enum tm_close_reason reason);

#define TM_PREFACE(NAME, run) struct tm_answer run(struct tm_worker *w, uint32_t index);
#include "conn/prefaces.def"

#endif
