/* Tests csrc/crc32c.c: known answers, and that the instruction and the table always agree. */
#include "crc32c.h"

#include "check.h"

enum { BYTES = 600, CASES = 20000 };

static uint32_t by_bits(uint32_t crc, const unsigned char *bytes, size_t size)
{
    crc = ~crc;
    for (size_t i = 0; i < size; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
    }
    return ~crc;
}

/* RFC 3720, B.4, and the check value that catalogues of CRCs have. */
static void known_answers_are_given(void)
{
    unsigned char bytes[32] = {0};
    CHECK_EQUAL(tm_crc32c(0, bytes, 32), 0x8a9136aa);
    memset(bytes, 0xff, 32);
    CHECK_EQUAL(tm_crc32c(0, bytes, 32), 0x62a8ab43);
    for (int i = 0; i < 32; i++)
        bytes[i] = (unsigned char)i;
    CHECK_EQUAL(tm_crc32c(0, bytes, 32), 0x46dd794e);
    CHECK_EQUAL(tm_crc32c(0, (const unsigned char *)"123456789", 9), 0xe3069283);
    CHECK_EQUAL(tm_crc32c(0, bytes, 0), 0);
}

/* In memory of exactly their size, at every alignment, in one piece and in two. */
static void every_way_gives_the_same(void)
{
    for (int i = 0; i < CASES; i++) {
        size_t size = (size_t)random_below(i % 10 ? 80 : BYTES), shift = (size_t)random_below(8);
        unsigned char *block = malloc(shift + size + 1), *bytes = block + shift;
        unsigned char *exact = malloc(size ? size : 1);
        for (size_t at = 0; at < size; at++)
            exact[at] = bytes[at] = (unsigned char)random_below(256);
        uint32_t expected = by_bits(0, bytes, size);
        size_t cut = (size_t)random_below(size + 1);
        CHECK_EQUAL(tm_crc32c(0, bytes, size), expected);
        CHECK_EQUAL(tm_crc32c(0, exact, size), expected);
        CHECK_EQUAL(tm_crc32c_by_table(0, exact, size), expected);
        CHECK_EQUAL(tm_crc32c(tm_crc32c(0, bytes, cut), bytes + cut, size - cut), expected);
        CHECK_EQUAL(tm_crc32c_by_table(tm_crc32c(0, bytes, cut), bytes + cut, size - cut),
                    expected);
        free(exact);
        free(block);
    }
    fprintf(stderr, "  with an instruction: %s\n", tm_crc32c_has_instruction() ? "yes" : "no");
}

int main(void)
{
    random_seed();
    RUN(known_answers_are_given);
    RUN(every_way_gives_the_same);
    return 0;
}
