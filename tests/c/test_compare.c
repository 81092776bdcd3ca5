/* Comparing two streams: whatever pieces they come in, and whichever comes first, the first byte
 * that differs is found. */
#include <string.h>

#include "check.h"
#include "compare.h"

enum { SIZE = 5000, EXACT = TM_MARKS / 2 };

static unsigned char streams[2][SIZE];

static void make_equal(void)
{
    for (int at = 0; at < SIZE; at++)
        streams[TM_PRIMARY][at] = streams[TM_SHADOW][at] = (unsigned char)random_below(256);
}

/* Feeds both up to their sizes, in pieces of any size and in any order. */
static struct tm_comparison fed(uint32_t prefix, const size_t sizes[2])
{
    struct tm_comparison comparison;
    size_t at[2] = {0, 0};
    tm_compare_begin(&comparison, prefix);
    while (at[0] < sizes[0] || at[1] < sizes[1]) {
        enum tm_whose whose = random_below(2) ? TM_SHADOW : TM_PRIMARY;
        size_t piece = random_below(300) + 1;
        if (piece > sizes[whose] - at[whose])
            piece = sizes[whose] - at[whose];
        tm_compare_feed(&comparison, whose, streams[whose] + at[whose], piece);
        at[whose] += piece;
    }
    comparison.bytes = sizes[TM_PRIMARY];
    comparison.of[TM_PRIMARY].ended = comparison.of[TM_SHADOW].ended = TM_STREAM_FIN;
    return comparison;
}

static const uint32_t prefixes[] = {0, 1, 2, EXACT - 1, EXACT, EXACT + 1, 1000, SIZE, 1u << 20};
enum { PREFIXES = sizeof(prefixes) / sizeof(prefixes[0]) };

static void equal_streams_agree(void)
{
    for (int round = 0; round < 200; round++) {
        size_t size = random_below(SIZE), sizes[2] = {size, size};
        make_equal();
        struct tm_comparison comparison = fed(prefixes[round % PREFIXES], sizes);
        CHECK_EQUAL(tm_compare_judge(&comparison, size), TM_AGREE);
        CHECK_EQUAL(comparison.within, 0);
    }
}

static void a_byte_that_differs_is_found(void)
{
    for (int round = 0; round < 2000; round++) {
        uint32_t prefix = prefixes[round % PREFIXES];
        size_t size = random_below(SIZE) + 1, sizes[2] = {size, size};
        uint32_t at = (uint32_t)random_below(size);
        make_equal();
        streams[TM_SHADOW][at] ^= 0x40;
        struct tm_comparison comparison = fed(prefix, sizes);
        enum tm_judgement found = tm_compare_judge(&comparison, size);
        CHECK_EQUAL(found, at < prefix ? TM_DIFFER_CONTENT : TM_AGREE);
        if (at >= prefix)
            continue;
        CHECK(comparison.within > 0);
        /* One mark in 256 is the same by chance, and the next one tells. */
        CHECK(at < comparison.at + comparison.within);
        CHECK(comparison.at <= at + 3 * comparison.within);
    }
}

static void another_length_is_told(void)
{
    for (int round = 0; round < 200; round++) {
        size_t sizes[2] = {random_below(SIZE), random_below(SIZE)};
        size_t shorter = sizes[0] < sizes[1] ? sizes[0] : sizes[1];
        if (sizes[0] == sizes[1])
            continue;
        make_equal();
        struct tm_comparison comparison = fed(prefixes[round % PREFIXES], sizes);
        CHECK_EQUAL(tm_compare_judge(&comparison, sizes[TM_SHADOW]), TM_DIFFER_BYTES);
        CHECK_EQUAL(comparison.at, shorter);
    }
}

static void another_end_is_told(void)
{
    size_t sizes[2] = {100, 100};
    make_equal();
    struct tm_comparison comparison = fed(1000, sizes);
    comparison.of[TM_SHADOW].ended = TM_STREAM_RST;
    CHECK_EQUAL(tm_compare_judge(&comparison, 100), TM_DIFFER_END);
}

/* Whatever is in it, nothing is written elsewhere, and it comes to an end. */
static void anything_can_be_fed(void)
{
    for (int round = 0; round < 2000; round++) {
        struct tm_comparison comparison;
        unsigned char *bytes = (unsigned char *)&comparison;
        for (size_t at = 0; at < sizeof(comparison); at++)
            bytes[at] = (unsigned char)random_below(256);
        if (round & 1)
            comparison.prefix &= TM_MAX_PREFIX - 1;
        tm_compare_feed(&comparison, TM_PRIMARY, streams[0], SIZE);
        tm_compare_feed(&comparison, TM_SHADOW, streams[1], SIZE);
        CHECK(tm_compare_judge(&comparison, random_below(1u << 30)) <= TM_DIFFER_END);
    }
}

int main(void)
{
    random_seed();
    RUN(equal_streams_agree);
    RUN(a_byte_that_differs_is_found);
    RUN(another_length_is_told);
    RUN(another_end_is_told);
    RUN(anything_can_be_fed);
    return 0;
}
