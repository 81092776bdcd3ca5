/* Numbers and addresses as text. Calls nothing but string functions. */
#include "text.h"

#include <stdbool.h>
#include <sys/socket.h>

enum { GROUPS = 8, GROUP_DIGITS = 4, NOWHERE = 17 };

/* --- reading -------------------------------------------------------------------------------- */

/* More than 9: there is none. */
static inline uint32_t digit_at(const char *at, const char *end)
{
    return at < end ? (uint32_t)(unsigned char)*at - '0' : 10;
}

static const char *read_four(const char *at, const char *end, unsigned char ip[4])
{
    for (int i = 0; i < 4; i++) {
        if (i && (at == end || *at++ != '.'))
            return NULL;
        uint32_t value = digit_at(at++, end), digit;
        if (value > 9)
            return NULL;
        for (int more = 0; (digit = digit_at(at, end)) <= 9; more++, at++) {
            if (more == 2 || value == 0)
                return NULL;
            value = 10 * value + digit;
        }
        if (value > 255)
            return NULL;
        ip[i] = (unsigned char)value;
    }
    return at;
}

static int hex_digit(char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    if (digit >= 'a' && digit <= 'f')
        return digit - 'a' + 10;
    return digit >= 'A' && digit <= 'F' ? digit - 'A' + 10 : -1;
}

/* The bytes of an IPv6 address that are written out, so far. */
struct six {
    unsigned char bytes[16];
    uint32_t size;
    uint32_t gap; /* where :: is among them; NOWHERE */
};

/* One group, or an IPv4 address, which is the last: *is_last. */
static const char *read_group(const char *at, const char *end, struct six *six, bool *is_last)
{
    const char *first = at;
    uint32_t value = 0;
    for (; at < end && hex_digit(*at) >= 0; at++) {
        if (at - first == GROUP_DIGITS)
            return NULL;
        value = value << 4 | (uint32_t)hex_digit(*at);
    }
    *is_last = at < end && *at == '.';
    if (*is_last) {
        six->size += 4;
        return six->size <= 16 ? read_four(first, end, six->bytes + six->size - 4) : NULL;
    }
    if (at == first || six->size == 16)
        return NULL;
    six->bytes[six->size++] = (unsigned char)(value >> 8);
    six->bytes[six->size++] = (unsigned char)value;
    return at;
}

static const char *read_groups(const char *at, const char *end, struct six *six)
{
    bool is_last = false;
    while (at && !is_last) {
        if (end - at >= 2 && at[0] == ':' && at[1] == ':') {
            if (six->gap != NOWHERE)
                return NULL;
            six->gap = six->size;
            at += 2;
            if (at == end || hex_digit(*at) < 0)
                return at;
        } else if (six->size) {
            if (at == end || *at != ':')
                return at;
            at++;
        }
        at = read_group(at, end, six, &is_last);
    }
    return at;
}

static const char *read_six(const char *at, const char *end, unsigned char ip[16])
{
    struct six six = {.gap = NOWHERE};
    at = read_groups(at, end, &six);
    if (!at || (six.size == 16) != (six.gap == NOWHERE))
        return NULL;
    uint32_t behind = six.gap == NOWHERE ? 0 : six.size - six.gap;
    memset(ip, 0, 16);
    memcpy(ip, six.bytes, six.size - behind);
    memcpy(ip + 16 - behind, six.bytes + six.size - behind, behind);
    return at;
}

const char *tm_text_read_ip(const char *at, const char *end, int family, unsigned char ip[16])
{
    return family == AF_INET ? read_four(at, end, ip) : read_six(at, end, ip);
}

/* --- writing -------------------------------------------------------------------------------- */

char *tm_text_number(char *at, uint64_t number)
{
    char digits[TM_TEXT_NUMBER_MAX];
    size_t first = sizeof(digits);
    do {
        digits[--first] = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    return tm_text(at, digits + first, sizeof(digits) - first);
}

static char *write_four(char *at, const unsigned char ip[4])
{
    for (int i = 0; i < 4; i++) {
        if (i)
            at = tm_text_char(at, '.');
        at = tm_text_number(at, ip[i]);
    }
    return at;
}

static uint32_t group_of(const unsigned char ip[16], size_t at)
{
    return (uint32_t)ip[2 * at] << 8 | ip[2 * at + 1];
}

/* The longest run of groups that are 0, the first of equals, of two at the least; size 0: none. */
struct run {
    uint32_t at, size;
};

static struct run longest_run(const unsigned char ip[16])
{
    struct run best = {GROUPS, 1}, run = {0, 0};
    for (uint32_t i = 0; i < GROUPS; i++) {
        if (group_of(ip, i)) {
            run = (struct run){i + 1, 0};
            continue;
        }
        run.size++;
        if (run.size > best.size)
            best = run;
    }
    return best;
}

static char *write_group(char *at, uint32_t value)
{
    static const char digits[] = "0123456789abcdef";
    bool has_begun = false;
    for (int shift = 12; shift >= 0; shift -= 4) {
        uint32_t digit = value >> shift & 15;
        has_begun = has_begun || digit || shift == 0;
        if (has_begun)
            at = tm_text_char(at, digits[digit]);
    }
    return at;
}

static char *write_six(char *at, const unsigned char ip[16])
{
    struct run run = longest_run(ip);
    bool ends_as_four =
        run.at == 0 && (run.size == 6 || (run.size == 5 && group_of(ip, 5) == 0xffff));
    for (uint32_t i = 0; i < GROUPS; i++) {
        if (i == run.at) {
            at = tm_text(at, "::", 2);
            i += run.size - 1;
            continue;
        }
        if (i && i != run.at + run.size)
            at = tm_text_char(at, ':');
        if (i == 6 && ends_as_four)
            return write_four(at, ip + 12);
        at = write_group(at, group_of(ip, i));
    }
    return at;
}

char *tm_text_ip(char *at, int family, const unsigned char ip[16])
{
    return family == AF_INET ? write_four(at, ip) : write_six(at, ip);
}
