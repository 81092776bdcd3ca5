/* csrc/pinned.h: sums over all workers that need no end. */
#include "pinned.h"

#include <pthread.h>

#include "check.h"

enum { KIB = 1024, UNIT = 16 * KIB };

static struct tm_pinned pinned;

static void a_sum_is_that_of_the_epoch_before(void)
{
    _Atomic uint64_t account = 0;
    tm_pinned_add(&account, 7, 100 * UNIT);
    tm_pinned_add(&account, 7, 50 * UNIT);
    CHECK_EQUAL(tm_pinned_sum(&account, 7), 0);
    CHECK_EQUAL(tm_pinned_sum(&account, 8), 150 * UNIT);
    tm_pinned_add(&account, 8, UNIT);
    CHECK_EQUAL(tm_pinned_sum(&account, 8), 150 * UNIT);
    CHECK_EQUAL(tm_pinned_sum(&account, 9), UNIT);
    CHECK_EQUAL(tm_pinned_sum(&account, 10), 0); /* nobody said anything */
}

static void epochs_begin_again(void)
{
    _Atomic uint64_t account = 0;
    tm_pinned_add(&account, 0xffff, 3 * UNIT);
    CHECK_EQUAL(tm_pinned_sum(&account, 0), 3 * UNIT);
    CHECK_EQUAL(tm_pinned_epoch(65535ull * TM_PINNED_EPOCH_MS), 0xffff);
    CHECK_EQUAL(tm_pinned_epoch(65536ull * TM_PINNED_EPOCH_MS), 0);
}

static void what_was_ended_counts_no_more(void)
{
    _Atomic uint64_t account = 0;
    tm_pinned_add(&account, 1, 10 * UNIT);
    tm_pinned_add(&account, 2, 9 * UNIT);
    tm_pinned_free(&account, 2, 4 * UNIT);
    CHECK_EQUAL(tm_pinned_sum(&account, 2), 6 * UNIT);
    CHECK_EQUAL(tm_pinned_sum(&account, 3), 5 * UNIT);
    tm_pinned_free(&account, 2, 100 * UNIT);
    CHECK_EQUAL(tm_pinned_sum(&account, 2), 0);
    CHECK_EQUAL(tm_pinned_sum(&account, 3), 0);
}

static void no_number_is_too_large(void)
{
    _Atomic uint64_t account = UINT64_MAX;
    tm_pinned_add(&account, 5, UINT64_MAX / 2);
    tm_pinned_add(&account, 5, UINT64_MAX / 2);
    CHECK_EQUAL(tm_pinned_sum(&account, 6), TM_PINNED_MAX << TM_PINNED_UNIT_BITS);
    CHECK_EQUAL(account >> 48, 5);
}

static void each_client_has_an_account(void)
{
    memset(&pinned, 0, sizeof(pinned));
    _Atomic uint64_t *one = tm_pinned_by(&pinned, 5, 1), *other = tm_pinned_by(&pinned, 6, 1);
    CHECK(one && other && one != other);
    tm_pinned_add(one, 1, UNIT);
    CHECK(tm_pinned_by(&pinned, 5, 2) == one);
}

static void a_place_that_is_not_used_is_another_clients(void)
{
    memset(&pinned, 0, sizeof(pinned));
    for (uint64_t i = 1; i <= TM_PINNED_WAYS; i++)
        tm_pinned_add(tm_pinned_by(&pinned, i * TM_PINNED_SETS, 1), 1, UNIT);
    CHECK(tm_pinned_by(&pinned, 99 * TM_PINNED_SETS, 1) == NULL);
    CHECK(tm_pinned_by(&pinned, 99 * TM_PINNED_SETS, 2) == NULL);
    _Atomic uint64_t *at = tm_pinned_by(&pinned, 99 * TM_PINNED_SETS, 3);
    CHECK(at);
    CHECK_EQUAL(tm_pinned_sum(at, 3), 0);
    CHECK(tm_pinned_by(&pinned, 99 * TM_PINNED_SETS, 3) == at);
}

enum { WORKERS = 4, ROUNDS = 20000 };
static _Atomic uint64_t shared;

static void *add_many(void *unused)
{
    (void)unused;
    for (int i = 0; i < ROUNDS; i++)
        tm_pinned_add(&shared, 3, UNIT);
    return NULL;
}

static void workers_add_at_the_same_time(void)
{
    pthread_t threads[WORKERS];
    for (int i = 0; i < WORKERS; i++)
        CHECK(pthread_create(&threads[i], NULL, add_many, NULL) == 0);
    for (int i = 0; i < WORKERS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK_EQUAL(tm_pinned_sum(&shared, 4), (uint64_t)WORKERS * ROUNDS * UNIT);
}

int main(void)
{
    RUN(a_sum_is_that_of_the_epoch_before);
    RUN(epochs_begin_again);
    RUN(what_was_ended_counts_no_more);
    RUN(no_number_is_too_large);
    RUN(each_client_has_an_account);
    RUN(a_place_that_is_not_used_is_another_clients);
    RUN(workers_add_at_the_same_time);
    return 0;
}
