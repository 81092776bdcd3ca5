/* Tests csrc/client_hello.c: a whole hello is read as the specifications say, however it is cut and
 * whatever records it is in; prefixes of it wait, and what is against the specifications is not
 * believed. Every text is in memory of exactly its size, so that a read beyond it is seen. */
#include "client_hello.h"

#include "check.h"

enum { ROOM = 131072 };

struct built {
    unsigned char bytes[ROOM];
    size_t size;
};

static enum tm_hello_result parse_up_to(const void *bytes, size_t size, uint32_t limit,
                                        struct tm_hello *hello)
{
    unsigned char *exact = malloc(size ? size : 1);
    memcpy(exact, bytes, size);
    memset(hello, 0xff, sizeof(*hello)); /* as a stack may have it */
    enum tm_hello_result result = tm_hello_parse(exact, size, limit, hello);
    free(exact);
    return result;
}

static enum tm_hello_result parse(const struct built *stream, struct tm_hello *hello)
{
    return parse_up_to(stream->bytes, stream->size, TM_HELLO_STREAM, hello);
}

/* --- hellos --------------------------------------------------------------------------------- */

static void put(struct built *built, const void *bytes, size_t size)
{
    CHECK(built->size + size <= ROOM);
    memcpy(built->bytes + built->size, bytes, size);
    built->size += size;
}

static void put_number(struct built *built, size_t number, int bytes)
{
    for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8)
        put(built, (unsigned char[]){(unsigned char)(number >> shift)}, 1);
}

static void put_extension(struct built *built, unsigned type, const void *bytes, size_t size)
{
    put_number(built, type, 2);
    put_number(built, size, 2);
    put(built, bytes, size);
}

static void put_name(struct built *built, const char *name, size_t size)
{
    struct built list = {.size = 0};
    put_number(&list, size + 3, 2);
    put_number(&list, 0, 1);
    put_number(&list, size, 2);
    put(&list, name, size);
    put_extension(built, 0, list.bytes, list.size);
}

static void put_alpn(struct built *built, const char *names, size_t size)
{
    struct built list = {.size = 0};
    put_number(&list, size, 2);
    put(&list, names, size);
    put_extension(built, 16, list.bytes, list.size);
}

/* A message with these extensions; NULL: with none at all. */
static struct built message_of(const struct built *extensions)
{
    struct built body = {.size = 0}, message = {.size = 0};
    put_number(&body, 0x0303, 2);
    for (int i = 0; i < 32; i++)
        put_number(&body, (size_t)i, 1);
    put_number(&body, 32, 1);
    for (int i = 0; i < 32; i++)
        put_number(&body, 7, 1);
    put(&body, "\0\4\x13\1\x13\2\1\0", 8);
    if (extensions) {
        put_number(&body, extensions->size, 2);
        put(&body, extensions->bytes, extensions->size);
    }
    put_number(&message, 1, 1);
    put_number(&message, body.size, 3);
    put(&message, body.bytes, body.size);
    return message;
}

/* Of `most` bytes each, or fewer. */
static struct built in_records(const struct built *message, size_t most)
{
    struct built stream = {.size = 0};
    for (size_t at = 0; at < message->size; at += most) {
        size_t part = message->size - at < most ? message->size - at : most;
        put_number(&stream, 22, 1);
        put_number(&stream, 0x0301, 2);
        put_number(&stream, part, 2);
        put(&stream, message->bytes + at, part);
    }
    return stream;
}

static struct built stream_of(const struct built *extensions)
{
    struct built message = message_of(extensions);
    return in_records(&message, 16384);
}

/* A message of about `size` bytes, as with keys that no quantum computer breaks. */
static struct built padded_message(size_t size)
{
    static const unsigned char zero[65536];
    struct built extensions = {.size = 0};
    size_t padding = size > 160 ? size - 160 : 1;
    put_extension(&extensions, 51, zero, padding / 2);
    put_name(&extensions, "Shop.Example", 12);
    put_extension(&extensions, 21, zero, padding - padding / 2);
    put_alpn(&extensions, "\2h2\10http/1.1", 12);
    return message_of(&extensions);
}

static void check_shop(const struct tm_hello *hello)
{
    CHECK_EQUAL(hello->sni_size, 12);
    CHECK(strcmp(hello->sni, "shop.example") == 0);
    CHECK_EQUAL(hello->alpn_size, 12);
    CHECK(!hello->alpn_cut);
    CHECK(memcmp(hello->alpn, "\2h2\10http/1.1", 12) == 0);
}

/* --- whole and in parts --------------------------------------------------------------------- */

/* Beginning with each: what `need` says is there at the least is waited for, and in the end it is
 * whole. */
static void check_every_cut(const struct built *stream, size_t step)
{
    struct tm_hello hello;
    for (size_t cut = 0; cut < stream->size; cut += step) {
        CHECK_EQUAL(parse_up_to(stream->bytes, cut, TM_HELLO_STREAM, &hello), TM_HELLO_MORE);
        CHECK(hello.need > cut && hello.need <= stream->size);
    }
    CHECK_EQUAL(parse(stream, &hello), TM_HELLO_WHOLE);
    CHECK_EQUAL(hello.size, stream->size);
    check_shop(&hello);
}

static void every_prefix_waits(void)
{
    static const size_t sizes[] = {300, 517, 1800, 16384};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct built message = padded_message(sizes[i]);
        for (size_t records = 1; records <= 10; records++) {
            struct built stream = in_records(&message, message.size / records + 1);
            /* All of them of the small ones; of the others, ends of records and some between. */
            check_every_cut(&stream, sizes[i] < 1000 ? 1 : 13 * records);
        }
    }
}

static void records_of_one_byte(void)
{
    struct built message = padded_message(1500), stream = in_records(&message, 1);
    check_every_cut(&stream, 7);
}

static void few_questions_are_asked(void)
{
    struct built message = padded_message(9000), stream = in_records(&message, 1);
    struct tm_hello hello;
    size_t have = 0, asked = 0;
    while (parse_up_to(stream.bytes, have, TM_HELLO_STREAM, &hello) == TM_HELLO_MORE) {
        have = hello.need;
        asked++;
    }
    CHECK_EQUAL(have, stream.size);
    CHECK(asked < 100); /* of 9,000 records */
}

static void what_follows_does_not_matter(void)
{
    struct built message = padded_message(400), stream = in_records(&message, 100);
    size_t size = stream.size;
    struct tm_hello hello;
    put(&stream, "\x17\3\3\0\1x\0\0\0\0\0", 11);
    CHECK_EQUAL(parse(&stream, &hello), TM_HELLO_WHOLE);
    CHECK_EQUAL(hello.size, size);
    check_shop(&hello);
}

static void cut_and_put_together_at_random(void)
{
    random_seed();
    for (int round = 0; round < 300; round++) {
        struct built message = padded_message(300 + random_below(3000));
        struct built stream = in_records(&message, 1 + random_below(message.size));
        struct tm_hello hello;
        for (size_t have = 0; have < stream.size; have += 1 + random_below(200))
            CHECK_EQUAL(parse_up_to(stream.bytes, have, TM_HELLO_STREAM, &hello), TM_HELLO_MORE);
        CHECK_EQUAL(parse(&stream, &hello), TM_HELLO_WHOLE);
        check_shop(&hello);
    }
}

/* --- sizes ---------------------------------------------------------------------------------- */

static void more_than_the_limit_is_told_by_its_first_bytes(void)
{
    struct built message = padded_message(2000), stream = in_records(&message, 500);
    struct tm_hello hello;
    uint32_t size = (uint32_t)message.size;
    CHECK_EQUAL(parse_up_to(stream.bytes, stream.size, size, &hello), TM_HELLO_WHOLE);
    CHECK_EQUAL(parse_up_to(stream.bytes, stream.size, size - 1, &hello), TM_HELLO_TOO_LONG);
    CHECK_EQUAL(parse_up_to(stream.bytes, 9, size - 1, &hello), TM_HELLO_TOO_LONG);
    CHECK_EQUAL(parse_up_to(stream.bytes, 8, size - 1, &hello), TM_HELLO_MORE);
}

static void heads_of_records_count_up_to_a_bound(void)
{
    struct built message = padded_message(12000), stream = in_records(&message, 1);
    struct tm_hello hello;
    CHECK(stream.size > TM_HELLO_STREAM);
    CHECK_EQUAL(parse(&stream, &hello), TM_HELLO_TOO_LONG);
    stream = in_records(&message, 2);
    CHECK_EQUAL(parse(&stream, &hello), TM_HELLO_WHOLE);
}

/* --- what is no TLS ------------------------------------------------------------------------- */

static void other_protocols_are_told_by_the_byte_that_decides(void)
{
    static const struct {
        const char *bytes;
        size_t decides; /* how many it takes */
        size_t size;
    } firsts[] = {
        {"GET / HTTP/1.1\r\n", 1, 16},  {"SSH-2.0-x\r\n", 1, 11},
        {"\x80\x2e\1\3\1\0\x15", 1, 7}, /* SSL 2.0's way to say the same */
        {"\x15\3\1\0\2\2\x28", 1, 7},   /* an alert */
        {"\x16\2\0\0\1\1", 2, 6},       {"\x16\3\1\0\4\2\0\0\0", 6, 9}, /* a ServerHello */
    };
    for (size_t i = 0; i < sizeof(firsts) / sizeof(firsts[0]); i++)
        for (size_t size = 0; size <= firsts[i].size; size++) {
            struct tm_hello hello;
            CHECK_EQUAL(parse_up_to(firsts[i].bytes, size, 16384, &hello),
                        size < firsts[i].decides ? TM_HELLO_MORE : TM_HELLO_OTHER);
        }
}

static void records_against_the_specification(void)
{
    struct built message = padded_message(400), good = in_records(&message, 150), bad;
    struct tm_hello hello;
    bad = good;
    bad.bytes[3] = bad.bytes[4] = 0; /* empty */
    CHECK_EQUAL(parse(&bad, &hello), TM_HELLO_MALFORMED);
    bad = good;
    bad.bytes[3] = 0x40; /* more than 2^14 */
    CHECK_EQUAL(parse(&bad, &hello), TM_HELLO_MALFORMED);
    bad = good;
    bad.bytes[155] = 23; /* another kind in the midst */
    CHECK_EQUAL(parse(&bad, &hello), TM_HELLO_MALFORMED);
    bad = good;
    bad.bytes[156] = 4;
    CHECK_EQUAL(parse(&bad, &hello), TM_HELLO_MALFORMED);
    bad = good;
    bad.bytes[157] = 99; /* of no meaning */
    CHECK_EQUAL(parse(&bad, &hello), TM_HELLO_WHOLE);
}

/* --- messages ------------------------------------------------------------------------------- */

static void one_without_extensions_names_nothing(void)
{
    struct built stream = stream_of(NULL);
    struct tm_hello hello;
    CHECK_EQUAL(parse(&stream, &hello), TM_HELLO_WHOLE);
    CHECK(hello.sni_size == 0 && hello.alpn_size == 0 && hello.sni[0] == '\0');
    CHECK(!hello.alpn_cut);
}

static void lengths_that_do_not_fit(void)
{
    struct built good = padded_message(300), bad, stream;
    struct tm_hello hello;
    for (size_t at = 4; at < good.size; at++) {
        bad = good;
        bad.bytes[at] ^= 0xff;
        stream = in_records(&bad, 16384);
        (void)parse(&stream, &hello); /* the sanitizers watch */
    }
    bad = good;
    bad.bytes[4 + 34] = 33; /* session id */
    stream = in_records(&bad, 16384);
    CHECK_EQUAL(parse(&stream, &hello), TM_HELLO_MALFORMED);
    bad = good; /* a byte behind the extensions */
    put(&bad, "", 1);
    bad.bytes[2] = (unsigned char)((bad.size - 4) >> 8);
    bad.bytes[3] = (unsigned char)(bad.size - 4);
    stream = in_records(&bad, 16384);
    CHECK_EQUAL(parse(&stream, &hello), TM_HELLO_MALFORMED);
    stream = (struct built){.bytes = "\x16\3\1\0\4\1\0\0\0", .size = 9}; /* nothing in it */
    CHECK_EQUAL(parse(&stream, &hello), TM_HELLO_MALFORMED);
}

static enum tm_hello_result named(const char *name, struct tm_hello *hello)
{
    struct built extensions = {.size = 0};
    put_name(&extensions, name, strlen(name));
    struct built stream = stream_of(&extensions);
    return parse(&stream, hello);
}

static void names_are_host_names(void)
{
    static const char *const names[][2] = {
        {"shop.example", "shop.example"},
        {"SHOP.Example.", "shop.example"},
        {"_a-b.xn--bcher-kva.example", "_a-b.xn--bcher-kva.example"},
        {"localhost", "localhost"},
        {"1.2.3.example", "1.2.3.example"},
        {"192.0.2.1", ""}, {"2001:db8::1", ""}, {"12345", ""}, {".", ""}, {"a..b", ""}, {".a", ""},
        {"a..", ""}, {"a b", ""}, {"b\xc3\xbc" "cher.example", ""}, {"a/b", ""},
        {"a123456789012345678901234567890123456789012345678901234567890123.b", ""},
    };
    struct tm_hello hello;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        CHECK_EQUAL(named(names[i][0], &hello), TM_HELLO_WHOLE);
        CHECK(strcmp(hello.sni, names[i][1]) == 0);
        CHECK_EQUAL(hello.sni_size, strlen(names[i][1]));
    }
    CHECK_EQUAL(named("", &hello), TM_HELLO_MALFORMED);
}

static void names_have_a_size_and_no_end_in_the_middle(void)
{
    char longest[300];
    struct tm_hello hello;
    for (int i = 0; i < 299; i++)
        longest[i] = i % 50 == 49 ? '.' : 'a';
    longest[299] = '\0';
    CHECK_EQUAL(named(longest, &hello), TM_HELLO_WHOLE);
    CHECK_EQUAL(hello.sni_size, 0);
    longest[253] = '\0';
    CHECK_EQUAL(named(longest, &hello), TM_HELLO_WHOLE);
    CHECK_EQUAL(hello.sni_size, 253);
    longest[253] = 'a';
    longest[254] = '\0';
    CHECK_EQUAL(named(longest, &hello), TM_HELLO_WHOLE);
    CHECK_EQUAL(hello.sni_size, 0);
    struct built extensions = {.size = 0};
    put_name(&extensions, "shop\0.example", 13);
    struct built stream = stream_of(&extensions);
    CHECK_EQUAL(parse(&stream, &hello), TM_HELLO_WHOLE);
    CHECK_EQUAL(hello.sni_size, 0);
}

static void nobody_has_two_names(void)
{
    static const char two[] = "\0\x0c\0\0\3a.b\0\0\3c.d", other[] = "\0\x0c\1\0\3a.b\0\0\3c.d";
    struct built twice = {.size = 0}, list = {.size = 0}, types = {.size = 0}, stream;
    struct tm_hello hello;
    put_name(&twice, "a.b", 3);
    put_name(&twice, "a.b", 3);
    stream = stream_of(&twice);
    CHECK_EQUAL(parse(&stream, &hello), TM_HELLO_MALFORMED);
    put_extension(&list, 0, two, sizeof(two) - 1);
    stream = stream_of(&list);
    CHECK_EQUAL(parse(&stream, &hello), TM_HELLO_MALFORMED);
    put_extension(&types, 0, other, sizeof(other) - 1);
    stream = stream_of(&types);
    CHECK_EQUAL(parse(&stream, &hello), TM_HELLO_WHOLE);
    CHECK(strcmp(hello.sni, "c.d") == 0);
}

static void empty_lists_are_against_the_specification(void)
{
    static const struct {
        unsigned type;
        const char *bytes;
        size_t size;
    } bad[] = {{0, "", 0}, {0, "\0", 2}, {0, "\0\1\0", 3}, {16, "", 0}, {16, "\0", 2},
               {16, "\0\1", 3}, {16, "\0\4\2h2", 5}, {16, "\0\3\3h2", 5}};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct built extensions = {.size = 0}, stream;
        struct tm_hello hello;
        put_extension(&extensions, bad[i].type, bad[i].bytes, bad[i].size);
        stream = stream_of(&extensions);
        CHECK_EQUAL(parse(&stream, &hello), TM_HELLO_MALFORMED);
    }
}

static void protocols_are_kept_whole_while_there_is_room(void)
{
    char names[3 * 32];
    struct built extensions = {.size = 0}, stream;
    struct tm_hello hello;
    for (int i = 0; i < 3; i++) {
        memset(names + 32L * i, 'a' + i, 32);
        names[32L * i] = 31;
    }
    put_alpn(&extensions, names, sizeof(names));
    stream = stream_of(&extensions);
    CHECK_EQUAL(parse(&stream, &hello), TM_HELLO_WHOLE);
    CHECK_EQUAL(hello.alpn_size, TM_ALPN_MAX);
    CHECK(memcmp(hello.alpn, names, TM_ALPN_MAX) == 0);
    CHECK(hello.alpn_cut);
}

int main(void)
{
    RUN(every_prefix_waits);
    RUN(records_of_one_byte);
    RUN(few_questions_are_asked);
    RUN(what_follows_does_not_matter);
    RUN(cut_and_put_together_at_random);
    RUN(more_than_the_limit_is_told_by_its_first_bytes);
    RUN(heads_of_records_count_up_to_a_bound);
    RUN(other_protocols_are_told_by_the_byte_that_decides);
    RUN(records_against_the_specification);
    RUN(one_without_extensions_names_nothing);
    RUN(lengths_that_do_not_fit);
    RUN(names_are_host_names);
    RUN(names_have_a_size_and_no_end_in_the_middle);
    RUN(nobody_has_two_names);
    RUN(empty_lists_are_against_the_specification);
    RUN(protocols_are_kept_whole_while_there_is_room);
    return 0;
}
