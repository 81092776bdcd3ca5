# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""What workers have written down, read by others: counters, failed connects, log entries.

Runs in control and in the log process. Nothing here is locked: a counter was true a moment ago.
"""

from cpython.array cimport array
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from tcpmux.shm.c_live cimport (
    TM_ALPN_MAX, TM_BOUNDS, TM_CLIENT, tm_close_reason_checked, TM_CLOSE_REASONS, tm_counter_read,
    tm_difference, TM_DIFFERENCES, tm_differences_read, tm_duration_bounds_us, TM_ENDPOINT,
    TM_FAILED, tm_failed_connect, tm_failed_count, tm_failed_read, tm_histogram,
    tm_latency_bounds_us, tm_live, TM_LOG_ENTRIES, tm_log_entry, tm_log_known, TM_LOG_REFUSED,
    TM_LOG_START, tm_log_take, tm_log_taken, tm_log_tell, tm_log_untold, tm_log_written,
    tm_pick_reason_checked, TM_PICK_REASONS, TM_REFUSALS, tm_refusal, tm_slot, tm_times,
    TM_TLVS_MAX,
)
from tcpmux.shm.arrays cimport long_words, words
from tcpmux.shm.c_table cimport TM_MAX_SLOTS
from tcpmux.shm._address cimport peer_text
from tcpmux.shm._live cimport Live
from tcpmux.shm._declared import CLOSE_REASONS, PICK_REASONS, SLOT_COUNTERS
from tcpmux.shm.known import Known, NOTHING_KNOWN
from tcpmux.shm.counters import Histogram, SlotCounters, Times

LATENCY_BOUNDS_US = tuple(tm_latency_bounds_us[i] for i in range(TM_BOUNDS))
DURATION_BOUNDS_US = tuple(tm_duration_bounds_us[i] for i in range(TM_BOUNDS))
_PICKED = ("", *PICK_REASONS)
_CLOSED = ("", *CLOSE_REASONS)

cdef enum:
    MAX_COUNTERS = 64  # of kind slot: csrc/counters.def
cdef int COUNTERS = len(SLOT_COUNTERS)
cdef int MOVED_OUT = SLOT_COUNTERS.index("moved_out")
assert COUNTERS <= MAX_COUNTERS


cdef object histogram(const tm_histogram *of):
    return Histogram(of.sum_us, tuple([of.buckets[i] for i in range(TM_BOUNDS + 1)]))


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

    def closed(self, array slots not None, reasons):
        """How many connections have ended for each of these reasons (of CLOSE_REASONS), slot by
        slot (an array of type I): an array of type Q with len(reasons) numbers for each."""
        cdef array wanted = array("I", [_CLOSED.index(reason) for reason in reasons])
        cdef array sums = array("Q", bytes(8 * len(slots) * len(wanted)))
        cdef const uint32_t *asked = words(slots)
        cdef const uint32_t *columns = words(wanted)
        cdef uint64_t *into = long_words(sums)
        cdef Py_ssize_t width = len(wanted)
        cdef const tm_slot *at
        cdef Py_ssize_t i, j
        cdef Live live
        for live in self.lives:
            for i in range(len(slots)):
                if asked[i] >= TM_MAX_SLOTS:
                    raise IndexError(asked[i])
                at = &live.live().slots[asked[i]]
                for j in range(width):
                    into[i * width + j] += tm_counter_read(&at.closed[columns[j]])
        return sums

    def connects(self, array slots not None):
        """How many connects to destinations have succeeded, slot by slot (an array of type I): an
        array of type Q."""
        cdef array sums = array("Q", bytes(8 * len(slots)))
        cdef const uint32_t *asked = words(slots)
        cdef uint64_t *into = long_words(sums)
        cdef const tm_histogram *at
        cdef Py_ssize_t i
        cdef Live live
        cdef int j
        for live in self.lives:
            for i in range(len(slots)):
                if asked[i] >= TM_MAX_SLOTS:
                    raise IndexError(asked[i])
                at = &live.live().times[asked[i]].connect
                for j in range(TM_BOUNDS + 1):
                    into[i] += tm_counter_read(&at.buckets[j])
        return sums

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


# --- shadows whose answers differed -----------------------------------------------------------


def differences(lives):
    """The last of each worker: (when, monotonic in ms; route's slot; what became of the shadow, as
    enum tm_shadow_fate; first byte that differs; or one of so many from there on)."""
    cdef tm_difference last[TM_DIFFERENCES]
    cdef uint32_t i, count
    cdef Live live
    found = []
    for live in lives:
        count = tm_differences_read(&live.live().differences, last)
        for i in range(count):
            found.append((last[i].when_ms, last[i].route_slot, last[i].fate, last[i].at,
                          last[i].within))
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


def untold_refusals(Live live not None):
    """[(number of the refusal, how many of it have no entry)], of those that have not been told."""
    cdef tm_live *region = live.live()
    counts = [(number, tm_log_untold(&region.log, <tm_refusal>number))
              for number in range(1, TM_REFUSALS)]
    return [(number, count) for number, count in counts if count]


def tell_refusals(Live live not None, tm_refusal number, uint64_t count):
    """They are told. The region must be mapped writable."""
    assert 0 < number < TM_REFUSALS
    tm_log_tell(&live.live().log, number, count)


cdef object known_of(const tm_log_entry *entry, const tm_log_known *known):
    """As far as the log has it."""
    if entry.sni_size == 0 and entry.alpn_size == 0 and entry.tlvs_size == 0:
        return NOTHING_KNOWN
    return Known.read("", "", 0, (<char *>known.sni)[:entry.sni_size],
                      (<char *>known.alpn)[:min(entry.alpn_size, TM_ALPN_MAX)],
                      (<char *>known.tlvs)[:min(entry.tlvs_size, TM_TLVS_MAX)])


def read_log(Live live not None, uint32_t most):
    """Up to `most` entries that the worker has written, the oldest first; they stay until
    release_log(). The region must be mapped writable.

    An entry: "start", "end" or "refused", route, destination and endpoint slot, client,
    endpoint, own address towards each, accepted at and this entry at (monotonic s), bytes in,
    bytes out, reason of the end ("" if it is none), reason and generation of the pick, endpoints
    tried, connect s, first byte s, id ("" if refused), number of the refusal (0 = none), address
    of the client's socket, slot of the rule, Known (sni, alpn, tlvs), id when it was accepted (""
    if refused).
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
            "start" if entry.kind == TM_LOG_START else
            "refused" if entry.kind == TM_LOG_REFUSED else "end",
            entry.route_slot, entry.destination_slot, entry.endpoint_slot,
            peer_text(&entry.client), peer_text(&entry.endpoint),
            peer_text(&entry.client_local), peer_text(&entry.endpoint_local),
            entry.accepted_at_us / 1e6, entry.at_us / 1e6, entry.bytes[TM_CLIENT],
            entry.bytes[TM_ENDPOINT],
            _CLOSED[tm_close_reason_checked(entry.close_reason)],
            _PICKED[tm_pick_reason_checked(entry.pick_reason)],
            entry.table_generation, entry.attempts, entry.connect_us / 1e6,
            entry.first_byte_us / 1e6,
            "" if entry.kind == TM_LOG_REFUSED else
            f"{live.worker}-{entry.index}-{entry.generation}", entry.refusal,
            peer_text(&entry.direct), entry.rule_slot,
            known_of(entry, &region.log.known[taken % TM_LOG_ENTRIES]),
            "" if entry.kind == TM_LOG_REFUSED else
            f"{entry.born_worker}-{entry.born_index}-{entry.born_generation}",
            entry.rehomed))
        taken += 1
    return found
