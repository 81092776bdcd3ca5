/* Comparing two streams. Runs in a worker. */
#include "compare.h"

enum { EXACT = TM_MARKS / 2 }; /* marks that stand one byte apart */

#define BASIS UINT64_C(0xcbf29ce484222325)
#define FACTOR UINT64_C(0x100000001b3) /* FNV-1a */
#define MIXER UINT64_C(0x9e3779b97f4a7c15) /* its last byte changes few of the highest bits */

/* How many bytes come before a mark; the last one is at the prefix or behind it. */
static uint32_t place_of(const struct tm_comparison *comparison, uint32_t mark)
{
    uint32_t rest = comparison->prefix > EXACT ? comparison->prefix - EXACT : 0;
    uint32_t apart = rest / (TM_MARKS - EXACT) + 1;
    return mark < EXACT ? mark + 1 : EXACT + (mark - EXACT + 1) * apart;
}

static void note_difference(struct tm_comparison *comparison, uint32_t at, uint32_t within)
{
    if (comparison->within)
        return;
    comparison->at = at;
    comparison->within = within;
}

/* A stream has come to its next mark, or to the end of the prefix ahead of it. */
static void pass(struct tm_comparison *comparison, struct tm_answers *of, uint32_t place)
{
    uint8_t mark = (uint8_t)(of->hash * MIXER >> 56);
    uint32_t before = of->mark ? place_of(comparison, of->mark - 1u) : 0;
    if (of->mark >= comparison->marked) {
        comparison->marks[of->mark] = mark;
        comparison->marked = (uint16_t)(of->mark + 1u);
    } else if (comparison->marks[of->mark] != mark) {
        note_difference(comparison, before, place - before);
    }
    of->mark++;
}

void tm_compare_begin(struct tm_comparison *comparison, uint32_t prefix)
{
    *comparison = (struct tm_comparison){
        .of = {{.hash = BASIS}, {.hash = BASIS}},
        .prefix = prefix < TM_MAX_PREFIX ? prefix : TM_MAX_PREFIX,
    };
}

void tm_compare_feed(struct tm_comparison *comparison, enum tm_whose whose,
                     const unsigned char *bytes, size_t size)
{
    struct tm_answers *of = &comparison->of[whose];
    uint64_t hash = of->hash, heard = of->heard;
    size_t at = 0;
    uint32_t prefix = comparison->prefix < TM_MAX_PREFIX ? comparison->prefix : TM_MAX_PREFIX;
    while (at < size && heard < prefix) {
        uint32_t place = of->mark < TM_MARKS ? place_of(comparison, of->mark) : prefix;
        if (place > prefix)
            place = prefix;
        for (; at < size && heard < place; at++, heard++)
            hash = (hash ^ bytes[at]) * FACTOR;
        of->hash = hash;
        if (heard >= place && of->mark < TM_MARKS)
            pass(comparison, of, place);
    }
    __atomic_store_n(&of->heard, heard, __ATOMIC_RELEASE); /* last */
}

enum tm_judgement tm_compare_judge(struct tm_comparison *comparison, uint64_t bytes)
{
    const struct tm_answers *one = &comparison->of[TM_PRIMARY], *other = &comparison->of[TM_SHADOW];
    uint64_t shorter = bytes < comparison->bytes ? bytes : comparison->bytes;
    if (!comparison->within && one->heard == other->heard && one->hash != other->hash) {
        /* Behind the last mark that both have passed. */
        uint32_t mark = one->mark < other->mark ? one->mark : other->mark;
        uint32_t before = mark ? place_of(comparison, mark - 1u) : 0;
        note_difference(comparison, before, (uint32_t)one->heard - before);
    }
    if (comparison->within)
        return TM_DIFFER_CONTENT;
    if (bytes != comparison->bytes) {
        note_difference(comparison, shorter < UINT32_MAX ? (uint32_t)shorter : UINT32_MAX, 1);
        return TM_DIFFER_BYTES;
    }
    return one->ended == other->ended ? TM_AGREE : TM_DIFFER_END;
}
