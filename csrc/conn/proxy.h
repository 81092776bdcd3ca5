/* The header of the PROXY protocol, in front of connections from the route's `senders`.
 *
 * It stays in the socket until it is whole. Then, in this order: the peer's address is kept in the
 * annex, the client becomes the one that the header names, and half[TM_CLIENT].base says that the
 * socket begins with so many bytes that nobody gets. A death in between repeats what is left of it:
 * until the base says so the header is read again. The first read of the relay drops it, or whoever
 * looks at the client's bytes before that: preface.c.
 *
 * From then on `client` is who the header named: for limits, hashes, lists and logs. What is done
 * with the socket goes by tm_peer_of().
 */
#ifndef TM_CONN_PROXY_H
#define TM_CONN_PROXY_H

#include "known.h"

/* Whether its header was there, and is known. */
static inline bool tm_proxy_is_taken(const struct tm_worker *w, uint32_t index)
{
    uint64_t base = w->records[index].half[TM_CLIENT].base;
    return tm_base_consumed(base) > 0 || tm_base_skipped(base) > 0;
}

/* Who is at the other end of the client's socket. */
static inline const struct tm_peer *tm_peer_of(struct tm_worker *w, uint32_t index)
{
    const struct tm_known *known = tm_known_of(w, index);
    return known && known->peer.family ? &known->peer : &w->colds[index].client;
}

#endif
