/* What is in there: kept.h. Private to kept.c and to those who keep something or tell it. */
#ifndef TM_KEPT_PARTS_H
#define TM_KEPT_PARTS_H

#include "protocol/kept.h"

enum { TM_KEPT_HEAD = 3 /* bytes of an entry in front of its arguments */ };

struct tm_kept_entry {
    enum tm_kept_kind kind;
    size_t size; /* of the arguments */
    const unsigned char *arguments;
};

struct tm_kept_argument {
    size_t size;
    const unsigned char *bytes;
};

static inline size_t tm_kept_two_bytes(const unsigned char *bytes)
{
    return bytes[0] | (size_t)bytes[1] << 8;
}

static inline size_t tm_kept_used(const struct tm_kept *kept)
{
    return (size_t)kept->size + kept->pending + kept->taking;
}

/* at: 0 at first. False: there are no more. */
bool tm_kept_next_entry(const struct tm_kept *kept, size_t *at, struct tm_kept_entry *entry);
bool tm_kept_next_argument(const struct tm_kept_entry *entry, size_t *at,
                           struct tm_kept_argument *argument);

/* Before it is changed; until it is sealed again it says nothing. False: it keeps nothing. */
bool tm_kept_open(struct tm_kept *kept);

/* Its connection stays where it is: what was kept is of no use. */
void tm_kept_give_up(struct tm_kept *kept, enum tm_kept_state why);

/* Takes `size` bytes out at `at`, and wipes what is behind the rest. */
void tm_kept_take_out(struct tm_kept *kept, size_t at, size_t size);

/* The entry of that kind, if there is one. */
void tm_kept_drop(struct tm_kept *kept, enum tm_kept_kind kind);
/* Has it be the last word of its kind. arguments: not of `kept`. */
void tm_kept_put(struct tm_kept *kept, enum tm_kept_kind kind, const unsigned char *arguments,
                 size_t size);

#endif
