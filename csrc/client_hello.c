/* The ClientHello of TLS. Calls nothing but string functions. */
#include "client_hello.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

enum {
    HANDSHAKE = 22, /* of record */
    MAJOR = 3,      /* of every version of TLS */
    RECORD_HEAD = 5,
    RECORD_MAX = 1 << 14,
    CLIENT_HELLO = 1, /* of message */
    MESSAGE_HEAD = 4,
    RANDOM = 32,
    SESSION_ID_MAX = 32,
    EXTENSION_SERVER_NAME = 0,
    EXTENSION_ALPN = 16,
    HOST_NAME = 0,
    NAME_MAX = 253, /* bytes of a host name without the last dot, */
    LABEL_MAX = 63, /* and of its parts */
};

static size_t smaller(size_t one, size_t other)
{
    return one < other ? one : other;
}

static uint32_t two_bytes(const unsigned char *at)
{
    return (uint32_t)at[0] << 8 | at[1];
}

/* --- records -------------------------------------------------------------------------------- */

/* A place in the stream, and in the message that its records carry. */
struct place {
    const unsigned char *bytes;
    size_t have;
    size_t at;       /* of the stream */
    uint32_t left;   /* bytes of the current record from there on */
    uint32_t offset; /* in the message */
};

/* Goes into the record whose head is next. */
static enum tm_hello_result enter(struct place *place)
{
    const unsigned char *head = place->bytes + place->at;
    size_t seen = place->have - place->at;
    if ((seen > 0 && head[0] != HANDSHAKE) || (seen > 1 && head[1] != MAJOR))
        return place->at ? TM_HELLO_MALFORMED : TM_HELLO_OTHER;
    if (seen < RECORD_HEAD)
        return TM_HELLO_MORE;
    place->at += RECORD_HEAD;
    place->left = two_bytes(head + 3);
    return place->left == 0 || place->left > RECORD_MAX ? TM_HELLO_MALFORMED : TM_HELLO_WHOLE;
}

static void advance(struct place *place, uint32_t size)
{
    place->at += size;
    place->left -= size;
    place->offset += size;
}

/* How many bytes of the stream there must be for `size` of the message, as far as can be told. */
static size_t needed(const struct place *place, uint32_t size)
{
    uint32_t rest = size - place->offset;
    return place->at + rest + (rest > place->left ? RECORD_HEAD : 0);
}

/* The head of the message as far as it is there: its size, at least that of the head. */
static enum tm_hello_result read_size(struct place *place, unsigned char head[MESSAGE_HEAD],
                                      uint32_t *size)
{
    while (place->offset < MESSAGE_HEAD && place->left && place->at < place->have) {
        head[place->offset] = place->bytes[place->at];
        advance(place, 1);
    }
    if (place->offset > 0 && head[0] != CLIENT_HELLO)
        return TM_HELLO_OTHER;
    if (place->offset >= MESSAGE_HEAD)
        *size = MESSAGE_HEAD + ((uint32_t)head[1] << 16 | two_bytes(head + 2));
    return TM_HELLO_WHOLE;
}

/* Goes through the records up to the end of the message. *size: of the message, or of as much of it
 * as is wanted next. */
static enum tm_hello_result cross(struct place *place, uint32_t limit, uint32_t *size)
{
    unsigned char head[MESSAGE_HEAD] = {0};
    *size = MESSAGE_HEAD;
    while (place->offset < *size) {
        enum tm_hello_result result = place->left ? TM_HELLO_WHOLE : enter(place);
        if (result == TM_HELLO_WHOLE && place->offset < MESSAGE_HEAD)
            result = read_size(place, head, size);
        if (result != TM_HELLO_WHOLE)
            return result;
        if (*size > limit)
            return TM_HELLO_TOO_LONG;
        uint32_t part = (uint32_t)smaller(place->left, *size - place->offset);
        if (part > place->have - place->at)
            return TM_HELLO_MORE;
        if (place->offset >= MESSAGE_HEAD)
            advance(place, part);
    }
    return TM_HELLO_WHOLE;
}

/* --- a message that is whole ---------------------------------------------------------------- */

/* Bytes of the message that lie together, at most `most` of them. */
static const unsigned char *together(struct place *place, uint32_t most, uint32_t *size)
{
    if (place->left == 0) {
        enum tm_hello_result result = enter(place);
        assert(result == TM_HELLO_WHOLE); /* cross() has been there */
        (void)result;
    }
    *size = (uint32_t)smaller(place->left, most);
    return place->bytes + place->at;
}

static void copy(struct place *place, void *to, uint32_t size)
{
    unsigned char *into = to;
    while (size) {
        uint32_t part;
        const unsigned char *from = together(place, size, &part);
        if (into) {
            memcpy(into, from, part);
            into += part;
        }
        advance(place, part);
        size -= part;
    }
}

static void skip_to(struct place *place, uint32_t end)
{
    uint32_t size = end - place->offset;
    if (size <= place->left)
        advance(place, size);
    else
        copy(place, NULL, size);
}

/* False: less than that is left up to `end`. */
static bool read_number(struct place *place, uint32_t end, uint32_t bytes, uint32_t *number)
{
    unsigned char digits[2];
    assert(bytes <= sizeof(digits));
    const unsigned char *at = digits;
    if (end - place->offset < bytes)
        return false;
    if (bytes <= place->left) { /* as nearly always */
        at = place->bytes + place->at;
        advance(place, bytes);
    } else {
        copy(place, digits, bytes);
    }
    *number = bytes == 1 ? at[0] : two_bytes(at);
    return true;
}

/* A length, which takes `bytes`, and what is so long: where that ends. */
static bool read_vector(struct place *place, uint32_t end, uint32_t bytes, uint32_t *vector_end)
{
    uint32_t size;
    if (!read_number(place, end, bytes, &size) || size > end - place->offset)
        return false;
    *vector_end = place->offset + size;
    return true;
}

/* --- names ---------------------------------------------------------------------------------- */

static bool is_of_label(char byte)
{
    return (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9') || byte == '-' ||
           byte == '_';
}

/* Labels with dots between them, the last not a number: that is an address. */
static bool is_host_name(const char *name, uint32_t size)
{
    uint32_t label = 0;
    bool is_number = true;
    if (size > NAME_MAX)
        return false;
    for (uint32_t i = 0; i < size; i++) {
        if (name[i] == '.' ? label == 0 : label == LABEL_MAX || !is_of_label(name[i]))
            return false;
        is_number = name[i] == '.' || (is_number && name[i] >= '0' && name[i] <= '9');
        label = name[i] == '.' ? 0 : label + 1;
    }
    return label > 0 && !is_number;
}

/* One that is no host name is none: what it means to the server is the server's business. */
static void keep_name(struct place *place, uint32_t end, struct tm_hello *hello)
{
    uint32_t size = end - place->offset;
    if (size > TM_SNI_MAX)
        return;
    copy(place, hello->sni, size);
    for (uint32_t i = 0; i < size; i++)
        if (hello->sni[i] >= 'A' && hello->sni[i] <= 'Z')
            hello->sni[i] = (char)(hello->sni[i] + ('a' - 'A'));
    if (size && hello->sni[size - 1] == '.')
        size--;
    hello->sni_size = is_host_name(hello->sni, size) ? (uint8_t)size : 0;
    hello->sni[hello->sni_size] = '\0';
}

/* At most one host name. */
static bool read_server_name(struct place *place, uint32_t end, struct tm_hello *hello)
{
    uint32_t list_end, type, name_end;
    bool has_name = false;
    if (!read_vector(place, end, 2, &list_end) || list_end != end || place->offset == end)
        return false;
    while (place->offset < end) {
        if (!read_number(place, end, 1, &type) || !read_vector(place, end, 2, &name_end) ||
            place->offset == name_end)
            return false;
        if (type == HOST_NAME) {
            if (has_name)
                return false;
            has_name = true;
            keep_name(place, name_end, hello);
        }
        skip_to(place, name_end);
    }
    return true;
}

static bool read_alpn(struct place *place, uint32_t end, struct tm_hello *hello)
{
    uint32_t list_end, name_end;
    bool has_room = true;
    if (!read_vector(place, end, 2, &list_end) || list_end != end || place->offset == end)
        return false;
    while (place->offset < end) {
        if (!read_vector(place, end, 1, &name_end) || place->offset == name_end)
            return false;
        uint32_t size = name_end - place->offset;
        has_room = has_room && hello->alpn_size + 1 + size <= TM_ALPN_MAX;
        if (has_room) {
            hello->alpn[hello->alpn_size] = (unsigned char)size;
            copy(place, hello->alpn + hello->alpn_size + 1, size);
            hello->alpn_size = (uint8_t)(hello->alpn_size + 1 + size);
        }
        hello->alpn_cut = !has_room;
        skip_to(place, name_end);
    }
    return true;
}

/* --- the message ---------------------------------------------------------------------------- */

static bool read_extensions(struct place *place, uint32_t end, struct tm_hello *hello)
{
    bool has_name = false, has_alpn = false;
    while (place->offset < end) {
        uint32_t type, extension_end;
        if (!read_number(place, end, 2, &type) || !read_vector(place, end, 2, &extension_end))
            return false;
        if (type == EXTENSION_SERVER_NAME) {
            if (has_name || !read_server_name(place, extension_end, hello))
                return false;
            has_name = true;
        } else if (type == EXTENSION_ALPN) {
            if (has_alpn || !read_alpn(place, extension_end, hello))
                return false;
            has_alpn = true;
        }
        skip_to(place, extension_end);
    }
    return true;
}

/* Of a whole one, up to `end`. */
static bool read_hello(struct place *place, uint32_t end, struct tm_hello *hello)
{
    uint32_t version, part_end;
    skip_to(place, MESSAGE_HEAD);
    if (!read_number(place, end, 2, &version) || version >> 8 != MAJOR ||
        end - place->offset < RANDOM)
        return false;
    skip_to(place, place->offset + RANDOM);
    if (!read_vector(place, end, 1, &part_end) || part_end - place->offset > SESSION_ID_MAX)
        return false;
    skip_to(place, part_end);
    if (!read_vector(place, end, 2, &part_end) || part_end == place->offset ||
        (part_end - place->offset) % 2)
        return false;
    skip_to(place, part_end); /* cipher suites */
    if (!read_vector(place, end, 1, &part_end) || part_end == place->offset)
        return false;
    skip_to(place, part_end); /* compression */
    if (place->offset == end)
        return true; /* before TLS 1.3 one may end here */
    return read_vector(place, end, 2, &part_end) && part_end == end &&
           read_extensions(place, end, hello);
}

enum tm_hello_result tm_hello_parse(const unsigned char *bytes, size_t have, uint32_t limit,
                                    struct tm_hello *hello)
{
    struct place start = {.bytes = bytes, .have = smaller(have, TM_HELLO_STREAM)}, place = start;
    uint32_t size;
    hello->size = hello->need = 0;
    hello->sni_size = hello->alpn_size = hello->alpn_cut = 0;
    hello->sni[0] = '\0';
    enum tm_hello_result result = cross(&place, limit, &size);
    if (result == TM_HELLO_MORE) {
        size_t need = needed(&place, size);
        hello->need = (uint32_t)need;
        return need > TM_HELLO_STREAM ? TM_HELLO_TOO_LONG : TM_HELLO_MORE;
    }
    if (result != TM_HELLO_WHOLE)
        return result;
    hello->size = (uint32_t)place.at;
    return read_hello(&start, size, hello) ? TM_HELLO_WHOLE : TM_HELLO_MALFORMED;
}
