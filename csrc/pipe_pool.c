/* The pool of pipes. Runs in a worker. */
#include "pipe_pool.h"

#include <assert.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

enum { REFUSAL_MS = 100 };

static uint64_t coarse_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void destroy(struct tm_pipe_pool *pool, struct tm_pipe *pipe)
{
    /* Out of the record first: it must never name a number that has been closed. */
    struct tm_pipe closing = *pipe;
    pipe->in = pipe->out = -1;
    atomic_signal_fence(memory_order_seq_cst);
    close(closing.in);
    close(closing.out);
    pool->open--;
}

static bool make(struct tm_pipe_pool *pool, struct tm_pipe *pipe)
{
    int ends[2];
    if (pool->open >= pool->limit || coarse_ms() < pool->refused_until_ms)
        return false;
    if (pipe2(ends, O_NONBLOCK) < 0) {
        pool->refused_until_ms = coarse_ms() + REFUSAL_MS;
        return false;
    }
    pool->open++;
    *pipe = (struct tm_pipe){.in = ends[1], .out = ends[0]};
    if (fcntl(pipe->in, F_SETPIPE_SZ, pool->size) < 0 &&
        fcntl(pipe->in, F_GETPIPE_SZ) < (int)TM_PIPE_MIN) {
        destroy(pool, pipe);
        pool->refused_until_ms = coarse_ms() + REFUSAL_MS;
        return false;
    }
    return true;
}

void tm_pipe_pool_init(struct tm_pipe_pool *pool, uint32_t limit)
{
    *pool = (struct tm_pipe_pool){.limit = limit, .size = TM_PIPE_SIZE};
}

bool tm_pipe_ready(struct tm_pipe_pool *pool)
{
    if (pool->idle)
        return true;
    if (!make(pool, &pool->pipes[0]))
        return false;
    pool->idle = 1;
    return true;
}

bool tm_pipe_take(struct tm_pipe_pool *pool, struct tm_pipe *pipe)
{
    assert(pipe->in < 0 && pipe->out < 0);
    if (!tm_pipe_ready(pool))
        return false;
    *pipe = pool->pipes[--pool->idle];
    return true;
}

void tm_pipe_give_back(struct tm_pipe_pool *pool, struct tm_pipe *pipe, bool empty)
{
    assert(pipe->in >= 0 && pipe->out >= 0);
    if (!empty || pool->idle == TM_PIPES_IDLE) {
        destroy(pool, pipe);
        return;
    }
    pool->pipes[pool->idle++] = *pipe;
    pipe->in = pipe->out = -1;
}

void tm_pipe_pool_adopt(struct tm_pipe_pool *pool)
{
    pool->open++;
}

void tm_pipe_pool_destroy(struct tm_pipe_pool *pool)
{
    while (pool->idle)
        destroy(pool, &pool->pipes[--pool->idle]);
    assert(pool->open == 0);
}
