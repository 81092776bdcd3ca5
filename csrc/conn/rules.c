/* Rules of a route. Runs in a worker. */
#include "conn/rules.h"

#include "conn/known.h"
#include "pick_rules.h"

static uint16_t at_most(uint32_t size, uint32_t most)
{
    return (uint16_t)(size < most ? size : most);
}

/* A client that says nothing in time is none of TLS: what it says later is not looked at. */
static uint8_t tls_of(const struct tm_known *known)
{
    switch ((enum tm_first_bytes)known->first_bytes) {
    case TM_FIRST_TLS:
        return TM_TLS_ONLY;
    case TM_FIRST_OTHER:
    case TM_FIRST_SILENT:
        return TM_TLS_NONE;
    case TM_UNREAD:
    case TM_FIRST_KINDS:
        break;
    }
    return TM_TLS_ANY;
}

static struct tm_facts facts_of(struct tm_worker *w, uint32_t index)
{
    const struct tm_cold *cold = &w->colds[index];
    const struct tm_known *known = tm_known_of(w, index);
    struct tm_facts facts = {
        .ip = cold->client.ip,
        .family = cold->client.family,
        .listener = cold->listener,
    };
    if (known) { /* the sizes are as a region may have them */
        facts.tls = tls_of(known);
        facts.sni = known->sni;
        facts.sni_size = at_most(known->sni_size, TM_SNI_MAX);
        facts.alpn = known->alpn;
        facts.alpn_size = at_most(known->alpn_size, TM_ALPN_MAX);
        facts.tlvs = known->tlvs;
        facts.tlvs_size = at_most(known->tlvs_size, TM_TLVS_MAX);
    }
    return facts;
}

/* It is a connection of the rule with this slot now; TM_NONE = of none. */
static void note(struct tm_worker *w, uint32_t index, uint32_t slot)
{
    struct tm_cold *cold = &w->colds[index];
    uint32_t before = cold->rule_slot;
    if (before == slot)
        return;
    cold->rule_slot = slot;
    atomic_signal_fence(memory_order_seq_cst); /* after a death it is counted: reconcile.h */
    if (before != TM_NONE)
        tm_count(&tm_slot_of(w, before)->closed[TM_CLOSED_passed_on], 1);
    if (slot != TM_NONE)
        tm_count(&tm_slot_of(w, slot)->opened, 1);
}

const struct tm_pick_rule *tm_rule_meet(struct tm_worker *w, uint32_t index,
                                        const struct tm_route *route)
{
    struct tm_facts facts = facts_of(w, index);
    uint32_t number = tm_rule_of(w->image, route, &facts);
    const struct tm_pick_rule *rule =
        number == TM_NONE ? NULL : &w->image->pick_rules[route->rule_set.first_rule + number];
    note(w, index, rule ? rule->slot : TM_NONE);
    return rule;
}

const struct tm_split *tm_split_of(const struct tm_worker *w, uint32_t index,
                                   const struct tm_route *route)
{
    const struct tm_pick_rule *rules = &w->image->pick_rules[route->rule_set.first_rule];
    uint32_t slot = w->colds[index].rule_slot;
    if (slot != TM_NONE)
        for (uint32_t i = 0; i < route->rule_set.rule_count; i++)
            if (rules[i].slot == slot)
                return &rules[i].split;
    return &route->split;
}

bool tm_rules_ask_for_tlv(const struct tm_worker *w, const struct tm_route *route, uint8_t type)
{
    const struct tm_route_rule_set *set = &route->rule_set;
    const struct tm_rule_value *values = &w->image->values[set->first_value];
    for (uint32_t i = 0; i < set->rule_count; i++) {
        const struct tm_list *tlvs = &w->image->pick_rules[set->first_rule + i].tlvs;
        for (uint32_t n = 0; n < tlvs->count; n++)
            if (values[tlvs->first + n].type == type)
                return true;
    }
    return false;
}
