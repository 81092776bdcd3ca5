/* A whole header is the same whatever follows it, what comes before its end is MORE, and a refusal
 * stays one. What is written of what was read is read as the same. */
#include "proxy_header.h"

#include <sys/socket.h>

#include "fuzz.h"

enum { CUTS = 6, BOTH = TM_PROXY_V1 | TM_PROXY_V2 };

static enum tm_proxy_result parse(const uint8_t *bytes, size_t size, struct tm_proxy_header *header)
{
    uint8_t *exact = exact_copy(bytes, size);
    enum tm_proxy_result result = tm_proxy_parse(exact, size, BOTH, header);
    struct tm_proxy_tlv tlv;
    if (result == TM_PROXY_WHOLE) {
        HOLDS(header->size <= size && header->tlvs_at <= header->size);
        for (uint32_t at = header->tlvs_at; tm_proxy_next_tlv(exact, header->size, &at, &tlv);)
            HOLDS(tlv.value >= exact && tlv.value + tlv.size <= exact + header->size);
    }
    free(exact);
    return result;
}

static int is_same(const struct tm_proxy_header *one, const struct tm_proxy_header *other)
{
    return one->size == other->size && one->has_client == other->has_client &&
           memcmp(&one->client, &other->client, sizeof(one->client)) == 0 &&
           memcmp(&one->to, &other->to, sizeof(one->to)) == 0;
}

static void write_anew(const struct tm_proxy_header *header)
{
    for (uint32_t version = 1; version <= 2; version++) {
        uint8_t bytes[TM_PROXY_V1_MAX];
        struct tm_proxy_header other;
        uint32_t size = tm_proxy_write(bytes, version, &header->client, &header->to);
        HOLDS(parse(bytes, size, &other) == TM_PROXY_WHOLE && other.size == size);
        HOLDS(memcmp(&other.client, &header->client, sizeof(other.client)) == 0);
        HOLDS(memcmp(&other.to, &header->to, sizeof(other.to)) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tm_proxy_header header, other;
    enum tm_proxy_result result = parse(data, size, &header);
    uint32_t state = first_number(data, size);
    size_t end = result == TM_PROXY_WHOLE ? header.size : size;
    for (int i = 0; i < CUTS && end; i++) {
        enum tm_proxy_result part = parse(data, next_number(&state) % end, &other);
        if (result == TM_PROXY_WHOLE)
            HOLDS(part == TM_PROXY_MORE);
        else
            HOLDS(part == TM_PROXY_MORE || (result != TM_PROXY_MORE && part == result));
    }
    if (result == TM_PROXY_WHOLE) {
        HOLDS(parse(data, header.size, &other) == TM_PROXY_WHOLE && is_same(&header, &other));
        if (header.has_client)
            write_anew(&header);
    }
    return 0;
}
