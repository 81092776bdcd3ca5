# cython: language_level=3
"""The pick of csrc/pick.h: what the master plans for a split, and what workers make of it."""

import socket

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from tcpmux.shm.c_table cimport (
    AF_INET, AF_INET6, AF_UNIX, tm_contender, tm_facts, TM_MAX_DESTINATIONS, tm_name_hash, TM_NONE,
    tm_pick, tm_pick_plan, tm_rule_of, tm_split, tm_sticky_address_key, tm_sticky_cost,
    tm_sticky_key, tm_sticky_pick, tm_table_generation, tm_table_image, TM_TLS_ANY, TM_TLS_NONE,
    TM_TLS_ONLY,
)
from tcpmux.shm._table cimport Table


cdef int plan_split(tm_split *split, weights) except -1:
    """All of it but its ticket."""
    cdef uint32_t given[64]
    cdef uint32_t count = len(weights)
    if count > TM_MAX_DESTINATIONS:
        raise ValueError(f"at most {TM_MAX_DESTINATIONS} destinations a route, got {count}")
    for i, weight in enumerate(weights):
        if not 0 <= weight <= 1000000:
            raise ValueError(f"a weight is 0..1000000, got {weight}")
        given[i] = weight
    tm_pick_plan(given, count, split)
    return 0



def pick_plan(weights):
    """(period, stride, cumulative thresholds) for a route's weights: see csrc/pick.h."""
    cdef tm_split split
    memset(&split, 0, sizeof(split))
    plan_split(&split, weights)
    return split.period, split.stride, tuple(split.cumulative[i] for i in range(len(weights)))



def pick(weights, uint64_t ticket):
    """Index of the destination that ticket number `ticket` goes to. Needs a positive weight."""
    cdef tm_split split
    memset(&split, 0, sizeof(split))
    plan_split(&split, weights)
    if split.period == 0:
        raise ValueError("no weight is positive")
    return tm_pick(&split, ticket)



def name_hash(bytes name, bint is_suffix):
    """Of a name that clients ask for, by which rules are found: csrc/pick_rules.h."""
    return tm_name_hash(name, len(name), is_suffix)



def rule_met(Table table not None, uint32_t route, facts, uint32_t listener):
    """The number of the first rule of that route in the image in force that a connection meets, as
    workers find it; -1 = none. facts: of tcpmux/config/rule_match.py. listener: its id. For tests.
    """
    cdef tm_facts given
    cdef bytes ip = b"" if isinstance(facts.client, str) else facts.client.packed
    cdef bytes sni = facts.sni.encode()
    cdef bytes alpn = b"".join(bytes([len(name)]) + name.encode() for name in facts.alpn)
    cdef bytes tlvs = b"".join(
        bytes([kind]) + len(value).to_bytes(2, "big") + value for kind, value in facts.tlvs)
    cdef uint32_t found
    given.family = {0: AF_UNIX, 4: AF_INET, 16: AF_INET6}[len(ip)]
    given.ip = ip
    given.listener = listener
    given.tls = TM_TLS_ANY if facts.tls is None else TM_TLS_ONLY if facts.tls else TM_TLS_NONE
    given.sni, given.sni_size = sni, len(sni)
    given.alpn, given.alpn_size = alpn, len(alpn)
    given.tlvs, given.tlvs_size = tlvs, len(tlvs)
    image = tm_table_image(table.table(), tm_table_generation(table.table()))
    assert route < image.route_count
    found = tm_rule_of(image, &image.routes[route], &given)
    return -1 if found == TM_NONE else <int>found


def sticky_key(uint64_t salt, bytes value):
    """Of a client that is told from others by a text: see csrc/sticky.h."""
    return tm_sticky_key(salt, <const char *>value, len(value))



def sticky_address_key(uint64_t salt, str address, uint32_t ipv4, uint32_t ipv6):
    """Of a client that is told from others by so many bits of its address. Raises OSError."""
    cdef unsigned char ip[16]
    cdef uint32_t prefixes[2]
    cdef bint short = ":" not in address
    cdef bytes raw = socket.inet_pton(socket.AF_INET if short else socket.AF_INET6, address)
    prefixes[:] = [ipv4, ipv6]
    memset(ip, 0, 16)
    for i, byte in enumerate(raw):
        ip[i] = byte
    return tm_sticky_address_key(salt, AF_INET if short else AF_INET6, ip, prefixes)



def sticky_cost(uint64_t hash_):
    """-ln((hash | 1) / 2^64), in units of 2^-58."""
    return tm_sticky_cost(hash_)



def sticky_pick(uint64_t key, contenders):
    """The index of the one that wins, of pairs of hash and weight. None: none has weight."""
    cdef tm_contender given[64]
    cdef uint32_t best, count = len(contenders)
    if count > TM_MAX_DESTINATIONS:
        raise ValueError(f"at most {TM_MAX_DESTINATIONS} destinations a route, got {count}")
    memset(given, 0, sizeof(given))
    for i, (hash_, weight) in enumerate(contenders):
        given[i].hash = hash_
        given[i].weight = weight
    best = tm_sticky_pick(given, count, key)
    return best if best < count else None
