/* Tests csrc/sticky: shares, and who moves when weights change, over a million clients. */
#include "sticky.h"

#include <netinet/in.h>

#include "check.h"
#include "pick.h"

enum { CLIENTS = 1000000, MOST = 8 };
static const uint32_t whole[2] = {32, 128};

/* Who has what, by client. */
static unsigned char then[CLIENTS], now[CLIENTS];

/* Of destinations named 0, 1, ...: their hashes are as good as any. */
static struct tm_contender contender(uint32_t name, uint32_t weight)
{
    return (struct tm_contender){
        .hash = tm_mix(0xabcdef + name), .weight = weight, .destination = name,
    };
}

static uint64_t client_key(uint64_t salt, uint32_t client)
{
    uint32_t ip = htonl(0x0a000000 + client); /* one after the other, as they are in a network */
    unsigned char bytes[16] = {0};
    memcpy(bytes, &ip, 4);
    return tm_sticky_address_key(salt, AF_INET, bytes, whole);
}

/* Who has each client; by a route with that salt. */
static void assign(unsigned char *who, uint64_t salt, const uint32_t *weights, uint32_t count)
{
    struct tm_contender contenders[MOST];
    for (uint32_t i = 0; i < count; i++)
        contenders[i] = contender(i, weights[i]);
    for (uint32_t client = 0; client < CLIENTS; client++)
        who[client] = (unsigned char)tm_sticky_pick(contenders, count, client_key(salt, client));
}

/* Each destination's clients are as many as its weight says, but for 3 standard deviations. */
static void check_shares(const unsigned char *who, const uint32_t *weights, uint32_t count)
{
    uint64_t sum = 0, got[MOST + 1] = {0};
    for (uint32_t i = 0; i < count; i++)
        sum += weights[i];
    for (uint32_t client = 0; client < CLIENTS; client++)
        got[who[client]]++;
    CHECK_EQUAL(got[count], 0);
    for (uint32_t i = 0; i < count; i++) {
        double share = (double)weights[i] / (double)sum, off = (double)got[i] - CLIENTS * share;
        CHECK(off * off <= 9 * CLIENTS * share * (1 - share));
    }
}

static uint32_t moves(uint32_t from, uint32_t to)
{
    uint32_t count = 0;
    for (uint32_t client = 0; client < CLIENTS; client++)
        count += then[client] == from && now[client] == to;
    return count;
}

static void test_growth_moves_nobody_away(void)
{
    static const uint32_t steps[] = {1, 5, 20, 50, 99, 100};
    for (uint32_t i = 0; i < sizeof(steps) / sizeof(*steps); i++) {
        uint32_t weights[2] = {100 - steps[i], steps[i]};
        assign(now, 1, weights, 2);
        check_shares(now, weights, 2);
        if (i)
            CHECK_EQUAL(moves(1, 0), 0);
        memcpy(then, now, sizeof(then));
    }
}

static void test_three_versions_move_the_least(void)
{
    static const uint32_t before[3] = {60, 30, 10}, after[3] = {40, 30, 30};
    assign(then, 2, before, 3);
    assign(now, 2, after, 3);
    check_shares(now, after, 3);
    CHECK_EQUAL(moves(2, 0) + moves(2, 1), 0); /* which grew against both */
    CHECK_EQUAL(moves(1, 0), 0);               /* which grew against that one */
    /* The least is a fifth. A quarter, as some take the
     * way from 0 to 1 while others go from 1 to 2. */
CHECK(moves(0, 1) + moves(0, 2) + moves(1, 2) < CLIENTS * 26 / 100);
}

static void test_removal_moves_its_own(void)
{
    static const uint32_t weights[3] = {50, 30, 20}, without[3] = {50, 0, 20};
    assign(then, 3, weights, 3);
    assign(now, 3, without, 3);
    check_shares(now, without, 3);
    CHECK_EQUAL(moves(0, 2) + moves(2, 0), 0);
    CHECK_EQUAL(moves(1, 1), 0);
    assign(now, 3, weights, 3); /* and back */
    CHECK(memcmp(then, now, sizeof(then)) == 0);
}

static void test_salts_are_independent(void)
{
    static const uint32_t weights[2] = {70, 30};
    uint32_t both;
    double expected = 0.3 * 0.3 * CLIENTS;
    assign(then, 4, weights, 2);
    assign(now, 5, weights, 2);
    both = moves(1, 1);
    CHECK((both - expected) * (both - expected) <= 9 * expected * (1 - 0.09));
}

/* A million to one, and 63 millions to one, over so many keys that the one counts. */
static void test_extreme_weights(void)
{
    enum { KEYS = 20000000 };
    struct tm_contender contenders[2] = {contender(0, 1000000), contender(1, 1)};
    uint32_t got = 0;
    for (uint64_t i = 0; i < KEYS; i++)
        got += tm_sticky_pick(contenders, 2, tm_mix(i));
    CHECK(got > 6 && got < 34); /* 20, within 3 standard deviations */
}

static void test_order_and_ties(void)
{
    struct tm_contender some[3] = {contender(0, 5), contender(1, 7), contender(2, 11)};
    struct tm_contender turned[3] = {some[2], some[0], some[1]};
    struct tm_contender doubled[3] = {some[0], some[1], some[2]};
    struct tm_contender none[2] = {contender(0, 0), contender(1, 0)};
    for (int i = 0; i < 3; i++)
        doubled[i].weight *= 1000;
    for (uint64_t i = 0; i < 100000; i++) {
        uint64_t key = tm_mix(i);
        uint32_t best = tm_sticky_pick(some, 3, key);
        CHECK_EQUAL(some[best].hash, turned[tm_sticky_pick(turned, 3, key)].hash);
        CHECK_EQUAL(best, tm_sticky_pick(doubled, 3, key)); /* the ratio alone counts */
    }
    CHECK_EQUAL(tm_sticky_pick(none, 2, 1), 2);
    CHECK_EQUAL(tm_sticky_pick(some, 0, 1), 0);
    /* One name twice: the hashes are the same, and so is the choice. */
    turned[1] = turned[0];
    CHECK(tm_sticky_pick(turned, 2, 1) < 2);
}

/* test_sticky.py compares with logarithms of many digits. */
static void test_cost_is_within_bounds(void)
{
    CHECK(tm_sticky_cost(UINT64_MAX) <= 1);
    CHECK_EQUAL(tm_sticky_cost(0) >> 58, 44); /* 64 ln 2 */
    for (uint64_t i = 0; i < 1000000; i++) {
        uint64_t less = random_below(UINT64_MAX) << 11, more = less + ((uint64_t)1 << 34);
        if (more > less)
            CHECK(tm_sticky_cost(less) >= tm_sticky_cost(more));
    }
}

static void test_addresses(void)
{
    static const uint32_t net[2] = {24, 64}, nothing[2] = {0, 0}, odd[2] = {13, 45};
    unsigned char four[16] = {10, 1, 2, 3}, mapped[16] = {[10] = 0xff, 0xff, 10, 1, 2, 3};
    unsigned char six[16] = {0x20, 0x01, 0x0d, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    unsigned char other[16];
    uint64_t key = tm_sticky_address_key(1, AF_INET, four, net);
    CHECK_EQUAL(tm_sticky_address_key(1, AF_INET6, mapped, net), key);
    memcpy(other, four, 16);
    other[3] = 77; /* not within the prefix */
    other[9] = 77; /* not of the address */
    CHECK_EQUAL(tm_sticky_address_key(1, AF_INET, other, net), key);
    CHECK(tm_sticky_address_key(1, AF_INET, other, whole) !=
          tm_sticky_address_key(1, AF_INET, four, whole));
    other[2] = 3;
    CHECK(tm_sticky_address_key(1, AF_INET, other, net) != key);
    CHECK(tm_sticky_address_key(2, AF_INET, four, net) != key);
    key = tm_sticky_address_key(1, AF_INET6, six, net);
    memcpy(other, six, 16);
    other[8] = 99;
    CHECK_EQUAL(tm_sticky_address_key(1, AF_INET6, other, net), key);
    other[7] = 99;
    CHECK(tm_sticky_address_key(1, AF_INET6, other, net) != key);
    CHECK_EQUAL(tm_sticky_address_key(1, AF_INET6, six, nothing),
                tm_sticky_address_key(1, AF_INET6, other, nothing));
    key = tm_sticky_address_key(1, AF_INET, four, odd);
    memcpy(other, four, 16);
    other[1] ^= 0x07; /* 10.1 / 13: the last three bits of the second byte do not count */
    CHECK_EQUAL(tm_sticky_address_key(1, AF_INET, other, odd), key);
    other[1] ^= 0x08;
    CHECK(tm_sticky_address_key(1, AF_INET, other, odd) != key);
}

static void test_keys(void)
{
    static const unsigned char text[24] = "shop.example";
    uint64_t seen[24];
    for (size_t size = 0; size < sizeof(text); size++) { /* also those that end with zeros */
        seen[size] = tm_sticky_key(7, text, size);
        for (size_t i = 0; i < size; i++)
            CHECK(seen[i] != seen[size]);
    }
    CHECK(tm_sticky_key(8, text, 12) != seen[12]);
}

int main(void)
{
    random_seed();
    RUN(test_growth_moves_nobody_away);
    RUN(test_three_versions_move_the_least);
    RUN(test_removal_moves_its_own);
    RUN(test_salts_are_independent);
    RUN(test_extreme_weights);
    RUN(test_order_and_ties);
    RUN(test_cost_is_within_bounds);
    RUN(test_addresses);
    RUN(test_keys);
    return 0;
}
