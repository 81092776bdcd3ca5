/* Answers of MySQL's servers. Calls nothing. */
#include <stdbool.h>

#include "protocol/mysql_parts.h"

static void answer_ends(struct tm_mysql_talk *talk)
{
    if (talk->queued == 0 || talk->queued > TM_MYSQL_QUEUE) {
        tm_mysql_lose(talk);
        return;
    }
    talk->queued--;
    for (uint8_t i = 0; i < talk->queued; i++)
        talk->queue[i] = talk->queue[i + 1];
    talk->step = FIRST;
}

/* By its first byte. */
static uint8_t shape_of_end(const struct tm_mysql_talk *talk, unsigned char byte)
{
    uint32_t size = talk->size[TM_FROM_SERVER];
    if (byte == 0xff)
        return IS_ERROR;
    if (byte != 0xfe || size == WHOLE)
        return SKIPPED;
    if (size == EOF_SIZE)
        return IS_EOF;
    return talk->flags & NO_EOF || talk->step == FIRST ? IS_OK : SKIPPED;
}

static uint8_t shape_of_first(struct tm_mysql_talk *talk, uint8_t answer, unsigned char byte)
{
    switch ((enum answer)answer) {
    case ONE:
        if (byte == 0)
            return IS_OK;
        if (shape_of_end(talk, byte) == SKIPPED)
            tm_mysql_lose(talk);
        return shape_of_end(talk, byte);
    case USER:
        return byte == 0 ? IS_OK : byte == 0xff ? IS_ERROR : SKIPPED;
    case RESULTS:
        return byte == 0 ? IS_OK : byte == 0xff ? IS_ERROR : byte == 0xfb ? IS_FILE : IS_COUNT;
    case PREPARED:
        if (byte != 0 && byte != 0xff)
            tm_mysql_lose(talk);
        return byte == 0 ? IS_PREPARED : IS_ERROR;
    case ROWS_ONLY:
        return shape_of_end(talk, byte);
    case TEXT:
        return IS_TEXT;
    case NEVER: case NOTHING: case REPLICA:
        break;
    }
    tm_mysql_lose(talk);
    return SKIPPED;
}

static uint8_t shape_of(struct tm_mysql_talk *talk, unsigned char byte)
{
    if (talk->phase == PROOF)
        return shape_of_first(talk, USER, byte);
    if (talk->queued == 0) {
        tm_mysql_lose(talk); /* it has something to say of its own accord: that it leaves */
        return SKIPPED;
    }
    switch (talk->step) {
    case FIRST:
        return shape_of_first(talk, talk->queue[0], byte);
    case DEFINITIONS:
        return SKIPPED;
    case END_OF_DEFINITIONS:
        if (shape_of_end(talk, byte) != IS_EOF)
            tm_mysql_lose(talk);
        return IS_EOF;
    default:
        return shape_of_end(talk, byte);
    }
}

/* Of OK: two numbers, and the status; of EOF: two bytes, and the status. */
static void ending_byte(struct tm_mysql_talk *talk, unsigned char byte)
{
    if (talk->skip) {
        talk->skip--;
    } else if (talk->field < 2) {
        talk->field++;
        talk->skip = byte == 0xfc ? 2 : byte == 0xfd ? 3 : byte == 0xfe ? 8 : 0;
    } else if (talk->field < 4) {
        talk->status = (uint16_t)(talk->field == 2 ? byte : talk->status | byte << 8);
        talk->field++;
    }
}

/* A number of definitions, and whether they follow. */
static void count_byte(struct tm_mysql_talk *talk, uint32_t at, unsigned char byte)
{
    if (at == 0) {
        talk->count = byte < 0xfb ? byte : 0;
        talk->skip = byte == 0xfc ? 2 : byte == 0xfd ? 3 : 0;
        talk->flags &= (uint8_t)~LEFT_OUT;
        if (byte > 0xfd)
            tm_mysql_lose(talk);
    } else if (talk->skip) {
        talk->count |= (uint32_t)byte << (at <= 3 ? 8 * (at - 1) : 0);
        talk->skip--;
    } else if (talk->flags & CACHED && byte == 0) {
        talk->flags |= LEFT_OUT;
    }
}

static void prepared_byte(struct tm_mysql_talk *talk, uint32_t at, unsigned char byte)
{
    if (at == 5)
        talk->then = byte;
    else if (at == 6)
        talk->then = (uint16_t)(talk->then | byte << 8);
    else if (at == 7)
        talk->count = byte;
    else if (at == 8)
        talk->count |= (uint32_t)byte << 8;
}

void tm_mysql_answer_byte(struct tm_mysql_talk *talk, uint32_t at, unsigned char byte)
{
    if (talk->shape == CONTINUES)
        return;
    if (at == 0) {
        talk->shape = shape_of(talk, byte);
        talk->field = talk->shape == IS_EOF ? 2 : 0;
        talk->skip = talk->shape == IS_EOF ? 2 : 0;
        if (talk->shape == IS_COUNT)
            count_byte(talk, at, byte);
    } else if (talk->shape == IS_OK || talk->shape == IS_EOF) {
        ending_byte(talk, byte);
    } else if (talk->shape == IS_COUNT) {
        count_byte(talk, at, byte);
    } else if (talk->shape == IS_PREPARED) {
        prepared_byte(talk, at, byte);
    } else if (talk->shape == IS_ERROR && at <= 2) {
        talk->field = (uint8_t)(talk->field + (byte == 0xff)); /* 65535 is no error */
    }
}

/* To the definitions, or what comes after them. */
static void expect_definitions(struct tm_mysql_talk *talk, bool left_out)
{
    if (talk->count && !left_out)
        talk->step = DEFINITIONS;
    else if (talk->queue[0] == PREPARED)
        answer_ends(talk);
    else
        talk->step = talk->flags & NO_EOF ? ROWS : END_OF_DEFINITIONS;
}

/* A list of them is complete. */
static void definitions_end(struct tm_mysql_talk *talk)
{
    if (talk->queue[0] != PREPARED) {
        talk->step = ROWS;
        return;
    }
    talk->count = talk->then;
    talk->then = 0;
    expect_definitions(talk, false);
}

static void ending_ends(struct tm_mysql_talk *talk)
{
    bool of_definitions = talk->step == END_OF_DEFINITIONS;
    if (talk->field < 4) {
        tm_mysql_lose(talk);
        return;
    }
    talk->flags &= (uint8_t)~DOUBT;
    if (talk->phase == PROOF)
        talk->phase = SESSION;
    else if (of_definitions && (talk->queue[0] == PREPARED || !(talk->status & CURSOR_EXISTS)))
        definitions_end(talk);
    else if (!of_definitions && talk->status & MORE_RESULTS && talk->queue[0] == RESULTS)
        talk->step = FIRST;
    else
        answer_ends(talk);
}

static void error_ends(struct tm_mysql_talk *talk)
{
    if (talk->field == 2) /* progress */
        return;
    if (talk->phase == PROOF) {
        tm_mysql_lose(talk);
        return;
    }
    talk->flags |= DOUBT;
    answer_ends(talk);
}

void tm_mysql_answer_packet_ends(struct tm_mysql_talk *talk)
{
    switch (talk->shape) {
    case IS_OK: case IS_EOF:
        ending_ends(talk);
        break;
    case IS_ERROR:
        error_ends(talk);
        break;
    case IS_COUNT:
        if (talk->count == 0)
            tm_mysql_lose(talk);
        expect_definitions(talk, talk->flags & LEFT_OUT);
        break;
    case IS_PREPARED:
        if (talk->count == 0) {
            talk->count = talk->then;
            talk->then = 0;
        }
        expect_definitions(talk, false);
        break;
    case IS_FILE:
        talk->flags |= FILE_DATA;
        break;
    case IS_TEXT:
        answer_ends(talk);
        break;
    default:
        if (talk->step != DEFINITIONS)
            break;
        talk->count--;
        if (talk->count == 0 && talk->flags & NO_EOF)
            definitions_end(talk);
        else if (talk->count == 0)
            talk->step = END_OF_DEFINITIONS;
        break;
    }
}
