/* HTTP's messages, behind their heads. Calls nothing. */
#include <stdbool.h>

#include "protocol/http1_parts.h"

/* --- messages ------------------------------------------------------------------------------- */

static void message_ends(struct tm_http1_talk *talk, int which)
{
    tm_http1_enter(&talk->side[which], FIRST);
    if (which == TM_FROM_CLIENT)
        return;
    talk->owed--;
    talk->to_head >>= 1;
}

/* The head of a request is complete. */
static void is_owed(struct tm_http1_talk *talk)
{
    if (talk->method & IS_CONNECT || talk->owed >= OWED_MOST) {
        tm_http1_lose(talk);
        return;
    }
    if (talk->method & IS_HEAD)
        talk->to_head |= (uint32_t)1 << talk->owed;
    talk->owed++;
}

/* Whether an answer has no body, whatever its head says. */
static bool is_without_body(const struct tm_http1_talk *talk)
{
    return talk->to_head & 1 || talk->status == 204 || talk->status == 304;
}

static void head_ends(struct tm_http1_talk *talk, int which)
{
    struct tm_http1_side *side = &talk->side[which];
    bool is_answer = which == TM_FROM_SERVER;
    if (!is_answer)
        is_owed(talk);
    if (side->state == LOST)
        return;
    if (is_answer && talk->status / 100 == 1) {
        tm_http1_enter(side, FIRST); /* it is not final */
        if (talk->status == 101)
            tm_http1_lose(talk);
    } else if (is_answer && is_without_body(talk)) {
        message_ends(talk, which);
    } else if (side->flags & CHUNKED && !(side->flags & OTHER_CODING)) {
        tm_http1_enter(side, SIZE);
        side->left = 0;
    } else if (!(side->flags & OTHER_CODING) && (side->flags & HAS_LENGTH || !is_answer)) {
        if (!(side->flags & HAS_LENGTH))
            side->left = 0;
        tm_http1_enter(side, BODY);
        if (side->left == 0)
            message_ends(talk, which);
    } else {
        tm_http1_lose(talk); /* up to the end of the connection */
    }
}

/* --- chunks --------------------------------------------------------------------------------- */

static int digit_of(unsigned char byte)
{
    byte = tm_http1_lower(byte);
    if (byte >= '0' && byte <= '9')
        return byte - '0';
    return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

static void size_ends(struct tm_http1_side *side)
{
    tm_http1_enter(side, side->left ? CHUNK : TRAILER);
}

static void size_byte(struct tm_http1_talk *talk, struct tm_http1_side *side, unsigned char byte)
{
    int digit = digit_of(byte);
    if (digit >= 0 && side->left < LEFT_MOST >> 4) {
        side->left = side->left << 4 | (uint64_t)digit;
        side->at = 1;
    } else if (digit < 0 && side->at && byte == '\n') {
        size_ends(side);
    } else if (digit < 0 && side->at && (byte == '\r' || byte == ';' || byte == ' ')) {
        side->state = EXTENSION;
    } else {
        tm_http1_lose(talk);
    }
}

static void trailer_byte(struct tm_http1_talk *talk, int which, unsigned char byte)
{
    struct tm_http1_side *side = &talk->side[which];
    if (byte == '\n')
        message_ends(talk, which);
    else
        side->state = byte == '\r' ? TRAILERS_END : TRAILER_LINE;
}

/* --- both ----------------------------------------------------------------------------------- */

/* Of states that end with a line. */
static void line_byte(struct tm_http1_talk *talk, int which, unsigned char byte)
{
    struct tm_http1_side *side = &talk->side[which];
    bool ends = byte == '\n';
    switch (side->state) {
    case REST: case IGNORED:
        if (ends)
            tm_http1_enter(side, NAME);
        break;
    case NAME:
        if (ends && side->at == 0)
            head_ends(talk, which);
        else if (ends)
            tm_http1_lose(talk); /* a line without a colon */
        else
            tm_http1_name_byte(talk, side, byte);
        break;
    case VALUE: case NUMBER: case CODING:
        if (ends && side->state == VALUE)
            tm_http1_lose(talk); /* empty */
        else if (ends)
            tm_http1_enter(side, NAME);
        else
            tm_http1_value_byte(talk, side, byte);
        break;
    case HEAD_ENDS:
        if (ends)
            head_ends(talk, which);
        else
            tm_http1_lose(talk);
        break;
    case EXTENSION:
        if (ends)
            size_ends(side);
        break;
    default:
        tm_http1_lose(talk);
        break;
    }
}

static void one_byte(struct tm_http1_talk *talk, int which, unsigned char byte)
{
    struct tm_http1_side *side = &talk->side[which];
    switch (side->state) {
    case FIRST:
        tm_http1_message_begins(talk, which, byte);
        break;
    case METHOD:
        tm_http1_method_byte(talk, byte);
        break;
    case TARGET:
        if (byte == '\n' || byte == '\r') /* HTTP/0.9 */
            tm_http1_lose(talk);
        else if (byte == ' ')
            tm_http1_enter(side, VERSION);
        break;
    case VERSION:
        tm_http1_version_byte(talk, which, byte);
        break;
    case STATUS:
        tm_http1_status_byte(talk, byte);
        break;
    case SIZE:
        size_byte(talk, side, byte);
        break;
    case CHUNK_ENDS:
        if (byte == '\n') {
            tm_http1_enter(side, SIZE);
            side->left = 0;
        } else if (byte != '\r') {
            tm_http1_lose(talk);
        }
        break;
    case TRAILER:
        trailer_byte(talk, which, byte);
        break;
    case TRAILER_LINE:
        if (byte == '\n')
            side->state = TRAILER;
        break;
    case TRAILERS_END:
        if (byte == '\n')
            message_ends(talk, which);
        else
            tm_http1_lose(talk);
        break;
    default:
        line_byte(talk, which, byte);
        break;
    }
}

/* Of a body or a chunk; returns how many it has taken. */
static size_t content(struct tm_http1_talk *talk, int which, size_t size)
{
    struct tm_http1_side *side = &talk->side[which];
    size_t part = size < side->left ? size : (size_t)side->left;
    side->left -= part;
    if (side->left == 0 && side->state == CHUNK)
        tm_http1_enter(side, CHUNK_ENDS);
    else if (side->left == 0)
        message_ends(talk, which);
    return part;
}

void tm_http1_feed(struct tm_http1_talk *talk, int side, const unsigned char *bytes, size_t size)
{
    size_t at = 0;
    while (at < size && talk->side[side].state < LOST) {
        uint8_t state = talk->side[side].state;
        if (state == BODY || state == CHUNK)
            at += content(talk, side, size - at);
        else
            one_byte(talk, side, bytes[at++]);
    }
}

enum tm_moment tm_http1_moment(const struct tm_http1_talk *talk)
{
    if (talk->side[0].state >= LOST || talk->side[1].state >= LOST)
        return TM_MOMENT_UNKNOWN;
    return talk->owed || talk->side[0].state != FIRST || talk->side[1].state != FIRST
               ? TM_MOMENT_BUSY
               : TM_MOMENT_SAFE;
}
