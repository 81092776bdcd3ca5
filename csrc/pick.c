/* Planning the pick: period, thresholds and the stride that spreads best.
 * Runs in the master, once per change of a route's weights. */
#include "pick.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

enum {
    CANDIDATES = 48, /* strides tried, outwards from S / golden ratio */
    WINDOW = 512,    /* picks looked at for each; past that all are alike */
};

static uint32_t gcd(uint32_t a, uint32_t b)
{
    while (b) {
        uint32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* The worst |picks of i so far - its due| over the first picks, times S. */
static uint64_t worst_deviation(const uint32_t *cumulative, uint32_t count, uint32_t period,
                                uint32_t stride, uint64_t bound)
{
    uint64_t picked[TM_MAX_DESTINATIONS] = {0};
    uint64_t worst = 0;
    uint32_t window = period < WINDOW ? period : WINDOW;
    for (uint32_t n = 0; n < window; n++) {
        uint32_t x = tm_pick_position(n, period, stride);
        uint32_t at = 0;
        while (x >= cumulative[at])
            at++;
        picked[at]++;
        for (uint32_t i = 0; i < count; i++) {
            uint64_t weight = cumulative[i] - (i ? cumulative[i - 1] : 0);
            uint64_t got = picked[i] * period, due = weight * (n + 1);
            uint64_t off = got > due ? got - due : due - got;
            if (off > worst)
                worst = off;
        }
        if (worst >= bound)
            return worst; /* no better than the best so far */
    }
    return worst;
}

static uint32_t golden_part(uint32_t period)
{
    return (uint32_t)((uint64_t)period * 2654435769u >> 32); /* 2^32 / golden ratio */
}

static uint32_t best_stride(const uint32_t *cumulative, uint32_t count, uint32_t period)
{
    uint32_t centre = golden_part(period);
    uint32_t best = 1, tried = 0;
    uint64_t least = UINT64_MAX;
    for (uint32_t distance = 0; distance < period && tried < CANDIDATES; distance++) {
        for (int up = 0; up < (distance ? 2 : 1); up++) {
            if (!up && distance > centre)
                continue;
            uint32_t stride = up ? centre + distance : centre - distance;
            if (stride == 0 || stride >= period || gcd(stride, period) != 1)
                continue;
            tried++;
            uint64_t worst = worst_deviation(cumulative, count, period, stride, least);
            if (worst < least) {
                least = worst;
                best = stride;
            }
        }
    }
    return best;
}

void tm_pick_plan(const uint32_t *weights, uint32_t count, struct tm_split *split)
{
    assert(count <= TM_MAX_DESTINATIONS);
    uint32_t divisor = 0, positive = 0, sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        assert(weights[i] <= TM_MAX_WEIGHT);
        divisor = gcd(divisor, weights[i]);
        positive += weights[i] > 0;
    }
    split->stride = 1;
    for (uint32_t i = 0; i < count; i++) {
        sum += divisor ? weights[i] / divisor : 0;
        split->cumulative[i] = sum;
    }
    split->period = sum;
    if (positive > 1)
        split->stride = best_stride(split->cumulative, count, sum);
}

uint32_t tm_pick_other(const struct tm_image *image, const struct tm_route *route,
                       const struct tm_split *split, uint64_t not_these, uint64_t n)
{
    uint32_t weights[TM_MAX_DESTINATIONS] = {0}, divisor = 0, period = 0, stride, x;
    for (uint32_t i = 0; i < route->destination_count; i++) {
        const struct tm_destination *other = &image->destinations[route->first_destination + i];
        if (!(not_these >> i & 1) && other->turn_count)
            weights[i] = tm_split_weight(split, i);
        divisor = gcd(divisor, weights[i]);
    }
    if (divisor == 0)
        return TM_NONE;
    for (uint32_t i = 0; i < route->destination_count; i++)
        period += weights[i] / divisor;
    assert(period != 0);
    stride = golden_part(period);
    while (gcd(stride, period) != 1) /* 1 is, of 1 too */
        stride = stride < period ? stride + 1 : 1;
    x = tm_pick_position(n, period, stride);
    for (uint32_t i = 0;; i++) {
        if (x < weights[i] / divisor)
            return i;
        x -= weights[i] / divisor;
    }
}

uint32_t tm_maglev_size(uint32_t turns)
{
    /* When one turn goes away, at most so many of the others' keys move as well, measured: with
     * 16,381 entries 0.9 % of 10 turns, with 65,521 (a prime, as the other) 1 % of up to 500. */
    return turns <= 10 ? 16381 : 65521;
}

void tm_maglev_fill(uint16_t *entries, uint32_t size, const uint64_t *hashes, uint32_t count,
                    uint32_t *next, uint64_t *steps)
{
    enum { NOBODY = 0xffff };
    uint32_t filled = 0;
    assert(count > 0 && count < NOBODY && count <= size);
    memset(entries, 0xff, size * sizeof(*entries));
    for (uint32_t turn = 0; turn < count; turn++) {
        next[turn] = (uint32_t)(hashes[turn] % size);
        steps[turn] = tm_mix(hashes[turn]) % (size - 1) + 1;
    }
    /* Each takes the next free entry of its own order, one after the other. */
    for (uint32_t turn = 0; filled < size; turn = turn + 1 < count ? turn + 1 : 0) {
        while (entries[next[turn]] != NOBODY)
            next[turn] = (uint32_t)((next[turn] + steps[turn]) % size);
        entries[next[turn]] = (uint16_t)turn;
        filled++;
    }
}
