/* A conversation of both sides of a protocol, fed whole, byte by byte and cut at every byte; each
 * must come to the same. Test programs only. */
#ifndef TM_TEST_TALKING_H
#define TM_TEST_TALKING_H

#include "check.h"
#include "protocol/talk.h"

/* What one side says, and the moment after it. */
struct line {
    char who; /* 'c' or 's' */
    const char *text;
    size_t size;
    enum tm_moment then;
};

#define C(text, then) {'c', text, sizeof(text) - 1, TM_MOMENT_##then}
#define S(text, then) {'s', text, sizeof(text) - 1, TM_MOMENT_##then}
#define LINES(lines) lines, sizeof(lines) / sizeof((lines)[0])

/* In memory of exactly that size, so that a read beyond it is seen. */
static inline void feed(struct tm_talk *talk, char who, const char *text, size_t size)
{
    unsigned char *exact = malloc(size ? size : 1);
    memcpy(exact, text, size);
    tm_talk_feed(talk, NULL, who == 'c' ? TM_FROM_CLIENT : TM_FROM_SERVER, exact, size);
    free(exact);
}

static inline void expect(const struct tm_talk *talk, const struct line *line, int number)
{
    if (talk->moment != line->then) {
        fprintf(stderr, "line %d: moment %d, expected %d\n", number, talk->moment, line->then);
        abort();
    }
}

/* cut: bytes of each part; 0 = whole lines. */
static inline struct tm_talk talk_in_parts(enum tm_protocol protocol, const struct line *lines,
                                           size_t count, size_t cut)
{
    struct tm_talk talk;
    tm_talk_begin(&talk, protocol);
    for (size_t i = 0; i < count; i++) {
        size_t part = cut ? cut : lines[i].size;
        for (size_t at = 0; at < lines[i].size; at += part) {
            size_t left = lines[i].size - at;
            feed(&talk, lines[i].who, lines[i].text + at, left < part ? left : part);
        }
        expect(&talk, &lines[i], (int)i);
    }
    return talk;
}

/* Whole, in parts of each size up to 40, and each line in two at each byte. */
static inline void converse(enum tm_protocol protocol, const struct line *lines, size_t count)
{
    struct tm_talk whole = talk_in_parts(protocol, lines, count, 0);
    for (size_t cut = 1; cut <= 40; cut++) {
        struct tm_talk talk = talk_in_parts(protocol, lines, count, cut);
        CHECK_EQUAL(talk.moment, whole.moment);
        /* What is given up is not read to its end. */
        CHECK(talk.moment == TM_MOMENT_UNKNOWN || memcmp(&talk, &whole, sizeof(talk)) == 0);
    }
    for (size_t which = 0; which < count; which++)
        for (size_t cut = 1; cut < lines[which].size; cut++) {
            struct tm_talk talk;
            tm_talk_begin(&talk, protocol);
            for (size_t i = 0; i < count; i++) {
                size_t first = i == which ? cut : lines[i].size;
                feed(&talk, lines[i].who, lines[i].text, first);
                if (i == which)
                    feed(&talk, lines[i].who, lines[i].text + first, lines[i].size - first);
                expect(&talk, &lines[i], (int)i);
            }
        }
}

#endif
