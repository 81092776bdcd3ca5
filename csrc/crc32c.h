/* CRC-32C (Castagnoli), as in RFC 3720, B.4. */
#ifndef TM_CRC32C_H
#define TM_CRC32C_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Continued from `crc`; 0 to begin. */
uint32_t tm_crc32c(uint32_t crc, const unsigned char *bytes, size_t size);

/* The same, by the means of every processor. */
uint32_t tm_crc32c_by_table(uint32_t crc, const unsigned char *bytes, size_t size);

/* Whether this one has an instruction for it. */
bool tm_crc32c_has_instruction(void);

#endif
