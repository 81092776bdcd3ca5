/* A pool of pipes, taken when needed and given back empty. One pool per worker.
 *
 *     tm_pipe_ready(pool)             is one available? (makes one if none is idle)
 *     tm_pipe_take(pool, &pipe)       false: none available; pipe stays {-1, -1}
 *     tm_pipe_take_spare(pool, &pipe) the same if another one stays available
 *     tm_pipe_give_back(pool, &pipe, empty)   not empty: destroyed, never pooled
 *
 * The kernel limits the pages in all pipes of a user, over all of the user's processes
 * (pipe-user-pages-soft, pipe(7): 64 MiB by default); beyond the limit an unprivileged user gets
 * pipes of 8 KiB. So pipes have the configured size while they are few, and get smaller the more
 * are in use, so that their sum stays within this worker's share. Pipes in use shrink when they are
 * empty, or as far as their content allows. If the kernel refuses nevertheless, other processes of
 * the user have used the pages up: all pipes shrink for SQUEEZED_MS. A pipe below TM_PIPE_MIN could
 * not take the rest of one buffer and is refused. A refusal is remembered for REFUSAL_MS, as asking
 * costs some system calls.
 */
#ifndef TM_PIPE_POOL_H
#define TM_PIPE_POOL_H

#include <stdbool.h>
#include <stdint.h>

#define TM_PIPE_SIZE (1u << 20) /* bytes; also the default fs.pipe-max-size */
#define TM_PIPE_MIN (1u << 16)  /* bytes; and the worker's buffer is no larger */
#define TM_PIPES_IDLE 64        /* kept for re-use */
#define TM_PIPE_CLASSES 5       /* sizes: TM_PIPE_MIN to TM_PIPE_SIZE, by powers of 2 */

struct tm_pipe {
    int32_t in, out; /* write end, read end; -1 = none */
};

struct tm_pipe_pool {
    uint32_t idle;
    uint32_t open;          /* idle and lent */
    uint32_t limit;         /* of open: the share of RLIMIT_NOFILE that is for pipes */
    uint32_t most;          /* bytes of one, a power of 2 */
    uint64_t room;          /* bytes of all, beyond which they get smaller */
    uint64_t held;          /* bytes of those that are open: their size, not what is in them */
    uint32_t of_class[TM_PIPE_CLASSES]; /* how many are open of each size */
    uint64_t refused_until_ms;  /* monotonic */
    uint64_t squeezed_until_ms; /* the same; 0 = not */
    uint64_t squeezed_room;     /* `room` until then */
    struct tm_pipe pipes[TM_PIPES_IDLE];
};

void tm_pipe_pool_init(struct tm_pipe_pool *pool, uint32_t limit);
bool tm_pipe_ready(struct tm_pipe_pool *pool) __attribute__((warn_unused_result));
bool tm_pipe_take(struct tm_pipe_pool *pool, struct tm_pipe *pipe)
    __attribute__((warn_unused_result));
bool tm_pipe_take_spare(struct tm_pipe_pool *pool, struct tm_pipe *pipe)
    __attribute__((warn_unused_result));
void tm_pipe_give_back(struct tm_pipe_pool *pool, struct tm_pipe *pipe, bool empty);
/* Counts a lent pipe that this pool did not make, and that will be given back to it. */
void tm_pipe_pool_adopt(struct tm_pipe_pool *pool, const struct tm_pipe *pipe);
/* How large one may be and all of them together, from now on. `most` is rounded up to a size
 * that there is. */
void tm_pipe_pool_bound(struct tm_pipe_pool *pool, uint32_t most, uint64_t all);
/* Whether they have more than that: then lent ones are to shrink when that can be. */
bool tm_pipe_is_tight(struct tm_pipe_pool *pool);
void tm_pipe_shrink(struct tm_pipe_pool *pool, const struct tm_pipe *pipe);
/* Closes the idle ones. Asserts that none is lent. */
void tm_pipe_pool_destroy(struct tm_pipe_pool *pool);

/* Bytes of the smallest one that is open; TM_PIPE_SIZE: none is. */
static inline uint32_t tm_pipe_smallest(const struct tm_pipe_pool *pool)
{
    for (int at = 0; at < TM_PIPE_CLASSES; at++)
        if (pool->of_class[at])
            return TM_PIPE_MIN << at;
    return TM_PIPE_SIZE;
}

#endif
