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

/* What is left of a part of it. */
struct part {
    const unsigned char *at, *end;
};

static uint32_t left_of(const struct part *part)
{
    return (uint32_t)(part->end - part->at);
}

/* The message without the heads of its records, which were crossed before: as it lies there if it
 * is in one, as nearly always; else it is put together in `bytes`. */
static struct part whole_message(unsigned char *bytes, struct place start, uint32_t size)
{
    enum tm_hello_result result = enter(&start);
    unsigned char *first = bytes + start.at, *to = first;
    while (result == TM_HELLO_WHOLE && start.left < size - start.offset) {
        uint32_t piece = start.left;
        memmove(to, bytes + start.at, piece);
        to += piece;
        advance(&start, piece);
        result = enter(&start);
    }
    assert(result == TM_HELLO_WHOLE); /* cross() has been there */
    if (start.offset)
        memmove(to, bytes + start.at, size - start.offset);
    return (struct part){first, first + size};
}

/* False: less than that is left. */
static bool skip(struct part *part, uint32_t size)
{
    if (size > left_of(part))
        return false;
    part->at += size;
    return true;
}

static bool read_one(struct part *part, uint32_t *number)
{
    if (part->at == part->end)
        return false;
    *number = *part->at++;
    return true;
}

static bool read_two(struct part *part, uint32_t *number)
{
    if (left_of(part) < 2)
        return false;
    *number = two_bytes(part->at);
    part->at += 2;
    return true;
}

/* A length, which takes one byte or two, and what is so long. */
static bool read_vector(struct part *part, uint32_t bytes, struct part *vector)
{
    uint32_t size;
    if (!(bytes == 1 ? read_one(part, &size) : read_two(part, &size)) || size > left_of(part))
        return false;
    *vector = (struct part){part->at, part->at + size};
    part->at += size;
    return true;
}

/* The same of all that is left of a part, and not of nothing. */
static bool read_list(const struct part *part, struct part *list)
{
    struct part all = *part;
    return read_vector(&all, 2, list) && all.at == all.end && list->at < list->end;
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
static void keep_name(const struct part *name, struct tm_hello *hello)
{
    uint32_t size = left_of(name);
    if (size > TM_SNI_MAX)
        return;
    for (uint32_t i = 0; i < size; i++) {
        unsigned char byte = name->at[i];
        hello->sni[i] = (char)(byte >= 'A' && byte <= 'Z' ? byte + ('a' - 'A') : byte);
    }
    if (size && hello->sni[size - 1] == '.')
        size--;
    hello->sni_size = is_host_name(hello->sni, size) ? (uint8_t)size : 0;
    hello->sni[hello->sni_size] = '\0';
}

/* At most one host name. */
static bool read_server_name(const struct part *extension, struct tm_hello *hello)
{
    struct part list, name;
    bool has_name = false;
    if (!read_list(extension, &list))
        return false;
    while (list.at < list.end) {
        uint32_t type;
        if (!read_one(&list, &type) || !read_vector(&list, 2, &name) || name.at == name.end)
            return false;
        if (type != HOST_NAME)
            continue;
        if (has_name)
            return false;
        has_name = true;
        keep_name(&name, hello);
    }
    return true;
}

static bool read_alpn(const struct part *extension, struct tm_hello *hello)
{
    struct part list, name;
    bool has_room = true;
    if (!read_list(extension, &list))
        return false;
    while (list.at < list.end) {
        if (!read_vector(&list, 1, &name) || name.at == name.end)
            return false;
        uint32_t size = 1 + left_of(&name);
        has_room = has_room && hello->alpn_size + size <= TM_ALPN_MAX;
        if (has_room) {
            memcpy(hello->alpn + hello->alpn_size, name.at - 1, size);
            hello->alpn_size = (uint8_t)(hello->alpn_size + size);
        }
        hello->alpn_cut = !has_room;
    }
    return true;
}

/* --- the message ---------------------------------------------------------------------------- */

static bool read_extensions(struct part *all, struct tm_hello *hello)
{
    bool has_name = false, has_alpn = false;
    while (all->at < all->end) {
        struct part extension;
        uint32_t type;
        if (!read_two(all, &type) || !read_vector(all, 2, &extension))
            return false;
        if (type == EXTENSION_SERVER_NAME) {
            if (has_name || !read_server_name(&extension, hello))
                return false;
            has_name = true;
        } else if (type == EXTENSION_ALPN) {
            if (has_alpn || !read_alpn(&extension, hello))
                return false;
            has_alpn = true;
        }
    }
    return true;
}

/* Of a whole one. */
static bool read_hello(struct part hello_left, struct tm_hello *hello)
{
    struct part *left = &hello_left, part;
    uint32_t version;
    if (!skip(left, MESSAGE_HEAD) || !read_two(left, &version) || version >> 8 != MAJOR ||
        !skip(left, RANDOM))
        return false;
    if (!read_vector(left, 1, &part) || left_of(&part) > SESSION_ID_MAX)
        return false;
    if (!read_vector(left, 2, &part) || part.at == part.end || left_of(&part) % 2)
        return false; /* cipher suites */
    if (!read_vector(left, 1, &part) || part.at == part.end)
        return false; /* compression */
    if (left->at == left->end)
        return true; /* before TLS 1.3 one may end here */
    return read_vector(left, 2, &part) && left->at == left->end && read_extensions(&part, hello);
}

enum tm_hello_result tm_hello_parse(unsigned char *bytes, size_t have, uint32_t limit,
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
    return read_hello(whole_message(bytes, start, size), hello) ? TM_HELLO_WHOLE
                                                                : TM_HELLO_MALFORMED;
}
