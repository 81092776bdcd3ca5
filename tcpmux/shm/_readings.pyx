# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What workers have written down, read by others: counters, connections, log entries.

Runs in control and in the log process. Nothing here is locked: a counter was true a moment ago,
and a record that changed while it was copied is left out.
"""

from array import array
from heapq import merge
from itertools import islice

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from tcpmux.shm.c_live cimport (
    TM_ACCEPTED, TM_BOUNDS, TM_CLIENT, tm_close_reason_checked, TM_CLOSE_REASONS,
    tm_conn_copy, TM_CONNECTING, tm_copy, tm_counter_read, tm_duration_bounds_us, TM_ENDPOINT,
    TM_FAILED, tm_failed_connect, tm_failed_count, tm_failed_read, tm_histogram, TM_HOLDING,
    tm_latency_bounds_us, tm_live, TM_LOG_ENTRIES, tm_log_entry, TM_LOG_START, tm_log_take,
    tm_log_taken, tm_log_written, tm_peer, tm_pick_reason_checked, TM_PICK_REASONS,
    TM_READING, tm_records_checked, TM_RELAYING, TM_RESETTING, tm_slot, tm_times, TM_WAITING,
)
from tcpmux.shm.c_table cimport AF_INET, AF_INET6, TM_MAX_SLOTS
from tcpmux.shm._address cimport peer_text
from tcpmux.shm._live cimport Live
from tcpmux.shm._declared import CLOSE_REASONS, PICK_REASONS, SLOT_COUNTERS
from tcpmux.shm.counters import Histogram, SlotCounters, Times

LATENCY_BOUNDS_US = tuple(tm_latency_bounds_us[i] for i in range(TM_BOUNDS))
DURATION_BOUNDS_US = tuple(tm_duration_bounds_us[i] for i in range(TM_BOUNDS))
STATES = {
    TM_ACCEPTED: "connecting",  # for a moment, before any other
    TM_READING: "reading",
    TM_HOLDING: "waiting",
    TM_WAITING: "waiting",
    TM_CONNECTING: "connecting",
    TM_RELAYING: "relaying",
    TM_RESETTING: "resetting",
}
SORT_KEYS = ("age", "idle", "bytes_in", "bytes_out", "client")
GROUP_KEYS = ("route", "destination", "endpoint", "client")
GROUP_SORT_KEYS = ("connections", "bytes_in", "bytes_out", "age")
STEP = 1000  # records
_PICKED = ("", *PICK_REASONS)
_CLOSED = ("", *CLOSE_REASONS)

cdef enum:
    MAX_COUNTERS = 64  # of kind slot: csrc/counters.def
cdef int COUNTERS = len(SLOT_COUNTERS)
cdef int MOVED_OUT = SLOT_COUNTERS.index("moved_out")
assert COUNTERS <= MAX_COUNTERS


cdef inline uint64_t now_us() noexcept:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000000 + <uint64_t>now.tv_nsec // 1000


cdef class Counters:
    """Sums over the regions of all workers."""

    cdef list lives

    def __init__(self, lives):
        self.lives = list(lives)

    def slot(self, uint32_t slot):
        """The SlotCounters of one route, destination or endpoint."""
        cdef uint64_t closed[TM_CLOSE_REASONS]
        cdef uint64_t picked[TM_PICK_REASONS]
        cdef uint64_t counts[MAX_COUNTERS]
        cdef const tm_slot *at
        cdef Live live
        cdef int i
        if slot >= TM_MAX_SLOTS:
            raise IndexError(slot)
        memset(closed, 0, sizeof(closed))
        memset(picked, 0, sizeof(picked))
        memset(counts, 0, sizeof(counts))
        # All that leaves before all that comes: a connection that ends or moves in between must
        # not count as minus one.
        for live in self.lives:
            at = &live.live().slots[slot]
            for i in range(1, TM_CLOSE_REASONS):
                closed[i] += tm_counter_read(&at.closed[i])
            counts[MOVED_OUT] += tm_counter_read(&at.moved_out)
        for live in self.lives:
            at = &live.live().slots[slot]
            for i in range(1, TM_PICK_REASONS):
                picked[i] += tm_counter_read(&at.picked[i])
            for i in range(COUNTERS):
                if i != MOVED_OUT:
                    counts[i] += tm_counter_read(<const uint64_t *>at + i)
        return SlotCounters(
            *[counts[i] for i in range(COUNTERS)],
            tuple([closed[i] for i in range(1, TM_CLOSE_REASONS)]),
            tuple([picked[i] for i in range(1, TM_PICK_REASONS)]))

    def closed(self, slots, reasons):
        """How many connections have ended for each of these reasons (of CLOSE_REASONS), slot by
        slot (an array of type I): an array of type Q with len(reasons) numbers for each."""
        wanted = array("I", [_CLOSED.index(reason) for reason in reasons])
        cdef const uint32_t[::1] asked = slots
        cdef const uint32_t[::1] columns = wanted
        sums = array("Q", bytes(8 * len(slots) * len(wanted)))
        cdef uint64_t[::1] into = sums
        cdef const tm_slot *at
        cdef Py_ssize_t i, j
        cdef Live live
        for live in self.lives:
            for i in range(asked.shape[0]):
                if asked[i] >= TM_MAX_SLOTS:
                    raise IndexError(asked[i])
                at = &live.live().slots[asked[i]]
                for j in range(columns.shape[0]):
                    into[i * columns.shape[0] + j] += tm_counter_read(&at.closed[columns[j]])
        return sums

    def connects(self, uint32_t slot):
        """How many connects of one destination have succeeded."""
        cdef uint64_t total = 0
        cdef const tm_histogram *at
        cdef Live live
        cdef int i
        if slot >= TM_MAX_SLOTS:
            raise IndexError(slot)
        for live in self.lives:
            at = &live.live().times[slot].connect
            for i in range(TM_BOUNDS + 1):
                total += tm_counter_read(&at.buckets[i])
        return total

    def times(self, uint32_t slot):
        """The Times of one destination."""
        cdef tm_times total
        cdef uint64_t *sums = <uint64_t *>&total
        cdef const uint64_t *words
        cdef Live live
        cdef size_t i
        if slot >= TM_MAX_SLOTS:
            raise IndexError(slot)
        memset(&total, 0, sizeof(total))
        for live in self.lives:
            words = <const uint64_t *>&live.live().times[slot]
            for i in range(sizeof(tm_times) // sizeof(uint64_t)):
                sums[i] += tm_counter_read(&words[i])
        return Times(*[histogram(<const tm_histogram *>&total + i)
                       for i in range(sizeof(tm_times) // sizeof(tm_histogram))])


cdef object histogram(const tm_histogram *of):
    return Histogram(of.sum_us, tuple([of.buckets[i] for i in range(TM_BOUNDS + 1)]))


# --- connections ------------------------------------------------------------------------------

cdef struct Wanted:
    uint64_t now_us
    uint64_t older_us, idle_us
    const uint8_t *slots  # TM_MAX_SLOTS of them, 1 = wanted; NULL = any
    bint any_client
    uint16_t family
    uint8_t network[16]
    int prefix  # bits


cdef bint in_network(const Wanted *wanted, const tm_peer *peer) noexcept:
    cdef int whole = wanted.prefix // 8
    cdef int rest = wanted.prefix % 8
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


cdef bint has_slot(const Wanted *wanted, uint32_t slot) noexcept:
    return slot < TM_MAX_SLOTS and wanted.slots[slot]


cdef bint is_wanted(const Wanted *wanted, const tm_copy *of) noexcept:
    return ((wanted.slots == NULL
             or has_slot(wanted, of.cold.route_slot)
             or has_slot(wanted, of.conn.destination_slot)
             or has_slot(wanted, of.cold.endpoint_slot))
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


cdef tuple row_of(const tm_copy *of, uint32_t worker, uint32_t index, uint64_t now):
    age = now - of.cold.accepted_at_us if now > of.cold.accepted_at_us else 0
    return (
        f"{worker}-{index}-{of.conn.generation}", of.cold.route_slot, of.conn.destination_slot,
        of.cold.endpoint_slot, peer_text(&of.cold.client), peer_text(&of.cold.endpoint), worker,
        STATES[of.conn.state], age / 1e6, idle_us(of, now) / 1e6,
        of.conn.half[TM_CLIENT].bytes, of.conn.half[TM_ENDPOINT].bytes, of.cold.table_generation,
        _PICKED[tm_pick_reason_checked(of.cold.pick_reason)], of.cold.attempts,
        of.cold.connect_us / 1e6, of.conn.first_byte_us / 1e6)


cdef class Scan:
    """Looks for connections in all regions. slots: of routes, destinations and endpoints that they
    are of, network: an ipaddress network of clients; None = any. older, idle: at least, in s. sort:
    one of SORT_KEYS (of GROUP_SORT_KEYS for groups), the largest first unless ascending. limit:
    rows; None = all.
    """

    cdef Wanted wanted
    cdef bytearray slots  # what wanted.slots points to
    cdef list lives
    cdef str sort
    cdef int key
    cdef bint ascending
    cdef object limit
    cdef readonly size_t total  # how many match, of those that have been looked at
    cdef readonly size_t group_count  # that these make

    def __init__(self, lives, *, slots=None, network=None, double older=0.0, double idle=0.0,
                 str sort="age", bint ascending=False, limit=None):
        cdef uint32_t slot
        self.lives = list(lives)
        self.sort = sort
        self.ascending = ascending
        self.limit = limit
        self.total = self.group_count = 0
        memset(&self.wanted, 0, sizeof(self.wanted))
        self.wanted.now_us = now_us()
        self.wanted.older_us = <uint64_t>(older * 1e6)
        self.wanted.idle_us = <uint64_t>(idle * 1e6)
        if slots is not None:
            self.slots = bytearray(TM_MAX_SLOTS)
            for slot in slots:
                if slot >= TM_MAX_SLOTS:
                    raise IndexError(slot)
                self.slots[slot] = 1
            self.wanted.slots = <const uint8_t *><char *>self.slots
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
        tried, connect s, first byte s.
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
            if not tm_conn_copy(region, live.capacity, index, &copy):
                continue
            if not is_wanted(&self.wanted, &copy):
                continue
            self.total += 1
            if by == "client":
                key = (ip_of(&copy.cold.client),)
            else:
                key = (copy.cold.route_slot, copy.conn.destination_slot, copy.cold.endpoint_slot)
                key = key[:GROUP_KEYS.index(by) + 1]
            sums = found.get(key)
            if sums is None:
                found[key] = sums = [0, 0, 0, 0]
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
            return row_of(&copy, live.worker, index, self.wanted.now_us)
        return None


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
    if index >= tm_records_checked(live.live(), live.capacity):
        return False
    return tm_conn_copy(live.live(), live.capacity, index, &copy) and (
        copy.conn.generation == generation)


# --- failed connects --------------------------------------------------------------------------


def failed_connects(lives, seen):
    """Each of those that the workers have noted since the last call, as far as they are still
    there: (client, endpoint's slot, errno or 0 for a timeout, attempt). seen: how many each worker
    had noted until then, a list that is updated; an empty one = none is asked for but those to
    come."""
    cdef tm_failed_connect last[TM_FAILED]
    cdef uint64_t known
    cdef uint32_t i, count
    cdef Live live
    if not seen:
        for live in lives:
            seen.append(tm_failed_count(&live.live().failed))
    found = []
    for number, each in enumerate(lives):
        live, known = each, seen[number]
        count = tm_failed_read(&live.live().failed, &known, last)
        seen[number] = known
        for i in range(count):
            found.append((peer_text(&last[i].client), last[i].endpoint_slot, last[i].error,
                          last[i].attempt))
    return found


# --- log entries ------------------------------------------------------------------------------


def release_log(Live live not None, uint32_t count):
    """Takes out the `count` oldest entries. The region must be mapped writable; the caller is the
    only one who takes."""
    cdef tm_live *region = live.live()
    cdef uint64_t taken = tm_log_taken(&region.log)
    tm_log_take(&region.log, taken + min(<uint64_t>count, tm_log_written(&region.log) - taken))


def unwritten_log(Live live not None):
    """How many entries nobody has taken yet."""
    cdef tm_live *region = live.live()
    return min(tm_log_written(&region.log) - tm_log_taken(&region.log), <uint64_t>TM_LOG_ENTRIES)


def read_log(Live live not None, uint32_t most):
    """Up to `most` entries that the worker has written, the oldest first; they stay until
    release_log(). The region must be mapped writable.

    An entry: start of a connection (or its end), route, destination and endpoint slot, client,
    endpoint, own address towards each, accepted at and this entry at (monotonic s), bytes in,
    bytes out, reason of the end ("" at a start), reason and generation of the pick, endpoints
    tried, connect s, first byte s, id.
    """
    cdef tm_live *region = live.live()
    cdef uint64_t taken = tm_log_taken(&region.log)
    cdef uint64_t end = tm_log_written(&region.log)
    cdef const tm_log_entry *entry
    if end - taken > TM_LOG_ENTRIES:
        # Corrupt: what is there can't be told from what is not. It goes on from here.
        tm_log_take(&region.log, end)
        return []
    if end - taken > most:
        end = taken + most
    found = []
    while taken < end:
        entry = &region.log.entries[taken % TM_LOG_ENTRIES]
        found.append((
            entry.kind == TM_LOG_START, entry.route_slot, entry.destination_slot,
            entry.endpoint_slot, peer_text(&entry.client), peer_text(&entry.endpoint),
            peer_text(&entry.client_local), peer_text(&entry.endpoint_local),
            entry.accepted_at_us / 1e6, entry.at_us / 1e6, entry.bytes[TM_CLIENT],
            entry.bytes[TM_ENDPOINT],
            _CLOSED[tm_close_reason_checked(entry.close_reason)],
            _PICKED[tm_pick_reason_checked(entry.pick_reason)],
            entry.table_generation, entry.attempts, entry.connect_us / 1e6,
            entry.first_byte_us / 1e6, f"{live.worker}-{entry.index}-{entry.generation}"))
        taken += 1
    return found
