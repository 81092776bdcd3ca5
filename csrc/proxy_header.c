/* The header of the PROXY protocol. Calls nothing but string functions. */
#include "proxy_header.h"

#include <string.h>
#include <sys/socket.h>

#include "crc32c.h"
#include "text.h"

static const unsigned char v1_start[] = {'P', 'R', 'O', 'X', 'Y', ' '};
static const unsigned char v2_start[] = {'\r', '\n', '\r', '\n', 0, '\r', '\n', 'Q', 'U', 'I', 'T',
                                         '\n'};

enum { COMMAND_LOCAL = 0, COMMAND_PROXY = 1 };
enum { FAMILY_UNSPEC = 0, FAMILY_INET, FAMILY_INET6, FAMILY_UNIX, FAMILIES };
enum { OVER_UNSPEC = 0, OVER_STREAM, OVER_DGRAM, PROTOCOLS };

static size_t smaller(size_t one, size_t other)
{
    return one < other ? one : other;
}

/* Whether they begin so, as far as they go. Of so few the call of memcmp() would cost more than all
 * else; with all of a constant size there it is none. */
#define BEGINS(bytes, have, start)                                                                 \
    ((have) >= sizeof(start) ? memcmp(bytes, start, sizeof(start)) == 0                            \
                             : memcmp(bytes, start, have) == 0)

/* --- version 1 ------------------------------------------------------------------------------ */

/* Where the port that begins at `at` ends; NULL: there is none. */
static const char *read_port(const char *at, const char *end, uint16_t *port)
{
    const char *first = at;
    uint32_t value = 0;
    for (; at < end && (uint32_t)*at - '0' <= 9; at++) {
        if (at - first == 5)
            return NULL;
        value = value * 10 + (uint32_t)(*at - '0');
    }
    *port = (uint16_t)value;
    return at == first || value > UINT16_MAX || (*first == '0' && at - first > 1) ? NULL : at;
}

/* What is behind the space at `at`; NULL: there is none, or nothing was in front of it. */
static const char *behind_space(const char *at, const char *end)
{
    return at && at < end && *at == ' ' ? at + 1 : NULL;
}

/* Of a line what is behind TCP4 and TCP6: two addresses, two ports. */
static bool read_addresses(const char *at, const char *end, int family,
                           struct tm_proxy_header *header)
{
    header->client.family = header->to.family = (uint16_t)family;
    at = behind_space(tm_text_read_ip(at, end, family, header->client.ip), end);
    if (at)
        at = behind_space(tm_text_read_ip(at, end, family, header->to.ip), end);
    if (at)
        at = behind_space(read_port(at, end, &header->client.port), end);
    return at && read_port(at, end, &header->to.port) == end;
}

static enum tm_proxy_result parse_line(const char *at, const char *end,
                                       struct tm_proxy_header *header)
{
    static const char unknown[] = "UNKNOWN", tcp[] = "TCP";
    size_t size = (size_t)(end - at), word = sizeof(unknown) - 1;
    if (size > 5 && memcmp(at, tcp, 3) == 0 && (at[3] == '4' || at[3] == '6') && at[4] == ' ') {
        header->has_client =
            read_addresses(at + 5, end, at[3] == '4' ? AF_INET : AF_INET6, header);
        return header->has_client ? TM_PROXY_WHOLE : TM_PROXY_MALFORMED;
    }
    return size >= word && memcmp(at, unknown, word) == 0 && (size == word || at[word] == ' ')
               ? TM_PROXY_WHOLE /* anything may follow */
               : TM_PROXY_MALFORMED;
}

/* Whether one of eight bytes is this one. */
static bool has_byte(uint64_t eight, unsigned char byte)
{
    const uint64_t ones = UINT64_MAX / 255;
    uint64_t differ = eight ^ ones * byte;
    return (differ - ones) & ~differ & ones << 7;
}

/* The first CR or LF from `at` on; `seen`: there is none. */
static size_t end_of_line(const unsigned char *bytes, size_t at, size_t seen)
{
    uint64_t eight;
    for (; at + sizeof(eight) <= seen; at += sizeof(eight)) {
        memcpy(&eight, bytes + at, sizeof(eight));
        if (has_byte(eight, '\r') || has_byte(eight, '\n'))
            break;
    }
    while (at < seen && bytes[at] != '\r' && bytes[at] != '\n')
        at++;
    return at;
}

static enum tm_proxy_result parse_v1(const unsigned char *bytes, size_t have,
                                     struct tm_proxy_header *header)
{
    size_t seen = smaller(have, TM_PROXY_V1_MAX);
    size_t end = end_of_line(bytes, sizeof(v1_start), seen);
    if (end + 1 < seen ? bytes[end] != '\r' || bytes[end + 1] != '\n'
                       : end < seen && bytes[end] == '\n')
        return TM_PROXY_MALFORMED; /* one of the two without the other */
    if (end + 1 >= seen)
        return seen < TM_PROXY_V1_MAX ? TM_PROXY_MORE : TM_PROXY_TOO_LONG;
    header->size = header->tlvs_at = (uint32_t)end + 2;
    return parse_line((const char *)bytes + sizeof(v1_start), (const char *)bytes + end, header);
}

/* --- version 2 ------------------------------------------------------------------------------ */

static uint32_t two_bytes(const unsigned char *at)
{
    return (uint32_t)at[0] << 8 | at[1];
}

/* Over the whole header, with its own four bytes as 0. */
static bool is_checksum(const unsigned char *bytes, const struct tm_proxy_header *header,
                        const unsigned char *value)
{
    static const unsigned char zero[4];
    size_t before = (size_t)(value - bytes), behind = before + sizeof(zero);
    uint32_t crc = tm_crc32c(0, bytes, before);
    crc = tm_crc32c(crc, zero, sizeof(zero));
    crc = tm_crc32c(crc, bytes + behind, header->size - behind);
    return crc == (two_bytes(value) << 16 | two_bytes(value + 2));
}

static enum tm_proxy_result check_tlvs(const unsigned char *bytes,
                                       const struct tm_proxy_header *header)
{
    struct tm_proxy_tlv tlv;
    uint32_t at = header->tlvs_at;
    bool has_checksum = false;
    while (tm_proxy_next_tlv(bytes, header->size, &at, &tlv)) {
        if (tlv.type != TM_PROXY_TLV_CRC32C)
            continue;
        if (has_checksum || tlv.size != 4)
            return TM_PROXY_MALFORMED;
        has_checksum = true;
        if (!is_checksum(bytes, header, tlv.value))
            return TM_PROXY_CHECKSUM;
    }
    return at == header->size ? TM_PROXY_WHOLE : TM_PROXY_MALFORMED;
}

static void read_ends(const unsigned char *at, int family, size_t size,
                      struct tm_proxy_header *header)
{
    header->has_client = true;
    header->client.family = header->to.family = (uint16_t)family;
    memcpy(header->client.ip, at, size);
    memcpy(header->to.ip, at + size, size);
    header->client.port = (uint16_t)two_bytes(at + 2 * size);
    header->to.port = (uint16_t)two_bytes(at + 2 * size + 2);
}

/* By family. */
static const uint32_t address_sizes[FAMILIES] = {0, 12, 36, 216};

static enum tm_proxy_result parse_whole_v2(const unsigned char *bytes,
                                           struct tm_proxy_header *header)
{
    uint32_t command = bytes[12] & 15u, family = bytes[13] >> 4, protocol = bytes[13] & 15u;
    const unsigned char *addresses = bytes + TM_PROXY_V2_HEAD;
    if (command == COMMAND_LOCAL) { /* of its family and what follows nothing is meant */
        header->tlvs_at = header->size;
        return TM_PROXY_WHOLE;
    }
    if (command != COMMAND_PROXY || family >= FAMILIES || protocol >= PROTOCOLS ||
        header->size < TM_PROXY_V2_HEAD + address_sizes[family])
        return TM_PROXY_MALFORMED;
    header->tlvs_at = TM_PROXY_V2_HEAD + address_sizes[family];
    if (family == FAMILY_INET && protocol == OVER_STREAM)
        read_ends(addresses, AF_INET, 4, header);
    else if (family == FAMILY_INET6 && protocol == OVER_STREAM)
        read_ends(addresses, AF_INET6, 16, header);
    if (family == FAMILY_UNSPEC || protocol == OVER_UNSPEC) {
        header->tlvs_at = header->size; /* receivers ignore all that follows */
        return TM_PROXY_WHOLE;
    }
    return check_tlvs(bytes, header);
}

static enum tm_proxy_result parse_v2(const unsigned char *bytes, size_t have,
                                     struct tm_proxy_header *header)
{
    if (have > 12 && bytes[12] >> 4 != 2)
        return TM_PROXY_MALFORMED;
    if (have < TM_PROXY_V2_HEAD)
        return TM_PROXY_MORE;
    header->size = TM_PROXY_V2_HEAD + two_bytes(bytes + 14);
    if (header->size > TM_PROXY_MAX)
        return TM_PROXY_TOO_LONG;
    return have < header->size ? TM_PROXY_MORE : parse_whole_v2(bytes, header);
}

enum tm_proxy_result tm_proxy_parse(const unsigned char *bytes, size_t have, uint32_t versions,
                                    struct tm_proxy_header *header)
{
    bool first = BEGINS(bytes, have, v1_start), second = !first && BEGINS(bytes, have, v2_start);
    *header = (struct tm_proxy_header){0};
    if (have == 0)
        return TM_PROXY_MORE;
    if (!first && !second)
        return TM_PROXY_MISSING;
    if (!(versions & (first ? TM_PROXY_V1 : TM_PROXY_V2)))
        return have < (first ? sizeof(v1_start) : sizeof(v2_start)) ? TM_PROXY_MORE
                                                                    : TM_PROXY_VERSION;
    if (have < (first ? sizeof(v1_start) : sizeof(v2_start)))
        return TM_PROXY_MORE;
    return first ? parse_v1(bytes, have, header) : parse_v2(bytes, have, header);
}

/* --- writing -------------------------------------------------------------------------------- */

/* As IPv6, where one of the two is. */
static struct tm_peer widened(const struct tm_peer *peer)
{
    struct tm_peer wide = *peer;
    if (peer->family == AF_INET) {
        wide = (struct tm_peer){.family = AF_INET6, .port = peer->port};
        wide.ip[10] = wide.ip[11] = 0xff;
        memcpy(wide.ip + 12, peer->ip, 4);
    }
    return wide;
}

static uint32_t write_v1(unsigned char bytes[TM_PROXY_V1_MAX], const struct tm_peer *client,
                         const struct tm_peer *to, bool is_known)
{
    static const char unknown[] = "PROXY UNKNOWN\r\n";
    char *line = (char *)bytes, *at = line;
    if (!is_known)
        return (uint32_t)(tm_text(at, unknown, sizeof(unknown) - 1) - line);
    at = tm_text(at, client->family == AF_INET ? "PROXY TCP4 " : "PROXY TCP6 ", 11);
    at = tm_text_char(tm_text_ip(at, client->family, client->ip), ' ');
    at = tm_text_char(tm_text_ip(at, to->family, to->ip), ' ');
    at = tm_text_char(tm_text_number(at, client->port), ' ');
    at = tm_text(tm_text_number(at, to->port), "\r\n", 2);
    return (uint32_t)(at - line);
}

static void put_two(unsigned char *at, uint32_t value)
{
    at[0] = (unsigned char)(value >> 8);
    at[1] = (unsigned char)value;
}

static uint32_t write_v2(unsigned char bytes[TM_PROXY_V1_MAX], const struct tm_peer *client,
                         const struct tm_peer *to, bool is_known)
{
    bool four = client->family == AF_INET;
    size_t ip = four ? 4 : 16;
    uint32_t size = is_known ? (uint32_t)(2 * ip + 4) : 0;
    unsigned char *at = bytes + TM_PROXY_V2_HEAD;
    memcpy(bytes, v2_start, sizeof(v2_start));
    bytes[12] = (unsigned char)(0x20 | (is_known ? COMMAND_PROXY : COMMAND_LOCAL));
    bytes[13] = !is_known ? 0
                : four    ? FAMILY_INET << 4 | OVER_STREAM
                          : FAMILY_INET6 << 4 | OVER_STREAM;
    put_two(bytes + 14, size);
    if (is_known) {
        memcpy(at, client->ip, ip);
        memcpy(at + ip, to->ip, ip);
        put_two(at + 2 * ip, client->port);
        put_two(at + 2 * ip + 2, to->port);
    }
    return TM_PROXY_V2_HEAD + size;
}

uint32_t tm_proxy_write(unsigned char bytes[TM_PROXY_V1_MAX], uint32_t version,
                        const struct tm_peer *client, const struct tm_peer *to)
{
    bool is_known = (client->family == AF_INET || client->family == AF_INET6) &&
                    (to->family == AF_INET || to->family == AF_INET6);
    bool differ = client->family != to->family;
    struct tm_peer from = differ ? widened(client) : *client, there = differ ? widened(to) : *to;
    return version == 1 ? write_v1(bytes, &from, &there, is_known)
                        : write_v2(bytes, &from, &there, is_known);
}

static void make_unix(unsigned char *bytes)
{
    bytes[12] = 0x20 | COMMAND_PROXY;
    bytes[13] = FAMILY_UNIX << 4 | OVER_STREAM;
    put_two(bytes + 14, address_sizes[FAMILY_UNIX]);
    memset(bytes + TM_PROXY_V2_HEAD, 0, address_sizes[FAMILY_UNIX]);
}

uint32_t tm_proxy_add(unsigned char *bytes, uint32_t size, uint8_t type, const void *value,
                      uint16_t value_size)
{
    if ((bytes[12] & 15) == COMMAND_LOCAL) {
        make_unix(bytes);
        size = TM_PROXY_ADDRESSES_MAX;
    }
    bytes[size] = type;
    put_two(bytes + size + 1, value_size);
    memcpy(bytes + size + 3, value, value_size);
    size += 3u + value_size;
    put_two(bytes + 14, size - TM_PROXY_V2_HEAD);
    return size;
}

void tm_proxy_set_checksum(unsigned char *bytes, uint32_t size)
{
    uint32_t crc = tm_crc32c(0, bytes, size);
    put_two(bytes + size - 4, crc >> 16);
    put_two(bytes + size - 2, crc);
}
