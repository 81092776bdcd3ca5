/* The sticky pick. Runs in workers; in control, to explain a pick. */
#include "sticky.h"

#include <stdbool.h>
#include <string.h>

#include "pick.h"

__extension__ typedef unsigned __int128 wide;

#define LN_2 0x2c5c85fdf473de7ull /* in units of 2^-58 */

/* A logarithm is looked up by the first 8 bits after the leading one. inverse: a number that brings
 * each with those bits to just below 1, in units of 2^-31; logarithm: its own, of 2^-58. */
static const struct {
    uint32_t inverse;
    uint64_t logarithm;
} rows[256] = {
#define TM_LOGARITHM(inverse, logarithm) {inverse, logarithm},
#include "logarithms.def"
};

static uint64_t high(uint64_t a, uint64_t b)
{
    return (uint64_t)((wide)a * b >> 64);
}

static inline uint64_t cost_of(uint64_t hash)
{
    uint64_t u = hash | 1; /* u / 2^64; odd: in the middle between 0 and 1, as all of them */
    unsigned halvings = (unsigned)__builtin_clzll(u);
    uint64_t scaled = u << halvings; /* / 2^64, within [1/2, 1) */
    unsigned row = scaled >> 55 & 255;
    /* What is left to 1 after the row's factor, at most 1/257 of 2^64. */
    uint64_t rest = 0 - (uint64_t)((wide)scaled * rows[row].inverse >> 31);
    /* -ln(1 - r) = r + r^2 / 2 + r^3 / 3 + ... */
    uint64_t series = UINT64_MAX / 2 + high(rest, UINT64_MAX / 3);
    series = rest + high(rest, high(rest, series));
    return halvings * LN_2 + rows[row].logarithm + (series >> 6);
}

uint64_t tm_sticky_cost(uint64_t hash)
{
    return cost_of(hash);
}

uint32_t tm_sticky_pick(const struct tm_contender *contenders, uint32_t count, uint64_t key)
{
    uint32_t best = count;
    uint64_t best_cost = UINT64_MAX, best_weight = 0, best_hash = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t weight = contenders[i].weight, hash = tm_mix(key ^ contenders[i].hash);
        uint64_t cost = cost_of(hash);
        wide mine = (wide)cost * best_weight, others = (wide)best_cost * weight;
        bool better = mine < others; /* no branch: nobody could predict it */
        /* The same to the last bit: by the hash, so that the order does not matter. */
        if (__builtin_expect(mine == others, 0))
            better = weight && hash > best_hash;
        best = better ? i : best;
        best_cost = better ? cost : best_cost;
        best_weight = better ? weight : best_weight;
        best_hash = better ? hash : best_hash;
    }
    return best;
}

uint64_t tm_sticky_key(uint64_t salt, const void *bytes, size_t size)
{
    const unsigned char *at = bytes;
    uint64_t key = tm_mix(salt) + size;
    for (size_t done = 0; done < size; done += 8) {
        uint64_t word = 0;
        for (size_t i = 0; i < 8 && done + i < size; i++)
            word |= (uint64_t)at[done + i] << 8 * i;
        key = tm_mix(key ^ word) + 0x9e3779b97f4a7c15ull;
    }
    return tm_mix(key);
}

uint64_t tm_sticky_address_key(uint64_t salt, uint16_t family, const unsigned char ip[16],
                               const uint32_t prefixes[2])
{
    static const unsigned char mapped[12] = {[10] = 0xff, [11] = 0xff};
    bool within = family == AF_INET6 && memcmp(ip, mapped, sizeof(mapped)) == 0;
    bool is_short = within || family == AF_INET;
    uint32_t bits = prefixes[!is_short];
    unsigned char kept[16] = {0};
    size_t size = is_short ? 4 : 16;
    memcpy(kept, within ? ip + 12 : ip, size);
    for (uint32_t i = 0; i < size; i++) {
        uint32_t of_byte = bits > 8 * i ? bits - 8 * i : 0;
        if (of_byte < 8)
            kept[i] &= (unsigned char)(0xff00u >> of_byte);
    }
    return tm_sticky_key(salt, kept, size);
}
