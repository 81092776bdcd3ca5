/* First answers that are errors, of each protocol; and none that is cut off. */
#include <string.h>

#include "check.h"
#include "protocol/first_answer.h"

static bool is_error(enum tm_protocol protocol, const char *bytes, size_t size)
{
    /* What lies behind them is not looked at: the sanitizer sees to that. */
    unsigned char copy[64];
    CHECK(size <= sizeof copy);
    memset(copy, 0, sizeof copy);
    if (size)
        memcpy(copy + sizeof copy - size, bytes, size);
    const unsigned char *at = copy + sizeof copy - size;
    uint8_t whole = tm_first_answer_feed(0, protocol, 0, at, size), cut = 0;
    for (size_t n = 0; n < size; n++)
        cut = tm_first_answer_feed(cut, protocol, (uint32_t)n, at + n, 1);
    CHECK_EQUAL(whole, cut);
    return whole & TM_FIRST_ERROR;
}

#define ANSWER(protocol, bytes) is_error(protocol, bytes, sizeof(bytes) - 1)

static void errors_are_seen(void)
{
    CHECK(ANSWER(TM_PROTOCOL_POSTGRES, "E\0\0\0\x10SFATAL\0"));
    CHECK(ANSWER(TM_PROTOCOL_MYSQL, "\x10\0\0\0\xff\x10\x04Too many"));
    CHECK(ANSWER(TM_PROTOCOL_REDIS, "-LOADING Redis"));
    CHECK(ANSWER(TM_PROTOCOL_MEMCACHED, "SERVER_ERROR out"));
    CHECK(ANSWER(TM_PROTOCOL_MEMCACHED, "ERROR\r\n"));
    CHECK(ANSWER(TM_PROTOCOL_MQTT, "\x20\x02\x00\x05"));
    CHECK(ANSWER(TM_PROTOCOL_HTTP1, "HTTP/1.1 503 Ser"));
}

static void answers_are_none(void)
{
    CHECK(!ANSWER(TM_PROTOCOL_POSTGRES, "R\0\0\0\x08\0\0\0\0"));
    CHECK(!ANSWER(TM_PROTOCOL_POSTGRES, "S"));
    CHECK(!ANSWER(TM_PROTOCOL_MYSQL, "\x4a\0\0\0\x0a" "8.0"));
    CHECK(!ANSWER(TM_PROTOCOL_REDIS, "+PONG\r\n"));
    CHECK(!ANSWER(TM_PROTOCOL_MEMCACHED, "END\r\n"));
    CHECK(!ANSWER(TM_PROTOCOL_MQTT, "\x20\x02\x00\x00"));
    CHECK(!ANSWER(TM_PROTOCOL_HTTP1, "HTTP/1.1 200 OK\r"));
    CHECK(!ANSWER(TM_PROTOCOL_HTTP1, "HTTP/1.1 404 Not"));
    CHECK(!ANSWER(TM_PROTOCOL_NONE, "-ERR"));
}

static void too_few_bytes_are_none(void)
{
    CHECK(!is_error(TM_PROTOCOL_REDIS, "", 0));
    CHECK(!is_error(TM_PROTOCOL_POSTGRES, "", 0));
    CHECK(!ANSWER(TM_PROTOCOL_MYSQL, "\x10\0\0\0"));
    CHECK(!ANSWER(TM_PROTOCOL_MEMCACHED, "ERRO"));
    CHECK(!ANSWER(TM_PROTOCOL_MQTT, "\x20\x02\x00"));
    CHECK(!ANSWER(TM_PROTOCOL_HTTP1, "HTTP/1.1 "));
}

static void hear(struct tm_talk *talk, int side, const char *words)
{
    tm_talk_feed(talk, NULL, side, (const unsigned char *)words, strlen(words));
}

static void only_the_first_answer_counts_and_once(void)
{
    struct tm_talk talk;
    tm_talk_begin(&talk, TM_PROTOCOL_REDIS);
    hear(&talk, TM_FROM_CLIENT, "-PING\r\n");
    CHECK(!tm_talk_take_error(&talk));
    hear(&talk, TM_FROM_SERVER, "+PONG\r\n");
    hear(&talk, TM_FROM_SERVER, "-ERR no\r\n");
    CHECK(!tm_talk_take_error(&talk));
    tm_talk_begin(&talk, TM_PROTOCOL_MEMCACHED);
    hear(&talk, TM_FROM_CLIENT, "get a\r\n");
    hear(&talk, TM_FROM_SERVER, "SERVER_");
    CHECK(!tm_talk_take_error(&talk));
    hear(&talk, TM_FROM_SERVER, "ERROR out of memory\r\n");
    tm_talk_mend(&talk); /* it is sealed with the rest */
    CHECK(tm_talk_take_error(&talk));
    tm_talk_mend(&talk);
    CHECK(!tm_talk_take_error(&talk));
    hear(&talk, TM_FROM_SERVER, "END\r\n");
    CHECK(!tm_talk_take_error(&talk));
}

int main(void)
{
    only_the_first_answer_counts_and_once();
    errors_are_seen();
    answers_are_none();
    too_few_bytes_are_none();
    return 0;
}
