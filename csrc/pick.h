/* The weighted pick: exact, lock-free, without tables.
 *
 *     S = sum of weights / their greatest common divisor      (the period)
 *     n = atomic_add(ticket, 1)
 *     x = (n mod S) * stride mod S                            (stride coprime to S)
 *     destination = the first i with x < cumulative[i]
 *
 * n -> n * stride mod S is a bijection on any S consecutive n, so any S
 * consecutive connections of a route hold exactly its weight of each
 * destination, whichever workers took the tickets. A stride near S / golden
 * ratio spreads the short windows too.
 *
 * Bounds: 64 weights of at most 1,000,000 give S <= 64,000,000 < 2^26, so the
 * product stays below 2^52.
 */
#ifndef TM_PICK_H
#define TM_PICK_H

#include <assert.h>
#include <endian.h>
#include <stdint.h>
#include <string.h>

#include "route_table.h"

static inline uint32_t tm_pick_position(uint64_t n, uint32_t period, uint32_t stride)
{
    return (uint32_t)((n % period) * stride % period);
}

/* Index within the route of the destination for ticket `n`. period must not be 0. */
static inline uint32_t tm_pick(const struct tm_split *split, uint64_t n)
{
    uint32_t x = tm_pick_position(n, split->period, split->stride);
    uint32_t i = 0;
    while (x >= split->cumulative[i])
        i++;
    assert(i < TM_MAX_DESTINATIONS);
    return i;
}

/* What the destination counts in the split, in units of their common divisor. */
static inline uint32_t tm_split_weight(const struct tm_split *split, uint32_t i)
{
    return split->cumulative[i] - (i ? split->cumulative[i - 1] : 0);
}

/* A destination by its weight in the split, index within the route, but none of `not_these` (a bit
 * each) and none that can't serve; TM_NONE = there is no other. Exact over consecutive `n` while
 * those are the same. For what a destination can't take; pick.c. */
uint32_t tm_pick_other(const struct tm_image *image, const struct tm_route *route,
                       const struct tm_split *split, uint64_t not_these, uint64_t n);

/* A good mix of all bits (the finaliser of MurmurHash3). */
static inline uint64_t tm_mix(uint64_t value)
{
    value ^= value >> 33;
    value *= 0xff51afd7ed558ccdull;
    value ^= value >> 33;
    value *= 0xc4ceb9fe1a85ec53ull;
    return value ^ value >> 33;
}

/* Of a client's address, without its port. The same everywhere and for ever: two hosts in front of
 * the same endpoints choose alike. */
static inline uint64_t tm_client_hash(uint16_t family, const unsigned char ip[16])
{
    uint64_t words[2] = {0, 0};
    memcpy(words, ip, family == AF_INET ? 4 : 16);
    return tm_mix(tm_mix(words[0] + 0x9e3779b97f4a7c15ull) ^ words[1]);
}

static inline uint64_t tm_turn_hash(const struct tm_image *image,
                                    const struct tm_destination *destination, uint32_t turn)
{
    const struct tm_turn *of = &image->turns[destination->first_turn + turn];
    uint64_t hash = image->endpoints[destination->first_endpoint + of->endpoint].hash;
    return tm_mix(hash + of->number * 0x9e3779b97f4a7c15ull);
}

/* source_hash: how well a turn goes with `key`; the best of all gets it (rendezvous hashing, Thaler
 * and Ravishankar 1998). If one goes away, only its own keys go to others. */
static inline uint64_t tm_turn_score(const struct tm_image *image,
                                     const struct tm_destination *destination, uint32_t turn,
                                     uint64_t key)
{
    return tm_mix(key ^ tm_turn_hash(image, destination, turn));
}

/* An IPv6 address as a number. */
struct tm_wide {
    uint64_t high, low;
};

static inline struct tm_wide tm_wide(const unsigned char bytes[16])
{
    uint64_t words[2];
    memcpy(words, bytes, sizeof(words));
    return (struct tm_wide){be64toh(words[0]), be64toh(words[1])};
}

/* That of a client. One without an IP, as of a UNIX socket, has ::, which no client of TCP can
 * have. */
static inline struct tm_wide tm_wide_of(uint16_t family, const unsigned char ip[16])
{
    uint32_t four;
    if (family == AF_INET6)
        return tm_wide(ip);
    if (family != AF_INET)
        return (struct tm_wide){0, 0};
    memcpy(&four, ip, sizeof(four));
    return (struct tm_wide){0, UINT64_C(0xffff00000000) | be32toh(four)};
}

static inline bool tm_wide_is_less(struct tm_wide one, struct tm_wide other)
{
    return one.high != other.high ? one.high < other.high : one.low < other.low;
}

/* Whether an address is in some ranges. */
static inline bool tm_in_ranges(const struct tm_image *image, const struct tm_ranges *ranges,
                                uint16_t family, const unsigned char ip[16])
{
    uint32_t low = 0, high = ranges->count;
    if (high == 0 || high == TM_NONE)
        return high != 0;
    const struct tm_range *all = &image->ranges[ranges->first];
    struct tm_wide wide = tm_wide_of(family, ip);
    while (low < high) { /* the first range that ends at or after it */
        uint32_t middle = low + (high - low) / 2;
        if (tm_wide_is_less(tm_wide(all[middle].last), wide))
            low = middle + 1;
        else
            high = middle;
    }
    return low < ranges->count && !tm_wide_is_less(wide, tm_wide(all[low].first));
}

/* maglev: a lookup table of `size` entries, shared evenly by the turns (Eisenbud et al., NSDI
 * 2016). Returns the number of entries for so many turns, a prime. */
uint32_t tm_maglev_size(uint32_t turns);

/* hashes: one of each turn. next, steps: room for `count` numbers. pick.c; the master's. */
void tm_maglev_fill(uint16_t *entries, uint32_t size, const uint64_t *hashes, uint32_t count,
                    uint32_t *next, uint64_t *steps);

/* Works out period, stride and cumulative[count] for `weights`.
 * All weights 0 (or count 0): the period is 0, nothing may be picked.
 * count <= TM_MAX_DESTINATIONS, each weight <= TM_MAX_WEIGHT. pick.c; the master's. */
void tm_pick_plan(const uint32_t *weights, uint32_t count, struct tm_split *split);

#endif
