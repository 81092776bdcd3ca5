/* memcached's lines. Calls nothing but memcmp() and strlen(). */
#include "protocol/memcached.h"

#include <stdbool.h>
#include <string.h>

/* Of one side's line. LOST, of either: not understood. */
enum { FIRST_WORD = 0, WORDS, DATA, LOST };

/* Bits of flags. */
enum {
    DOUBT = 1,        /* some may be answered, or not */
    DOUBT_BEHIND = 2, /* of those behind the last mn */
    QUIET = 4,        /* the request that is being read has noreply, or q */
    WATCHES = 8,
};

enum verb {
    NO_VERB = 0,
    STORES,    /* its number is the fourth word behind it */
    META_STORES,
    ASKS,      /* keys follow: noreply would be one */
    DOES,
    DOES_ALL,  /* without a key */
    META,
    NOOP,
    STREAMS,
    LEAVES,
    /* Of the server: */
    VALUE,     /* its number is the third word behind it; more lines follow */
    META_VALUE,
    ONE_OF_MANY,
    NOOP_DONE,
    REPLY,
};

static const struct {
    const char *word;
    uint8_t verb;
} REQUESTS[] = {
    {"get", ASKS},       {"gets", ASKS},       {"gat", ASKS},       {"gats", ASKS},
    {"set", STORES},     {"add", STORES},      {"replace", STORES}, {"append", STORES},
    {"prepend", STORES}, {"cas", STORES},      {"delete", DOES},    {"incr", DOES},
    {"decr", DOES},      {"touch", DOES},      {"mg", META},        {"ms", META_STORES},
    {"md", META},        {"ma", META},         {"me", META},        {"mn", NOOP},
    {"version", ASKS},   {"verbosity", DOES_ALL}, {"flush_all", DOES_ALL}, {"stats", ASKS},
    {"watch", STREAMS},  {"quit", LEAVES},
}, REPLIES[] = {
    {"VALUE", VALUE},    {"VA", META_VALUE},   {"STAT", ONE_OF_MANY}, {"ITEM", ONE_OF_MANY},
    {"PREFIX", ONE_OF_MANY}, {"MN", NOOP_DONE},
};

static const char NOREPLY[] = "noreply";

enum { NUMBER_MOST = 1 << 30, OWED_MOST = UINT16_MAX };

static void lose(struct tm_memcached_talk *talk)
{
    talk->line[0].state = talk->line[1].state = LOST;
}

static bool is_word(const struct tm_memcached_line *line, const char *word)
{
    size_t size = strlen(word);
    return size <= TM_MEMCACHED_WORD && line->size == size && memcmp(line->word, word, size) == 0;
}

static uint8_t verb_of(const struct tm_memcached_line *line, int side)
{
    if (side == TM_FROM_SERVER) {
        for (size_t i = 0; i < sizeof(REPLIES) / sizeof(REPLIES[0]); i++)
            if (is_word(line, REPLIES[i].word))
                return REPLIES[i].verb;
        return REPLY;
    }
    for (size_t i = 0; i < sizeof(REQUESTS) / sizeof(REQUESTS[0]); i++)
        if (is_word(line, REQUESTS[i].word))
            return REQUESTS[i].verb;
    return NO_VERB;
}

/* Which word of the line is the number of bytes behind it; 0 = none is. */
static uint8_t number_of(uint8_t verb)
{
    switch (verb) {
    case STORES:
        return 4;
    case VALUE:
        return 3;
    case META_STORES:
        return 2;
    case META_VALUE:
        return 1;
    default:
        return 0;
    }
}

static void line_begins(struct tm_memcached_line *line)
{
    line->number = 0;
    line->field = line->size = line->matched = 0;
    line->verb = NO_VERB;
    line->state = FIRST_WORD;
}

/* --- words ---------------------------------------------------------------------------------- */

static void letter(struct tm_memcached_talk *talk, struct tm_memcached_line *line,
                   unsigned char byte)
{
    uint8_t number = number_of(line->verb);
    if (line->field == 0) {
        if (line->size >= TM_MEMCACHED_WORD)
            line->size = UINT8_MAX; /* none of ours */
        else
            line->word[line->size++] = (char)byte;
        return;
    }
    if (number && line->field == number) {
        if (byte < '0' || byte > '9' || line->number >= NUMBER_MOST / 10)
            lose(talk);
        else
            line->number = line->number * 10 + (byte - '0');
    }
    bool same = line->matched == line->size && line->matched < sizeof(NOREPLY) - 1 &&
                byte == (unsigned char)NOREPLY[line->matched];
    line->matched = (uint8_t)(same ? line->matched + 1 : UINT8_MAX);
    if (line->size == 0 && byte == 'q' && line->field > 1 &&
        (line->verb == META || line->verb == META_STORES))
        talk->flags |= QUIET;
    if (line->size < UINT8_MAX)
        line->size++;
}

/* The word is complete. */
static void word_ends(struct tm_memcached_line *line, int side)
{
    if (line->size == 0)
        return;
    if (line->field == 0)
        line->verb = verb_of(line, side);
    if (line->field < UINT8_MAX)
        line->field++;
    line->state = WORDS;
    line->size = 0;
}

/* Whether the last word was noreply, where it means that. */
static bool is_noreply(const struct tm_memcached_line *line)
{
    bool may_be = line->verb == STORES || (line->verb == DOES && line->field > 2) ||
                  line->verb == DOES_ALL;
    return may_be && line->matched == sizeof(NOREPLY) - 1;
}

/* --- requests ------------------------------------------------------------------------------- */

static void is_owed(struct tm_memcached_talk *talk)
{
    if (talk->owed >= OWED_MOST || talk->behind >= OWED_MOST) {
        lose(talk);
        return;
    }
    talk->owed++;
    talk->behind++;
}

static void request_ends(struct tm_memcached_talk *talk)
{
    struct tm_memcached_line *line = &talk->line[TM_FROM_CLIENT];
    uint8_t verb = line->verb;
    bool is_meta = verb == META || verb == META_STORES;
    bool is_quiet = talk->flags & QUIET;
    talk->flags &= (uint8_t)~QUIET;
    line_begins(line);
    if (is_quiet && is_meta) {
        talk->flags |= DOUBT | DOUBT_BEHIND;
    } else if (is_quiet) {
        return;
    } else {
        is_owed(talk);
    }
    if (verb == NOOP && talk->noops < UINT8_MAX) {
        talk->noops++;
        talk->behind = 0;
        talk->flags &= (uint8_t)~DOUBT_BEHIND;
    } else if (verb == STREAMS) {
        talk->flags |= WATCHES;
    } else if (verb == NOOP || verb == LEAVES) {
        lose(talk);
    }
}

static void request_line_ends(struct tm_memcached_talk *talk)
{
    struct tm_memcached_line *line = &talk->line[TM_FROM_CLIENT];
    uint8_t number = number_of(line->verb);
    if (line->verb == NO_VERB || line->field <= number) {
        lose(talk); /* answered by an error, and who knows what is taken for the next line */
        return;
    }
    if (is_noreply(line))
        talk->flags |= QUIET;
    if (!number) {
        request_ends(talk);
        return;
    }
    line->number += 2; /* \r\n */
    line->state = DATA;
}

/* --- replies -------------------------------------------------------------------------------- */

static void reply_ends(struct tm_memcached_talk *talk)
{
    struct tm_memcached_line *line = &talk->line[TM_FROM_SERVER];
    uint8_t verb = line->verb;
    line_begins(line);
    if (talk->flags & WATCHES || verb == VALUE || verb == ONE_OF_MANY)
        return;
    if (verb == NOOP_DONE && talk->noops && --talk->noops == 0) {
        /* All before it is answered, or never will be. */
        talk->owed = talk->behind;
        talk->flags &= (uint8_t)~DOUBT;
        talk->flags |= talk->flags & DOUBT_BEHIND ? DOUBT : 0;
    } else if (talk->owed) {
        talk->owed--;
        if (talk->behind > talk->owed)
            talk->behind = talk->owed;
    } else if (!(talk->flags & DOUBT)) {
        lose(talk); /* nobody has asked */
    }
}

static void reply_line_ends(struct tm_memcached_talk *talk)
{
    struct tm_memcached_line *line = &talk->line[TM_FROM_SERVER];
    uint8_t number = number_of(line->verb);
    if (line->field == 0 || line->field <= number) {
        lose(talk);
    } else if (number) {
        line->number += 2;
        line->state = DATA;
    } else {
        reply_ends(talk);
    }
}

/* --- both ----------------------------------------------------------------------------------- */

static void one_byte(struct tm_memcached_talk *talk, int side, unsigned char byte)
{
    struct tm_memcached_line *line = &talk->line[side];
    bool is_first = line->state == FIRST_WORD && line->size == 0;
    if (is_first && (byte < '0' || byte > 'z')) {
        lose(talk); /* the binary protocol, or TLS */
        return;
    }
    if (byte == ' ' || byte == '\r' || byte == '\n') {
        if (line->size)
            word_ends(line, side);
    } else {
        if (line->size == 0)
            line->matched = 0;
        letter(talk, line, byte);
    }
    if (byte == '\n' && side == TM_FROM_CLIENT)
        request_line_ends(talk);
    else if (byte == '\n')
        reply_line_ends(talk);
}

static size_t data_bytes(struct tm_memcached_talk *talk, int side, size_t size)
{
    struct tm_memcached_line *line = &talk->line[side];
    size_t part = size < line->number ? size : line->number;
    line->number -= (uint32_t)part;
    if (line->number == 0 && side == TM_FROM_CLIENT)
        request_ends(talk);
    else if (line->number == 0)
        reply_ends(talk);
    return part;
}

void tm_memcached_feed(struct tm_memcached_talk *talk, int side, const unsigned char *bytes,
                       size_t size)
{
    size_t at = 0;
    while (at < size && talk->line[side].state < LOST) {
        if (talk->line[side].state == DATA)
            at += data_bytes(talk, side, size - at);
        else
            one_byte(talk, side, bytes[at++]);
    }
}

enum tm_moment tm_memcached_moment(const struct tm_memcached_talk *talk)
{
    if (talk->line[0].state >= LOST || talk->line[1].state >= LOST)
        return TM_MOMENT_UNKNOWN;
    if (talk->flags & WATCHES)
        return TM_MOMENT_SUBSCRIBED;
    for (int side = 0; side < 2; side++)
        if (talk->line[side].state != FIRST_WORD || talk->line[side].size)
            return TM_MOMENT_BUSY;
    if (talk->owed)
        return TM_MOMENT_BUSY;
    return talk->flags & DOUBT ? TM_MOMENT_UNKNOWN : TM_MOMENT_SAFE;
}
