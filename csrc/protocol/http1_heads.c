/* Heads of HTTP's messages. Calls nothing but strlen(). */
#include <stdbool.h>
#include <string.h>

#include "protocol/http1_parts.h"

static const char VERSION_1[] = "HTTP/1.";
/* In lower case, bits of matched. */
static const char *const NAMES[] = {"content-length:", "transfer-encoding:"};
enum { LENGTH = 1, ENCODING = 2 };
/* The same of methods, with the space behind them: IS_HEAD and IS_CONNECT. */
static const char *const METHODS[] = {"HEAD ", "CONNECT "};
static const char CHUNKED_CODING[] = "chunked";


/* One more character: which of the words it may still be. */
static void match(struct tm_http1_side *side, const char *const words[2], unsigned char byte)
{
    for (int i = 0; i < 2; i++)
        if (side->at >= strlen(words[i]) || (unsigned char)words[i][side->at] != byte)
            side->matched &= (uint8_t)~(1 << i);
    if (side->at < UINT8_MAX)
        side->at++;
}

void tm_http1_message_begins(struct tm_http1_talk *talk, int which, unsigned char byte)
{
    struct tm_http1_side *side = &talk->side[which];
    if (byte == '\r' || byte == '\n')
        return; /* between two messages */
    side->flags = 0;
    side->left = 0;
    side->matched = UINT8_MAX;
    if (which == TM_FROM_CLIENT && byte >= 'A' && byte <= 'Z') {
        tm_http1_enter(side, METHOD);
        match(side, METHODS, byte);
    } else if (which == TM_FROM_SERVER && byte == 'H' && talk->owed) {
        tm_http1_enter(side, VERSION);
        side->at = 1;
        talk->status = 0;
    } else {
        tm_http1_lose(talk);
    }
}

void tm_http1_method_byte(struct tm_http1_talk *talk, unsigned char byte)
{
    struct tm_http1_side *side = &talk->side[TM_FROM_CLIENT];
    match(side, METHODS, byte);
    if (byte != ' ') {
        if (byte < '!' || byte > '~')
            tm_http1_lose(talk);
        return;
    }
    talk->method = side->matched & (IS_HEAD | IS_CONNECT);
    tm_http1_enter(side, TARGET);
}

/* HTTP/1.x, with what ends it. */
void tm_http1_version_byte(struct tm_http1_talk *talk, int which, unsigned char byte)
{
    struct tm_http1_side *side = &talk->side[which];
    uint8_t at = side->at++;
    if (at < sizeof(VERSION_1) - 1) {
        if (byte != (unsigned char)VERSION_1[at])
            tm_http1_lose(talk);
    } else if (at == sizeof(VERSION_1) - 1) {
        if (byte < '0' || byte > '9')
            tm_http1_lose(talk);
    } else if (which == TM_FROM_SERVER && byte == ' ') {
        tm_http1_enter(side, STATUS);
    } else if (which == TM_FROM_CLIENT && byte == '\r') {
        tm_http1_enter(side, REST);
    } else if (which == TM_FROM_CLIENT && byte == '\n') {
        tm_http1_enter(side, NAME);
    } else {
        tm_http1_lose(talk);
    }
}

void tm_http1_status_byte(struct tm_http1_talk *talk, unsigned char byte)
{
    struct tm_http1_side *side = &talk->side[TM_FROM_SERVER];
    if (byte < '0' || byte > '9') {
        tm_http1_lose(talk);
        return;
    }
    talk->status = (uint16_t)(talk->status * 10 + (byte - '0'));
    if (++side->at >= 3)
        tm_http1_enter(side, REST);
}

/* Until all of it has come, and nothing else, it is another one. */
static void coding_byte(struct tm_http1_side *side, unsigned char byte)
{
    size_t whole = sizeof(CHUNKED_CODING) - 1;
    if (side->at < whole && tm_http1_lower(byte) == (unsigned char)CHUNKED_CODING[side->at]) {
        side->at++;
        if (side->at == whole)
            side->flags = (uint8_t)((side->flags & ~OTHER_CODING) | CHUNKED);
    } else if (byte != ' ' && byte != '\t' && byte != '\r') {
        side->at = UINT8_MAX;
        side->flags |= OTHER_CODING;
    }
}

static void number_byte(struct tm_http1_talk *talk, struct tm_http1_side *side, unsigned char byte)
{
    if (byte >= '0' && byte <= '9' && side->at == 0 && side->left < LEFT_MOST)
        side->left = side->left * 10 + (byte - '0');
    else if (byte == ' ' || byte == '\t' || byte == '\r')
        side->at = 1; /* nothing may come behind it */
    else
        tm_http1_lose(talk);
}

static void value_begins(struct tm_http1_talk *talk, struct tm_http1_side *side,
                         unsigned char byte)
{
    if (byte == ' ' || byte == '\t')
        return;
    bool is_length = side->matched & LENGTH;
    if (side->flags & (is_length ? HAS_LENGTH : CHUNKED | OTHER_CODING)) { /* twice */
        tm_http1_lose(talk);
        return;
    }
    tm_http1_enter(side, is_length ? NUMBER : CODING);
    side->flags |= is_length ? HAS_LENGTH : OTHER_CODING;
    if (!is_length)
        coding_byte(side, byte);
    else if (byte < '0' || byte > '9')
        tm_http1_lose(talk);
    else
        side->left = (uint64_t)(byte - '0');
}

void tm_http1_name_byte(struct tm_http1_talk *talk, struct tm_http1_side *side,
                        unsigned char byte)
{
    if (side->at == 0) {
        side->matched = UINT8_MAX;
        if (byte == '\r') {
            tm_http1_enter(side, HEAD_ENDS);
            return;
        }
        if (byte == ' ' || byte == '\t') { /* of the line before */
            tm_http1_lose(talk);
            return;
        }
    }
    match(side, NAMES, tm_http1_lower(byte));
    if (byte == ':')
        side->state = side->matched & (LENGTH | ENCODING) ? VALUE : IGNORED;
}

/* Of the value of a header line that matters. */
void tm_http1_value_byte(struct tm_http1_talk *talk, struct tm_http1_side *side,
                         unsigned char byte)
{
    if (side->state == VALUE)
        value_begins(talk, side, byte);
    else if (side->state == NUMBER)
        number_byte(talk, side, byte);
    else
        coding_byte(side, byte);
}
