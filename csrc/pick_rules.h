/* The rules of a route: the first that a connection meets decides how it is picked.
 *
 *     rule = tm_rule_of(image, route, facts)        TM_NONE: none, so the route's weights do
 *
 * Whichever order the lists of a route's rules are looked at in, the answer is the rule with the
 * lowest number that meets the facts. A rule is in one list for each of its names, or in one for
 * each segment of addresses that its sources cover, or in the list of the others. So it takes
 *
 *     log(segments)  +  labels of the name * log(names)  +  rules of these lists that don't match
 *
 * and with rules that have sources or names only, the last of these is 1. shm/rule_index.py makes
 * the lists, in the master. config/rule_match.py does the same for an operator, in Python.
 */
#ifndef TM_PICK_RULES_H
#define TM_PICK_RULES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pick.h"
#include "route_table.h"

/* What rules ask about. */
struct tm_facts {
    const unsigned char *ip; /* of the client: 4 or 16 bytes, by its family */
    uint16_t family;
    uint16_t listener;       /* id of the one that took the connection */
    uint8_t tls;             /* enum tm_rule_tls: TM_TLS_ANY = its first bytes were not read */
    uint16_t sni_size;       /* 0 = no name was asked for */
    uint16_t alpn_size;
    uint16_t tlvs_size;
    const char *sni;           /* in lower case, without a dot at its end */
    const unsigned char *alpn; /* protocols, each behind its size in one byte */
    const unsigned char *tlvs; /* each: type, size in two bytes, value */
};

/* Of a name's bytes, the last one first: so those of all its ends come by the way. */
static inline uint64_t tm_name_hash_step(uint64_t hash, unsigned char byte)
{
    return (hash ^ byte) * 0x100000001b3ull; /* FNV-1a */
}

#define TM_NAME_HASH_START 0xcbf29ce484222325ull

static inline uint64_t tm_name_hash_end(uint64_t hash, bool is_suffix)
{
    return tm_mix(hash + is_suffix);
}

uint64_t tm_name_hash(const char *name, size_t size, bool is_suffix);

/* The number in the route of the first rule that the facts meet; TM_NONE = there is none. */
uint32_t tm_rule_of(const struct tm_image *image, const struct tm_route *route,
                    const struct tm_facts *facts);

#endif
