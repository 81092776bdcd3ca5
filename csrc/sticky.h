/* The sticky pick: weighted rendezvous hashing (Thaler and Ravishankar 1998; the weights as in
 * Schindelhauer and Schomaker 2005).
 *
 *     u = hash of the client's key and the destination's name, evenly in (0, 1)
 *     destination = the one with the least -ln(u) / weight
 *
 * Over all keys each destination gets weight / sum of weights. When a weight grows, keys only move
 * to that destination; when one becomes smaller or goes away, only its own keys move. That depends
 * on the names, the weights and the key alone: no host, worker or moment picks otherwise, and
 * neither does another order of the destinations.
 *
 * For ever: the functions below may not change, or every client of every user moves at an update.
 * Whole numbers alone, as the logarithm of two C libraries may differ in the last bit.
 */
#ifndef TM_STICKY_H
#define TM_STICKY_H

#include <stddef.h>
#include <stdint.h>

/* Of all routes together. */
#define TM_MAX_CONTESTS (1u << 16)
#define TM_MAX_CONTENDERS (1u << 20)

/* What tells one client of a sticky route from another. */
enum tm_sticky_by { TM_NOT_STICKY = 0, TM_BY_SOURCE, TM_BY_SNI, TM_BY_TLV };

/* One that a key may go to. */
struct tm_contender {
    uint64_t hash;        /* of a destination's name */
    uint32_t weight;      /* 0 = it can't win */
    uint32_t asked;       /* the same, whatever its state and health: to remember it by */
    uint32_t destination; /* who gets the keys that it wins, by its index in the route; or: */
    uint32_t unused;
};

/* Instead of a destination: another contest decides. */
#define TM_NEXT_CONTEST UINT32_MAX
#define TM_LATER_CONTEST (UINT32_MAX - 1)

/* One of the questions, put in turn, of who gets a client's key. The last is by the weights in
 * force. Those before it are by weights as they were when a destination's became 0: if that one
 * wins, it keeps the client, which it had then. While it can't take connections a later one
 * decides, as those that follow never had that client. If another wins, the next one decides. */
struct tm_contest {
    uint32_t first; /* index into image.contenders */
    uint32_t count;
    uint32_t skip;  /* how many after it are passed over to the later one */
    uint32_t unused;
    uint64_t owner; /* hash of that destination's name; 0 = it keeps nobody any more; the last: 0 */
};

/* Of `size` bytes, as on every machine. salt: two that differ give independent hashes. */
uint64_t tm_sticky_key(uint64_t salt, const void *bytes, size_t size);

/* The same of an address, whose first bits alone count: as many as prefixes[0] says of IPv4, [1] of
 * IPv6. IPv4 within IPv6 (::ffff:0:0/96) is IPv4. family: AF_INET or AF_INET6. */
uint64_t tm_sticky_address_key(uint64_t salt, uint16_t family, const unsigned char ip[16],
                               const uint32_t prefixes[2]);

/* -ln(u) in units of 2^-58, of a hash. Off by less than 2^-33, and near u = 1, where it is next to
 * nothing, by less than one part in 2^25. */
uint64_t tm_sticky_cost(uint64_t hash);

/* Index of the contender that gets the key; `count` if none has weight. */
uint32_t tm_sticky_pick(const struct tm_contender *contenders, uint32_t count, uint64_t key);

#endif
