/* What is read from a connection before its destination is picked.
 *
 * A part (prefaces.def) answers as a stage does: NEXT continues with the next part. A part that
 * waits for the client's bytes reads them with MSG_PEEK, which leaves them in the socket:
 * tm_preface_peek(). Once it has all that is not meant for the endpoint, it removes that from the
 * socket, tm_preface_consume(), or has the relay do so, tm_preface_skip().
 */
#ifndef TM_PREFACE_H
#define TM_PREFACE_H

#include <stddef.h>
#include <sys/types.h>

#include "stage.h"

/* Copies up to `size` of the client's first bytes. Returns their number, 0 at the end of input,
 * -EAGAIN if none has arrived yet, or another -errno: the client has reset the connection, maybe
 * before anybody looked. */
ssize_t tm_preface_peek(struct tm_worker *w, uint32_t index, unsigned char *bytes, size_t size)
    __attribute__((warn_unused_result));

/* Drops the first `size` bytes, which were peeked at before. False: they are not there any more,
 * and the connection must end. */
bool tm_preface_consume(struct tm_worker *w, uint32_t index, uint32_t size)
    __attribute__((warn_unused_result));

/* The same, but they are dropped only with what is read next, which spares a system call. */
bool tm_preface_skip(struct tm_worker *w, uint32_t index, uint32_t size)
    __attribute__((warn_unused_result));

/* Waits for the client's next bytes, until `timeout_ms` after it was accepted: then it ends for
 * `reason`. It ends at once if the client sends no more. got: what tm_preface_peek() returned. */
struct tm_answer tm_preface_wait(struct tm_worker *w, uint32_t index, ssize_t got,
                                 uint64_t timeout_ms, enum tm_close_reason reason);

#define TM_PREFACE(NAME, run) struct tm_answer run(struct tm_worker *w, uint32_t index);
#include "conn/prefaces.def"

#endif
