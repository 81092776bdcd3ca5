/* Detects connections that come from this instance itself. A loop that no configuration file shows,
 * such as a NAT that leads an endpoint's address back to a listener, would forward one client's
 * connection until every record is in use.
 *
 * WRITERS and READERS  every worker; struct tm_traces in the commons, by single stores and loads.
 *
 * A worker that connects makes a note under the local port of its socket: the two addresses, the
 * number of hops so far, and one route that the connection has passed. The worker that accepts the
 * connection finds the note, makes the next one when it connects, and so on. A chain of routes
 * never comes back to one of them, so a connection that does is in a loop. If the noted route were
 * always the first one, a chain that leads into a loop would hide it; therefore it is replaced
 * after 1, 2, 4, 8, ... hops (R. P. Brent, "An improved Monte Carlo factorization algorithm", BIT
 * 1980).
 *
 * Only one connect in TM_TRACE_EVERY of each worker begins a trace: the cost is negligible, and a
 * loop is still found after some more hops.
 *
 * A note may be overwritten by another connection (of the same port, or of one a multiple of
 * TM_TRACE_NOTES away), or outlive its own: it is needed until the other end has been accepted and
 * has connected. Only a connection between the same two addresses takes it for its own; the worker
 * that finds a loop clears the note. `origins` is read first: a client of another host has no note.
 */
#ifndef TM_TRACE_H
#define TM_TRACE_H

#include <netinet/in.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#include "access_log.h"
#include "pick.h"
#include "route_table.h"
#include "sock.h"

#ifndef SO_ORIGINAL_DST
#define SO_ORIGINAL_DST 80 /* linux/netfilter_ipv4.h, which does not go with netinet/in.h */
#endif

#define TM_TRACE_EVERY 8u
#define TM_TRACE_STEPS 0xfffu   /* the most that are counted */
#define TM_TRACE_ROUTE 0xfffffu /* slots are below */

_Static_assert(TM_MAX_SLOTS <= TM_TRACE_ROUTE, "a route's slot has 20 bits of a note");

/* Where a connection comes from; steps 0 = from elsewhere, as far as is known. */
struct tm_trace {
    uint32_t steps;
    uint32_t route; /* slot of one that it has been in */
};

static inline uint64_t tm_trace_mix(uint64_t hash, const struct tm_peer *end)
{
    unsigned char wide[16] = {[10] = 0xff, [11] = 0xff}; /* IPv4 is the same as ::ffff:a.b.c.d */
    uint64_t words[2];
    memcpy(end->family == AF_INET ? wide + 12 : wide, end->ip, end->family == AF_INET ? 4 : 16);
    memcpy(words, wide, sizeof(words));
    return tm_mix(tm_mix(hash ^ end->port ^ words[0]) ^ words[1]);
}

/* The end that has connected. Never 0. */
static inline uint16_t tm_trace_origin(const struct tm_peer *from)
{
    uint16_t origin = (uint16_t)(tm_trace_mix(0, from) >> 48);
    return origin ? origin : 1;
}

/* The 32 bits before the 32 of the trace: who with whom. Never 0. */
static inline uint64_t tm_trace_ends(const struct tm_peer *from, const struct tm_peer *to)
{
    uint64_t hash = tm_trace_mix(tm_trace_mix(0, from), to);
    return hash >> 32 ? hash & ~(uint64_t)UINT32_MAX : (uint64_t)1 << 32;
}

static inline uint64_t tm_trace_note(uint64_t ends, struct tm_trace trace)
{
    uint32_t steps = trace.steps < TM_TRACE_STEPS ? trace.steps : TM_TRACE_STEPS;
    return ends | steps << 20 | (trace.route & TM_TRACE_ROUTE);
}

static inline struct tm_trace tm_trace_of(uint64_t note)
{
    return (struct tm_trace){note >> 20 & TM_TRACE_STEPS, note & TM_TRACE_ROUTE};
}

/* What is to be noted of the connect of a connection of this route that came with `trace`. */
static inline struct tm_trace tm_trace_step(struct tm_trace trace, uint32_t route)
{
    uint32_t steps = trace.steps + 1;
    return (struct tm_trace){steps, steps & trace.steps ? trace.route : route};
}

/* As the address was before a NAT of this host changed it. False: it did not. */
static inline bool tm_trace_meant(int fd, uint16_t family, struct tm_peer *meant)
{
    struct tm_address address = {.length = sizeof(address) - offsetof(struct tm_address, any)};
    if (getsockopt(fd, family == AF_INET ? SOL_IP : SOL_IPV6, SO_ORIGINAL_DST, &address.any,
                   &address.length) < 0)
        return false;
    tm_peer_from(meant, &address);
    return true;
}

/* Where an accepted connection comes from. Without a note of its client, which is the rule, that is
 * one load; else a system call or two. wipe: a note that is its own goes. */
static inline struct tm_trace tm_trace_find(struct tm_traces *traces, int fd,
                                            const struct tm_peer *client, bool wipe)
{
    static const struct tm_trace NOWHERE = {0, 0};
    uint32_t at = client->port % TM_TRACE_NOTES;
    struct tm_peer local;
    uint64_t note;
    if ((client->family != AF_INET && client->family != AF_INET6) ||
        atomic_load_explicit(&traces->origins[at], memory_order_relaxed) != tm_trace_origin(client))
        return NOWHERE;
    note = atomic_load_explicit(&traces->notes[at], memory_order_relaxed);
    if (note == 0)
        return NOWHERE;
    tm_sock_local(fd, &local);
    if ((note ^ tm_trace_ends(client, &local)) >> 32 &&
        (!tm_trace_meant(fd, client->family, &local) ||
         (note ^ tm_trace_ends(client, &local)) >> 32))
        return NOWHERE;
    if (wipe)
        atomic_store_explicit(&traces->notes[at], 0, memory_order_relaxed);
    return tm_trace_of(note);
}

/* Whether an accepted connection has been in this route before. */
static inline bool tm_trace_is_loop(struct tm_traces *traces, int fd, const struct tm_peer *client,
                                    uint32_t route)
{
    struct tm_trace trace = tm_trace_find(traces, fd, client, false);
    if (trace.steps == 0 || trace.route != route)
        return false;
    tm_trace_find(traces, fd, client, true);
    return true;
}

/* After a connect for a connection of this route. connects: that this worker has made. */
static inline void tm_trace_connect(struct tm_traces *traces, int client_fd,
                                    const struct tm_peer *client, int fd,
                                    const struct tm_peer *endpoint, uint32_t route,
                                    uint32_t connects)
{
    struct tm_peer local;
    struct tm_trace trace;
    if (endpoint->family != AF_INET && endpoint->family != AF_INET6)
        return;
    trace = tm_trace_find(traces, client_fd, client, false);
    if (trace.steps == 0 && connects % TM_TRACE_EVERY)
        return;
    tm_sock_local(fd, &local);
    uint64_t note = tm_trace_note(tm_trace_ends(&local, endpoint), tm_trace_step(trace, route));
    uint32_t at = local.port % TM_TRACE_NOTES;
    atomic_store_explicit(&traces->origins[at], tm_trace_origin(&local), memory_order_relaxed);
    atomic_store_explicit(&traces->notes[at], note, memory_order_relaxed);
}

#endif
