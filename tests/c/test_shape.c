/* csrc/shape.h: rates are kept, by a clock that the test turns. */
#include "shape.h"

#include "check.h"

enum {
    HALVES = 300,
    TICK = 10000000, /* ns: how coarse timers are (wheel.h) */
};

#define SECONDS 10ull
#define BEGIN (1000 * TM_SHAPE_SECOND)

struct half {
    uint64_t paid, wake, bytes;
    uint32_t power;
    bool reserved;
};

static struct half halves[HALVES];

/* What csrc/conn/rate.c does with a half whose time has come: 0 = it waits until half->wake. */
static uint64_t go_on(struct half *half, _Atomic uint64_t *account, uint64_t own, uint64_t whole,
                      uint64_t now)
{
    uint64_t reserved = 0;
    uint32_t power = own ? tm_shape_power(own, 0) : TM_SHAPE_MOST_POWER;
    if (whole) {
        if (!half->reserved) {
            uint32_t shared = tm_shape_power(whole, tm_shape_ahead(account, now));
            half->power = shared < power ? shared : power;
            uint64_t start =
                tm_shape_reserve(account, now, tm_shape_cost(1ull << half->power, whole));
            if (start > now + TM_SHAPE_EARLY) {
                half->reserved = true;
                half->paid = half->wake = start;
                return 0;
            }
        }
        half->reserved = false;
        power = half->power;
        reserved = tm_shape_cost(1ull << power, whole);
    }
    uint64_t moved = 1ull << power;
    if (own)
        half->paid = tm_shape_pay(half->paid, now, tm_shape_cost(moved, own));
    if (whole)
        tm_shape_settle(account, (int64_t)(tm_shape_cost(moved, whole) - reserved));
    half->wake = own && half->paid > now + TM_SHAPE_EARLY ? half->paid : now;
    half->bytes += moved;
    return moved;
}

/* Bytes that `count` halves move in so many seconds, each with as much to read as it can get. */
static uint64_t run(uint32_t count, uint64_t own, uint64_t whole, uint64_t seconds)
{
    _Atomic uint64_t account = 0;
    uint64_t now = BEGIN, total = 0;
    memset(halves, 0, sizeof(halves));
    while (now < BEGIN + seconds * TM_SHAPE_SECOND) {
        uint64_t next = UINT64_MAX, turn = 0;
        for (uint32_t i = 0; i < count; i++) {
            if (halves[i].wake <= now + TM_SHAPE_EARLY)
                turn += go_on(&halves[i], &account, own, whole, now);
            if (halves[i].wake < next)
                next = halves[i].wake;
        }
        total += turn;
        if (next > now + TM_SHAPE_EARLY)
            now = (next / TICK + 1) * TICK + random_below(TICK);
        else
            now += 20000 + turn / 8; /* 8 GB/s */
    }
    return total;
}

static void check_rate(uint32_t count, uint64_t own, uint64_t whole, uint64_t rate)
{
    uint64_t total = run(count, own, whole, SECONDS), due = rate * SECONDS;
    if (total * 10 > due * 11 + 10 || total * 10 + 10 < due * 9) {
        fprintf(stderr, "%u halves, own %llu, whole %llu: %llu bytes, due %llu\n", count,
                (unsigned long long)own, (unsigned long long)whole, (unsigned long long)total,
                (unsigned long long)due);
        CHECK(false);
    }
}

static const uint64_t RATES[] = {1, 2, 7, 30, 100, 999, 4096, 20000, 102400, 1u << 20, 100000000, 1000000000};
#define EACH_RATE(i) (size_t i = 0; i < sizeof(RATES) / sizeof(RATES[0]); i++)

static void a_connection_keeps_its_rate(void)
{
    for EACH_RATE (i)
        check_rate(1, RATES[i], 0, RATES[i]);
}

static void all_connections_of_a_route_keep_its_rate_together(void)
{
    static const uint32_t COUNTS[] = {1, 2, 5, 40, HALVES};
    for EACH_RATE (i)
        for (size_t j = 0; j < sizeof(COUNTS) / sizeof(COUNTS[0]); j++)
            check_rate(COUNTS[j], 0, RATES[i], RATES[i]);
}

static void of_two_limits_the_lower_one_holds(void)
{
    for EACH_RATE (i) {
        check_rate(1, RATES[i], RATES[i] * 3, RATES[i]);
        check_rate(4, RATES[i], RATES[i] * 2, RATES[i] * 2);
        check_rate(4, RATES[i], RATES[i] * 40, RATES[i] * 4);
    }
}

static void connections_share_a_route_alike(void)
{
    run(20, 0, 1 << 20, SECONDS);
    uint64_t least = UINT64_MAX, most = 0;
    for (uint32_t i = 0; i < 20; i++) {
        least = halves[i].bytes < least ? halves[i].bytes : least;
        most = halves[i].bytes > most ? halves[i].bytes : most;
    }
    CHECK(least * 3 > most * 2);
}

static void a_turn_comes_round_soon(void)
{
    /* 300 connections of 1 MB/s: 20 ms each would be 6 s. */
    _Atomic uint64_t account = 0;
    for (int round = 0; round < 300; round++) {
        uint32_t power = tm_shape_power(1000000, tm_shape_ahead(&account, BEGIN));
        (void)tm_shape_reserve(&account, BEGIN, tm_shape_cost(1ull << power, 1000000));
    }
    CHECK(tm_shape_ahead(&account, BEGIN) < TM_SHAPE_SECOND);
}

static void what_was_not_used_is_given_back(void)
{
    _Atomic uint64_t account = 0;
    for (int round = 0; round < 1000; round++) {
        CHECK(tm_shape_reserve(&account, BEGIN, TM_SHAPE_TURN) <= BEGIN);
        tm_shape_settle(&account, -(int64_t)TM_SHAPE_TURN);
    }
}

static void an_idle_account_saves_little(void)
{
    _Atomic uint64_t account = BEGIN;
    CHECK_EQUAL(tm_shape_reserve(&account, BEGIN + 100 * TM_SHAPE_SECOND, 0),
                BEGIN + 100 * TM_SHAPE_SECOND - TM_SHAPE_CREDIT);
    CHECK_EQUAL(tm_shape_pay(BEGIN, BEGIN + 100 * TM_SHAPE_SECOND, 5),
                BEGIN + 100 * TM_SHAPE_SECOND - TM_SHAPE_CREDIT + 5);
}

static void a_damaged_account_blocks_nobody(void)
{
    _Atomic uint64_t account = UINT64_MAX - 5;
    CHECK_EQUAL(tm_shape_ahead(&account, BEGIN), 0);
    CHECK_EQUAL(tm_shape_reserve(&account, BEGIN, 1000), BEGIN);
    CHECK_EQUAL(account, BEGIN + 1000);
    CHECK_EQUAL(tm_shape_pay(UINT64_MAX, BEGIN, 1), BEGIN + 1);
}

static void another_rate_forgives_what_the_old_one_made_wait(void)
{
    _Atomic uint64_t account = BEGIN + 500 * TM_SHAPE_SECOND;
    tm_shape_forgive(&account, BEGIN);
    CHECK_EQUAL(account, BEGIN);
    tm_shape_forgive(&account, BEGIN + 5);
    CHECK_EQUAL(account, BEGIN);
}

int main(void)
{
    random_seed();
    RUN(a_connection_keeps_its_rate);
    RUN(all_connections_of_a_route_keep_its_rate_together);
    RUN(of_two_limits_the_lower_one_holds);
    RUN(connections_share_a_route_alike);
    RUN(a_turn_comes_round_soon);
    RUN(what_was_not_used_is_given_back);
    RUN(an_idle_account_saves_little);
    RUN(a_damaged_account_blocks_nobody);
    RUN(another_rate_forgives_what_the_old_one_made_wait);
    return 0;
}
