/* What requests and replies of Redis have in common. Private to redis*.c. */
#ifndef TM_PROTOCOL_REDIS_PARTS_H
#define TM_PROTOCOL_REDIS_PARTS_H

#include "protocol/redis.h"

/* Of one side. LOST, of either: not understood. */
enum {
    START = 0,  /* of a request; of a value */
    COUNT,      /* digits, of how many arguments or values there are */
    NEGATIVE,   /* of a value that is null: its digits do not matter */
    LENGTH,     /* digits, of how many bytes an argument or value has */
    END_OF_COUNT, /* \n */
    END_OF_NULL,
    END_OF_LENGTH,
    DOLLAR,     /* the $ of an argument */
    BYTES,      /* of an argument or value, and \r\n behind it */
    LINE,       /* of a value, up to its \n */
    INLINE,     /* a request that is a line: its words */
    LOST,
};

/* Bits of flags. */
enum {
    MULTI = 1,
    WATCH = 2,
    REOPENED = 4,   /* by a request behind the one that ends it */
    SUBSCRIBED = 8,
    ALONE = 16,     /* the request has no arguments */
    IN_SECOND = 32, /* the argument that is being read is the second */
    IN_WORD = 64,   /* of an inline request: not between two words */
};

/* Of a request: what matters of it. */
enum tm_redis_command {
    IS_ANY = 0,
    IS_MULTI,
    IS_WATCH,
    IS_END,    /* EXEC, DISCARD */
    IS_UNWATCH,
    IS_CLIENT, /* CLIENT and SCRIPT: the second word says more */
    IS_SCRIPT,
    IS_STREAM, /* from then on the server speaks when it likes */
    IS_QUIT,
    IS_REPLY,  /* CLIENT REPLY: replies are off */
    /* From here on: what the endpoint knows of its client afterwards. kept.h */
    IS_RESET,  /* all of it is over, and a transaction */
    IS_AUTH,
    IS_HELLO,
    IS_SELECT,
    IS_NAME,
    IS_INFO,
    IS_NO_EVICT,
    IS_NO_TOUCH,
    IS_OTHER,  /* what the next endpoint can't be told */
};

enum { FIRST_KEPT = IS_RESET };

/* tm_redis_talk.matched of a reply that is a line: which word it begins with. */
enum { SAYS_ABORTED = 9, SAYS_NOPERM = 0x10 | 6, SAYS_OK = 0x20 | 3 };

enum { NUMBER_MOST = 1 << 30, DIGITS_MOST = 10, OWED_MOST = 1 << 30 };

static inline void tm_redis_lose(struct tm_redis_talk *talk)
{
    talk->state[0] = talk->state[1] = LOST;
}

static inline void tm_redis_number_begins(struct tm_redis_talk *talk, int side, uint8_t state)
{
    talk->state[side] = state;
    talk->number[side] = 0;
    talk->digits[side] = 0;
}

/* A byte of it; `then`: the state behind its \r. */
static inline void tm_redis_number_byte(struct tm_redis_talk *talk, int side, unsigned char byte,
                                        uint8_t then)
{
    if (byte == '\r' && talk->digits[side]) {
        talk->state[side] = then;
    } else if (byte == '-' && talk->digits[side] == 0) {
        talk->state[side] = NEGATIVE;
    } else if (byte >= '0' && byte <= '9' && talk->digits[side] < DIGITS_MOST &&
               talk->number[side] < NUMBER_MOST / 10) {
        talk->number[side] = talk->number[side] * 10 + (byte - '0');
        talk->digits[side]++;
    } else {
        tm_redis_lose(talk);
    }
}

static inline void tm_redis_negative_byte(struct tm_redis_talk *talk, int side, unsigned char byte)
{
    if (byte == '\r')
        talk->state[side] = END_OF_NULL;
    else if (byte < '0' || byte > '9')
        tm_redis_lose(talk);
}

/* Keeps what one step has shown: `before` it, and after it. bytes: those that it took. */
void tm_kept_seen(struct tm_kept *kept, const struct tm_redis_talk *before,
                  const struct tm_redis_talk *after, int side, const unsigned char *bytes,
                  size_t size);

/* The client's bytes: one, or as many of an argument as there are; returns how many were taken. */
void tm_redis_client_byte(struct tm_redis_talk *talk, unsigned char byte);
size_t tm_redis_argument_bytes(struct tm_redis_talk *talk, const unsigned char *bytes,
                               size_t size);

#endif
