/* The pool of pipes. Runs in a worker. */
#include "pipe_pool.h"

#include <assert.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

enum { REFUSAL_MS = 100, SQUEEZED_MS = 10000 };

static uint64_t coarse_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static int size_class(uint32_t size)
{
    int at = 0;
    while (at < TM_PIPE_CLASSES - 1 && size >= TM_PIPE_MIN << (at + 1))
        at++;
    return at;
}

static uint32_t class_size(int at)
{
    return TM_PIPE_MIN << at;
}

static void count(struct tm_pipe_pool *pool, uint32_t size)
{
    int at = size_class(size);
    pool->of_class[at]++;
    pool->held += class_size(at);
}

static void uncount(struct tm_pipe_pool *pool, uint32_t size)
{
    int at = size_class(size);
    if (pool->of_class[at] == 0) /* somebody else has changed its size: the sum is what matters */
        for (at = 0; at < TM_PIPE_CLASSES - 1 && pool->of_class[at] == 0;)
            at++;
    assert(pool->of_class[at]);
    pool->of_class[at]--;
    pool->held -= class_size(at);
}

/* Bytes. While all have one size nobody has to be asked. */
static uint32_t size_of(const struct tm_pipe_pool *pool, const struct tm_pipe *pipe)
{
    int at = size_class(tm_pipe_smallest(pool));
    if (pool->of_class[at] == pool->open)
        return class_size(at);
    int size = fcntl(pipe->in, F_GETPIPE_SZ);
    return size < 0 ? TM_PIPE_MIN : class_size(size_class((uint32_t)size));
}

/* Bytes that all are to have together. */
static uint64_t room(struct tm_pipe_pool *pool)
{
    if (pool->squeezed_until_ms && coarse_ms() >= pool->squeezed_until_ms)
        pool->squeezed_until_ms = 0;
    return pool->squeezed_until_ms && pool->squeezed_room < pool->room ? pool->squeezed_room
                                                                       : pool->room;
}

/* What each may have when `lent` are in use. */
static uint32_t share(struct tm_pipe_pool *pool, uint32_t lent)
{
    uint64_t all = room(pool);
    uint32_t size = pool->most;
    while (size > TM_PIPE_MIN && (uint64_t)lent * size > all)
        size /= 2;
    return size;
}

/* The kernel has no more for this user, whoever of its processes has it. */
static void squeeze(struct tm_pipe_pool *pool)
{
    pool->squeezed_room = pool->held / 2;
    pool->squeezed_until_ms = coarse_ms() + SQUEEZED_MS;
}

static bool resize(struct tm_pipe_pool *pool, const struct tm_pipe *pipe, uint32_t from,
                   uint32_t to)
{
    int size = fcntl(pipe->in, F_SETPIPE_SZ, to);
    if (size < 0)
        return false;
    uncount(pool, from);
    count(pool, (uint32_t)size);
    return true;
}

static void destroy(struct tm_pipe_pool *pool, struct tm_pipe *pipe)
{
    /* Out of the record first: it must never name a number that has been closed. */
    struct tm_pipe closing = *pipe;
    uncount(pool, size_of(pool, pipe));
    pipe->in = pipe->out = -1;
    atomic_signal_fence(memory_order_seq_cst);
    close(closing.in);
    close(closing.out);
    pool->open--;
}

/* Its share, or whatever the kernel gives. Below TM_PIPE_MIN: false. */
static bool give_size(struct tm_pipe_pool *pool, const struct tm_pipe *pipe)
{
    uint32_t wanted = share(pool, pool->open - pool->idle + 1);
    int size = fcntl(pipe->in, F_SETPIPE_SZ, wanted);
    if (size < 0) {
        squeeze(pool);
        while (size < 0 && wanted > TM_PIPE_MIN)
            size = fcntl(pipe->in, F_SETPIPE_SZ, wanted /= 2);
    }
    if (size < 0)
        size = fcntl(pipe->in, F_GETPIPE_SZ);
    if (size < (int)TM_PIPE_MIN)
        return false;
    count(pool, (uint32_t)size);
    return true;
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
    *pipe = (struct tm_pipe){.in = ends[1], .out = ends[0]};
    if (!give_size(pool, pipe)) {
        *pipe = (struct tm_pipe){.in = -1, .out = -1};
        close(ends[0]);
        close(ends[1]);
        pool->refused_until_ms = coarse_ms() + REFUSAL_MS;
        return false;
    }
    pool->open++;
    return true;
}

void tm_pipe_pool_init(struct tm_pipe_pool *pool, uint32_t limit)
{
    *pool = (struct tm_pipe_pool){.limit = limit, .most = TM_PIPE_SIZE, .room = UINT64_MAX};
}

void tm_pipe_pool_bound(struct tm_pipe_pool *pool, uint32_t most, uint64_t all)
{
    uint32_t size = TM_PIPE_MIN;
    while (size < most && size < TM_PIPE_SIZE)
        size *= 2;
    pool->most = size;
    pool->room = all;
}

bool tm_pipe_is_tight(struct tm_pipe_pool *pool)
{
    return pool->held > room(pool);
}

void tm_pipe_shrink(struct tm_pipe_pool *pool, const struct tm_pipe *pipe)
{
    uint32_t size = size_of(pool, pipe);
    /* A filled one keeps what it needs (EBUSY). */
    for (uint32_t to = share(pool, pool->open - pool->idle); to < size; to *= 2)
        if (resize(pool, pipe, size, to))
            return;
}

/* One that was idle: smaller if there are too many now, larger if there were. */
static void fit(struct tm_pipe_pool *pool, const struct tm_pipe *pipe)
{
    uint32_t most = share(pool, pool->open - pool->idle), size;
    if (tm_pipe_is_tight(pool)) {
        tm_pipe_shrink(pool, pipe);
    } else if (tm_pipe_smallest(pool) < most) {
        size = size_of(pool, pipe);
        if (size > most / 4)
            return;
        while (pool->idle && pool->held + most - size > room(pool))
            destroy(pool, &pool->pipes[--pool->idle]);
        (void)resize(pool, pipe, size, most);
    }
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
    fit(pool, pipe);
    return true;
}

bool tm_pipe_take_spare(struct tm_pipe_pool *pool, struct tm_pipe *pipe)
{
    for (; pool->idle < 2; pool->idle++)
        if (!make(pool, &pool->pipes[pool->idle]))
            return false;
    if (!tm_pipe_take(pool, pipe))
        return false;
    if (tm_pipe_ready(pool)) /* else the other one has had to go, for this one's size */
        return true;
    pool->pipes[pool->idle++] = *pipe;
    *pipe = (struct tm_pipe){-1, -1};
    return false;
}

void tm_pipe_give_back(struct tm_pipe_pool *pool, struct tm_pipe *pipe, bool empty)
{
    assert(pipe->in >= 0 && pipe->out >= 0);
    if (!empty || pool->idle == TM_PIPES_IDLE || tm_pipe_is_tight(pool)) {
        destroy(pool, pipe);
        return;
    }
    pool->pipes[pool->idle++] = *pipe;
    pipe->in = pipe->out = -1;
}

void tm_pipe_pool_adopt(struct tm_pipe_pool *pool, const struct tm_pipe *pipe)
{
    int size = fcntl(pipe->in, F_GETPIPE_SZ);
    pool->open++;
    count(pool, size < 0 ? TM_PIPE_MIN : (uint32_t)size);
}

void tm_pipe_pool_destroy(struct tm_pipe_pool *pool)
{
    while (pool->idle)
        destroy(pool, &pool->pipes[--pool->idle]);
    assert(pool->open == 0 && pool->held == 0);
}
