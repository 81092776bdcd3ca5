/* Redis's requests. Calls nothing but memcmp() and memcpy(). */
#include <stdbool.h>
#include <string.h>

#include "protocol/redis_parts.h"

struct word {
    char name[TM_REDIS_WORD + 1];
    uint8_t command;
};

static const struct word COMMANDS[] = {
    {"MULTI", IS_MULTI},          {"WATCH", IS_WATCH},          {"EXEC", IS_END},
    {"DISCARD", IS_END},          {"RESET", IS_RESET},          {"UNWATCH", IS_UNWATCH},
    {"CLIENT", IS_CLIENT},        {"SUBSCRIBE", IS_STREAM},     {"PSUBSCRIBE", IS_STREAM},
    {"SSUBSCRIBE", IS_STREAM},    {"UNSUBSCRIBE", IS_STREAM},   {"PUNSUBSCRIBE", IS_STREAM},
    {"SUNSUBSCRIBE", IS_STREAM},  {"MONITOR", IS_STREAM},       {"SYNC", IS_STREAM},
    {"PSYNC", IS_STREAM},         {"QUIT", IS_QUIT},            {"AUTH", IS_AUTH},
    {"HELLO", IS_HELLO},          {"SELECT", IS_SELECT},        {"SCRIPT", IS_SCRIPT},
    {"READONLY", IS_OTHER},       {"READWRITE", IS_OTHER},      {"ASKING", IS_OTHER},
    {"REPLICAOF", IS_OTHER},      {"SLAVEOF", IS_OTHER},        {"REPLCONF", IS_OTHER},
    {"DEBUG", IS_OTHER},          {"WAIT", IS_OTHER},           {"WAITAOF", IS_OTHER},
};

/* Second words of CLIENT that ask or change nothing that is the connection's, and those that are
 * told again. All others are IS_OTHER: TRACKING, CACHING, ID (which is somebody else's there). */
static const struct word OF_CLIENT[] = {
    {"REPLY", IS_REPLY},      {"SETNAME", IS_NAME},     {"SETINFO", IS_INFO},
    {"NO-EVICT", IS_NO_EVICT}, {"NO-TOUCH", IS_NO_TOUCH}, {"GETNAME", IS_ANY},
    {"LIST", IS_ANY},         {"INFO", IS_ANY},         {"KILL", IS_ANY},
    {"PAUSE", IS_ANY},        {"UNPAUSE", IS_ANY},      {"UNBLOCK", IS_ANY},
    {"GETREDIR", IS_ANY},     {"TRACKINGINFO", IS_ANY}, {"HELP", IS_ANY},
};

static const struct word OF_SCRIPT[] = {{"DEBUG", IS_OTHER}};

static void word_begins(struct tm_redis_talk *talk)
{
    talk->word_size = 0;
}

static void word_byte(struct tm_redis_talk *talk, unsigned char byte)
{
    if (talk->word_size < TM_REDIS_WORD)
        talk->word[talk->word_size] =
            byte >= 'a' && byte <= 'z' ? (unsigned char)(byte - ('a' - 'A')) : byte;
    if (talk->word_size <= TM_REDIS_WORD)
        talk->word_size++;
}

static uint8_t find(const struct tm_redis_talk *talk, const struct word *words, size_t count,
                    uint8_t otherwise)
{
    char word[TM_REDIS_WORD + 1] = "";
    if (talk->word_size == 0 || talk->word_size > TM_REDIS_WORD)
        return otherwise;
    memcpy(word, talk->word, talk->word_size);
    for (size_t i = 0; i < count; i++)
        if (memcmp(word, words[i].name, sizeof(word)) == 0)
            return words[i].command;
    return otherwise;
}

#define FIND(talk, words, otherwise)                                                              \
    find(talk, words, sizeof(words) / sizeof((words)[0]), otherwise)

/* The first argument, or the second one of some, is complete. */
static void word_ends(struct tm_redis_talk *talk)
{
    if (!(talk->flags & IN_SECOND)) {
        talk->command = FIND(talk, COMMANDS, IS_ANY);
        talk->flags |= IN_SECOND;
    } else if (talk->command == IS_CLIENT) {
        talk->command = FIND(talk, OF_CLIENT, IS_OTHER);
    } else if (talk->command == IS_SCRIPT) {
        talk->command = FIND(talk, OF_SCRIPT, IS_ANY);
    }
}

static bool word_matters(const struct tm_redis_talk *talk)
{
    return !(talk->flags & IN_SECOND) || talk->command == IS_CLIENT || talk->command == IS_SCRIPT;
}

static void request_begins(struct tm_redis_talk *talk)
{
    talk->flags &= (uint8_t)~(IN_SECOND | IN_WORD | ALONE);
    talk->command = IS_ANY;
    word_begins(talk);
}

/* From here on its transaction is over, if the reply says so. */
static void ends_transaction(struct tm_redis_talk *talk)
{
    talk->until_end = talk->owed;
    talk->flags &= (uint8_t)~REOPENED;
}

static void opens(struct tm_redis_talk *talk, uint8_t what)
{
    talk->flags |= what;
    if (talk->until_end)
        talk->flags |= REOPENED;
}

static void request_ends(struct tm_redis_talk *talk)
{
    bool alone = talk->flags & ALONE;
    talk->state[TM_FROM_CLIENT] = START;
    if (talk->owed >= OWED_MOST) {
        tm_redis_lose(talk);
        return;
    }
    talk->owed++;
    if (talk->command == IS_MULTI)
        opens(talk, MULTI);
    else if (talk->command == IS_WATCH)
        opens(talk, WATCH);
    else if (alone && (talk->command == IS_END || talk->command == IS_RESET ||
                       (talk->command == IS_UNWATCH && !(talk->flags & MULTI))))
        ends_transaction(talk);
    else if (talk->command == IS_STREAM)
        talk->flags |= SUBSCRIBED;
    else if (talk->command == IS_REPLY || talk->command == IS_QUIT)
        tm_redis_lose(talk);
}

static void argument_ends(struct tm_redis_talk *talk)
{
    if (word_matters(talk))
        word_ends(talk);
    word_begins(talk);
    talk->arguments--;
    if (talk->arguments == 0)
        request_ends(talk);
    else
        talk->state[TM_FROM_CLIENT] = DOLLAR;
}

/* Of an argument, and of the \r\n behind it. Returns how many it has taken. */
size_t tm_redis_argument_bytes(struct tm_redis_talk *talk, const unsigned char *bytes, size_t size)
{
    uint32_t left = talk->number[TM_FROM_CLIENT];
    size_t part = size < left ? size : left;
    for (size_t i = 0; word_matters(talk) && i < part && left - i > 2; i++)
        word_byte(talk, bytes[i]);
    talk->number[TM_FROM_CLIENT] = left - (uint32_t)part;
    if (talk->number[TM_FROM_CLIENT] == 0)
        argument_ends(talk);
    return part;
}

static void inline_byte(struct tm_redis_talk *talk, unsigned char byte)
{
    bool is_space = byte == ' ' || byte == '\t' || byte == '\r' || byte == '\n';
    if (!is_space && byte < ' ') {
        tm_redis_lose(talk); /* servers differ on what ends a word */
        return;
    }
    if (byte == '"' || byte == '\'') {
        if (word_matters(talk))
            tm_redis_lose(talk); /* it may be anything */
        return;
    }
    if (!is_space) {
        if (!(talk->flags & IN_WORD) && talk->flags & IN_SECOND)
            talk->flags &= (uint8_t)~ALONE;
        talk->flags |= IN_WORD;
        if (word_matters(talk))
            word_byte(talk, byte);
        return;
    }
    if (talk->flags & IN_WORD) {
        if (word_matters(talk))
            word_ends(talk);
        word_begins(talk);
        talk->flags &= (uint8_t)~IN_WORD;
    }
    if (byte == '\n' && talk->flags & IN_SECOND)
        request_ends(talk);
    else if (byte == '\n')
        talk->state[TM_FROM_CLIENT] = START;
}

static void request_start(struct tm_redis_talk *talk, unsigned char byte)
{
    bool is_letter = (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z');
    request_begins(talk);
    if (byte == '*') {
        tm_redis_number_begins(talk, TM_FROM_CLIENT, COUNT);
    } else if (is_letter || byte == ' ' || byte == '\r' || byte == '\n') {
        talk->flags |= ALONE;
        talk->state[TM_FROM_CLIENT] = INLINE;
        inline_byte(talk, byte);
    } else {
        tm_redis_lose(talk);
    }
}

static void count_of_arguments(struct tm_redis_talk *talk, uint32_t count)
{
    talk->arguments = count;
    talk->flags |= count == 1 ? ALONE : 0;
    talk->state[TM_FROM_CLIENT] = count ? DOLLAR : START;
}

void tm_redis_client_byte(struct tm_redis_talk *talk, unsigned char byte)
{
    uint8_t state = talk->state[TM_FROM_CLIENT];
    if (state == START)
        request_start(talk, byte);
    else if (state == INLINE)
        inline_byte(talk, byte);
    else if (state == COUNT)
        tm_redis_number_byte(talk, TM_FROM_CLIENT, byte, END_OF_COUNT);
    else if (state == LENGTH)
        tm_redis_number_byte(talk, TM_FROM_CLIENT, byte, END_OF_LENGTH);
    else if (state == NEGATIVE && talk->arguments == 0)
        tm_redis_negative_byte(talk, TM_FROM_CLIENT, byte);
    else if (state == END_OF_COUNT && byte == '\n')
        count_of_arguments(talk, talk->number[TM_FROM_CLIENT]);
    else if (state == END_OF_NULL && byte == '\n')
        talk->state[TM_FROM_CLIENT] = START;
    else if (state == DOLLAR && byte == '$')
        tm_redis_number_begins(talk, TM_FROM_CLIENT, LENGTH);
    else if (state == END_OF_LENGTH && byte == '\n') {
        talk->number[TM_FROM_CLIENT] += 2;
        talk->state[TM_FROM_CLIENT] = BYTES;
    } else
        tm_redis_lose(talk);
}
