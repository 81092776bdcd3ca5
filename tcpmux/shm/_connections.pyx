# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Connections as workers have them in their records, read by others: one by one or in groups.

Runs in control and in the log process. Nothing here is locked: a record that changed while it was
copied is left out.
"""

from heapq import merge
from itertools import islice

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from tcpmux.shm.c_live cimport (
    TM_ACCEPTED, TM_CLIENT, tm_conn_copy, tm_conn_has_scout, TM_CONNECTING, tm_copy, TM_ENDPOINT,
    TM_HOLDING, tm_known, tm_known_copy, tm_live, TM_MOMENT_BUSY, tm_moment_copy, TM_MOMENT_SAFE,
    TM_MOMENT_STATEFUL, TM_MOMENT_SUBSCRIBED, TM_MOMENT_TRANSACTION, TM_MOMENT_UNKNOWN, tm_peer,
    tm_pick_reason_checked, TM_READING, tm_records_checked, TM_RELAYING, TM_RESETTING,
    TM_SPOKE_ENDPOINT, TM_STAYS_UNWANTED, TM_WAITING,
)
from tcpmux.shm.c_table cimport AF_INET, AF_INET6, TM_MAX_SLOTS
from tcpmux.shm._address cimport peer_text
from tcpmux.shm._live cimport Live
from tcpmux.shm._declared import PICK_REASONS
from tcpmux.shm.known import Known, NOTHING_KNOWN, UNREADABLE

STATES = {
    TM_ACCEPTED: "connecting",  # for a moment, before any other
    TM_READING: "reading",
    TM_HOLDING: "waiting",
    TM_WAITING: "waiting",
    TM_CONNECTING: "connecting",
    TM_RELAYING: "relaying",
    TM_RESETTING: "resetting",
}
MOMENTS = {
    TM_MOMENT_UNKNOWN: "unknown",
    TM_MOMENT_SAFE: "safe",
    TM_MOMENT_BUSY: "busy",
    TM_MOMENT_TRANSACTION: "transaction",
    TM_MOMENT_SUBSCRIBED: "subscribed",
    TM_MOMENT_STATEFUL: "stateful",  # the next endpoint can't be told all that this one knows of it
}
TURNED_AWAY = "turned_away"  # and an endpoint has not wanted it
SORT_KEYS = ("age", "idle", "bytes_in", "bytes_out", "client")
GROUP_KEYS = ("route", "destination", "endpoint", "client")
GROUP_SORT_KEYS = ("connections", "bytes_in", "bytes_out", "age")
STEP = 1000  # records
_PICKED = ("", *PICK_REASONS)


cdef inline uint64_t now_us() noexcept:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000000 + <uint64_t>now.tv_nsec // 1000


cdef struct Wanted:
    uint64_t now_us
    uint64_t older_us, idle_us
    const uint8_t *slots  # TM_MAX_SLOTS of them, 1 = wanted; NULL = any
    const uint8_t *rules  # the same, of rules
    bint any_client
    uint16_t family
    uint8_t network[16]
    int prefix  # bits


cdef bint in_network(const Wanted *wanted, const tm_peer *peer) noexcept:
    cdef int whole = wanted.prefix // 8, rest = wanted.prefix % 8
    if wanted.any_client:
        return True
    if peer.family != wanted.family or memcmp(peer.ip, wanted.network, whole) != 0:
        return False
    return rest == 0 or (peer.ip[whole] ^ wanted.network[whole]) >> (8 - rest) == 0


cdef uint64_t idle_us(const tm_copy *of, uint64_t now) noexcept:
    cdef uint64_t last = of.conn.last_activity_ms * 1000
    if last < of.cold.accepted_at_us:
        last = of.cold.accepted_at_us
    return now - last if now > last else 0


cdef bint has_slot(const uint8_t *slots, uint32_t slot) noexcept:
    return slot < TM_MAX_SLOTS and slots[slot]


cdef bint is_wanted(const Wanted *wanted, const tm_copy *of) noexcept:
    return ((wanted.slots == NULL
             or has_slot(wanted.slots, of.cold.route_slot)
             or has_slot(wanted.slots, of.conn.destination_slot)
             or has_slot(wanted.slots, of.cold.endpoint_slot))
            and (wanted.rules == NULL or has_slot(wanted.rules, of.cold.rule_slot))
            and of.cold.accepted_at_us + wanted.older_us <= wanted.now_us
            and idle_us(of, wanted.now_us) >= wanted.idle_us
            and not of.conn.moving  # its taker has it, or will
            and in_network(wanted, &of.cold.client))


cdef object sort_value(const tm_copy *of, int key, uint64_t now):
    if key == 0:
        return now - of.cold.accepted_at_us if now > of.cold.accepted_at_us else 0
    if key == 1:
        return idle_us(of, now)
    if key == 2:
        return of.conn.half[TM_CLIENT].bytes
    if key == 3:
        return of.conn.half[TM_ENDPOINT].bytes
    return (of.cold.client.family, <bytes>(<char *>of.cold.client.ip)[:16], of.cold.client.port)


cdef bytes ip_of(const tm_peer *peer):
    """b"" for a UNIX socket."""
    return (<char *>peer.ip)[:4 if peer.family == AF_INET else 16 if peer.family else 0]


cdef object known_of(Live live, uint32_t index, const tm_copy *of):
    """What was read of it before its pick."""
    cdef tm_known known
    if of.cold.annex == 0:
        return NOTHING_KNOWN
    if not tm_known_copy(live.live(), live.capacity, index, of, &known):
        return UNREADABLE
    return Known.read(
        peer_text(&known.peer), peer_text(&known.to), known.first_bytes,
        (<char *>known.sni)[:known.sni_size], (<char *>known.alpn)[:known.alpn_size],
        (<char *>known.tlvs)[:known.tlvs_size])


cdef tuple row_of(Live live, uint32_t index, const tm_copy *of, uint64_t now, dict asked):
    cdef uint32_t worker = live.worker
    moment, wanted = None, asked.get(of.cold.route_slot)
    if wanted is not None and of.conn.state == TM_RELAYING:
        moment = moment_of(live, index, of, wanted[0], wanted[1], now)
    age = now - of.cold.accepted_at_us if now > of.cold.accepted_at_us else 0
    return (
        f"{worker}-{index}-{of.conn.generation}", of.cold.route_slot, of.conn.destination_slot,
        of.cold.endpoint_slot, peer_text(&of.cold.client), peer_text(&of.cold.endpoint), worker,
        STATES[of.conn.state], age / 1e6, idle_us(of, now) / 1e6,
        of.conn.half[TM_CLIENT].bytes, of.conn.half[TM_ENDPOINT].bytes, of.cold.table_generation,
        _PICKED[tm_pick_reason_checked(of.cold.pick_reason)], of.cold.attempts,
        of.cold.connect_us / 1e6, of.conn.first_byte_us / 1e6, known_of(live, index, of),
        of.cold.rule_slot, f"{of.cold.born_worker}-{of.cold.born_index}-{of.cold.born_generation}",
        of.moves.rehomed, moment, of.conn.spoke == TM_SPOKE_ENDPOINT)


cdef bytearray marked(slots):
    """A byte for each slot there can be, 1 for these."""
    cdef uint32_t slot
    found = bytearray(TM_MAX_SLOTS)
    for slot in slots:
        if slot >= TM_MAX_SLOTS:
            raise IndexError(slot)
        found[slot] = 1
    return found


cdef class Scan:
    """Looks for connections in all regions. slots: of routes, destinations and endpoints that they
    are of, rules: of rules that they have met, network: an ipaddress network of clients; None =
    any. older, idle: at least, in s. sort: one of SORT_KEYS (of GROUP_SORT_KEYS for groups), the
    largest first unless ascending. limit: rows; None = all. asked: of some routes, by slot, the
    protocol (enum tm_protocol) and whether their connections are to go on with another endpoint.
    """

    cdef Wanted wanted
    cdef bytearray slots, rules  # what wanted.slots and wanted.rules point to
    cdef list lives
    cdef str sort
    cdef int key
    cdef bint ascending
    cdef object limit
    cdef dict asked
    cdef readonly size_t total, group_count  # that match, of those looked at, and that these make

    def __init__(self, lives, *, slots=None, rules=None, network=None, double older=0.0,
                 double idle=0.0, str sort="age", bint ascending=False, limit=None,
                 asked=None):
        self.lives, self.asked = list(lives), dict(asked or {})
        self.sort, self.ascending, self.limit = sort, ascending, limit
        self.total = self.group_count = 0
        memset(&self.wanted, 0, sizeof(self.wanted))
        self.wanted.now_us = now_us()
        self.wanted.older_us = <uint64_t>(older * 1e6)
        self.wanted.idle_us = <uint64_t>(idle * 1e6)
        if slots is not None:
            self.slots = marked(slots)
            self.wanted.slots = <const uint8_t *><char *>self.slots
        if rules is not None:
            self.rules = marked(rules)
            self.wanted.rules = <const uint8_t *><char *>self.rules
        self.wanted.any_client = network is None
        if network is not None:
            self.wanted.family = AF_INET if network.version == 4 else AF_INET6
            packed = network.network_address.packed
            memcpy(self.wanted.network, <const char *>packed, len(packed))
            self.wanted.prefix = network.prefixlen

    def rows(self):
        """Yields rows in their order, and None between parts of the work that have none: each
        step is short, of at most STEP records. A row: id, slots of route, destination and
        endpoint, client, endpoint's address (as it was when tried; UNIX sockets have none), worker,
        state, age s, idle s, bytes in, bytes out, generation and reason of the pick, endpoints
        tried, connect s, first byte s, Known, slot of the rule, id when it was accepted,
        how often its endpoint has changed under it, what it is in the middle of (None: its
        route is not among those asked, or it is not relayed), whether the endpoint spoke last.
        """
        parts = []
        self.key = SORT_KEYS.index(self.sort)
        for number, live in enumerate(self.lives):
            for first in range(0, records_of(live), STEP):
                part = self._part(live, number, first)
                if part:
                    self.total += len(part)
                    parts.append(part)
                yield None
        for _, number, index in islice(merge(*parts, reverse=not self.ascending), self.limit):
            yield self._row(self.lives[number], index)

    def groups(self, str by):
        """Yields groups of connections in their order, and None between parts of the work. by: one
        of GROUP_KEYS. A group: slots of the route, of the destination and of the endpoint, as far
        as it goes, or the client's IP as bytes; how many connections, bytes in, bytes out, age s of
        the oldest.
        """
        found = {}
        column = GROUP_SORT_KEYS.index(self.sort)
        parts = []
        for live in self.lives:
            for first in range(0, records_of(live), STEP):
                self._count(live, first, by, found)
                yield None
        self.group_count = len(found)
        items = iter(found.items())
        while part := [(sums[column], key) for key, sums in islice(items, STEP)]:
            part.sort(reverse=not self.ascending)
            parts.append(part)
            yield None
        for _, key in islice(merge(*parts, reverse=not self.ascending), self.limit):
            count, bytes_in, bytes_out, age = found[key]
            yield key, count, bytes_in, bytes_out, age / 1e6

    cdef int _count(self, Live live, uint32_t first, str by, dict found) except -1:
        """Adds the connections of one part to their groups."""
        cdef tm_copy copy
        cdef tm_live *region = live.live()
        cdef uint32_t index, end = min(first + STEP, tm_records_checked(region, live.capacity))
        for index in range(first, end):
            if not (tm_conn_copy(region, live.capacity, index, &copy)
                    and is_wanted(&self.wanted, &copy)):
                continue
            self.total += 1
            if by == "client":
                key = (ip_of(&copy.cold.client),)
            else:
                key = (copy.cold.route_slot, copy.conn.destination_slot, copy.cold.endpoint_slot)
                key = key[:GROUP_KEYS.index(by) + 1]
            sums = found.setdefault(key, [0, 0, 0, 0])
            sums[0] += 1
            sums[1] += copy.conn.half[TM_CLIENT].bytes
            sums[2] += copy.conn.half[TM_ENDPOINT].bytes
            sums[3] = max(sums[3], sort_value(&copy, 0, self.wanted.now_us))
        return 0

    cdef list _part(self, Live live, number, uint32_t first):
        cdef tm_copy copy
        cdef tm_live *region = live.live()
        cdef uint32_t index, end = min(first + STEP, tm_records_checked(region, live.capacity))
        found = []
        for index in range(first, end):
            if tm_conn_copy(region, live.capacity, index, &copy) and is_wanted(&self.wanted, &copy):
                found.append((sort_value(&copy, self.key, self.wanted.now_us), number, index))
        found.sort(reverse=not self.ascending)
        return found

    cdef object _row(self, Live live, uint32_t index):
        """None: it has ended since, or is even another one that is not wanted."""
        cdef tm_copy copy
        cdef tm_live *region = live.live()
        if tm_conn_copy(region, live.capacity, index, &copy) and is_wanted(&self.wanted, &copy):
            return row_of(live, index, &copy, self.wanted.now_us, self.asked)
        return None


cdef object facts_of(Live live, uint32_t index, const tm_copy *of):
    """What rules and a sticky pick go by. None: its connection has ended meanwhile."""
    cdef tm_known known
    client = ip_of(&of.cold.client)
    if of.cold.annex == 0:
        return client, of.cold.listener, 0, b"", b"", b""
    if not tm_known_copy(live.live(), live.capacity, index, of, &known):
        return None
    return (client, of.cold.listener, known.first_bytes, (<char *>known.sni)[:known.sni_size],
            (<char *>known.alpn)[:known.alpn_size], (<char *>known.tlvs)[:known.tlvs_size])


cdef str moment_of(Live live, uint32_t index, const tm_copy *of, uint64_t protocol, bint moves,
                   uint64_t now):
    """What it is in the middle of, of MOMENTS, without a protocol: safe. moves: it is to go on with
    another endpoint."""
    moment = tm_moment_copy(live.live(), live.capacity, index, of, protocol, moves)
    if (moves and moment == TM_MOMENT_SAFE and of.moves.stays_for == TM_STAYS_UNWANTED
            and <uint64_t>of.moves.stays_until_s * 1000000 > now):
        return TURNED_AWAY
    return MOMENTS[moment]


cdef class Relaying:
    """The connections of some routes that are relayed. routes: by slot, for how many ms a
    connection has to be idle to be listed, whether with facts, its protocol (enum tm_protocol), and
    whether it is to go on with another endpoint. By slot of the route:

    counts: how many, by slots: of the rule (0xffffffff = none), of the destination, of the
        endpoint.
    rows: worker, record, generation, slots of the rule, of the destination and of the endpoint,
        idle ms, age ms, whether the endpoint spoke last, and None or, with facts: the client's IP
        (b"" = UNIX), id of the listener, enum tm_first_bytes, SNI, ALPN, TLVs; what it is in the
        middle of, of MOMENTS, or TURNED_AWAY (without a protocol: safe).

    Both are whole when steps() has ended.
    """

    cdef list lives
    cdef dict routes
    cdef uint64_t now_us
    cdef readonly dict counts, rows

    def __init__(self, lives, routes):
        self.lives = list(lives)
        self.routes = {slot: (quiet * 1000, *rest) for slot, (quiet, *rest) in routes.items()}
        self.now_us = now_us()
        self.counts = {slot: {} for slot in routes}
        self.rows = {slot: [] for slot in routes}

    def steps(self):
        """Yields None after each part of the work, of at most STEP records."""
        for live in self.lives:
            for first in range(0, records_of(live), STEP):
                self._add(live, first)
                yield None

    cdef int _add(self, Live live, uint32_t first) except -1:
        cdef tm_copy copy
        cdef tm_live *region = live.live()
        cdef uint64_t idle, age
        cdef uint32_t index, end = min(first + STEP, tm_records_checked(region, live.capacity))
        for index in range(first, end):
            if (not tm_conn_copy(region, live.capacity, index, &copy)
                    or copy.conn.state != TM_RELAYING or copy.conn.moving):
                continue
            wanted = self.routes.get(copy.cold.route_slot)
            if wanted is None:
                continue
            place = (copy.cold.rule_slot, copy.conn.destination_slot, copy.cold.endpoint_slot)
            counts = self.counts[copy.cold.route_slot]
            counts[place] = counts.get(place, 0) + 1
            idle = idle_us(&copy, self.now_us)
            if idle >= wanted[0]:
                age = copy.cold.accepted_at_us
                age = self.now_us - age if self.now_us > age else 0
                self.rows[copy.cold.route_slot].append((
                    live.worker, index, copy.conn.generation, *place, idle // 1000, age // 1000,
                    copy.conn.spoke == TM_SPOKE_ENDPOINT,
                    facts_of(live, index, &copy) if wanted[1] else None,
                    moment_of(live, index, &copy, wanted[2], wanted[3], self.now_us)))
        return 0


cdef uint32_t records_of(Live live):
    return tm_records_checked(live.live(), live.capacity)


def connections(lives, **wanted):
    """(how many match, rows of those to be shown), as of Scan."""
    scan = Scan(lives, **wanted)
    rows = [row for row in scan.rows() if row is not None]
    return scan.total, rows


def is_open(Live live not None, uint32_t index, uint32_t generation):
    """Whether a connection that was told of is still in that record."""
    cdef tm_copy copy
    return (index < tm_records_checked(live.live(), live.capacity)
            and tm_conn_copy(live.live(), live.capacity, index, &copy)
            and copy.conn.generation == generation)


def whereabouts(Live live not None, uint32_t index, uint32_t generation):
    """None: a connection that was told of is not in that record any more. Else (slots of its
    destination and its endpoint, whether a connect for it to another endpoint is under way)."""
    cdef tm_copy copy
    cdef tm_live *region = live.live()
    if not (index < tm_records_checked(region, live.capacity)
            and tm_conn_copy(region, live.capacity, index, &copy)
            and copy.conn.generation == generation):
        return None
    return (copy.conn.destination_slot, copy.cold.endpoint_slot,
            tm_conn_has_scout(region, live.capacity, &copy))
