/* Tests csrc/protocol/ as test_talk.c does: MySQL, memcached, MQTT and HTTP. */
#include "protocol/goodbye.h"

#include "talking.h"

/* --- MySQL ---------------------------------------------------------------------------------- */

#define ZEROS_10 "\0\0\0\0\0\0\0\0\0\0"
/* low, high: halves of the server's capabilities. extended: MariaDB's, their first byte. */
#define MY_GREETING(low, high, extended)                                                           \
    "\x24\0\0\0\n1.0\0\1\0\0\0abcdefgh\0" low "\x21\2\0" high "\0\0\0\0\0\0\0" extended "\0\0\0"
#define MY_LOGIN(capabilities, extended)                                                           \
    "\x23\0\0\1" capabilities "\0\0\0\1\x21" ZEROS_10 "\0\0\0\0\0\0\0\0\0" extended "\0\0\0me\0"
#define MY_OK "\7\0\0\2\0\0\0\2\0\0\0"
#define MY_OK_IN_TRANSACTION "\7\0\0\1\0\0\0\3\0\0\0"
#define MY_EOF(status) "\5\0\0\5\xfe\0\0" status "\0"
#define MY_PLAIN S(MY_GREETING("\1\2", "\0\0", "\0"), BUSY)
#define MY_START MY_PLAIN, C(MY_LOGIN("\1\2\0\0", "\0"), BUSY), S(MY_OK, SAFE)
#define MY_BY_OK                                                                                   \
    S(MY_GREETING("\1\2", "\0\1", "\0"), BUSY), C(MY_LOGIN("\1\2\0\1", "\0"), BUSY), S(MY_OK, SAFE)
#define MY_QUERY "\2\0\0\0\3x"
#define MY_DEFINITION "\4\0\0\2\3def"
#define MY_ROW "\2\0\0\4\1a"

static void mysql_results(void)
{
    static const struct line lines[] = {
        MY_START,
        C(MY_QUERY, BUSY),
        S("\7\0\0\1\0\1\0\2\0\0\0", SAFE),
        C(MY_QUERY, BUSY),
        S("\1\0\0\1\2" MY_DEFINITION, BUSY),
        S(MY_DEFINITION MY_EOF("\2"), BUSY),
        S(MY_ROW "\2\0\0\4\0\0", BUSY), /* a row that begins as OK does */
        S(MY_EOF("\x0a"), BUSY),        /* more results */
        S("\x9\0\0\1\0\xfc\1\2\0\2\0\0", BUSY), /* its numbers are longer */
        S("\0", SAFE),
        C("\1\0\0\0\x0e", BUSY), /* a ping */
        S(MY_OK, SAFE),
        C("\1\0\0\0\x09", BUSY), /* statistics */
        S("\4\0\0\1Uptm", SAFE),
        C(MY_QUERY, BUSY),
        S(MY_OK_IN_TRANSACTION, TRANSACTION),
        C(MY_QUERY, BUSY),
        S("\x0a\0\0\1\xff\x1d\4#HY000x", TRANSACTION),
        C(MY_QUERY, BUSY),
        S(MY_OK, SAFE),
        C(MY_QUERY, BUSY),
        S("\x0a\0\0\1\xff\x1d\4#HY000x", UNKNOWN), /* a procedure may have begun one */
        C("\1\0\0\0\x0e", BUSY),
        S(MY_OK, SAFE),
        C("\5\0\0\0\x19\1\0\0\0", SAFE), /* the close of a statement has no answer */
        C("\1\0\0\0\1", UNKNOWN),        /* quits */
    };
    converse(TM_PROTOCOL_MYSQL, LINES(lines));
}

static void mysql_results_that_end_by_ok(void)
{
    static const struct line lines[] = {
        MY_BY_OK,
        C(MY_QUERY, BUSY),
        S("\1\0\0\1\1" MY_DEFINITION MY_ROW, BUSY),
        S("\7\0\0\5\xfe\0\0\x0a\0\0\0", BUSY),
        S("\1\0\0\1\1" MY_DEFINITION "\7\0\0\5\xfe\0\0\3\0\0\0", TRANSACTION),
        C(MY_QUERY MY_QUERY, BUSY),
        S(MY_OK, BUSY),
        S(MY_OK, SAFE),
        C("\2\0\0\0\x16x", BUSY), /* a statement: two parameters, one column */
        S("\x0c\0\0\1\0\1\0\0\0\1\0\2\0\0\0\0" MY_DEFINITION MY_DEFINITION, BUSY),
        S(MY_DEFINITION, SAFE),
        C("\2\0\0\0\x16x", BUSY), /* none of either */
        S("\x0c\0\0\1\0\1\0\0\0\0\0\0\0\0\0\0", SAFE),
    };
    converse(TM_PROTOCOL_MYSQL, LINES(lines));
}

static void mysql_statements(void)
{
    static const struct line lines[] = {
        MY_START,
        C("\2\0\0\0\x16x", BUSY),
        S("\x0c\0\0\1\0\1\0\0\0\1\0\1\0\0\0\0" MY_DEFINITION MY_EOF("\2"), BUSY),
        S(MY_DEFINITION MY_EOF("\2"), SAFE),
        C("\2\0\0\0\x17x", BUSY),
        S("\1\0\0\1\1" MY_DEFINITION "\5\0\0\3\xfe\0\0\x42\0", SAFE), /* a cursor: no rows */
        C("\2\0\0\0\x1cx", BUSY),
        S(MY_ROW, BUSY),
        S(MY_EOF("\2"), SAFE),
    };
    converse(TM_PROTOCOL_MYSQL, LINES(lines));
}

static void mysql_files_and_large_packets(void)
{
    static const struct line lines[] = {
        MY_START,
        C(MY_QUERY, BUSY),
        S("\4\0\0\1\xfb" "abc", BUSY),
        C("\3\0\0\2abc\3\0\0\0abc", BUSY), /* numbers go round */
        C("\0\0\0\1", BUSY),
        S("\7\0\0\4\0\0\0\2\0\0\0", SAFE),
    };
    converse(TM_PROTOCOL_MYSQL, LINES(lines));
    struct tm_talk talk = talk_in_parts(TM_PROTOCOL_MYSQL, lines, 3, 0);
    size_t size = 0xffffff;
    char *much = calloc(1, size);
    feed(&talk, 'c', "\xff\xff\xff\0\3", 5);
    feed(&talk, 'c', much, size - 1);
    CHECK_EQUAL(talk.moment, TM_MOMENT_BUSY);
    feed(&talk, 'c', "\0\0\0\1", 4);
    feed(&talk, 's', "\1\0\0\1\1" MY_DEFINITION MY_EOF("\2"), 5 + 8 + 9);
    feed(&talk, 's', "\xff\xff\xff\3\xfe", 5);
    feed(&talk, 's', much, size - 1);
    feed(&talk, 's', "\5\0\0\4\xfe\0\0\2\0", 9); /* the rest of the row */
    CHECK_EQUAL(talk.moment, TM_MOMENT_BUSY);
    feed(&talk, 's', MY_EOF("\2"), 9);
    CHECK_EQUAL(talk.moment, TM_MOMENT_SAFE);
    free(much);
}

static void mysql_logins(void)
{
    static const struct line switches[] = {
        MY_PLAIN,
        C(MY_LOGIN("\1\2\0\0", "\0"), BUSY),
        S("\2\0\0\2\xfex", BUSY),
        C("\2\0\0\3xx", BUSY),
        S("\2\0\0\4\1\4", BUSY),
        S("\7\0\0\5\0\0\0\2\0\0\0", SAFE),
        C("\3\0\0\0\x11me", BUSY), /* another user */
        S("\2\0\0\1\xfex", BUSY),
        C("\2\0\0\2xx", BUSY),
        S("\7\0\0\3\0\0\0\2\0\0\0", SAFE),
    };
    static const struct line tls[] = {
        S(MY_GREETING("\1\x0a", "\0\0", "\0"), BUSY),
        C("\x20\0\0\1\1\x0a\0\0\0\0\0\1\x21" ZEROS_10 ZEROS_10 "\0\0\0", UNKNOWN)};
    static const struct line compressed[] = {
        S(MY_GREETING("\x21\2", "\0\0", "\0"), BUSY),
        C(MY_LOGIN("\x21\2\0\0", "\0"), UNKNOWN)};
    static const struct line old[] = {S("\6\0\0\0\x09" "3.23\0", UNKNOWN)};
    static const struct line refused[] = {S("\x0a\0\0\0\xff\x10\4#08004x", UNKNOWN)};
    static const struct line denied[] = {MY_PLAIN, C(MY_LOGIN("\1\2\0\0", "\0"), BUSY),
                                         S("\x0a\0\0\2\xff\x15\4#28000x", UNKNOWN)};
    static const struct line impatient[] = {C("\1\0\0\0\x0e", UNKNOWN)};
    static const struct line leaves[] = {MY_START, S("\x0a\0\0\0\xff\x1d\4#08S01x", UNKNOWN)};
    static const struct line replica[] = {MY_START, C("\1\0\0\0\x12", SUBSCRIBED)};
    static const struct line no_command[] = {MY_START, C("\1\0\0\0\x7f", UNKNOWN)};
    static const struct line cached[] = {
        S(MY_GREETING("\0\2", "\0\0", "\x10"), BUSY),
        C(MY_LOGIN("\0\2\0\0", "\x10"), BUSY),
        S(MY_OK, SAFE),
        C(MY_QUERY, BUSY),
        S("\2\0\0\1\1\0" MY_EOF("\2"), BUSY), /* definitions are left out */
        S(MY_ROW MY_EOF("\2"), SAFE),
        C(MY_QUERY, BUSY),
        S("\2\0\0\1\1\1" MY_DEFINITION MY_EOF("\2"), BUSY),
        S(MY_ROW MY_EOF("\2"), SAFE),
    };
    converse(TM_PROTOCOL_MYSQL, LINES(switches));
    converse(TM_PROTOCOL_MYSQL, LINES(tls));
    converse(TM_PROTOCOL_MYSQL, LINES(compressed));
    converse(TM_PROTOCOL_MYSQL, LINES(old));
    converse(TM_PROTOCOL_MYSQL, LINES(refused));
    converse(TM_PROTOCOL_MYSQL, LINES(denied));
    converse(TM_PROTOCOL_MYSQL, LINES(impatient));
    converse(TM_PROTOCOL_MYSQL, LINES(leaves));
    converse(TM_PROTOCOL_MYSQL, LINES(replica));
    converse(TM_PROTOCOL_MYSQL, LINES(no_command));
    converse(TM_PROTOCOL_MYSQL, LINES(cached));
}

/* --- memcached ------------------------------------------------------------------------------ */

static void memcached_requests(void)
{
    static const struct line lines[] = {
        C("get a b\r\n", BUSY),
        S("VALUE a 0 6\r\nEND\r\nx\r\n", BUSY),
        S("VALUE b 0 0 17\r\n\r\nEND\r\n", SAFE),
        C("set a 0 0 5\r\nget b\r\n", BUSY),
        S("STORED\r\n", SAFE),
        C("set a 0 0 1 noreply\r\nx\r\n", SAFE),
        C("cas a 0 0 1 99\r\nx\r\ndelete a\r\n", BUSY),
        S("EXISTS\r\n", BUSY),
        S("DELETED\r\n", SAFE),
        C("delete noreply\r\n", BUSY), /* a key */
        S("NOT_FOUND\r\n", SAFE),
        C("delete a noreply\r\nflush_all noreply\r\n", SAFE),
        C("get noreply\r\n", BUSY),
        S("END\r\n", SAFE),
        C("incr a 1\r\n", BUSY),
        S("12\r\n", SAFE),
        C("stats\r\n", BUSY),
        S("STAT pid 1\r\nSTAT x y\r\nEND\r\n", SAFE),
        C("set a 0 0 1\r\nx\r\n", BUSY),
        S("SERVER_ERROR out of memory storing object\r\n", SAFE),
        S("ERROR\r\n", UNKNOWN),
    };
    static const struct line watches[] = {C("watch\r\n", SUBSCRIBED), S("OK\r\n", SUBSCRIBED)};
    static const struct line binary[] = {C("\x80", UNKNOWN)};
    static const struct line unknown[] = {C("lru_crawler metadump all\r\n", UNKNOWN)};
    static const struct line short_of_words[] = {C("set a 0 0\r\n", UNKNOWN)};
    static const struct line no_number[] = {C("set a 0 0 x", UNKNOWN)};
    converse(TM_PROTOCOL_MEMCACHED, LINES(lines));
    converse(TM_PROTOCOL_MEMCACHED, LINES(watches));
    converse(TM_PROTOCOL_MEMCACHED, LINES(binary));
    converse(TM_PROTOCOL_MEMCACHED, LINES(unknown));
    converse(TM_PROTOCOL_MEMCACHED, LINES(short_of_words));
    converse(TM_PROTOCOL_MEMCACHED, LINES(no_number));
}

static void memcached_meta_requests(void)
{
    static const struct line lines[] = {
        C("mg a v\r\n", BUSY),
        S("VA 4 t-1\r\nEN\r\n\r\n", SAFE),
        C("ms a 2 T0\r\nxy\r\n", BUSY),
        S("HD\r\n", SAFE),
        C("mg q Oq\r\n", BUSY), /* neither is the flag */
        S("EN\r\n", SAFE),
        C("mg a v q\r\nmg b v q\r\n", UNKNOWN), /* those that are not there get no answer */
        S("VA 1\r\nx\r\n", UNKNOWN),
        C("mn\r\n", BUSY),
        S("MN\r\n", SAFE),
        C("mg a q\r\nmn\r\nmg b\r\n", BUSY),
        S("MN\r\n", BUSY),
        S("HD\r\n", SAFE),
    };
    converse(TM_PROTOCOL_MEMCACHED, LINES(lines));
}

/* --- MQTT ----------------------------------------------------------------------------------- */

#define MQTT_CONNECT(level) C("\x10\x0c\0\4MQTT" level "\2\0\x3c\0\0", BUSY)
#define MQTT_START(level) MQTT_CONNECT(level), S("\x20\2\0\0", SAFE)

static void mqtt_exchanges(void)
{
    static const struct line lines[] = {
        MQTT_START("\4"),
        C("\x82\6\0\1\0\1t\2", BUSY),
        S("\x90\3\0\1\2", SAFE),
        S("\x30\4\0\1tx", SAFE), /* QoS 0 is complete with its packet */
        C("\xc0\0", BUSY),
        S("\xd0\0", SAFE),
        C("\x32\6\0\1t\0\1x", BUSY), /* QoS 1 */
        S("\x40\2\0\1", SAFE),
        S("\x32\6\0\1t\0\1x", BUSY), /* the other way */
        C("\x40\2\0\1", SAFE),
        C("\x34\6\0\1t\0\2x", BUSY), /* QoS 2 */
        S("\x50\2\0\2", BUSY),
        C("\x62\2\0\2", BUSY),
        S("\x70\2\0\2", SAFE),
        C("\x62\2\0\3", BUSY), /* of an earlier connection */
        S("\x70\2\0\3", SAFE),
        C("\xa2\5\0\2\0\1t", BUSY),
        S("\xb0\2\0\2", SAFE),
        C("\x30\x83\1" "\0\1t" ZEROS_10 ZEROS_10 ZEROS_10 ZEROS_10 ZEROS_10 ZEROS_10 ZEROS_10
          ZEROS_10 ZEROS_10 ZEROS_10 ZEROS_10 ZEROS_10 "\0\0\0\0\0\0\0\0", SAFE),
        S("\x40\2\0\1", UNKNOWN), /* of nothing */
    };
    static const struct line five[] = {
        MQTT_START("\5"),
        C("\x34\6\0\1t\0\2x", BUSY),
        S("\x50\3\0\2\x97", SAFE), /* refused: nothing follows */
        S("\xe0\2\x8b\0", UNKNOWN),
    };
    converse(TM_PROTOCOL_MQTT, LINES(lines));
    converse(TM_PROTOCOL_MQTT, LINES(five));
}

static void mqtt_that_is_not_understood(void)
{
    static const struct line old[] = {C("\x10\x0e\0\6MQIsdp\3\2\0\x3c\0\0", UNKNOWN)};
    static const struct line later[] = {C("\x10\x0c\0\4MQTT\6\2\0\x3c\0\0", UNKNOWN)};
    static const struct line refused[] = {MQTT_CONNECT("\4"), S("\x20\2\0\5", UNKNOWN)};
    static const struct line tls[] = {C("\x16\3\1", UNKNOWN)};
    static const struct line first[] = {C("\xc0\0", UNKNOWN)};
    static const struct line twice[] = {
        MQTT_START("\4"), C("\x10\x0c\0\4MQTT\4\2\0\x3c\0\0", UNKNOWN)};
    static const struct line qos_3[] = {MQTT_START("\4"), C("\x36\4\0\1tx", UNKNOWN)};
    static const struct line too_long[] = {C("\x10\xff\xff\xff\xff\x7f", UNKNOWN)};
    converse(TM_PROTOCOL_MQTT, LINES(old));
    converse(TM_PROTOCOL_MQTT, LINES(later));
    converse(TM_PROTOCOL_MQTT, LINES(refused));
    converse(TM_PROTOCOL_MQTT, LINES(tls));
    converse(TM_PROTOCOL_MQTT, LINES(first));
    converse(TM_PROTOCOL_MQTT, LINES(twice));
    converse(TM_PROTOCOL_MQTT, LINES(qos_3));
    converse(TM_PROTOCOL_MQTT, LINES(too_long));
}

/* --- HTTP ----------------------------------------------------------------------------------- */

#define GET "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
#define OK_2 "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab"

static void http_messages(void)
{
    static const struct line lines[] = {
        C(GET, BUSY),
        S(OK_2, SAFE),
        C("POST / HTTP/1.1\r\ncontent-length:  3 \r\n\r\nabc", BUSY),
        S("HTTP/1.1 100 Continue\r\n\r\n", BUSY),
        S("HTTP/1.1 204\r\n\r\n", SAFE),
        C("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nGET /\r\nA\r\n0123456789",
          BUSY),
        C("\r\n0\r\nTrailer: x\r\n\r\n", BUSY),
        S("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n0\r\n", BUSY),
        S("\r\n", SAFE),
        C("HEAD / HTTP/1.1\r\n\r\n" GET GET, BUSY),
        S("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n" OK_2, BUSY),
        S(OK_2, SAFE),
        C("HEADS / HTTP/1.1\nA: b\n\n", BUSY),
        S("HTTP/1.1 304 Not Modified\nContent-Length: 9\n\n", SAFE),
        C("\r\n" GET, BUSY),
        S("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n", SAFE),
        S("HTTP/1.1 408 Timeout\r\n", UNKNOWN),
    };
    converse(TM_PROTOCOL_HTTP1, LINES(lines));
}

static void http_that_is_not_understood(void)
{
    static const struct line connect[] = {C("CONNECT x:1 HTTP/1.1\r\n\r\n", UNKNOWN)};
    static const struct line upgrade[] = {
        C(GET, BUSY), S("HTTP/1.1 101 Switching Protocols\r\n\r\n", UNKNOWN)};
    static const struct line http_2[] = {C("PRI * HTTP/2.0\r\n", UNKNOWN)};
    static const struct line http_09[] = {C("GET /\r\n", UNKNOWN)};
    static const struct line tls[] = {C("\x16\3\1", UNKNOWN)};
    static const struct line until_the_end[] = {
        C(GET, BUSY), S("HTTP/1.1 200 OK\r\n\r\n", UNKNOWN)};
    static const struct line twice[] = {
        C("GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n", UNKNOWN)};
    static const struct line other_coding[] = {
        C("GET / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", UNKNOWN)};
    static const struct line half_a_coding[] = {
        C("GET / HTTP/1.1\r\nTransfer-Encoding: chunke\r\n\r\n", UNKNOWN)};
    static const struct line folded[] = {C("GET / HTTP/1.1\r\nA: b\r\n c\r\n", UNKNOWN)};
    static const struct line no_length[] = {C("GET / HTTP/1.1\r\nContent-Length: \r\n", UNKNOWN)};
    static const struct line no_size[] = {
        C("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx", UNKNOWN)};
    converse(TM_PROTOCOL_HTTP1, LINES(connect));
    converse(TM_PROTOCOL_HTTP1, LINES(upgrade));
    converse(TM_PROTOCOL_HTTP1, LINES(http_2));
    converse(TM_PROTOCOL_HTTP1, LINES(http_09));
    converse(TM_PROTOCOL_HTTP1, LINES(tls));
    converse(TM_PROTOCOL_HTTP1, LINES(until_the_end));
    converse(TM_PROTOCOL_HTTP1, LINES(twice));
    converse(TM_PROTOCOL_HTTP1, LINES(other_coding));
    converse(TM_PROTOCOL_HTTP1, LINES(half_a_coding));
    converse(TM_PROTOCOL_HTTP1, LINES(folded));
    converse(TM_PROTOCOL_HTTP1, LINES(no_length));
    converse(TM_PROTOCOL_HTTP1, LINES(no_size));
}

/* --- goodbyes ------------------------------------------------------------------------------- */

static void goodbyes(void)
{
    static const struct line five[] = {MQTT_START("\5")}, four[] = {MQTT_START("\4")};
    struct tm_talk talk;
    tm_talk_begin(&talk, TM_PROTOCOL_MYSQL);
    struct tm_goodbye goodbye = tm_goodbye_in(&talk);
    CHECK_EQUAL(goodbye.bytes[0] + 4u, goodbye.size);
    talk = talk_in_parts(TM_PROTOCOL_MQTT, LINES(five), 0);
    goodbye = tm_goodbye_in(&talk);
    CHECK_EQUAL(goodbye.bytes[1] + 2u, goodbye.size);
    talk = talk_in_parts(TM_PROTOCOL_MQTT, LINES(four), 0);
    CHECK_EQUAL(tm_goodbye_in(&talk).size, 0);
}

int main(void)
{
    RUN(mysql_results);
    RUN(mysql_results_that_end_by_ok);
    RUN(mysql_statements);
    RUN(mysql_files_and_large_packets);
    RUN(mysql_logins);
    RUN(memcached_requests);
    RUN(memcached_meta_requests);
    RUN(mqtt_exchanges);
    RUN(mqtt_that_is_not_understood);
    RUN(http_messages);
    RUN(http_that_is_not_understood);
    RUN(goodbyes);
    return 0;
}
