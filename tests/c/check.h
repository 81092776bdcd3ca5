/* What every C test needs: CHECK, RUN, a seed and a count of descriptors. Test programs only. */
#ifndef TM_TEST_CHECK_H
#define TM_TEST_CHECK_H

#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Not assert: NDEBUG must not be able to turn a test into one that can't fail. */
#define CHECK(condition)                                                                   \
    do {                                                                                   \
        if (!(condition)) {                                                                \
            fprintf(stderr, "%s:%d: %s: expected %s (errno %d: %s)\n", __FILE__, __LINE__, \
                    __func__, #condition, errno, strerror(errno));                         \
            abort();                                                                       \
        }                                                                                  \
    } while (0)

/* Two unsigned numbers that must be equal; both are shown if not. */
#define CHECK_EQUAL(got, expected)                                                         \
    do {                                                                                   \
        unsigned long long got_ = (unsigned long long)(got);                               \
        unsigned long long expected_ = (unsigned long long)(expected);                     \
        if (got_ != expected_) {                                                           \
            fprintf(stderr, "%s:%d: %s: %s is %llu, expected %s = %llu\n", __FILE__,       \
                    __LINE__, __func__, #got, got_, #expected, expected_);                 \
            abort();                                                                       \
        }                                                                                  \
    } while (0)

/* Says which test is running, so that a hang or a sanitizer's report can be placed. */
#define RUN(test)                              \
    do {                                       \
        fprintf(stderr, "  %s\n", #test);      \
        test();                                \
    } while (0)

static inline uint32_t open_descriptors(void)
{
    uint32_t count = 0;
    DIR *directory = opendir("/proc/self/fd");
    CHECK(directory);
    while (readdir(directory))
        count++;
    closedir(directory);
    return count;
}

static inline uint64_t now_ms(void)
{
    struct timespec now;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* A time limit, as patient() in tests/support.py: longer where the machine is slower by far. */
static inline int patient(int ms)
{
    const char *factor = getenv("TCPMUX_TEST_PATIENCE");
    return factor ? (int)(ms * strtod(factor, NULL)) : ms;
}

/* xorshift64*: the same numbers for the same seed, everywhere. */
static uint64_t random_state;

static inline void random_seed(void)
{
    const char *given = getenv("TCPMUX_TEST_SEED");
    random_state = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL) << 20 | now_ms() % 997;
    random_state |= 1;
    fprintf(stderr, "TCPMUX_TEST_SEED=%llu\n", (unsigned long long)random_state);
}

/* 0 .. bound - 1 */
static inline uint64_t random_below(uint64_t bound)
{
    CHECK(random_state != 0 && bound != 0);
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (random_state * 0x2545f4914f6cdd1dull >> 11) % bound;
}

#endif
