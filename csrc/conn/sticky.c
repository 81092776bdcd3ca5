/* The destination that a sticky route's client belongs to. Runs in a worker. */
#include "conn/sticky.h"

#include "conn/known.h"
#include "proxy_header.h"

/* The sizes are as a region may have them. */
static uint32_t at_most(uint32_t size, uint32_t most)
{
    return size < most ? size : most;
}

/* Of the first TLV of a type that was kept, if there is one. */
static bool tlv_key(const struct tm_known *known, uint64_t salt, uint64_t type, uint64_t *key)
{
    uint32_t at = 0, end = at_most(known->tlvs_size, TM_TLVS_MAX);
    struct tm_proxy_tlv tlv;
    while (tm_proxy_next_tlv(known->tlvs, end, &at, &tlv)) {
        if (tlv.type != type)
            continue;
        *key = tm_sticky_key(salt, tlv.value, tlv.size);
        return true;
    }
    return false;
}

bool tm_sticky_key_of(struct tm_worker *w, uint32_t index, const struct tm_route *route,
                      uint64_t *key)
{
    const struct tm_route_rules *rules = &route->rules;
    const struct tm_peer *client = &w->colds[index].client;
    const uint32_t prefixes[2] = {(uint32_t)rules->sticky_ipv4, (uint32_t)rules->sticky_ipv6};
    const struct tm_known *known;
    switch ((enum tm_sticky_by)rules->sticky_by) {
    case TM_NOT_STICKY:
        return false;
    case TM_BY_SOURCE:
        if (client->family != AF_INET && client->family != AF_INET6)
            return false;
        *key = tm_sticky_address_key(rules->sticky_salt, client->family, client->ip, prefixes);
        return true;
    case TM_BY_SNI:
        known = tm_known_of(w, index);
        if (!known || !known->sni_size)
            return false;
        *key = tm_sticky_key(rules->sticky_salt, known->sni,
                             at_most(known->sni_size, TM_SNI_MAX));
        return true;
    case TM_BY_TLV:
        known = tm_known_of(w, index);
        return known && tlv_key(known, rules->sticky_salt, rules->sticky_tlv, key);
    }
    return false;
}

uint32_t tm_sticky_home(const struct tm_image *image, const struct tm_split *split, uint64_t key)
{
    for (uint32_t i = 0; i < split->contest_count;) {
        const struct tm_contest *contest = &image->contests[split->first_contest + i];
        const struct tm_contender *contenders = &image->contenders[contest->first];
        uint32_t best = tm_sticky_pick(contenders, contest->count, key);
        uint32_t gets = best < contest->count ? contenders[best].destination : TM_NEXT_CONTEST;
        if (gets < TM_LATER_CONTEST)
            return gets;
        i += 1 + (gets == TM_LATER_CONTEST ? contest->skip : 0);
    }
    return TM_NONE;
}

uint32_t tm_sticky_other(const struct tm_image *image, const struct tm_route *route,
                         const struct tm_split *split, uint64_t key, uint64_t not_these)
{
    const struct tm_contest *last;
    struct tm_contender others[TM_MAX_DESTINATIONS] = {{0}};
    uint32_t count = 0, best;
    if (!split->contest_count)
        return TM_NONE;
    last = &image->contests[split->first_contest + split->contest_count - 1];
    for (uint32_t i = 0; i < last->count && i < TM_MAX_DESTINATIONS; i++) {
        const struct tm_contender *other = &image->contenders[last->first + i];
        if (other->weight && other->destination < route->destination_count &&
            !(not_these >> other->destination & 1) &&
            image->destinations[route->first_destination + other->destination].turn_count)
            others[count++] = *other;
    }
    best = tm_sticky_pick(others, count, key);
    return best < count ? others[best].destination : TM_NONE;
}
