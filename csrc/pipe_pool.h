/* Pipes, taken when needed and given back empty. One pool a worker.
 *
 *     tm_pipe_ready(pool)             is one available? (makes one if none is idle)
 *     tm_pipe_take(pool, &pipe)       false: none available; pipe stays {-1, -1}
 *     tm_pipe_give_back(pool, &pipe, empty)   not empty: destroyed, never pooled
 *
 * A pipe is made as large as the system lets us: TM_PIPE_SIZE, or what it gives.
 * Below TM_PIPE_MIN it would not take the rest of one buffer and is refused:
 * an unprivileged user gets 8 KiB from the 1,025th pipe of 64 KiB on
 * (pipe-user-pages-soft, pipe(7)). A refusal is remembered for REFUSAL_MS, as
 * asking costs three system calls.
 */
#ifndef TM_PIPE_POOL_H
#define TM_PIPE_POOL_H

#include <stdbool.h>
#include <stdint.h>

#define TM_PIPE_SIZE (1u << 20) /* bytes; also the default fs.pipe-max-size */
#define TM_PIPE_MIN (1u << 16)  /* bytes; and the worker's buffer is no larger */
#define TM_PIPES_IDLE 64        /* kept for re-use */

struct tm_pipe {
    int32_t in, out; /* write end, read end; -1 = none */
};

struct tm_pipe_pool {
    uint32_t idle;
    uint32_t open;          /* idle and lent */
    uint32_t size;          /* of those that are made, bytes */
    uint32_t limit;         /* of open: the share of RLIMIT_NOFILE that is for pipes */
    uint64_t refused_until_ms; /* monotonic */
    struct tm_pipe pipes[TM_PIPES_IDLE];
};

void tm_pipe_pool_init(struct tm_pipe_pool *pool, uint32_t limit);
bool tm_pipe_ready(struct tm_pipe_pool *pool) __attribute__((warn_unused_result));
bool tm_pipe_take(struct tm_pipe_pool *pool, struct tm_pipe *pipe) __attribute__((warn_unused_result));
void tm_pipe_give_back(struct tm_pipe_pool *pool, struct tm_pipe *pipe, bool empty);
/* Counts a lent pipe that this pool did not make, and that will be given back to it. */
void tm_pipe_pool_adopt(struct tm_pipe_pool *pool);
/* Closes the idle ones. Asserts that none is lent. */
void tm_pipe_pool_destroy(struct tm_pipe_pool *pool);

#endif
