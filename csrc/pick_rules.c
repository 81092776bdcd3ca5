/* Which rule a connection meets. Runs in workers, and in the master for `tcpmux explain`. */
#include "pick_rules.h"

#include <netinet/in.h>
#include <string.h>

#include "proxy_header.h"

uint64_t tm_name_hash(const char *name, size_t size, bool is_suffix)
{
    uint64_t hash = TM_NAME_HASH_START;
    while (size > 0)
        hash = tm_name_hash_step(hash, (unsigned char)name[--size]);
    return tm_name_hash_end(hash, is_suffix);
}

/* One search: the rules of a route, and the best so far. */
struct search {
    const struct tm_image *image;
    const struct tm_route_rule_set *set;
    const struct tm_facts *facts;
    uint32_t best; /* TM_NONE = none yet */
};

/* --- what each condition asks --------------------------------------------------------------- */

static bool has_listener(const struct search *s, const struct tm_list *listeners)
{
    const uint16_t *ids = &s->image->numbers[s->set->first_number + listeners->first];
    uint32_t low = 0, high = listeners->count;
    if (high == TM_NONE)
        return true;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (ids[middle] < s->facts->listener)
            low = middle + 1;
        else
            high = middle;
    }
    return low < listeners->count && ids[low] == s->facts->listener;
}

static bool is_value(const struct search *s, const struct tm_rule_value *value,
                     const unsigned char *bytes, size_t size)
{
    return value->size == size &&
           memcmp(&s->image->text[s->set->first_text + value->at], bytes, size) == 0;
}

static const struct tm_rule_value *value_at(const struct search *s, uint32_t at)
{
    return &s->image->values[s->set->first_value + at];
}

/* Whether the client offers it. */
static bool is_offered(const struct search *s, const struct tm_rule_value *protocol)
{
    const unsigned char *at = s->facts->alpn;
    size_t left = s->facts->alpn_size;
    while (left > 0 && at[0] < left) {
        size_t size = at[0];
        if (is_value(s, protocol, at + 1, size))
            return true;
        at += 1 + size;
        left -= 1 + size;
    }
    return false;
}

static bool has_protocol(const struct search *s, const struct tm_list *protocols)
{
    for (uint32_t i = 0; i < protocols->count; i++)
        if (is_offered(s, value_at(s, protocols->first + i)))
            return true;
    return protocols->count == 0;
}

static bool is_sent(const struct search *s, const struct tm_rule_value *tlv)
{
    struct tm_proxy_tlv sent;
    uint32_t at = 0;
    while (tm_proxy_next_tlv(s->facts->tlvs, s->facts->tlvs_size, &at, &sent))
        if (sent.type == tlv->type && is_value(s, tlv, sent.value, sent.size))
            return true;
    return false;
}

static bool has_tlvs(const struct search *s, const struct tm_list *tlvs)
{
    uint32_t i = 0;
    while (i < tlvs->count) {
        uint16_t type = value_at(s, tlvs->first + i)->type;
        bool found = false;
        for (; i < tlvs->count && value_at(s, tlvs->first + i)->type == type; i++)
            found = found || is_sent(s, value_at(s, tlvs->first + i));
        if (!found)
            return false;
    }
    return true;
}

/* All but its names, for which it is in the list that it was found in. */
static bool meets(const struct search *s, const struct tm_pick_rule *rule)
{
    return (rule->tls == TM_TLS_ANY || rule->tls == s->facts->tls) &&
           has_listener(s, &rule->listeners) &&
           has_protocol(s, &rule->protocols) && has_tlvs(s, &rule->tlvs) &&
           tm_in_ranges(s->image, &rule->sources, s->facts->family, s->facts->ip);
}

/* --- the lists ------------------------------------------------------------------------------ */

/* Looks for a better one among these. */
static void look_in(struct search *s, const struct tm_list *rules)
{
    const uint16_t *numbers = &s->image->numbers[s->set->first_number + rules->first];
    for (uint32_t i = 0; i < rules->count && numbers[i] < s->best; i++)
        if (meets(s, &s->image->pick_rules[s->set->first_rule + numbers[i]])) {
            s->best = numbers[i];
            return;
        }
}

static void look_by_source(struct search *s)
{
    const struct tm_segment *segments = &s->image->segments[s->set->segments.first];
    uint32_t low = 0, high = s->set->segments.count;
    struct tm_wide address = tm_wide_of(s->facts->family, s->facts->ip);
    while (low < high) { /* the first segment that begins behind it */
        uint32_t middle = low + (high - low) / 2;
        const uint64_t *first = segments[middle].first;
        if (tm_wide_is_less(address, (struct tm_wide){first[0], first[1]}))
            high = middle;
        else
            low = middle + 1;
    }
    if (low > 0)
        look_in(s, &segments[low - 1].rules);
}

/* The rules of a name, or of the end of one. */
static void look_by_hash(struct search *s, uint64_t hash, const char *name, size_t size,
                         bool is_suffix)
{
    const struct tm_rule_name *names = &s->image->names[s->set->names.first];
    uint32_t low = 0, high = s->set->names.count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (names[middle].hash < hash)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < s->set->names.count && names[low].hash == hash; low++)
        if (names[low].is_suffix == is_suffix && names[low].size == size &&
            memcmp(&s->image->text[s->set->first_text + names[low].at], name, size) == 0)
            look_in(s, &names[low].rules);
}

static void look_by_name(struct search *s)
{
    const char *name = s->facts->sni;
    uint64_t hash = TM_NAME_HASH_START;
    for (size_t at = s->facts->sni_size; at > 0; at--) {
        if (name[at - 1] == '.' && at > 1)
            look_by_hash(s, tm_name_hash_end(hash, true), name + at, s->facts->sni_size - at, true);
        hash = tm_name_hash_step(hash, (unsigned char)name[at - 1]);
    }
    look_by_hash(s, tm_name_hash_end(hash, false), name, s->facts->sni_size, false);
}

uint32_t tm_rule_of(const struct tm_image *image, const struct tm_route *route,
                    const struct tm_facts *facts)
{
    struct search search = {image, &route->rule_set, facts, TM_NONE};
    if (route->rule_set.segments.count)
        look_by_source(&search);
    if (route->rule_set.names.count && facts->sni_size)
        look_by_name(&search);
    look_in(&search, &route->rule_set.others);
    return search.best;
}
