/* What heads and bodies of HTTP have in common. Private to http1.c and http1_heads.c. */
#ifndef TM_PROTOCOL_HTTP1_PARTS_H
#define TM_PROTOCOL_HTTP1_PARTS_H

#include "protocol/http1.h"

/* Of one side. */
enum {
    FIRST = 0,   /* of a message: empty lines may come before it */
    METHOD,      /* of a request */
    TARGET,
    VERSION,     /* of either */
    STATUS,      /* of an answer: three digits */
    REST,        /* of the first line */
    NAME,        /* of a header line; empty: the head ends */
    VALUE,       /* of one that matters, ahead of its first character */
    NUMBER,      /* of Content-Length */
    CODING,      /* of Transfer-Encoding */
    IGNORED,     /* the rest of a header line */
    HEAD_ENDS,   /* its \n */
    BODY,
    SIZE,        /* of a chunk */
    EXTENSION,   /* the rest of its line */
    CHUNK,
    CHUNK_ENDS,  /* \r\n */
    TRAILER,     /* a line behind the last chunk */
    TRAILER_LINE,
    TRAILERS_END, /* the \n of the empty one */
    LOST,        /* of either side: not understood */
};

/* Bits of flags. */
enum { HAS_LENGTH = 1, CHUNKED = 2, OTHER_CODING = 4 };

/* Methods, a bit each. */
enum { IS_HEAD = 1, IS_CONNECT = 2 };

enum { OWED_MOST = 32 };
#define LEFT_MOST ((uint64_t)1 << 50)

static inline void tm_http1_lose(struct tm_http1_talk *talk)
{
    talk->side[0].state = talk->side[1].state = LOST;
}

static inline void tm_http1_enter(struct tm_http1_side *side, uint8_t state)
{
    side->state = state;
    side->at = 0;
}

static inline unsigned char tm_http1_lower(unsigned char byte)
{
    return byte >= 'A' && byte <= 'Z' ? (unsigned char)(byte + ('a' - 'A')) : byte;
}

/* A byte of a head, in each of its states. */
void tm_http1_message_begins(struct tm_http1_talk *talk, int which, unsigned char byte);
void tm_http1_method_byte(struct tm_http1_talk *talk, unsigned char byte);
void tm_http1_version_byte(struct tm_http1_talk *talk, int which, unsigned char byte);
void tm_http1_status_byte(struct tm_http1_talk *talk, unsigned char byte);
void tm_http1_name_byte(struct tm_http1_talk *talk, struct tm_http1_side *side,
                        unsigned char byte);
void tm_http1_value_byte(struct tm_http1_talk *talk, struct tm_http1_side *side,
                         unsigned char byte);

#endif
