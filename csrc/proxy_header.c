/* The header of the PROXY protocol. Calls nothing but string functions and inet_pton(). */
#include "proxy_header.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

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

static bool begins(const unsigned char *bytes, size_t have, const unsigned char *start, size_t size)
{
    return memcmp(bytes, start, smaller(have, size)) == 0;
}

/* --- version 1 ------------------------------------------------------------------------------ */

/* One word of the line, without the space or the end behind it, NUL-terminated. */
struct word {
    char text[INET6_ADDRSTRLEN];
};

/* False: there is none, or it is longer than any that has a meaning. */
static bool next_word(const unsigned char **at, const unsigned char *end, struct word *word)
{
    const unsigned char *space = memchr(*at, ' ', (size_t)(end - *at));
    const unsigned char *behind = space ? space : end;
    size_t size = (size_t)(behind - *at);
    if (size == 0 || size >= sizeof(word->text))
        return false;
    memcpy(word->text, *at, size);
    word->text[size] = '\0';
    *at = space ? space + 1 : end;
    return memchr(word->text, '\0', size) == NULL && !(space && *at == end);
}

static bool read_port(const char *text, uint16_t *port)
{
    uint32_t value = 0;
    size_t size = strlen(text);
    if (size > 5 || (size > 1 && text[0] == '0'))
        return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9')
            return false;
        value = value * 10 + (uint32_t)(*text - '0');
    }
    *port = (uint16_t)value;
    return value <= UINT16_MAX;
}

/* Of a line's words behind TCP4 and TCP6: two addresses, two ports. */
static bool read_addresses(const unsigned char *at, const unsigned char *end, int family,
                           struct tm_proxy_header *header)
{
    struct word words[4];
    for (int i = 0; i < 4; i++)
        if (!next_word(&at, end, &words[i]))
            return false;
    header->client.family = header->to.family = (uint16_t)family;
    return at == end && inet_pton(family, words[0].text, header->client.ip) == 1 &&
           inet_pton(family, words[1].text, header->to.ip) == 1 &&
           read_port(words[2].text, &header->client.port) &&
           read_port(words[3].text, &header->to.port);
}

static enum tm_proxy_result parse_line(const unsigned char *at, const unsigned char *end,
                                       struct tm_proxy_header *header)
{
    static const unsigned char unknown[] = {'U', 'N', 'K', 'N', 'O', 'W', 'N'};
    size_t size = (size_t)(end - at);
    struct word word;
    if (size >= sizeof(unknown) && begins(at, size, unknown, sizeof(unknown)) &&
        (size == sizeof(unknown) || at[sizeof(unknown)] == ' '))
        return TM_PROXY_WHOLE; /* anything may follow */
    if (!next_word(&at, end, &word))
        return TM_PROXY_MALFORMED;
    int family = strcmp(word.text, "TCP4") == 0   ? AF_INET
                 : strcmp(word.text, "TCP6") == 0 ? AF_INET6
                                                  : AF_UNSPEC;
    if (family == AF_UNSPEC || !read_addresses(at, end, family, header))
        return TM_PROXY_MALFORMED;
    header->has_client = true;
    return TM_PROXY_WHOLE;
}

static enum tm_proxy_result parse_v1(const unsigned char *bytes, size_t have,
                                     struct tm_proxy_header *header)
{
    size_t seen = smaller(have, TM_PROXY_V1_MAX);
    const unsigned char *lf = memchr(bytes, '\n', seen);
    const unsigned char *cr = memchr(bytes, '\r', seen);
    if (!lf && cr && cr + 1 < bytes + seen)
        return TM_PROXY_MALFORMED; /* what follows a CR is not its LF */
    if (!lf)
        return seen < TM_PROXY_V1_MAX ? TM_PROXY_MORE : TM_PROXY_TOO_LONG;
    if (cr != lf - 1)
        return TM_PROXY_MALFORMED;
    header->size = (uint32_t)(lf + 1 - bytes);
    header->tlvs_at = header->size;
    return parse_line(bytes + sizeof(v1_start), cr, header);
}

/* --- version 2 ------------------------------------------------------------------------------ */

static uint32_t two_bytes(const unsigned char *at)
{
    return (uint32_t)at[0] << 8 | at[1];
}

/* A reflected CRC, a nibble at a time: headers are short. */
uint32_t tm_crc32c(uint32_t crc, const unsigned char *bytes, size_t size)
{
    static const uint32_t nibbles[16] = {
        0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3,
        0x61c69362, 0x7198540d, 0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
        0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
    };
    crc = ~crc;
    for (size_t i = 0; i < size; i++) {
        crc ^= bytes[i];
        crc = crc >> 4 ^ nibbles[crc & 15];
        crc = crc >> 4 ^ nibbles[crc & 15];
    }
    return ~crc;
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
    bool first = begins(bytes, have, v1_start, sizeof(v1_start));
    bool second = begins(bytes, have, v2_start, sizeof(v2_start));
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
    char from[INET6_ADDRSTRLEN] = "", there[INET6_ADDRSTRLEN] = "", line[TM_PROXY_V1_MAX + 1];
    int size;
    if (is_known && (!inet_ntop(client->family, client->ip, from, sizeof(from)) ||
                     !inet_ntop(to->family, to->ip, there, sizeof(there))))
        is_known = false;
    if (is_known)
        size = snprintf(line, sizeof(line), "PROXY TCP%c %s %s %u %u\r\n",
                        client->family == AF_INET ? '4' : '6', from, there, client->port,
                        to->port);
    else
        size = snprintf(line, sizeof(line), "PROXY UNKNOWN\r\n");
    memcpy(bytes, line, (size_t)size);
    return (uint32_t)size;
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
