/* Clients by address, counted over all workers: commons.h. */
#include "commons.h"

#include <string.h>
#include <sys/socket.h>

static uint64_t rotate(uint64_t value, int bits)
{
    return value << bits | value >> (64 - bits);
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1], v[1] = rotate(v[1], 13) ^ v[0], v[0] = rotate(v[0], 32);
    v[2] += v[3], v[3] = rotate(v[3], 16) ^ v[2];
    v[0] += v[3], v[3] = rotate(v[3], 21) ^ v[0];
    v[2] += v[1], v[1] = rotate(v[1], 17) ^ v[2], v[2] = rotate(v[2], 32);
}

uint64_t tm_keyed_hash(const uint64_t secret[2], const unsigned char *bytes, uint32_t length)
{
    uint64_t v[4] = {secret[0] ^ 0x736f6d6570736575ull, secret[1] ^ 0x646f72616e646f6dull,
                     secret[0] ^ 0x6c7967656e657261ull, secret[1] ^ 0x7465646279746573ull};
    uint32_t at = 0;
    bool last;
    do {
        unsigned char block[8] = {0};
        uint32_t part = length - at < 8 ? length - at : 8;
        uint64_t word = 0;
        last = part < 8;
        memcpy(block, bytes + at, part);
        if (last)
            block[7] = (unsigned char)length;
        for (int i = 7; i >= 0; i--)
            word = word << 8 | block[i];
        v[3] ^= word;
        sip_round(v);
        v[0] ^= word;
        at += part;
    } while (!last);
    v[2] ^= 0xff;
    for (int i = 0; i < 3; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

uint64_t tm_source_key(const struct tm_commons *commons, uint32_t route_slot, uint16_t family,
                       const unsigned char ip[16])
{
    static const unsigned char MAPPED[12] = {[10] = 0xff, [11] = 0xff};
    unsigned char bytes[13] = {0};
    memcpy(bytes, &route_slot, sizeof(route_slot));
    bytes[4] = family == AF_INET6;
    if (family == AF_INET) {
        memcpy(bytes + 5, ip, 4);
    } else if (family == AF_INET6 && memcmp(ip, MAPPED, sizeof(MAPPED)) == 0) {
        bytes[4] = 0; /* an IPv4 client on an IPv6 socket */
        memcpy(bytes + 5, ip + 12, 4);
    } else {
        memcpy(bytes + 5, ip, 8);
    }
    uint64_t key = tm_keyed_hash(commons->secret, bytes, sizeof(bytes)) & TM_KEY_MASK;
    return key ? key : 1;
}

static bool is_free(const struct tm_source *source, const struct tm_counted *read, uint64_t now_ns)
{
    return (read->cell & TM_NO_LIMIT) == 0 &&
           ((read->key & TM_KEY_MASK) == 0 ||
            atomic_load_explicit(&source->connects_ns, memory_order_relaxed) <= now_ns);
}

static bool has_double(const struct tm_source *set, uint64_t key, uint32_t own)
{
    for (uint32_t way = 0; way < TM_SOURCE_WAYS; way++)
        if (way != own && (tm_counted_read(&set[way].connections).key & TM_KEY_MASK) == key)
            return true;
    return false;
}

/* Takes back what was counted in an entry that is not the only one of its client. */
static void withdraw(struct tm_commons *commons, struct tm_counted *at, struct tm_intent *intent)
{
    struct tm_counted was;
    uint64_t count;
    tm_intent_begin(intent, TM_COUNT_DOWN, intent->what);
    do {
        was = tm_counted_read(at);
        count = (was.cell & TM_NO_LIMIT) - 1;
    } while (!tm_counted_sign(commons, at, was, count ? was.key : 0, count, intent));
    tm_intent_begin(intent, TM_COUNT_UP, intent->what);
}

int tm_source_up(struct tm_commons *commons, uint64_t key, uint64_t limit, uint64_t now_ns,
                 struct tm_intent *intent)
{
    uint32_t first = (uint32_t)(key % TM_SOURCE_SETS) * TM_SOURCE_WAYS;
    struct tm_source *set = &commons->sources[first];
    for (;;) {
        uint32_t entry = TM_SOURCE_WAYS;
        struct tm_counted was = {0, 0};
        bool is_new = true;
        for (uint32_t way = 0; way < TM_SOURCE_WAYS; way++) {
            struct tm_counted read = tm_counted_read(&set[way].connections);
            if ((read.key & TM_KEY_MASK) == key) {
                entry = way, was = read, is_new = false;
                break;
            }
            if (entry == TM_SOURCE_WAYS && is_free(&set[way], &read, now_ns))
                entry = way, was = read;
        }
        if (entry == TM_SOURCE_WAYS)
            return TM_SOURCE_NO_ROOM;
        uint64_t count = is_new ? 0 : was.cell & TM_NO_LIMIT;
        if (count >= limit)
            return TM_SOURCE_FULL;
        intent->source = first + entry;
        atomic_signal_fence(memory_order_seq_cst);
        if (!tm_counted_sign(commons, &set[entry].connections, was, key, count + 1, intent))
            continue;
        if (is_new)
            atomic_store_explicit(&set[entry].connects_ns, 0, memory_order_relaxed);
        atomic_thread_fence(memory_order_seq_cst);
        if (!has_double(set, key, entry))
            return (int)(first + entry);
        withdraw(commons, &set[entry].connections, intent);
    }
}
