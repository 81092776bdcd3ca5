/* The rule that a connection meets: the rest of what it may be moved to is that of its split. */
#ifndef TM_CONN_RULES_H
#define TM_CONN_RULES_H

#include "worker.h"

/* The first rule of the route that the connection meets, noted in its record and counted; NULL =
 * none. It may be met again, by another one after a reload, until a destination is picked. */
const struct tm_pick_rule *tm_rule_meet(struct tm_worker *w, uint32_t index,
                                        const struct tm_route *route);

/* By which a connection of this route was picked: its rule's or, without one or when a reload has
 * removed that, the route's. */
const struct tm_split *tm_split_of(const struct tm_worker *w, uint32_t index,
                                   const struct tm_route *route);

/* Whether rules of the route are about TLVs of this type. */
bool tm_rules_ask_for_tlv(const struct tm_worker *w, const struct tm_route *route, uint8_t type);

#endif
