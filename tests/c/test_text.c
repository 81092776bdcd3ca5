/* Tests csrc/text.c against the C library, which it has to agree with: on every address that is
 * written, on what is read, and on what is refused. */
#include "text.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "check.h"

enum { CASES = 400000, LONGEST = 60 };

/* Both must say the same of it. Returns whether it is an address. */
static bool agree(const char *text, size_t size, int family)
{
    unsigned char ours[16] = {0}, theirs[16] = {0};
    char ended[LONGEST + 1], *exact = malloc(size ? size : 1);
    CHECK(size <= LONGEST);
    memcpy(exact, text, size);
    memcpy(ended, text, size);
    ended[size] = '\0';
    const char *end = tm_text_read_ip(exact, exact + size, family, ours);
    CHECK(!end || (end > exact && end <= exact + size));
    bool is_one = end == exact + size;
    bool expected = memchr(text, '\0', size) == NULL && inet_pton(family, ended, theirs) == 1;
    if (is_one != expected)
        fprintf(stderr, "  \"%s\"\n", ended);
    CHECK_EQUAL(is_one, expected);
    CHECK(!is_one || memcmp(ours, theirs, sizeof(ours)) == 0);
    free(exact);
    return is_one;
}

static void known_texts_are_read(void)
{
    static const char *const good[] = {
        "::", "::1", "1::", "1::8", "1:2:3:4:5:6:7:8", "1:2:3::5:6:7:8", "::2:3:4:5:6:7:8",
        "1:2:3:4:5:6:7::", "::ffff:1.2.3.4", "::1.2.3.4", "1:2:3:4:5:6:1.2.3.4",
        "1::5:6:1.2.3.4", "ABCD:ef01::", "0001:02:3::",
        "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255",
    };
    static const char *const bad[] = {
        "", ":", ":::", "1", "1:", ":1", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7:8::",
        "1::2::3", "1:::2", "12345::", "g::", "1:2:3:4:5:6:7:1.2.3.4", "::1.2.3", "::1.2.3.4.5",
        "::1.2.3.256", "::01.2.3.4", "::1.2.3.4:1", "fe80::1%1", " ::1", "::1 ", "::a.1.2.3",
        "1::2:3:4:5:6:7:8",
    };
    static const char *const bad_four[] = {
        "", "1", "1.2.3", "1.2.3.", ".1.2.3.4", "1.2.3.4.", "1..2.3", "01.2.3.4", "1.2.3.00",
        "1.2.3.256", "1.2.3.4.5", "1.2.3.4 ", "0x1.2.3.4", "1.2.3.-4", "1.2.3.1000",
    };
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        CHECK(agree(good[i], strlen(good[i]), AF_INET6));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        CHECK(!agree(bad[i], strlen(bad[i]), AF_INET6));
    for (size_t i = 0; i < sizeof(bad_four) / sizeof(bad_four[0]); i++)
        CHECK(!agree(bad_four[i], strlen(bad_four[i]), AF_INET));
    CHECK(agree("0.0.0.0", 7, AF_INET) && agree("255.255.255.255", 15, AF_INET));
}

/* Groups are often 0, as only then are there any to be left out. */
static void make_address(unsigned char ip[16])
{
    uint64_t zero = random_below(1 << 8);
    for (int i = 0; i < 16; i++)
        ip[i] = zero >> (i / 2) & 1 ? 0 : (unsigned char)(random_below(4) ? random_below(256) : 0);
    if (random_below(16) == 0)
        memcpy(ip, "\0\0\0\0\0\0\0\0\0\0\xff\xff", 12);
    if (random_below(16) == 0)
        memset(ip, 0, (size_t)random_below(17));
}

static size_t write_six(char *text, const unsigned char ip[16])
{
    size_t size = (size_t)(tm_text_ip(text, AF_INET6, ip) - text);
    CHECK(size <= TM_TEXT_IP_MAX);
    text[size] = '\0';
    return size;
}

static void what_is_written_is_what_the_library_writes(void)
{
    for (int i = 0; i < CASES; i++) {
        unsigned char ip[16];
        char ours[LONGEST], theirs[LONGEST];
        make_address(ip);
        size_t size = write_six(ours, ip);
        CHECK(inet_ntop(AF_INET6, ip, theirs, sizeof(theirs)) && strcmp(ours, theirs) == 0);
        CHECK(agree(ours, size, AF_INET6));
        *tm_text_ip(ours, AF_INET, ip) = '\0';
        CHECK(inet_ntop(AF_INET, ip, theirs, sizeof(theirs)) && strcmp(ours, theirs) == 0);
        CHECK(agree(ours, strlen(ours), AF_INET));
    }
}

static void every_byte_of_an_address_counts(void)
{
    static const char alphabet[] = "0123456789abcdefABCDEFg:./ %-";
    static const char *const texts[] = {
        "2001:db8::1:0:0:7", "::ffff:203.0.113.7", "1:22:333:4444:5:6:7:8", "::", "203.0.113.7",
        "255.0.10.100",
    };
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        size_t size = strlen(texts[i]);
        for (size_t at = 0; at <= size; at++) {
            char text[LONGEST];
            agree(texts[i], at, AF_INET);
            agree(texts[i], at, AF_INET6);
            for (int byte = 0; byte < 256 && at < size; byte++) {
                memcpy(text, texts[i], size);
                text[at] = (char)byte;
                agree(text, size, AF_INET);
                agree(text, size, AF_INET6);
            }
            for (size_t n = 0; n < sizeof(alphabet) - 1; n++) {
                memcpy(text, texts[i], at);
                text[at] = alphabet[n];
                memcpy(text + at + 1, texts[i] + at, size - at);
                agree(text, size + 1, AF_INET);
                agree(text, size + 1, AF_INET6);
            }
        }
    }
}

static void what_is_refused_is_what_the_library_refuses(void)
{
    static const char alphabet[] = "0011229afF::::...g";
    uint32_t good = 0;
    for (int i = 0; i < CASES; i++) {
        char text[LONGEST];
        size_t size = (size_t)random_below(24);
        for (size_t at = 0; at < size; at++)
            text[at] = alphabet[random_below(sizeof(alphabet) - 1)];
        agree(text, size, AF_INET);
        good += agree(text, size, AF_INET6);
    }
    CHECK(good > 0); /* else this tests nothing */
}

static void numbers_are_written(void)
{
    for (int i = 0; i < CASES; i++) {
        char ours[LONGEST], theirs[LONGEST];
        uint64_t number = random_below(UINT64_MAX) >> random_below(64);
        if (i < 1100)
            number = (uint64_t)i;
        if (i == 1100)
            number = UINT64_MAX;
        *tm_text_number(ours, number) = '\0';
        snprintf(theirs, sizeof(theirs), "%llu", (unsigned long long)number);
        CHECK(strcmp(ours, theirs) == 0 && strlen(ours) <= TM_TEXT_NUMBER_MAX);
    }
}

int main(void)
{
    random_seed();
    RUN(known_texts_are_read);
    RUN(what_is_written_is_what_the_library_writes);
    RUN(every_byte_of_an_address_counts);
    RUN(what_is_refused_is_what_the_library_refuses);
    RUN(numbers_are_written);
    return 0;
}
