/* Whether two streams of bytes are the same, without either of them being kept: what an endpoint
 * answers, and what a shadow does (conn/mirror.h). They come at different times.
 *
 * Each stream has a hash of what has been heard of it, up to `prefix` bytes. Where the first of the
 * two passes a mark, a byte of its hash is noted there; where the other one does, it is compared.
 * So the first byte that differs is known: exactly among the first TM_MARKS / 2, behind them to
 * within a part of the prefix.
 *
 * In shared memory, written by one worker. After a death it is of use only if both streams have
 * been heard as far as they were read: what was being fed is counted last.
 */
#ifndef TM_COMPARE_H
#define TM_COMPARE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TM_MARKS 256u
#define TM_MAX_PREFIX (1u << 20)

enum tm_whose { TM_PRIMARY = 0, TM_SHADOW };

/* How a stream has ended. CUT: by something that says nothing of the endpoint. */
enum tm_stream_end { TM_STREAM_OPEN = 0, TM_STREAM_FIN, TM_STREAM_RST, TM_STREAM_CUT };

/* What was heard of one. */
struct tm_answers {
    uint64_t heard;    /* bytes, at most prefix */
    uint64_t hash;     /* of these */
    uint64_t asked_us; /* monotonic: when its endpoint could begin to answer */
    uint32_t first_us; /* from then to its first byte, at least 1; 0 = none yet */
    uint16_t mark;     /* the next one that it comes to */
    uint8_t ended;     /* enum tm_stream_end */
    uint8_t was_asked; /* its endpoint has got bytes of the client: asked_us is final */
};

struct tm_comparison {
    struct tm_answers of[2]; /* by enum tm_whose */
    uint64_t bytes;    /* of the primary's answer, when that has ended */
    uint32_t prefix;
    uint32_t lag;      /* bytes that may wait for the shadow */
    uint32_t ahead;    /* bytes of our own that the shadow is sent first */
    uint32_t at;       /* where the first difference is, if there is one: */
    uint32_t within;   /* in one of so many bytes; 0 = none so far */
    uint32_t beside;   /* slot of the primary's destination */
    uint16_t marked;   /* marks that are noted */
    uint8_t fin;       /* the client has ended, and FIN goes when all has been sent */
    uint8_t unused;
    uint8_t marks[TM_MARKS];
};

/* What has come of it. */
enum tm_judgement { TM_AGREE = 0, TM_DIFFER_CONTENT, TM_DIFFER_BYTES, TM_DIFFER_END };

void tm_compare_begin(struct tm_comparison *comparison, uint32_t prefix);

/* The next bytes of a stream. */
void tm_compare_feed(struct tm_comparison *comparison, enum tm_whose whose,
                     const unsigned char *bytes, size_t size);

/* Whether more of it is to be heard. */
static inline bool tm_compare_wants(const struct tm_comparison *comparison, enum tm_whose whose)
{
    return comparison->of[whose].heard < comparison->prefix;
}

/* Both have ended, not CUT. bytes: of the shadow's answer. Notes where they differ. */
enum tm_judgement tm_compare_judge(struct tm_comparison *comparison, uint64_t bytes)
    __attribute__((warn_unused_result));

#endif
