/* The content of streams: pseudo-random, a function of the stream and of the place in it.
 *
 * Eight bytes at a time come from the mixing function of SplitMix64 (Steele, Lea, Flood:
 * "Fast splittable pseudorandom number generators", 2014), so that a stream resembles neither
 * itself at another place nor any other stream.
 */
#include "generator.h"

#include <string.h>

enum { SAMPLE = 32, FURTHEST = 4 * 1024 * 1024 };

uint64_t mix(uint64_t value)
{
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9ull;
    value = (value ^ value >> 27) * 0x94d049bb133111ebull;
    return value ^ value >> 31;
}

static uint64_t word(uint64_t key, uint64_t index)
{
    return mix(key + index * 0x9e3779b97f4a7c15ull);
}

void fill(unsigned char *to, size_t size, uint64_t key, uint64_t place)
{
    size_t done = 0;
    while (done < size) {
        uint64_t value = word(key, (place + done) / 8);
        size_t skip = (place + done) % 8, part = 8 - skip;
        if (part > size - done)
            part = size - done;
        memcpy(to + done, (unsigned char *)&value + skip, part);
        done += part;
    }
}

/* How many bytes from the first one on are right. */
size_t matching(const unsigned char *got, size_t size, uint64_t key, uint64_t place)
{
    static unsigned char expected[CHUNK];
    fill(expected, size, key, place);
    if (memcmp(got, expected, size) == 0)
        return size;
    size_t right = 0;
    while (got[right] == expected[right])
        right++;
    return right;
}

/* Whether what came at `place` belongs to another place of the stream, and how much further
 * on (bytes are missing) or back (bytes came again) that is. */
bool displacement(const unsigned char *got, size_t size, uint64_t key, uint64_t place,
                  int64_t *shift)
{
    unsigned char expected[SAMPLE];
    if (size < SAMPLE)
        return false;
    for (int64_t distance = 1; distance <= FURTHEST; distance++) {
        for (int sign = 1; sign >= -1; sign -= 2) {
            if (sign < 0 && (uint64_t)distance > place)
                continue;
            fill(expected, 8, key, place + (uint64_t)(sign * distance));
            if (memcmp(expected, got, 8) != 0)
                continue;
            fill(expected, SAMPLE, key, place + (uint64_t)(sign * distance));
            if (memcmp(expected, got, SAMPLE) == 0) {
                *shift = sign * distance;
                return true;
            }
        }
    }
    return false;
}
