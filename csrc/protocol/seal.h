/* A sum over what is kept of a conversation, by which a state that is half changed, or corrupt, is
 * known after a death. */
#ifndef TM_PROTOCOL_SEAL_H
#define TM_PROTOCOL_SEAL_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Of a whole number of words, of which the first begins with the seal itself, four bytes: these do
 * not count. */
static inline uint32_t tm_seal_of(const void *state, size_t size)
{
    uint64_t sum = 0x9e3779b97f4a7c15ull, word;
    for (size_t at = 0; at < size; at += sizeof(word)) {
        memcpy(&word, (const unsigned char *)state + at, sizeof(word));
        if (at == 0)
            memset(&word, 0, sizeof(uint32_t));
        sum = (sum ^ word) * 0xd6e8feb86659fd93ull;
        sum ^= sum >> 32;
    }
    return (uint32_t)sum;
}

#endif
