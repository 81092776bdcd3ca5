/* Tests csrc/protocol/: of each protocol, conversations of real clients and servers are followed
 * from moment to moment wherever they are cut; what is not understood is UNKNOWN for good; and no
 * bytes, in whatever state, lead out of the state's memory. */
#include "protocol/goodbye.h"

#include "talking.h"

/* --- PostgreSQL ----------------------------------------------------------------------------- */

#define PG_START C("\0\0\0\x11\0\3\0\0user\0me\0\0", BUSY)
#define PG_READY(status) "Z\0\0\0\5" status
#define PG_WELCOME S("R\0\0\0\x8\0\0\0\0S\0\0\0\xdTimeZone\0" PG_READY("I"), SAFE)
#define PG_QUERY "Q\0\0\0\xdSELECT 1\0"
#define PG_DONE(tag, size) "C\0\0\0" size tag "\0"

static void postgres_queries(void)
{
    static const struct line lines[] = {
        PG_START,
        PG_WELCOME,
        C(PG_QUERY, BUSY),
        S("T\0\0\0\4D\0\0\0\xc\1\2\3\4\5\6\7\x8", BUSY),
        S(PG_DONE("SELECT 1", "\xd"), BUSY),
        S(PG_READY("I"), SAFE),
        C(PG_QUERY PG_QUERY, BUSY), /* two at once */
        S(PG_DONE("SELECT 1", "\xd") PG_READY("I"), BUSY),
        S(PG_DONE("SELECT 1", "\xd") PG_READY("I"), SAFE),
        S("N\0\0\0\6x\0", SAFE), /* of its own accord */
        C("Q\0\0\0\xa" "BEGIN\0", BUSY),
        S(PG_DONE("BEGIN", "\xa") PG_READY("T"), TRANSACTION),
        C(PG_QUERY, BUSY),
        S("E\0\0\0\6x\0" PG_READY("E"), TRANSACTION),
        C("Q\0\0\0\xdROLLBACK\0", BUSY),
        S(PG_DONE("ROLLBACK", "\xd") PG_READY("I"), SAFE),
        C("X\0\0\0\4", UNKNOWN),
    };
    converse(TM_PROTOCOL_POSTGRES, LINES(lines));
}

static void postgres_extended_queries(void)
{
    static const struct line lines[] = {
        PG_START,
        PG_WELCOME,
        C("P\0\0\0\x8s\0q\0B\0\0\0\6s\0", BUSY),
        S("1\0\0\0\0042\0\0\0\4", BUSY), /* no Sync yet */
        C("E\0\0\0\6s\0", BUSY),
        C("S\0\0\0\4", BUSY),
        C("P\0\0\0\x8s\0q\0S\0\0\0\4", BUSY), /* a pipeline */
        S("s\0\0\0\4" PG_READY("I"), BUSY),
        S("1\0\0\0\4" PG_READY("I"), SAFE),
        C("H\0\0\0\4", BUSY),
        C("S\0\0\0\4", BUSY),
        S(PG_READY("I"), SAFE),
        S(PG_READY("I"), UNKNOWN), /* one too many */
        C(PG_QUERY, UNKNOWN),
    };
    converse(TM_PROTOCOL_POSTGRES, LINES(lines));
}

static void postgres_copies(void)
{
    static const struct line lines[] = {
        PG_START,
        PG_WELCOME,
        C("Q\0\0\0\6x\0", BUSY),
        S("G\0\0\0\7\0\0\0", BUSY),
        C("d\0\0\0\6ab", BUSY),
        C("c\0\0\0\4", BUSY),
        S(PG_DONE("COPY 1", "\xb") PG_READY("I"), SAFE),
        /* An extended one: the first Sync is ignored. */
        C("P\0\0\0\x8s\0q\0E\0\0\0\6s\0S\0\0\0\4", BUSY),
        S("1\0\0\0\4G\0\0\0\7\0\0\0", BUSY),
        C("d\0\0\0\6abS\0\0\0\4c\0\0\0\4", BUSY),
        C("S\0\0\0\4", BUSY),
        S(PG_DONE("COPY 1", "\xb") PG_READY("I"), SAFE),
        /* A simple one that fails: what the client sends besides is dropped. */
        C("Q\0\0\0\6x\0", BUSY),
        S("G\0\0\0\7\0\0\0", BUSY),
        C("d\0\0\0\6ab", BUSY),
        S("E\0\0\0\6x\0" PG_READY("I"), SAFE),
        C("d\0\0\0\6abf\0\0\0\5\0", SAFE),
        /* And out. */
        C("Q\0\0\0\6x\0", BUSY),
        S("H\0\0\0\7\0\0\0d\0\0\0\6ab", BUSY),
        S("c\0\0\0\4" PG_DONE("COPY 1", "\xb") PG_READY("I"), SAFE),
    };
    converse(TM_PROTOCOL_POSTGRES, LINES(lines));
}

static void postgres_listeners_and_replicas(void)
{
    static const struct line listens[] = {
        PG_START,
        PG_WELCOME,
        C(PG_QUERY, BUSY),
        S(PG_DONE("LISTEN", "\xb") PG_READY("I"), SUBSCRIBED),
        C(PG_QUERY, BUSY),
        S(PG_DONE("LISTENS", "\xc") PG_READY("I"), SUBSCRIBED),
        C(PG_QUERY, BUSY),
        S(PG_DONE("DISCARD ALL", "\x10") PG_READY("I"), SAFE),
        C(PG_QUERY, BUSY),
        S(PG_DONE("LISTENS", "\xc") PG_READY("I"), SAFE),
    };
    static const struct line replicates[] = {
        C("\0\0\0\x25\0\3\0\0user\0replication\0replication\0001\0\0", SUBSCRIBED),
        S("R\0\0\0\x8\0\0\0\0" PG_READY("I"), SUBSCRIBED),
    };
    static const struct line is_called_so[] = {
        C("\0\0\0\x1a\0\3\0\0user\0replication\0\0", BUSY),
        S("R\0\0\0\x8\0\0\0\0" PG_READY("I"), SAFE),
    };
    converse(TM_PROTOCOL_POSTGRES, LINES(listens));
    converse(TM_PROTOCOL_POSTGRES, LINES(replicates));
    converse(TM_PROTOCOL_POSTGRES, LINES(is_called_so));
}

static void postgres_starts(void)
{
    static const struct line refused[] = {
        C("\0\0\0\x8\x4\xd2\x16\x30", BUSY), /* GSS */
        S("N", BUSY),
        C("\0\0\0\x8\x4\xd2\x16\x2f", BUSY), /* TLS */
        S("N", BUSY),
        PG_START,
        PG_WELCOME,
    };
    static const struct line accepted[] = {
        C("\0\0\0\x8\x4\xd2\x16\x2f", BUSY),
        S("S", UNKNOWN),
        C("\x16\3\1", UNKNOWN),
    };
    static const struct line tls[] = {C("\x16\3\1\0\xf4", UNKNOWN)};
    static const struct line other_version[] = {C("\0\0\0\x8\0\2\0\0", UNKNOWN)};
    static const struct line too_long[] = {C("\0\1\0\0", UNKNOWN)};
    static const struct line greeted[] = {S("E", UNKNOWN)};
    static const struct line no_type[] = {PG_START, PG_WELCOME, C("?\0\0\0\4", UNKNOWN)};
    static const struct line no_length[] = {PG_START, PG_WELCOME, C("Q\0\0\0\3", UNKNOWN)};
    converse(TM_PROTOCOL_POSTGRES, LINES(refused));
    converse(TM_PROTOCOL_POSTGRES, LINES(accepted));
    converse(TM_PROTOCOL_POSTGRES, LINES(tls));
    converse(TM_PROTOCOL_POSTGRES, LINES(other_version));
    converse(TM_PROTOCOL_POSTGRES, LINES(too_long));
    converse(TM_PROTOCOL_POSTGRES, LINES(greeted));
    converse(TM_PROTOCOL_POSTGRES, LINES(no_type));
    converse(TM_PROTOCOL_POSTGRES, LINES(no_length));
}

/* --- Redis ---------------------------------------------------------------------------------- */

#define PING "*1\r\n$4\r\nPING\r\n"

static void redis_requests(void)
{
    static const struct line lines[] = {
        C(PING, BUSY),
        S("+PONG\r\n", SAFE),
        C("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$12\r\n\r\n$4\r\nMULTI\r\n", BUSY),
        C("\r\n", BUSY),
        S("+OK\r\n", SAFE),
        C(PING PING PING, BUSY), /* a pipeline */
        S("+PONG\r\n-ERR no\r\n", BUSY),
        S("$-1\r\n", SAFE),
        C("*2\r\n$3\r\nGET\r\n$0\r\n\r\n", BUSY),
        S("*3\r\n:1\r\n*-1\r\n*2\r\n$3\r\nabc\r\n", BUSY),
        S("*0\r\n", SAFE),
        C("ping\r\n", BUSY), /* inline */
        S("+PONG\r\n", SAFE),
        C("  \r\n\r\n*0\r\n*-1\r\n", SAFE), /* are no requests */
        C("*3\r\n$5\r\nBLPOP\r\n$1\r\nq\r\n$1\r\n0\r\n", BUSY),
        S("*-1\r\n", SAFE),
        C("*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n", BUSY),
        S("%2\r\n+proto\r\n:3\r\n+modules\r\n*0\r\n", SAFE),
        S(">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n", SAFE), /* a push is no reply */
        C(PING, BUSY),
        S("|1\r\n+ttl\r\n:3\r\n~2\r\n#t\r\n_\r\n", SAFE),
        C(PING, BUSY),
        S("=6\r\ntxt:ab\r\n", SAFE),
        S("+OK\r\n", UNKNOWN), /* nobody has asked */
    };
    converse(TM_PROTOCOL_REDIS, LINES(lines));
}

static void redis_transactions(void)
{
    static const struct line lines[] = {
        C("*1\r\n$5\r\nmulti\r\n", BUSY),
        S("+OK\r\n", TRANSACTION),
        C(PING, BUSY),
        S("+QUEUED\r\n", TRANSACTION),
        C("*1\r\n$7\r\nUNWATCH\r\n", BUSY), /* queued as well */
        S("+QUEUED\r\n", TRANSACTION),
        C("*2\r\n$4\r\nEXEC\r\n$1\r\nx\r\n", BUSY), /* not an EXEC */
        S("-ERR wrong number of arguments for 'exec' command\r\n", TRANSACTION),
        C("*1\r\n$4\r\nEXEC\r\n", BUSY),
        S("-NOPERM no\r\n", TRANSACTION),
        C("*1\r\n$4\r\nEXEC\r\n", BUSY),
        S("-EXECABORT Transaction discarded\r\n", SAFE),
        C("*2\r\n$5\r\nWATCH\r\n$1\r\nk\r\n", BUSY),
        S("+OK\r\n", TRANSACTION),
        C("UNWATCH\r\n", BUSY),
        S("+OK\r\n", SAFE),
        C("MULTI\r\nset k v\r\nEXEC\r\nMULTI\r\n", BUSY),
        S("+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n+OK\r\n", TRANSACTION),
        C("discard\r\n", BUSY),
        S("+OK\r\n", SAFE),
    };
    converse(TM_PROTOCOL_REDIS, LINES(lines));
}

static void redis_subscribers(void)
{
    static const struct line lines[] = {
        C("*2\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n", SUBSCRIBED),
        S("*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n", SUBSCRIBED),
        S("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n", SUBSCRIBED),
    };
    static const struct line monitors[] = {C("MONITOR\r\n", SUBSCRIBED)};
    static const struct line replicates[] = {C("*1\r\n$4\r\nSYNC\r\n", SUBSCRIBED)};
    converse(TM_PROTOCOL_REDIS, LINES(lines));
    converse(TM_PROTOCOL_REDIS, LINES(monitors));
    converse(TM_PROTOCOL_REDIS, LINES(replicates));
}

static void redis_that_is_not_understood(void)
{
    static const struct line off[] = {
        C("*3\r\n$6\r\nclient\r\n$5\r\nREPLY\r\n$3\r\nOFF\r\n", UNKNOWN)};
    static const struct line off_inline[] = {C("client reply off\r\n", UNKNOWN)};
    static const struct line named[] = {
        C("*3\r\n$6\r\nclient\r\n$7\r\nSETNAME\r\n$5\r\nREPLY\r\n", BUSY), S("+OK\r\n", SAFE)};
    static const struct line quoted[] = {C("\"MULTI\"\r\n", UNKNOWN)};
    static const struct line tls[] = {C("\x16\3\1", UNKNOWN)};
    static const struct line no_dollar[] = {C("*1\r\n:4\r\n", UNKNOWN)};
    static const struct line no_count[] = {C("*x\r\n", UNKNOWN)};
    static const struct line huge[] = {C("*1\r\n$99999999999\r\n", UNKNOWN)};
    static const struct line no_type[] = {C(PING, BUSY), S("PONG\r\n", UNKNOWN)};
    static const struct line negative[] = {C("*1\r\n$-1\r\n", UNKNOWN)};
    converse(TM_PROTOCOL_REDIS, LINES(off));
    converse(TM_PROTOCOL_REDIS, LINES(off_inline));
    converse(TM_PROTOCOL_REDIS, LINES(named));
    converse(TM_PROTOCOL_REDIS, LINES(quoted));
    converse(TM_PROTOCOL_REDIS, LINES(tls));
    converse(TM_PROTOCOL_REDIS, LINES(no_dollar));
    converse(TM_PROTOCOL_REDIS, LINES(no_count));
    converse(TM_PROTOCOL_REDIS, LINES(huge));
    converse(TM_PROTOCOL_REDIS, LINES(no_type));
    converse(TM_PROTOCOL_REDIS, LINES(negative));
}

/* --- all ------------------------------------------------------------------------------------ */

static void what_was_not_heard_is_unknown(void)
{
    struct tm_talk talk;
    const uint32_t all[2] = {sizeof(PING) - 1, 7}, more[2] = {sizeof(PING) - 1, 8};
    tm_talk_begin(&talk, TM_PROTOCOL_REDIS);
    feed(&talk, 'c', PING, sizeof(PING) - 1);
    feed(&talk, 's', "+PONG\r\n", 7);
    CHECK_EQUAL(tm_talk_moment(&talk, TM_PROTOCOL_REDIS, all), TM_MOMENT_SAFE);
    CHECK_EQUAL(tm_talk_moment(&talk, TM_PROTOCOL_REDIS, more), TM_MOMENT_UNKNOWN);
    CHECK_EQUAL(tm_talk_moment(&talk, TM_PROTOCOL_MYSQL, all), TM_MOMENT_UNKNOWN);
    tm_talk_feed(NULL, NULL, 0, NULL, 0);
}

static void what_is_corrupt_says_nothing(void)
{
    for (size_t bit = 0; bit < 8 * sizeof(struct tm_talk); bit++) {
        struct tm_talk talk;
        tm_talk_begin(&talk, TM_PROTOCOL_REDIS);
        feed(&talk, 'c', PING, sizeof(PING) - 1);
        feed(&talk, 's', "+PONG\r\n", 7);
        struct tm_talk before = talk;
        tm_talk_mend(&talk);
        CHECK(memcmp(&talk, &before, sizeof(talk)) == 0);
        ((unsigned char *)&talk)[bit / 8] ^= (unsigned char)(1 << bit % 8);
        tm_talk_mend(&talk);
        CHECK_EQUAL(talk.protocol, TM_PROTOCOL_NONE);
        feed(&talk, 's', "+PONG\r\n", 7);
        CHECK_EQUAL(talk.moment, TM_MOMENT_UNKNOWN);
    }
}

/* In whatever state: the sanitizers watch. */
static void no_bytes_lead_astray(void)
{
    for (int round = 0; round < 20000; round++) {
        struct tm_talk talk;
        char bytes[200];
        tm_talk_begin(&talk, (enum tm_protocol)(round % TM_PROTOCOLS));
        if (round % 2)
            for (size_t i = 0; i < sizeof(talk.words); i++)
                ((unsigned char *)talk.words)[i] = (unsigned char)random_below(256);
        for (int part = 0; part < 8; part++) {
            size_t size = random_below(sizeof(bytes));
            for (size_t i = 0; i < size; i++)
                bytes[i] = (char)(random_below(3) ? "*$1\r\n\0+:QZSHTP/. "[random_below(18)]
                                                  : (char)random_below(256));
            feed(&talk, random_below(2) ? 'c' : 's', bytes, size);
            CHECK(talk.moment < TM_MOMENTS);
        }
    }
}

static void goodbyes_have_the_length_that_they_say(void)
{
    struct tm_talk talk;
    tm_talk_begin(&talk, TM_PROTOCOL_POSTGRES);
    struct tm_goodbye goodbye = tm_goodbye_in(&talk);
    CHECK_EQUAL(goodbye.bytes[4] + 1u, goodbye.size);
    CHECK_EQUAL(goodbye.bytes[goodbye.size - 1], 0);
    CHECK_EQUAL(goodbye.bytes[goodbye.size - 2], 0);
    tm_talk_begin(&talk, TM_PROTOCOL_REDIS);
    CHECK_EQUAL(tm_goodbye_in(&talk).size, 0);
}

int main(void)
{
    random_seed();
    RUN(postgres_queries);
    RUN(postgres_extended_queries);
    RUN(postgres_copies);
    RUN(postgres_listeners_and_replicas);
    RUN(postgres_starts);
    RUN(redis_requests);
    RUN(redis_transactions);
    RUN(redis_subscribers);
    RUN(redis_that_is_not_understood);
    RUN(what_was_not_heard_is_unknown);
    RUN(what_is_corrupt_says_nothing);
    RUN(no_bytes_lead_astray);
    RUN(goodbyes_have_the_length_that_they_say);
    return 0;
}
