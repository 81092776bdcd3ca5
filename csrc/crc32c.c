/* CRC-32C. Calls nothing but string functions. */
#include "crc32c.h"

#include <string.h>

/* A nibble at a time: headers are short. */
uint32_t tm_crc32c_by_table(uint32_t crc, const unsigned char *bytes, size_t size)
{
    static const uint32_t nibbles[16] = {
        0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3,
        0x61c69362, 0x7198540d, 0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
        0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
    };
    crc = ~crc;
    for (size_t i = 0; i < size; i++) {
        crc ^= bytes[i];
        crc = crc >> 4 ^ nibbles[crc & 15];
        crc = crc >> 4 ^ nibbles[crc & 15];
    }
    return ~crc;
}

#if defined(__x86_64__)

bool tm_crc32c_has_instruction(void)
{
    return __builtin_cpu_supports("sse4.2");
}

__attribute__((target("sse4.2"))) static uint32_t
by_instruction(uint32_t crc, const unsigned char *bytes, size_t size)
{
    uint64_t wide = ~crc, word;
    for (; size >= sizeof(word); bytes += sizeof(word), size -= sizeof(word)) {
        memcpy(&word, bytes, sizeof(word));
        wide = __builtin_ia32_crc32di(wide, word);
    }
    crc = (uint32_t)wide;
    for (; size; bytes++, size--)
        crc = __builtin_ia32_crc32qi(crc, *bytes);
    return ~crc;
}

uint32_t tm_crc32c(uint32_t crc, const unsigned char *bytes, size_t size)
{
    return tm_crc32c_has_instruction() ? by_instruction(crc, bytes, size)
                                       : tm_crc32c_by_table(crc, bytes, size);
}

#else

bool tm_crc32c_has_instruction(void)
{
    return false;
}

uint32_t tm_crc32c(uint32_t crc, const unsigned char *bytes, size_t size)
{
    return tm_crc32c_by_table(crc, bytes, size);
}

#endif
