/* Tests csrc/proxy_header.c: whole headers are read as the specification says, prefixes of them
 * wait, and nothing else is believed. Every text is in memory of exactly its size, so that a read
 * beyond it is seen. */
#include "proxy_header.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "check.h"
#include "crc32c.h"

enum { BOTH = TM_PROXY_V1 | TM_PROXY_V2 };

static enum tm_proxy_result parse(const void *bytes, size_t size, uint32_t versions,
                                  struct tm_proxy_header *header)
{
    unsigned char *exact = malloc(size ? size : 1);
    memcpy(exact, bytes, size);
    enum tm_proxy_result result = tm_proxy_parse(exact, size, versions, header);
    free(exact);
    return result;
}

static enum tm_proxy_result line(const char *text)
{
    struct tm_proxy_header header;
    return parse(text, strlen(text), BOTH, &header);
}

static bool is_peer(const struct tm_peer *peer, int family, const char *ip, uint16_t port)
{
    unsigned char expected[16] = {0};
    CHECK_EQUAL(inet_pton(family, ip, expected), 1);
    return peer->family == family && peer->port == port &&
           memcmp(peer->ip, expected, sizeof(expected)) == 0;
}

/* --- version 1 ------------------------------------------------------------------------------ */

static void lines_are_read(void)
{
    static const char four[] = "PROXY TCP4 203.0.113.7 10.0.0.1 56324 443\r\nGET";
    static const char six[] = "PROXY TCP6 2001:db8::7 fe80::1 0 65535\r\n";
    struct tm_proxy_header header;
    CHECK_EQUAL(parse(four, sizeof(four) - 1, BOTH, &header), TM_PROXY_WHOLE);
    CHECK_EQUAL(header.size, sizeof(four) - 1 - 3);
    CHECK(header.has_client);
    CHECK(is_peer(&header.client, AF_INET, "203.0.113.7", 56324));
    CHECK(is_peer(&header.to, AF_INET, "10.0.0.1", 443));
    CHECK_EQUAL(parse(six, sizeof(six) - 1, BOTH, &header), TM_PROXY_WHOLE);
    CHECK(is_peer(&header.client, AF_INET6, "2001:db8::7", 0));
    CHECK(is_peer(&header.to, AF_INET6, "fe80::1", 65535));
}

static void of_unknown_the_peer_is_the_client(void)
{
    static const char *const lines[] = {
        "PROXY UNKNOWN\r\n", "PROXY UNKNOWN \r\n",
        "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
    };
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        struct tm_proxy_header header;
        CHECK_EQUAL(parse(lines[i], strlen(lines[i]), BOTH, &header), TM_PROXY_WHOLE);
        CHECK(!header.has_client);
        CHECK_EQUAL(header.size, strlen(lines[i]));
    }
}

static void bad_lines_are_not_believed(void)
{
    static const char *const lines[] = {
        "PROXY TCP4 203.0.113.7 10.0.0.1 56324 443\n",
        "PROXY TCP4 203.0.113.7 10.0.0.1 56324 443\r \n",
        "PROXY TCP4 203.0.113.7 10.0.0.1 56324\r\n",
        "PROXY TCP4 203.0.113.7 10.0.0.1 56324 443 \r\n",
        "PROXY TCP4 203.0.113.7 10.0.0.1 56324 443 1\r\n",
        "PROXY TCP4  203.0.113.7 10.0.0.1 56324 443\r\n",
        "PROXY TCP4 203.0.113.07 10.0.0.1 56324 443\r\n",
        "PROXY TCP4 203.0.113 10.0.0.1 56324 443\r\n",
        "PROXY TCP4 203.0.113.7 10.0.0.1 056324 443\r\n",
        "PROXY TCP4 203.0.113.7 10.0.0.1 65536 443\r\n",
        "PROXY TCP4 203.0.113.7 10.0.0.1 -1 443\r\n",
        "PROXY TCP4 203.0.113.7 10.0.0.1 +1 443\r\n",
        "PROXY TCP4 2001:db8::7 2001:db8::8 56324 443\r\n",
        "PROXY TCP6 203.0.113.7 10.0.0.1 56324 443\r\n",
        "PROXY TCP6 2001:db8::g ::1 56324 443\r\n",
        "PROXY TCP6 fe80::1%lo ::1 56324 443\r\n",
        "PROXY TCP5 203.0.113.7 10.0.0.1 56324 443\r\n",
        "PROXY UNKNOWNS\r\n", "PROXY UNKNOW\r\n", "PROXY \r\n", "PROXY  TCP4\r\n",
        "PROXY tcp4 203.0.113.7 10.0.0.1 56324 443\r\n",
    };
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
        CHECK_EQUAL(line(lines[i]), TM_PROXY_MALFORMED);
    CHECK_EQUAL(line("proxy TCP4 203.0.113.7 10.0.0.1 56324 443\r\n"), TM_PROXY_MISSING);
    CHECK_EQUAL(line("PROXY\r\n"), TM_PROXY_MISSING);
    static const char nul[] = "PROXY TCP4 203.0.113.7\0 10.0.0.1 56324 443\r\n";
    struct tm_proxy_header header;
    CHECK_EQUAL(parse(nul, sizeof(nul) - 1, BOTH, &header), TM_PROXY_MALFORMED);
}

static void a_line_has_at_most_107_bytes(void)
{
    char text[TM_PROXY_V1_MAX + 2] = "PROXY UNKNOWN ";
    struct tm_proxy_header header;
    memset(text + 14, 'x', sizeof(text) - 14);
    memcpy(text + TM_PROXY_V1_MAX - 2, "\r\n", 2);
    CHECK_EQUAL(parse(text, TM_PROXY_V1_MAX, BOTH, &header), TM_PROXY_WHOLE);
    CHECK_EQUAL(header.size, TM_PROXY_V1_MAX);
    memcpy(text + TM_PROXY_V1_MAX - 2, "x\r\n", 3);
    CHECK_EQUAL(parse(text, TM_PROXY_V1_MAX - 1, BOTH, &header), TM_PROXY_MORE);
    CHECK_EQUAL(parse(text, TM_PROXY_V1_MAX, BOTH, &header), TM_PROXY_TOO_LONG);
    CHECK_EQUAL(parse(text, TM_PROXY_V1_MAX + 1, BOTH, &header), TM_PROXY_TOO_LONG);
}

/* --- version 2 ------------------------------------------------------------------------------ */

static const unsigned char signature[12] = {'\r', '\n', '\r', '\n', 0, '\r', '\n', 'Q', 'U', 'I',
                                            'T', '\n'};

struct built {
    unsigned char bytes[TM_PROXY_MAX + 64];
    size_t size;
};

static struct built v2(unsigned char version, unsigned char family, size_t length)
{
    struct built built = {.size = TM_PROXY_V2_HEAD + length};
    memcpy(built.bytes, signature, sizeof(signature));
    built.bytes[12] = version;
    built.bytes[13] = family;
    built.bytes[14] = (unsigned char)(length >> 8);
    built.bytes[15] = (unsigned char)length;
    return built;
}

static void put(struct built *built, size_t at, const void *bytes, size_t size)
{
    memcpy(built->bytes + TM_PROXY_V2_HEAD + at, bytes, size);
}

/* 203.0.113.7:56324 to 10.0.0.1:443, and room for `tlvs` bytes behind it. */
static struct built over_tcp4(size_t tlvs)
{
    static const unsigned char ends[12] = {203, 0, 113, 7, 10, 0, 0, 1, 0xdc, 4, 1, 0xbb};
    struct built built = v2(0x21, 0x11, sizeof(ends) + tlvs);
    put(&built, 0, ends, sizeof(ends));
    return built;
}

static void headers_are_read(void)
{
    struct tm_proxy_header header;
    struct built four = over_tcp4(0);
    CHECK_EQUAL(parse(four.bytes, four.size + 5, BOTH, &header), TM_PROXY_WHOLE);
    CHECK_EQUAL(header.size, 28);
    CHECK(header.has_client);
    CHECK(is_peer(&header.client, AF_INET, "203.0.113.7", 56324));
    CHECK(is_peer(&header.to, AF_INET, "10.0.0.1", 443));
    unsigned char ends[36];
    CHECK_EQUAL(inet_pton(AF_INET6, "2001:db8::7", ends), 1);
    CHECK_EQUAL(inet_pton(AF_INET6, "::1", ends + 16), 1);
    memcpy(ends + 32, "\0\1\xff\xff", 4);
    struct built six = v2(0x21, 0x21, sizeof(ends));
    put(&six, 0, ends, sizeof(ends));
    CHECK_EQUAL(parse(six.bytes, six.size, BOTH, &header), TM_PROXY_WHOLE);
    CHECK(is_peer(&header.client, AF_INET6, "2001:db8::7", 1));
    CHECK(is_peer(&header.to, AF_INET6, "::1", 65535));
}

static void of_these_the_peer_is_the_client(void)
{
    struct built some[] = {
        v2(0x20, 0x00, 0), v2(0x20, 0x11, 12), v2(0x20, 0xff, 3), v2(0x21, 0x00, 0),
        v2(0x21, 0x00, 7), v2(0x21, 0x31, 216), v2(0x21, 0x12, 12), v2(0x21, 0x32, 216),
        v2(0x21, 0x10, 12),
    };
    for (size_t i = 0; i < sizeof(some) / sizeof(some[0]); i++) {
        struct tm_proxy_header header;
        CHECK_EQUAL(parse(some[i].bytes, some[i].size, BOTH, &header), TM_PROXY_WHOLE);
        CHECK(!header.has_client);
        CHECK_EQUAL(header.size, some[i].size);
    }
}

static void bad_headers_are_not_believed(void)
{
    struct built some[] = {
        v2(0x11, 0x11, 12), v2(0x31, 0x11, 12), v2(0x22, 0x11, 12), v2(0x21, 0x41, 12),
        v2(0x21, 0x13, 12), v2(0x21, 0x11, 11), v2(0x21, 0x21, 35), v2(0x21, 0x31, 215),
    };
    for (size_t i = 0; i < sizeof(some) / sizeof(some[0]); i++) {
        struct tm_proxy_header header;
        CHECK_EQUAL(parse(some[i].bytes, some[i].size, BOTH, &header), TM_PROXY_MALFORMED);
    }
}

static void a_header_has_at_most_4096_bytes(void)
{
    struct tm_proxy_header header;
    struct built most = v2(0x20, 0, TM_PROXY_MAX - TM_PROXY_V2_HEAD);
    struct built more = v2(0x20, 0, TM_PROXY_MAX - TM_PROXY_V2_HEAD + 1);
    CHECK_EQUAL(parse(most.bytes, most.size, BOTH, &header), TM_PROXY_WHOLE);
    CHECK_EQUAL(parse(more.bytes, TM_PROXY_V2_HEAD, BOTH, &header), TM_PROXY_TOO_LONG);
}

static void tlvs_are_whole_and_fill_the_header(void)
{
    static const unsigned char two[] = {4, 0, 0, 0xea, 0, 3, 'a', 'b', 'c'};
    struct tm_proxy_header header;
    struct tm_proxy_tlv tlv;
    struct built built = over_tcp4(sizeof(two));
    put(&built, 12, two, sizeof(two));
    CHECK_EQUAL(parse(built.bytes, built.size, BOTH, &header), TM_PROXY_WHOLE);
    uint32_t at = header.tlvs_at;
    CHECK(tm_proxy_next_tlv(built.bytes, header.size, &at, &tlv) && tlv.type == 4 && tlv.size == 0);
    CHECK(tm_proxy_next_tlv(built.bytes, header.size, &at, &tlv) && tlv.type == 0xea);
    CHECK(tlv.size == 3 && memcmp(tlv.value, "abc", 3) == 0);
    CHECK(!tm_proxy_next_tlv(built.bytes, header.size, &at, &tlv));
    for (size_t size = 1; size < sizeof(two); size++) {
        struct built cut = over_tcp4(size);
        put(&cut, 12, two, size);
        CHECK_EQUAL(parse(cut.bytes, cut.size, BOTH, &header),
                    size == 3 ? TM_PROXY_WHOLE : TM_PROXY_MALFORMED);
    }
}

static struct built with_checksum(size_t tlvs, size_t place)
{
    struct built built = over_tcp4(tlvs);
    unsigned char *at = built.bytes + TM_PROXY_V2_HEAD + 12 + place;
    memcpy(at, "\3\0\4", 3);
    uint32_t crc = htonl(tm_crc32c(0, built.bytes, built.size));
    memcpy(at + 3, &crc, sizeof(crc));
    return built;
}

static void a_checksum_is_checked(void)
{
    struct tm_proxy_header header;
    CHECK_EQUAL(tm_crc32c(0, (const unsigned char *)"123456789", 9), 0xe3069283);
    struct built built = with_checksum(10, 0); /* before a TLV of type 0, which is empty */
    CHECK_EQUAL(parse(built.bytes, built.size, BOTH, &header), TM_PROXY_WHOLE);
    for (size_t at = TM_PROXY_V2_HEAD; at < built.size; at++) {
        for (int bit = 0; bit < 8; bit++) {
            struct built other = built;
            other.bytes[at] ^= (unsigned char)(1 << bit);
            enum tm_proxy_result result = parse(other.bytes, other.size, BOTH, &header);
            /* But for its own type, which would have it no checksum at all. */
            CHECK(result == TM_PROXY_CHECKSUM || result == TM_PROXY_MALFORMED ||
                  at == TM_PROXY_V2_HEAD + 12);
        }
    }
    struct built twice = over_tcp4(14);
    put(&twice, 12, "\3\0\4", 3);
    put(&twice, 19, "\3\0\4", 3);
    CHECK(parse(twice.bytes, twice.size, BOTH, &header) != TM_PROXY_WHOLE);
    struct built small = over_tcp4(6);
    put(&small, 12, "\3\0\3", 3);
    CHECK_EQUAL(parse(small.bytes, small.size, BOTH, &header), TM_PROXY_MALFORMED);
}

/* --- both ----------------------------------------------------------------------------------- */

static void prefixes_wait(void)
{
    static const char text[] = "PROXY TCP4 203.0.113.7 10.0.0.1 56324 443\r\n";
    struct built built = with_checksum(7, 0);
    struct tm_proxy_header header;
    for (size_t size = 0; size < sizeof(text) - 1; size++)
        CHECK_EQUAL(parse(text, size, BOTH, &header), TM_PROXY_MORE);
    for (size_t size = 0; size < built.size; size++)
        CHECK_EQUAL(parse(built.bytes, size, BOTH, &header), TM_PROXY_MORE);
}

static void only_the_versions_asked_for_are_taken(void)
{
    static const char text[] = "PROXY UNKNOWN\r\n";
    struct built built = over_tcp4(0);
    struct tm_proxy_header header;
    CHECK_EQUAL(parse(text, sizeof(text) - 1, TM_PROXY_V2, &header), TM_PROXY_VERSION);
    CHECK_EQUAL(parse(text, sizeof(text) - 1, TM_PROXY_V1, &header), TM_PROXY_WHOLE);
    CHECK_EQUAL(parse(built.bytes, built.size, TM_PROXY_V1, &header), TM_PROXY_VERSION);
    CHECK_EQUAL(parse(built.bytes, built.size, TM_PROXY_V2, &header), TM_PROXY_WHOLE);
    CHECK_EQUAL(line("GET / HTTP/1.1\r\n"), TM_PROXY_MISSING);
    CHECK_EQUAL(line("\r\n\r\nQ"), TM_PROXY_MISSING);
    CHECK_EQUAL(line("P"), TM_PROXY_MORE);
}

static struct tm_peer peer(int family, const char *ip, uint16_t port)
{
    struct tm_peer made = {.family = (uint16_t)family, .port = port};
    CHECK_EQUAL(inet_pton(family, ip, made.ip), 1);
    return made;
}

/* In memory of exactly the size that a writer may use. */
static uint32_t written(unsigned char *copy, uint32_t version, const struct tm_peer *client,
                        const struct tm_peer *to)
{
    unsigned char *exact = malloc(TM_PROXY_V1_MAX);
    uint32_t size = tm_proxy_write(exact, version, client, to);
    CHECK(size <= TM_PROXY_V1_MAX);
    memcpy(copy, exact, size);
    free(exact);
    return size;
}

static void what_is_written_is_read(void)
{
    struct tm_peer four = peer(AF_INET, "203.0.113.7", 65535), here = peer(AF_INET, "10.0.0.1", 1);
    struct tm_peer six = peer(AF_INET6, "2001:db8:1111:2222:3333:4444:5555:6666", 65535);
    const struct tm_peer *pairs[][2] = {{&four, &here}, {&six, &six}, {&four, &six}, {&six, &here}};
    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        const struct tm_peer *client = pairs[i][0], *to = pairs[i][1];
        for (uint32_t version = 1; version <= 2; version++) {
            unsigned char bytes[TM_PROXY_V1_MAX];
            struct tm_proxy_header header;
            uint32_t size = written(bytes, version, client, to);
            CHECK_EQUAL(parse(bytes, size, version, &header), TM_PROXY_WHOLE);
            CHECK_EQUAL(header.size, size);
            CHECK(header.has_client && header.client.port == client->port);
            CHECK(header.to.port == to->port && header.client.family == header.to.family);
            if (client->family == to->family)
                CHECK(memcmp(&header.client, client, sizeof(*client)) == 0);
            else /* IPv4 is ::ffff:a.b.c.d */
                CHECK_EQUAL(header.client.family, AF_INET6);
        }
    }
}

static void of_one_without_an_ip_nobody_is_named(void)
{
    struct tm_peer local = {.family = AF_UNIX}, here = peer(AF_INET, "10.0.0.1", 1);
    for (uint32_t version = 1; version <= 2; version++) {
        unsigned char bytes[TM_PROXY_V1_MAX];
        struct tm_proxy_header header;
        uint32_t size = written(bytes, version, &local, &here);
        CHECK_EQUAL(parse(bytes, size, version, &header), TM_PROXY_WHOLE);
        CHECK(!header.has_client);
        CHECK_EQUAL(size, version == 1 ? 15 : 16);
    }
}

/* What is added is read, behind the same addresses; a client without an IP becomes one of a UNIX
 * socket, as TLVs of LOCAL say nothing. */
static void what_is_added_is_read(void)
{
    struct tm_peer four = peer(AF_INET, "203.0.113.7", 65535), here = peer(AF_INET, "10.0.0.1", 1);
    struct tm_peer six = peer(AF_INET6, "2001:db8::1", 7), local = {.family = AF_UNIX};
    const struct tm_peer *clients[] = {&four, &six, &local};
    static const unsigned char value[256];
    for (size_t i = 0; i < 3; i++) {
        unsigned char *bytes = malloc(TM_PROXY_WRITE_MAX);
        struct tm_proxy_header header;
        struct tm_proxy_tlv tlv;
        uint32_t size = tm_proxy_write(bytes, 2, clients[i], &here);
        size = tm_proxy_add(bytes, size, 0xe0, value, 256);
        size = tm_proxy_add(bytes, size, 0x05, "0-1-2", 5);
        size = tm_proxy_add(bytes, size, 0xea, "", 0);
        size = tm_proxy_add(bytes, size, TM_PROXY_TLV_CRC32C, "\0\0\0", 4);
        tm_proxy_set_checksum(bytes, size);
        CHECK_EQUAL(parse(bytes, size, TM_PROXY_V2, &header), TM_PROXY_WHOLE);
        CHECK_EQUAL(header.size, size);
        CHECK(header.has_client == (clients[i] != &local));
        if (clients[i] != &local)
            CHECK_EQUAL(header.client.port, clients[i]->port);
        uint32_t at = header.tlvs_at;
        CHECK(tm_proxy_next_tlv(bytes, header.size, &at, &tlv) && tlv.type == 0xe0);
        CHECK_EQUAL(tlv.size, 256);
        CHECK(tm_proxy_next_tlv(bytes, header.size, &at, &tlv) && tlv.type == 5 && tlv.size == 5);
        CHECK(memcmp(tlv.value, "0-1-2", 5) == 0);
        CHECK(tm_proxy_next_tlv(bytes, header.size, &at, &tlv) && tlv.type == 0xea);
        CHECK_EQUAL(tlv.size, 0);
        CHECK(tm_proxy_next_tlv(bytes, header.size, &at, &tlv) && at == size);
        /* And every byte of it is under the checksum, but the type of that. */
        for (uint32_t byte = 28; byte < size; byte++) {
            if (byte == size - 7)
                continue;
            bytes[byte] ^= 1;
            CHECK(parse(bytes, size, TM_PROXY_V2, &header) != TM_PROXY_WHOLE);
            bytes[byte] ^= 1;
        }
        free(bytes);
    }
}

/* Of a header with any byte changed to any other: what is taken has its own end, names what its
 * bytes say, and all it has less of waits. */
static void bytes_that_change_are_read_as_they_are(void)
{
    static const char text[] = "PROXY TCP4 203.0.113.7 10.0.0.1 56324 443\r\n";
    struct built built[2] = {over_tcp4(9), {.size = sizeof(text) - 1}};
    put(&built[0], 12, "\4\0\0\xea\0\3abc", 9);
    memcpy(built[1].bytes, text, sizeof(text) - 1);
    for (size_t i = 0; i < 2; i++) {
        for (size_t at = 0; at < built[i].size; at++) {
            for (int value = 0; value < 256; value++) {
                struct built other = built[i];
                struct tm_proxy_header header;
                other.bytes[at] = (unsigned char)value;
                if (parse(other.bytes, other.size, BOTH, &header) != TM_PROXY_WHOLE)
                    continue;
                uint32_t size = header.size;
                CHECK(size <= other.size);
                if (i == 0 && header.has_client) {
                    CHECK(memcmp(header.client.ip, other.bytes + 16, 4) == 0);
                    CHECK_EQUAL(header.client.port, other.bytes[24] << 8 | other.bytes[25]);
                } else if (header.has_client) {
                    char ip[INET_ADDRSTRLEN], line[TM_PROXY_V1_MAX + 1];
                    CHECK(inet_ntop(AF_INET, header.client.ip, ip, sizeof(ip)));
                    snprintf(line, sizeof(line), "PROXY TCP4 %s ", ip);
                    CHECK(memcmp(line, other.bytes, strlen(line)) == 0);
                }
                for (uint32_t less = 0; less < size; less++)
                    CHECK_EQUAL(parse(other.bytes, less, BOTH, &header), TM_PROXY_MORE);
            }
        }
    }
}

/* Of those that name nobody as well. */
static void tlvs_of_local_and_unix_are_read(void)
{
    struct built some[] = {v2(0x20, 0x00, 0), v2(0x21, 0x31, 216 + 9), v2(0x21, 0x31, 216 + 8)};
    struct tm_proxy_header header;
    struct tm_proxy_tlv tlv;
    CHECK_EQUAL(parse(some[0].bytes, some[0].size, BOTH, &header), TM_PROXY_WHOLE);
    uint32_t at = header.tlvs_at;
    CHECK(!tm_proxy_next_tlv(some[0].bytes, header.size, &at, &tlv));
    put(&some[1], 216, "\4\0\0\xea\0\3abc", 9);
    CHECK_EQUAL(parse(some[1].bytes, some[1].size, BOTH, &header), TM_PROXY_WHOLE);
    CHECK(!header.has_client);
    at = header.tlvs_at;
    CHECK(tm_proxy_next_tlv(some[1].bytes, header.size, &at, &tlv) && tlv.type == 4);
    CHECK(tm_proxy_next_tlv(some[1].bytes, header.size, &at, &tlv) && tlv.type == 0xea);
    CHECK(!tm_proxy_next_tlv(some[1].bytes, header.size, &at, &tlv));
    put(&some[2], 216, "\4\0\0\xea\0\3ab", 8); /* cut off */
    CHECK_EQUAL(parse(some[2].bytes, some[2].size, BOTH, &header), TM_PROXY_MALFORMED);
    /* What follows LOCAL is skipped, whatever it is. */
    struct built local = v2(0x20, 0x11, 12 + 8);
    put(&local, 12, "\4\0\0\xea\0\3ab", 8);
    CHECK_EQUAL(parse(local.bytes, local.size, BOTH, &header), TM_PROXY_WHOLE);
    CHECK(!header.has_client && header.size == local.size);
}

/* With any bytes in it, an answer comes that keeps to its bounds. */
static void whatever_comes_is_bounded(void)
{
    static const char text[] = "PROXY TCP6 2001:db8::7 fe80::1 1 65535\r\n";
    random_seed();
    for (int round = 0; round < 200000; round++) {
        struct tm_proxy_header header;
        struct built built = with_checksum(64, random_below(57));
        if (round % 2)
            memcpy(built.bytes, text, sizeof(text) - 1);
        for (uint64_t i = random_below(4); i > 0; i--)
            built.bytes[random_below(built.size)] = (unsigned char)random_below(256);
        size_t size = random_below(built.size + 1);
        if (parse(built.bytes, size, BOTH, &header) != TM_PROXY_WHOLE)
            continue;
        CHECK(header.size <= size && header.size > 0 && header.tlvs_at <= header.size);
        CHECK(!header.has_client || header.client.family == header.to.family);
    }
}

int main(void)
{
    RUN(lines_are_read);
    RUN(of_unknown_the_peer_is_the_client);
    RUN(bad_lines_are_not_believed);
    RUN(a_line_has_at_most_107_bytes);
    RUN(headers_are_read);
    RUN(of_these_the_peer_is_the_client);
    RUN(bad_headers_are_not_believed);
    RUN(a_header_has_at_most_4096_bytes);
    RUN(tlvs_are_whole_and_fill_the_header);
    RUN(a_checksum_is_checked);
    RUN(prefixes_wait);
    RUN(only_the_versions_asked_for_are_taken);
    RUN(what_is_written_is_read);
    RUN(of_one_without_an_ip_nobody_is_named);
    RUN(what_is_added_is_read);
    RUN(bytes_that_change_are_read_as_they_are);
    RUN(tlvs_of_local_and_unix_are_read);
    RUN(whatever_comes_is_bounded);
    return 0;
}
