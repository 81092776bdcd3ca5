/* A whole hello is the same however it is cut and whatever records it is in, what comes before its
 * end is MORE, and a refusal stays one whatever follows. */
#include "client_hello.h"

#include "fuzz.h"

enum { CUTS = 6, LIMIT = 16384 };

static enum tm_hello_result parse(const uint8_t *bytes, size_t size, struct tm_hello *hello)
{
    uint8_t *exact = exact_copy(bytes, size);
    enum tm_hello_result result = tm_hello_parse(exact, size, LIMIT, hello);
    free(exact);
    if (result == TM_HELLO_MORE)
        HOLDS(hello->need > size && hello->need <= TM_HELLO_STREAM);
    if (result == TM_HELLO_WHOLE) {
        HOLDS(hello->size <= size && hello->sni_size <= TM_SNI_MAX);
        HOLDS(strlen(hello->sni) == hello->sni_size && hello->alpn_size <= TM_ALPN_MAX);
    }
    return result;
}

static int is_same(const struct tm_hello *one, const struct tm_hello *other)
{
    return one->sni_size == other->sni_size && one->alpn_size == other->alpn_size &&
           memcmp(one->sni, other->sni, one->sni_size) == 0 &&
           memcmp(one->alpn, other->alpn, one->alpn_size) == 0;
}

/* The same message in other records. */
static void cut_anew(const uint8_t *data, const struct tm_hello *hello, uint32_t state)
{
    static uint8_t message[TM_HELLO_STREAM], stream[6 * LIMIT];
    size_t size = 0, made = 0;
    for (size_t at = 0; at < hello->size;) {
        size_t part = (size_t)data[at + 3] << 8 | data[at + 4];
        at += 5;
        part = part < hello->size - at ? part : hello->size - at;
        memcpy(message + size, data + at, part);
        size += part;
        at += part;
    }
    uint32_t most = 1u << next_number(&state) % 12;
    for (size_t at = 0; at < size;) {
        size_t part = 1 + next_number(&state) % most;
        part = part < size - at ? part : size - at;
        const uint8_t head[5] = {22, 3, (uint8_t)next_number(&state), (uint8_t)(part >> 8),
                                 (uint8_t)part};
        memcpy(stream + made, head, sizeof(head));
        memcpy(stream + made + sizeof(head), message + at, part);
        made += sizeof(head) + part;
        at += part;
    }
    struct tm_hello other;
    enum tm_hello_result result = parse(stream, made, &other);
    if (made > TM_HELLO_STREAM)
        HOLDS(result == TM_HELLO_TOO_LONG);
    else
        HOLDS(result == TM_HELLO_WHOLE && other.size == made && is_same(hello, &other));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tm_hello hello, other;
    enum tm_hello_result result = parse(data, size, &hello);
    uint32_t state = first_number(data, size);
    size_t end = result == TM_HELLO_WHOLE ? hello.size : size;
    for (int i = 0; i < CUTS && end; i++) {
        size_t cut = next_number(&state) % end;
        enum tm_hello_result part = parse(data, cut, &other);
        if (result == TM_HELLO_WHOLE)
            HOLDS(part == TM_HELLO_MORE && other.need <= hello.size);
        else
            HOLDS(part == TM_HELLO_MORE || (result != TM_HELLO_MORE && part == result));
    }
    if (result == TM_HELLO_WHOLE) {
        HOLDS(parse(data, hello.size, &other) == TM_HELLO_WHOLE && is_same(&hello, &other));
        cut_anew(data, &hello, state);
    }
    return 0;
}
