/* Tests csrc/pipe_pool: pipes taken, given back, destroyed and refused, and that no descriptor
 * is lost on any of these ways. Runs alone, under sanitizers. */
#include "pipe_pool.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { NOBODY = 65534, SOMEBODY = 65111, SLACK_MS = 60 };

static const struct tm_pipe NO_PIPE = {-1, -1};

static bool is_none(const struct tm_pipe *pipe)
{
    return pipe->in == -1 && pipe->out == -1;
}

static void a_pipe_is_what_the_pump_needs(void)
{
    struct tm_pipe_pool pool;
    struct tm_pipe pipe = NO_PIPE;
    char data[3] = "";
    uint32_t before = open_descriptors();
    tm_pipe_pool_init(&pool, 4);
    CHECK(tm_pipe_take(&pool, &pipe));
    CHECK_EQUAL(open_descriptors(), before + 2);
    CHECK(pool.open == 1 && pool.idle == 0);
    CHECK(write(pipe.in, "abc", 3) == 3);
    CHECK(read(pipe.out, data, 3) == 3 && memcmp(data, "abc", 3) == 0);
    for (int end = 0; end < 2; end++) {
        int fd = end ? pipe.in : pipe.out;
        CHECK(!(fcntl(fd, F_GETFD) & FD_CLOEXEC)); /* the next build takes it over */
        CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK);
    }
    int size = fcntl(pipe.in, F_GETPIPE_SZ);
    CHECK(size >= (int)TM_PIPE_MIN && size <= (int)TM_PIPE_SIZE);
    /* Any rest of one buffer fits into an empty one. */
    static const char rest[TM_PIPE_MIN];
    CHECK(write(pipe.in, rest, sizeof(rest)) == (ssize_t)sizeof(rest));
    tm_pipe_give_back(&pool, &pipe, false);
    tm_pipe_pool_destroy(&pool);
    CHECK_EQUAL(open_descriptors(), before);
}

static void an_empty_pipe_is_used_again(void)
{
    struct tm_pipe_pool pool;
    struct tm_pipe pipe = NO_PIPE, again = NO_PIPE;
    tm_pipe_pool_init(&pool, 4);
    CHECK(tm_pipe_take(&pool, &pipe));
    struct tm_pipe first = pipe;
    tm_pipe_give_back(&pool, &pipe, true);
    CHECK(is_none(&pipe));
    CHECK(pool.open == 1 && pool.idle == 1);
    CHECK(tm_pipe_take(&pool, &again));
    CHECK(again.in == first.in && again.out == first.out);
    tm_pipe_give_back(&pool, &again, true);
    tm_pipe_pool_destroy(&pool);
    CHECK(pool.open == 0 && pool.idle == 0);
}

static void a_pipe_with_bytes_in_it_is_destroyed(void)
{
    struct tm_pipe_pool pool;
    struct tm_pipe pipe = NO_PIPE;
    char byte;
    uint32_t before = open_descriptors();
    tm_pipe_pool_init(&pool, 1);
    CHECK(tm_pipe_take(&pool, &pipe));
    CHECK(write(pipe.in, "secret", 6) == 6);
    tm_pipe_give_back(&pool, &pipe, false);
    CHECK(is_none(&pipe));
    CHECK(pool.open == 0 && pool.idle == 0);
    CHECK_EQUAL(open_descriptors(), before);
    /* Its place is free again, and nothing of one connection turns up in another. */
    CHECK(tm_pipe_take(&pool, &pipe));
    CHECK(read(pipe.out, &byte, 1) == -1 && errno == EAGAIN);
    tm_pipe_give_back(&pool, &pipe, true);
    tm_pipe_pool_destroy(&pool);
    CHECK_EQUAL(open_descriptors(), before);
}

static void a_spare_one_leaves_another(void)
{
    struct tm_pipe_pool pool;
    struct tm_pipe one = NO_PIPE, other = NO_PIPE;
    tm_pipe_pool_init(&pool, 2);
    CHECK(tm_pipe_take_spare(&pool, &one) && tm_pipe_ready(&pool));
    CHECK(!tm_pipe_take_spare(&pool, &other) && is_none(&other));
    CHECK(tm_pipe_ready(&pool) && tm_pipe_take(&pool, &other));
    tm_pipe_give_back(&pool, &one, true);
    CHECK(!tm_pipe_take_spare(&pool, &one) && is_none(&one) && tm_pipe_ready(&pool));
    tm_pipe_give_back(&pool, &other, true);
    tm_pipe_pool_destroy(&pool);
    tm_pipe_pool_init(&pool, 1);
    CHECK(tm_pipe_ready(&pool));
    CHECK(!tm_pipe_take_spare(&pool, &one) && is_none(&one));
    CHECK(tm_pipe_ready(&pool) && pool.open == 1);
    tm_pipe_pool_destroy(&pool);
}

static void the_limit_counts_idle_and_lent_ones(void)
{
    enum { LIMIT = 3 };
    struct tm_pipe_pool pool;
    struct tm_pipe pipes[LIMIT], more = NO_PIPE;
    uint32_t before = open_descriptors();
    tm_pipe_pool_init(&pool, LIMIT);
    for (int i = 0; i < LIMIT; i++) {
        pipes[i] = NO_PIPE;
        CHECK(tm_pipe_ready(&pool));
        CHECK(tm_pipe_take(&pool, &pipes[i]));
    }
    CHECK(!tm_pipe_ready(&pool));
    CHECK(!tm_pipe_take(&pool, &more) && is_none(&more));
    CHECK_EQUAL(open_descriptors(), before + 2 * LIMIT);
    /* The limit is no refusal: what is given back can be had at once. */
    tm_pipe_give_back(&pool, &pipes[0], true);
    CHECK(tm_pipe_ready(&pool) && tm_pipe_take(&pool, &pipes[0]));
    tm_pipe_give_back(&pool, &pipes[0], false);
    CHECK(tm_pipe_ready(&pool) && tm_pipe_take(&pool, &pipes[0]));
    for (int i = 0; i < LIMIT; i++)
        tm_pipe_give_back(&pool, &pipes[i], true);
    CHECK(pool.idle == LIMIT && pool.open == LIMIT);
    tm_pipe_pool_destroy(&pool);
    CHECK_EQUAL(open_descriptors(), before);
}

static void a_limit_of_zero_gives_none(void)
{
    struct tm_pipe_pool pool;
    struct tm_pipe pipe = NO_PIPE;
    uint32_t before = open_descriptors();
    tm_pipe_pool_init(&pool, 0);
    CHECK(!tm_pipe_ready(&pool) && !tm_pipe_take(&pool, &pipe) && is_none(&pipe));
    tm_pipe_pool_destroy(&pool);
    CHECK_EQUAL(open_descriptors(), before);
}

static void ready_makes_one_and_keeps_it(void)
{
    struct tm_pipe_pool pool;
    struct tm_pipe pipe = NO_PIPE;
    uint32_t before = open_descriptors();
    tm_pipe_pool_init(&pool, 2);
    for (int turn = 0; turn < 5; turn++)
        CHECK(tm_pipe_ready(&pool));
    CHECK(pool.open == 1 && pool.idle == 1);
    CHECK_EQUAL(open_descriptors(), before + 2);
    CHECK(tm_pipe_take(&pool, &pipe));
    tm_pipe_give_back(&pool, &pipe, true);
    tm_pipe_pool_destroy(&pool);
    CHECK_EQUAL(open_descriptors(), before);
}

static void only_so_many_are_kept_idle(void)
{
    enum { MORE = TM_PIPES_IDLE + 5 };
    struct tm_pipe_pool pool;
    struct tm_pipe pipes[MORE];
    uint32_t before = open_descriptors();
    tm_pipe_pool_init(&pool, 1000);
    for (int i = 0; i < MORE; i++) {
        pipes[i] = NO_PIPE;
        CHECK(tm_pipe_take(&pool, &pipes[i]));
    }
    CHECK_EQUAL(pool.open, MORE);
    for (int i = 0; i < MORE; i++) {
        tm_pipe_give_back(&pool, &pipes[i], true);
        CHECK(is_none(&pipes[i]));
    }
    CHECK(pool.idle == TM_PIPES_IDLE && pool.open == TM_PIPES_IDLE);
    CHECK_EQUAL(open_descriptors(), before + 2 * TM_PIPES_IDLE);
    tm_pipe_pool_destroy(&pool);
    CHECK_EQUAL(open_descriptors(), before);
}

/* --- sizes ---------------------------------------------------------------------------------- */

enum { MIB = 1 << 20, MANY = 80 };

static uint32_t size_of_pipe(const struct tm_pipe *pipe)
{
    return (uint32_t)fcntl(pipe->in, F_GETPIPE_SZ);
}

static void take_all(struct tm_pipe_pool *pool, struct tm_pipe *pipes, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        pipes[i] = NO_PIPE;
        CHECK(tm_pipe_take(pool, &pipes[i]));
    }
}

static void give_all(struct tm_pipe_pool *pool, struct tm_pipe *pipes, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        tm_pipe_give_back(pool, &pipes[i], true);
}

/* What the pump does between two splices. */
static void shrink_all(struct tm_pipe_pool *pool, struct tm_pipe *pipes, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (tm_pipe_is_tight(pool))
            tm_pipe_shrink(pool, &pipes[i]);
}

static uint64_t held_by(const struct tm_pipe *pipes, uint32_t count)
{
    uint64_t held = 0;
    for (uint32_t i = 0; i < count; i++)
        held += size_of_pipe(&pipes[i]);
    return held;
}

static void the_more_the_smaller(void)
{
    struct tm_pipe_pool pool;
    struct tm_pipe pipes[MANY];
    uint32_t before = open_descriptors();
    tm_pipe_pool_init(&pool, MANY);
    tm_pipe_pool_bound(&pool, MIB, 4 * MIB);
    take_all(&pool, pipes, 4);
    for (uint32_t i = 0; i < 4; i++)
        CHECK_EQUAL(size_of_pipe(&pipes[i]), MIB);
    CHECK(!tm_pipe_is_tight(&pool));
    take_all(&pool, pipes + 4, 1);
    CHECK_EQUAL(size_of_pipe(&pipes[4]), MIB / 2);
    CHECK(tm_pipe_is_tight(&pool));
    shrink_all(&pool, pipes, 5);
    CHECK(!tm_pipe_is_tight(&pool));
    CHECK(held_by(pipes, 5) <= 4 * MIB);
    CHECK_EQUAL(pool.held, held_by(pipes, 5));
    for (uint32_t count = 6; count <= 64; count++) {
        take_all(&pool, pipes + count - 1, 1);
        shrink_all(&pool, pipes, count);
        CHECK(held_by(pipes, count) <= 4 * MIB);
        CHECK_EQUAL(pool.held, held_by(pipes, count));
    }
    /* There are no smaller ones: that of the room more are made is for the kernel to say. */
    take_all(&pool, pipes + 64, MANY - 64);
    shrink_all(&pool, pipes, MANY);
    CHECK_EQUAL(held_by(pipes, MANY), (uint64_t)MANY * TM_PIPE_MIN);
    give_all(&pool, pipes, MANY);
    CHECK(pool.held <= 4 * MIB);
    /* And the fewer the larger. */
    take_all(&pool, pipes, 1);
    CHECK_EQUAL(size_of_pipe(&pipes[0]), MIB);
    give_all(&pool, pipes, 1);
    tm_pipe_pool_destroy(&pool);
    CHECK_EQUAL(open_descriptors(), before);
}

static void a_filled_one_keeps_what_it_needs(void)
{
    enum { FILLED = 300 << 10 };
    static char data[FILLED];
    struct tm_pipe_pool pool;
    struct tm_pipe pipes[32];
    tm_pipe_pool_init(&pool, 32);
    tm_pipe_pool_bound(&pool, MIB, 2 * MIB);
    take_all(&pool, pipes, 1);
    CHECK(write(pipes[0].in, data, FILLED) == FILLED);
    take_all(&pool, pipes + 1, 31);
    shrink_all(&pool, pipes, 32);
    CHECK_EQUAL(size_of_pipe(&pipes[0]), MIB / 2);
    CHECK_EQUAL(size_of_pipe(&pipes[31]), TM_PIPE_MIN);
    CHECK_EQUAL(pool.held, held_by(pipes, 32));
    CHECK(read(pipes[0].out, data, FILLED) == FILLED);
    tm_pipe_shrink(&pool, &pipes[0]);
    CHECK_EQUAL(size_of_pipe(&pipes[0]), TM_PIPE_MIN);
    give_all(&pool, pipes, 32);
    tm_pipe_pool_destroy(&pool);
}

static void one_of_an_earlier_life_counts(void)
{
    struct tm_pipe_pool earlier, pool;
    struct tm_pipe pipes[3];
    tm_pipe_pool_init(&earlier, 3);
    take_all(&earlier, pipes, 3);
    CHECK(fcntl(pipes[0].in, F_SETPIPE_SZ, 4096) == 4096); /* a size that we never give */
    tm_pipe_pool_init(&pool, 3);
    tm_pipe_pool_bound(&pool, MIB, MIB);
    for (uint32_t i = 0; i < 3; i++)
        tm_pipe_pool_adopt(&pool, &pipes[i]);
    CHECK_EQUAL(pool.held, 2 * MIB + TM_PIPE_MIN);
    CHECK(tm_pipe_is_tight(&pool));
    shrink_all(&pool, pipes, 3);
    CHECK(!tm_pipe_is_tight(&pool));
    give_all(&pool, pipes, 3);
    tm_pipe_pool_destroy(&pool);
}

static void sizes_are_rounded_up(void)
{
    struct tm_pipe_pool pool;
    struct tm_pipe pipe[1];
    static const uint32_t ASKED[][2] = {
        {1, 64 << 10}, {64 << 10, 64 << 10}, {100 << 10, 128 << 10}, {MIB, MIB}, {9 * MIB, MIB},
    };
    for (size_t i = 0; i < sizeof(ASKED) / sizeof(*ASKED); i++) {
        tm_pipe_pool_init(&pool, 1);
        tm_pipe_pool_bound(&pool, ASKED[i][0], 100 * MIB);
        take_all(&pool, pipe, 1);
        CHECK_EQUAL(size_of_pipe(pipe), ASKED[i][1]);
        give_all(&pool, pipe, 1);
        tm_pipe_pool_destroy(&pool);
    }
}

/* --- refusals, each in a process of its own ------------------------------------------------- */

static void in_child(void (*test)(void))
{
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        test();
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(status == 0);
}

static void out_of_descriptors(void)
{
    struct tm_pipe_pool pool;
    struct tm_pipe pipe = NO_PIPE;
    struct rlimit limit, old;
    tm_pipe_pool_init(&pool, 100);
    CHECK(getrlimit(RLIMIT_NOFILE, &old) == 0);
    int lowest = dup(0);
    CHECK(lowest >= 0 && close(lowest) == 0);
    limit = (struct rlimit){(rlim_t)lowest + 1, old.rlim_max}; /* room for one end only */
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    CHECK(!tm_pipe_ready(&pool));
    CHECK(!tm_pipe_take(&pool, &pipe) && is_none(&pipe));
    CHECK(pool.open == 0 && pool.idle == 0);
    int same = dup(0); /* nothing was left open */
    CHECK(same == lowest && close(same) == 0);

    /* Remembered for 100 ms, unless this process was held up for as long. */
    pool.refused_until_ms = 0;
    uint64_t refused_at = now_ms();
    CHECK(!tm_pipe_ready(&pool));
    CHECK(setrlimit(RLIMIT_NOFILE, &old) == 0);
    bool ready = tm_pipe_ready(&pool);
    CHECK(!ready || now_ms() >= refused_at + SLACK_MS);
    while (!tm_pipe_ready(&pool))
        CHECK(now_ms() < refused_at + (uint64_t)patient(5000));
    CHECK(now_ms() >= refused_at + SLACK_MS);
    CHECK(tm_pipe_take(&pool, &pipe));
    tm_pipe_give_back(&pool, &pipe, true);
    tm_pipe_pool_destroy(&pool);
}

static void a_refusal_is_remembered_and_then_forgotten(void)
{
    in_child(out_of_descriptors);
}

static long pages_allowed(void)
{
    long pages = 0;
    FILE *file = fopen("/proc/sys/fs/pipe-user-pages-soft", "re");
    if (!file)
        return 0;
    if (fscanf(file, "%ld", &pages) != 1)
        pages = 0;
    fclose(file);
    return pages;
}

/* As a user without privileges: past pipe-user-pages-soft the system hands out pipes of 8 KiB. */
static void out_of_pipe_pages(void)
{
    enum { ASKED = 300 };
    static struct tm_pipe pipes[ASKED];
    struct tm_pipe_pool pool;
    uint32_t before = open_descriptors(), got = 0;
    tm_pipe_pool_init(&pool, ASKED);
    for (; got < ASKED; got++) {
        pipes[got] = NO_PIPE;
        if (!tm_pipe_take(&pool, &pipes[got]))
            break;
        CHECK(fcntl(pipes[got].in, F_GETPIPE_SZ) >= (int)TM_PIPE_MIN);
    }
    fprintf(stderr, "    %u pipes of up to 1 MiB, then refused\n", got);
    CHECK(got < ASKED);
    CHECK(is_none(&pipes[got]));
    CHECK_EQUAL(pool.open, got);
    CHECK_EQUAL(open_descriptors(), before + 2 * got);
    for (uint32_t i = 0; i < got; i++)
        tm_pipe_give_back(&pool, &pipes[i], i % 2);
    tm_pipe_pool_destroy(&pool);
    CHECK_EQUAL(open_descriptors(), before);
}

/* Others of the same user have what this worker was to have. */
static void others_have_the_pages(void)
{
    enum { MAX_PIPES = 512 };
    static struct tm_pipe pipes[MAX_PIPES];
    struct tm_pipe_pool others, pool;
    uint32_t hoarded = 0, got = 0;
    static struct tm_pipe hoard[64];
    tm_pipe_pool_init(&others, 64);
    long pages = pages_allowed();
    while (hoarded < 64 && (hoarded + 17) * 256L < pages)
        take_all(&others, hoard + hoarded++, 1);
    /* 16 MiB are left; it reckons with as much as it likes. */
    tm_pipe_pool_init(&pool, MAX_PIPES);
    for (uint64_t until = now_ms() + (uint64_t)patient(5000); got < 200 && now_ms() < until;) {
        pipes[got] = NO_PIPE;
        if (tm_pipe_take(&pool, &pipes[got]))
            got++;
        shrink_all(&pool, pipes, got);
    }
    CHECK_EQUAL(got, 200);
    give_all(&pool, pipes, got);
    tm_pipe_pool_destroy(&pool);
    give_all(&others, hoard, hoarded);
    tm_pipe_pool_destroy(&others);
}

static void as_somebody(void)
{
    if (geteuid() == 0)
        CHECK(setresuid(SOMEBODY, SOMEBODY, SOMEBODY) == 0);
    others_have_the_pages();
}

static void what_others_have_is_made_up_for(void)
{
    long pages = pages_allowed();
    if (pages < 8192 || pages > 32768)
        return; /* not what this reckons with */
    in_child(as_somebody);
}

static void as_nobody(void)
{
    if (geteuid() == 0)
        CHECK(setresuid(NOBODY, NOBODY, NOBODY) == 0);
    out_of_pipe_pages();
}

static void pipes_too_small_are_refused(void)
{
    long pages = pages_allowed();
    if (pages <= 0 || pages > 65536) {
        fprintf(stderr, "    skipped: pipe-user-pages-soft is %ld here\n", pages);
        return;
    }
    in_child(as_nobody);
}

int main(void)
{
    uint32_t before = open_descriptors();
    RUN(a_pipe_is_what_the_pump_needs);
    RUN(an_empty_pipe_is_used_again);
    RUN(a_pipe_with_bytes_in_it_is_destroyed);
    RUN(a_spare_one_leaves_another);
    RUN(the_limit_counts_idle_and_lent_ones);
    RUN(a_limit_of_zero_gives_none);
    RUN(ready_makes_one_and_keeps_it);
    RUN(only_so_many_are_kept_idle);
    RUN(the_more_the_smaller);
    RUN(a_filled_one_keeps_what_it_needs);
    RUN(one_of_an_earlier_life_counts);
    RUN(sizes_are_rounded_up);
    RUN(a_refusal_is_remembered_and_then_forgotten);
    RUN(pipes_too_small_are_refused);
    RUN(what_others_have_is_made_up_for);
    CHECK_EQUAL(open_descriptors(), before);
    return 0;
}
