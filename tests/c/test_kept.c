/* csrc/protocol/kept.c, redis_keep.c, redis_tell.c: what an endpoint knows of a client, and telling
 * it to the next one. Runs alone, under sanitizers. */
#include "check.h"
#include "protocol/kept_parts.h"
#include "protocol/talk.h"

#define OK "+OK\r\n"
#define PING "*1\r\n$4\r\nPING\r\n"
#define SELECT(n) "*2\r\n$6\r\nSELECT\r\n$1\r\n" n "\r\n"
#define SELECT_9 SELECT("9")
#define HELLO_3 "%1\r\n+proto\r\n:3\r\n"

struct line {
    char who; /* 'c' or 's' */
    const char *text;
    size_t size;
};

#define C(text) {'c', text, sizeof(text) - 1}
#define S(text) {'s', text, sizeof(text) - 1}

struct both {
    struct tm_talk talk;
    struct tm_kept kept;
};

static void feed(struct both *both, char who, const char *text, size_t size)
{
    unsigned char *exact = malloc(size ? size : 1);
    memcpy(exact, text, size);
    tm_talk_feed(&both->talk, &both->kept, who == 'c' ? TM_FROM_CLIENT : TM_FROM_SERVER, exact,
                 size);
    free(exact);
    CHECK(tm_kept_is_sealed(&both->kept));
}

static struct both begin(void)
{
    struct both both;
    tm_talk_begin(&both.talk, TM_PROTOCOL_REDIS);
    tm_kept_begin(&both.kept);
    return both;
}

/* cut: bytes of each part; 0 = whole lines. */
static struct both listen(const struct line *lines, size_t count, size_t cut)
{
    struct both both = begin();
    for (size_t i = 0; i < count; i++) {
        size_t part = cut ? cut : lines[i].size;
        for (size_t at = 0; at < lines[i].size; at += part) {
            size_t left = lines[i].size - at;
            feed(&both, lines[i].who, lines[i].text + at, left < part ? left : part);
        }
    }
    return both;
}

static const char *told(const struct tm_kept *kept)
{
    static char text[TM_REDIS_TOLD_MOST + 1];
    struct tm_redis_talk talk;
    size_t size = tm_redis_tell(&talk, kept, (unsigned char *)text);
    CHECK(size >= sizeof(PING) - 1);
    CHECK(memcmp(text + size - (sizeof(PING) - 1), PING, sizeof(PING) - 1) == 0);
    text[size - (sizeof(PING) - 1)] = '\0';
    return text;
}

/* However it is cut, this is told to the next endpoint. */
static void expect(const struct line *lines, size_t count, const char *text)
{
    struct both whole = listen(lines, count, 0);
    CHECK_EQUAL(whole.kept.state, TM_KEPT_WHOLE);
    CHECK(tm_kept_is_whole(&whole.kept));
    if (strcmp(told(&whole.kept), text) != 0) {
        fprintf(stderr, "told: %s\nexpected: %s\n", told(&whole.kept), text);
        abort();
    }
    for (size_t cut = 1; cut <= 40; cut++) {
        struct both both = listen(lines, count, cut);
        CHECK(memcmp(&both.kept, &whole.kept, sizeof(both.kept)) == 0);
        CHECK_EQUAL(both.talk.moment, whole.talk.moment);
    }
}

/* However it is cut, nothing is kept. */
static void expect_none(const struct line *lines, size_t count, enum tm_kept_state state)
{
    static const unsigned char none[TM_KEPT_BYTES];
    for (size_t cut = 0; cut <= 40; cut++) {
        struct both both = listen(lines, count, cut);
        CHECK_EQUAL(both.kept.state, state);
        CHECK(!tm_kept_is_whole(&both.kept));
        CHECK(memcmp(both.kept.bytes, none, sizeof(none)) == 0);
    }
}

#define EXPECT(text, ...)                                                                         \
    do {                                                                                          \
        static const struct line lines[] = {__VA_ARGS__};                                         \
        expect(lines, sizeof(lines) / sizeof(lines[0]), text);                                    \
    } while (0)
#define EXPECT_NONE(state, ...)                                                                   \
    do {                                                                                          \
        static const struct line lines[] = {__VA_ARGS__};                                         \
        expect_none(lines, sizeof(lines) / sizeof(lines[0]), state);                              \
    } while (0)

static void the_last_of_each_kind_is_told(void)
{
    EXPECT("", C(PING), S("+PONG\r\n"));
    EXPECT(SELECT_9, C(SELECT("1")), S(OK), C(PING), S("+PONG\r\n"), C(SELECT_9), S(OK));
    EXPECT("*2\r\n$4\r\nAUTH\r\n$3\r\nnew\r\n" SELECT("2"), C("select 2\r\n"), S(OK),
           C("*2\r\n$4\r\nAuth\r\n$7\r\nthe\r\nol\r\n"), S(OK),
           C("*2\r\n$4\r\nAUTH\r\n$3\r\nnew\r\n"), S(OK));
    EXPECT("*3\r\n$4\r\nAUTH\r\n$2\r\nme\r\n$1\r\n\xff\r\n",
           C("*3\r\n$4\r\nAUTH\r\n$2\r\nme\r\n$1\r\n \r\n"), S("-WRONGPASS no\r\n"),
           C("*3\r\n$4\r\nAUTH\r\n$2\r\nme\r\n$1\r\n\xff"), C("\r\n"), S(OK));
    EXPECT("*3\r\n$6\r\nCLIENT\r\n$7\r\nSETNAME\r\n$1\r\nn\r\n"
           "*4\r\n$6\r\nCLIENT\r\n$7\r\nSETINFO\r\n$8\r\nLIB-NAME\r\n$2\r\npy\r\n"
           "*4\r\n$6\r\nCLIENT\r\n$7\r\nSETINFO\r\n$7\r\nLIB-VER\r\n$0\r\n\r\n"
           "*3\r\n$6\r\nCLIENT\r\n$8\r\nNO-EVICT\r\n$2\r\non\r\n"
           "*3\r\n$6\r\nCLIENT\r\n$8\r\nNO-TOUCH\r\n$3\r\noff\r\n",
           C("*4\r\n$6\r\nCLIENT\r\n$7\r\nsetinfo\r\n$7\r\nlib-ver\r\n$0\r\n\r\n"
             "client setinfo LIB-NAME py\r\nclient no-touch off\r\nCLIENT No-Evict on\r\n"
             "client setname n\r\nclient list\r\n"),
           S(OK OK OK OK OK "$1\r\nx\r\n"));
}

static void hello_says_several_things(void)
{
    EXPECT("*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n", C("HELLO 3\r\nhello\r\n"), S(HELLO_3 HELLO_3));
    EXPECT("*3\r\n$4\r\nAUTH\r\n$1\r\nu\r\n$1\r\np\r\n*2\r\n$5\r\nHELLO\r\n$1\r\n2\r\n"
           "*3\r\n$6\r\nCLIENT\r\n$7\r\nSETNAME\r\n$2\r\nme\r\n",
           C("AUTH other\r\n"), S(OK),
           C("*7\r\n$5\r\nHELLO\r\n$1\r\n2\r\n$7\r\nsetname\r\n$2\r\nme\r\n$4\r\nauth\r\n$1\r\nu\r\n"
             "$1\r\np\r\n"),
           S("*2\r\n+proto\r\n:2\r\n"));
    /* Refused: what was before holds. */
    EXPECT("*2\r\n$4\r\nAUTH\r\n$1\r\np\r\n", C("AUTH p\r\nHELLO 3 AUTH u x\r\nHELLO 4\r\n"),
           S(OK "-WRONGPASS no\r\n-NOPROTO no\r\n"));
    /* Who knows how far that has got. */
    EXPECT_NONE(TM_KEPT_OTHER, C("HELLO 3 AUTH u p SETNAME n\r\n"), S("-ERR no\r\n"));
    EXPECT_NONE(TM_KEPT_OTHER, C("HELLO 3 AUTH u p AUTH u q\r\n"), S("-ERR no\r\n"));
    EXPECT_NONE(TM_KEPT_OTHER, C("HELLO 3 MORE\r\n"), S(HELLO_3));
    EXPECT_NONE(TM_KEPT_OTHER, C("HELLO 3 AUTH u\r\n"), S("-ERR no\r\n"));
    EXPECT_NONE(TM_KEPT_OTHER, C("HELLO 4\r\n"), S(HELLO_3));
    EXPECT_NONE(TM_KEPT_OTHER, C("HELLO 3\r\n"), S(OK));
}

static void answers_decide_in_turn(void)
{
    EXPECT(SELECT("2"),
           C(PING SELECT("1") PING "*2\r\n$4\r\nAUTH\r\n$1\r\nx\r\n" SELECT("2") SELECT("3") PING),
           S("+PONG\r\n" OK "$5\r\n+OK\r\n\r\n-ERR no\r\n" OK), S("-ERR out of range\r\n"),
           S("*2\r\n+OK\r\n+OK\r\n"));
    /* A push is no answer. */
    EXPECT(SELECT("1"), C(PING SELECT("1")), S(">1\r\n$1\r\nx\r\n+PONG\r\n>1\r\n+OK\r\n" OK));
    /* Not answered yet: not told. */
    EXPECT("", C(PING SELECT("1")), S("+PONG\r\n"));
    EXPECT("", C("AUTH p\r\nSELECT 1\r\nCLIENT SETNAME n\r\nRESET\r\n"), S(OK OK OK "+RESET\r\n"));
    EXPECT(SELECT("1"), C("RESET\r\nSELECT 1\r\n"), S("+RESET\r\n" OK));
}

static void what_can_not_be_told_stays(void)
{
    static const char *const others[] = {
        "READONLY", "READWRITE", "ASKING", "REPLICAOF no one", "slaveof a 1", "REPLCONF x y",
        "DEBUG x", "client tracking on", "CLIENT CACHING yes", "CLIENT WHATEVER",
        "CLIENT A-LONGER-WORD x", "SCRIPT DEBUG yes", "AUTH", "AUTH a b c", "SELECT", "SELECT 1 2",
        "CLIENT SETINFO LIB-X y", "CLIENT SETNAME", "CLIENT NO-EVICT", "SELECT \"1\"", "SELECT '1'",
    };
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        char text[64];
        int size = snprintf(text, sizeof(text), "%s\r\n", others[i]);
        struct both both = begin();
        feed(&both, 'c', text, (size_t)size);
        CHECK_EQUAL(both.kept.state, TM_KEPT_WHOLE);
        feed(&both, 's', "-ERR no\r\n", 9); /* has changed nothing */
        CHECK_EQUAL(both.kept.state, TM_KEPT_WHOLE);
        feed(&both, 'c', text, (size_t)size);
        feed(&both, 's', OK, sizeof(OK) - 1);
        CHECK_EQUAL(both.kept.state, TM_KEPT_OTHER);
        CHECK_EQUAL(both.talk.moment, TM_MOMENT_SAFE); /* it may be closed */
    }
    EXPECT_NONE(TM_KEPT_OTHER, C("WAIT 1 0\r\n"), S(":1\r\n"));
    EXPECT_NONE(TM_KEPT_OTHER, C("CLIENT ID\r\n"), S(":1\r\n"));
    EXPECT_NONE(TM_KEPT_OTHER, C("MULTI\r\nSELECT 1\r\nDISCARD\r\n"), S(OK "+QUEUED\r\n" OK));
    EXPECT_NONE(TM_KEPT_OTHER, C("AUTH p\r\nSUBSCRIBE c\r\n"));
    EXPECT_NONE(TM_KEPT_OTHER, C("AUTH p\r\n"), S(OK), C("CLIENT REPLY OFF\r\n"));
    EXPECT_NONE(TM_KEPT_OTHER, C("AUTH p\r\n"), S(OK), C("\x16\3\1"));
    EXPECT_NONE(TM_KEPT_OTHER, C("AUTH p\r\n"), S(OK "+OK\r\n"));
    EXPECT_NONE(TM_KEPT_OTHER, C("AUTH p\r\n"), S("|1\r\n+a\r\n:1\r\n" OK));
    EXPECT_NONE(TM_KEPT_OTHER, C("AUTH p\vq\r\n"));
}

/* Of each size a password and a name can have. */
static void it_has_bounds(void)
{
    enum { MOST = 600 };
    bool fits[MOST + 1], fits_pending[MOST + 1];
    for (int size = 1; size <= MOST; size++) {
        for (int inlined = 0; inlined < 2; inlined++) {
            char head[64], secret[MOST + 2];
            struct both both = begin();
            int length = inlined ? snprintf(head, sizeof(head), "AUTH ")
                                 : snprintf(head, sizeof(head), "*2\r\n$4\r\nAUTH\r\n$%d\r\n", size);
            memset(secret, 'x', sizeof(secret));
            memcpy(secret + size, "\r\n", 2);
            feed(&both, 'c', head, (size_t)length);
            feed(&both, 'c', secret, (size_t)size + 2);
            fits_pending[size] = both.kept.state == TM_KEPT_WHOLE;
            feed(&both, 's', OK, sizeof(OK) - 1);
            fits[size] = both.kept.state == TM_KEPT_WHOLE;
            CHECK_EQUAL(both.kept.state, fits[size] ? TM_KEPT_WHOLE : TM_KEPT_TOO_MUCH);
            CHECK_EQUAL(both.kept.size, fits[size] ? TM_KEPT_HEAD + 1 + size : 0);
            CHECK_EQUAL(fits[size], size <= 255);
            CHECK_EQUAL(fits_pending[size], size <= 255);
            CHECK_EQUAL(both.talk.moment, TM_MOMENT_SAFE);
        }
    }
    /* So many that are not answered. */
    struct both both = begin();
    int count = 0;
    for (; both.kept.state == TM_KEPT_WHOLE; count++)
        feed(&both, 'c', SELECT_9, sizeof(SELECT_9) - 1);
    CHECK_EQUAL(both.kept.state, TM_KEPT_TOO_MUCH);
    CHECK(count > 30 && count < 40);
}

static void the_version_tells_of_changes(void)
{
    struct both both = begin();
    uint32_t version = both.kept.version;
    CHECK(version != 0);
    feed(&both, 'c', PING, sizeof(PING) - 1);
    feed(&both, 's', "+PONG\r\n", 7);
    CHECK_EQUAL(both.kept.version, version);
    feed(&both, 'c', SELECT_9, sizeof(SELECT_9) - 1);
    feed(&both, 's', OK, sizeof(OK) - 1);
    CHECK(both.kept.version != version);
}

/* A word that is not as it was left says nothing, and keeps nothing. */
static void what_is_corrupt_is_not_told(void)
{
    for (size_t bit = 0; bit < 8 * sizeof(struct tm_kept); bit++) {
        struct both both = begin();
        feed(&both, 'c', SELECT_9, sizeof(SELECT_9) - 1);
        feed(&both, 's', OK, sizeof(OK) - 1);
        ((unsigned char *)&both.kept)[bit / 8] ^= (unsigned char)(1 << bit % 8);
        CHECK(!tm_kept_is_whole(&both.kept));
        tm_talk_feed(&both.talk, &both.kept, TM_FROM_CLIENT, (const unsigned char *)SELECT("1"),
                     sizeof(SELECT("1")) - 1);
        tm_talk_feed(&both.talk, &both.kept, TM_FROM_SERVER, (const unsigned char *)OK,
                     sizeof(OK) - 1);
        CHECK(!tm_kept_is_whole(&both.kept));
    }
}

static bool takes(const char *answers)
{
    struct both both = begin();
    struct tm_redis_talk talk;
    unsigned char bytes[TM_REDIS_TOLD_MOST];
    feed(&both, 'c', "HELLO 3\r\nSELECT 9\r\n", 19);
    feed(&both, 's', HELLO_3 OK, sizeof(HELLO_3 OK) - 1);
    CHECK_EQUAL(both.kept.state, TM_KEPT_WHOLE);
    tm_redis_tell(&talk, &both.kept, bytes);
    CHECK_EQUAL(talk.owed, 3);
    return tm_redis_told(&talk, (const unsigned char *)answers, strlen(answers)) &&
           tm_redis_moment(&talk) == TM_MOMENT_SAFE;
}

static void any_error_is_a_no(void)
{
    CHECK(takes(HELLO_3 OK "+PONG\r\n"));
    CHECK(takes(">1\r\n+x\r\n" HELLO_3 OK "+PONG\r\n"));
    CHECK(takes(HELLO_3 OK "-NOPERM no permission to run 'ping'\r\n"));
    CHECK(!takes("-NOAUTH no\r\n" OK "+PONG\r\n"));
    CHECK(!takes("-NOPERM no\r\n" OK "+PONG\r\n"));
    CHECK(!takes(HELLO_3 "-ERR out of range\r\n+PONG\r\n"));
    CHECK(!takes(HELLO_3 OK "-LOADING\r\n"));
    CHECK(!takes(HELLO_3 OK "!5\r\nERR x\r\n"));
    CHECK(!takes(HELLO_3 OK ":1\r\n"));
    CHECK(!takes(HELLO_3 OK "+PONG\r\n+PONG\r\n"));
    CHECK(!takes(HELLO_3 OK)); /* not yet */
    CHECK(!takes("HTTP/1.1 400\r\n"));
    CHECK(!takes("5.5.5-mariadb"));
}

int main(void)
{
    RUN(the_last_of_each_kind_is_told);
    RUN(hello_says_several_things);
    RUN(answers_decide_in_turn);
    RUN(what_can_not_be_told_stays);
    RUN(it_has_bounds);
    RUN(the_version_tells_of_changes);
    RUN(what_is_corrupt_is_not_told);
    RUN(any_error_is_a_no);
    return 0;
}
