# cython: language_level=3
"""What all workers write: tickets, counts over all of them, token buckets. csrc/commons.h."""

import errno
import os
import time

from cpython.array cimport array
from libc.stdint cimport uint32_t, uint64_t

from tcpmux.shm.arrays cimport long_words, words
from tcpmux.shm.c_commons cimport (
    tm_avoided_until, tm_common, tm_common_forget, tm_commons, tm_counted_now, tm_failed_at,
    tm_failed_with, tm_failing_since, tm_failures, tm_failures_all, TM_MAX_SOURCES, TM_MAX_TICKETS,
    tm_note_answer, tm_note_failure, tm_note_success, tm_note_suspicion, tm_note_unanswered,
    tm_pinned_epoch, tm_pinned_sum, tm_suspecting, tm_suspicions, tm_suspicions_all,
    tm_ticket_advance, tm_ticket_next, tm_unanswered, tm_unanswered_clients, tm_unanswered_resets,
)
from tcpmux.shm.c_table cimport TM_MAX_LISTENERS, TM_MAX_SLOTS
from tcpmux.shm._region cimport Region


cdef class Commons(Region):
    """What all workers write: tickets, counts over all of them, token buckets. csrc/commons.h."""

    cdef tm_commons *commons(self):
        assert self.base != NULL
        return <tm_commons *>self.base

    @staticmethod
    def create():
        cdef Commons self = Commons()
        self._create("commons", sizeof(tm_commons))
        self.commons().secret[0] = int.from_bytes(os.urandom(8), "little")
        self.commons().secret[1] = int.from_bytes(os.urandom(8), "little")
        return self

    @staticmethod
    def attach(int fd, bint writable=False):
        """Raises ValueError for anything that is not such a region of this build."""
        cdef Commons self = Commons()
        if os.fstat(fd).st_size != <Py_ssize_t>sizeof(tm_commons):
            raise ValueError("not a tcpmux commons region of this format")
        self._attach(fd, sizeof(tm_commons), writable)
        return self

    cdef tm_common *of(self, uint32_t slot) except NULL:
        if slot >= TM_MAX_SLOTS:
            raise IndexError(slot)
        return &self.commons().slots[slot]

    def connections(self, uint32_t slot):
        """Open in all workers, as limits count them."""
        return tm_counted_now(&self.of(slot).connections)

    def waiting(self, uint32_t slot):
        """Connections that wait for a place in a destination."""
        return tm_counted_now(&self.of(slot).waiting)

    def failures(self, uint32_t slot):
        """(in a row, since the start) of an endpoint, as connections have met with them."""
        cdef tm_common *at = self.of(slot)
        return tm_failures(at), tm_failures_all(at)

    def failed_with(self, uint32_t slot):
        """The errno that the last failed connect to an endpoint met with; 0 = it timed out."""
        return tm_failed_with(self.of(slot))

    def all_failures(self, array slots not None):
        """Failed connects since the start, of each of these slots (an array of type I) of
        endpoints: an array of the same type."""
        cdef array totals = array("I", slots)
        cdef const uint32_t *asked = words(slots)
        cdef uint32_t *into = words(totals)
        cdef Py_ssize_t i
        for i in range(len(slots)):
            into[i] = tm_failures_all(self.of(asked[i]))
        return totals

    def failing_for(self, uint32_t slot):
        """(in a row, errno of the last, 0 = it timed out, time of the first in that row and of the
        last in monotonic s) of the failures of an endpoint; what is no errno is 0, and a time that
        can't be is now."""
        cdef tm_common *at = self.of(slot)
        cdef uint64_t now_ms = time.monotonic_ns() // 1000000
        number = tm_failed_with(at)
        last_ms = min(tm_failed_at(at), now_ms)
        return (tm_failures(at), number if number in errno.errorcode else 0,
                min(tm_failing_since(at), last_ms) / 1e3, last_ms / 1e3)

    def suspicions(self, uint32_t slot):
        """(in a row, since the start, clients they are of at least) of an endpoint: connections
        that it has ended without a byte."""
        cdef tm_common *at = self.of(slot)
        return tm_suspicions(at), tm_suspicions_all(at), tm_suspecting(at)

    def note(self, uint32_t slot, *, bint failure=False, bint success=False, bint answer=False,
             suspicion=None, unanswered=None, bint reset=True, uint32_t error=errno.ECONNREFUSED):
        """As workers do; suspicion, unanswered: a client's key, 64 bits; error: errno of a
        failure."""
        cdef tm_common *at = self.of(slot)
        if failure:
            tm_note_failure(at, error, time.monotonic_ns() // 1000000)
        if success:
            tm_note_success(at)
        if answer:
            tm_note_answer(at)
        if suspicion is not None:
            tm_note_suspicion(at, suspicion)
        if unanswered is not None:
            tm_note_unanswered(at, unanswered, reset)

    def failing(self, array slots not None):
        """Those among these slots (an array of type I) of endpoints with failures or suspicions in
        a row."""
        cdef const uint32_t *all = words(slots)
        cdef Py_ssize_t i
        return [all[i] for i in range(len(slots))
                if all[i] < TM_MAX_SLOTS and (
                    tm_failures(&self.commons().slots[all[i]])
                    or tm_suspicions(&self.commons().slots[all[i]]))]

    def moved(self, array slots not None, array seen not None):
        """Those among these slots (an array of type I) of endpoints whose failures or suspicions
        are others than `seen` says, an array of type Q with two numbers for each, which is brought
        up to date."""
        cdef const uint32_t *all = words(slots)
        cdef uint64_t *before = long_words(seen)
        cdef uint64_t failures, suspicions
        cdef Py_ssize_t i
        cdef tm_common *at
        assert len(seen) == 2 * len(slots)
        found = []
        for i in range(len(slots)):
            at = self.of(all[i])
            failures = <uint64_t>tm_failures(at) << 32 | tm_failures_all(at)
            suspicions = <uint64_t>tm_suspicions(at) << 32 | tm_suspicions_all(at)
            if failures != before[2 * i] or suspicions != before[2 * i + 1]:
                before[2 * i], before[2 * i + 1] = failures, suspicions
                found.append(all[i])
        return found

    def unanswered(self, array slots not None, uint32_t least):
        """(slot, in a row, resets among them, clients they are of at least) of those among these
        slots (an array of type I) of endpoints that have ended `least` connections in a row, or
        more, without a byte."""
        cdef const uint32_t *all = words(slots)
        cdef Py_ssize_t i
        cdef tm_common *at
        found = []
        for i in range(len(slots)):
            if all[i] >= TM_MAX_SLOTS:
                continue
            at = &self.commons().slots[all[i]]
            if tm_unanswered(at) >= least:
                found.append((all[i], tm_unanswered(at), tm_unanswered_resets(at),
                              tm_unanswered_clients(at)))
        return found

    @property
    def pinned(self):
        """Bytes of kernel memory of all connections that nobody has read for a second: half a
        second to a second ago."""
        return tm_pinned_sum(&self.commons().pinned.account,
                             tm_pinned_epoch(time.monotonic_ns() // 1000000))

    def totals(self):
        """(by listeners, by slots, waiting, by clients): how many connections are counted in all.
        Of connections that rest in one place it is a sum of as many ones."""
        cdef tm_commons *all = self.commons()
        cdef uint64_t listeners = 0, slots = 0, waiting = 0, sources = 0
        cdef uint32_t i
        for i in range(<uint32_t>TM_MAX_LISTENERS):
            listeners += tm_counted_now(&all.listeners[i])
        for i in range(<uint32_t>TM_MAX_SLOTS):
            slots += tm_counted_now(&all.slots[i].connections)
            waiting += tm_counted_now(&all.slots[i].waiting)
        for i in range(<uint32_t>TM_MAX_SOURCES):
            sources += tm_counted_now(&all.sources[i].connections)
        return listeners, slots, waiting, sources

    def avoided_until(self, uint32_t slot):
        """Monotonic s until which workers pass an endpoint over; it has failed just before."""
        return tm_avoided_until(self.of(slot)) / 1000

    def forget(self, uint32_t slot):
        """Before another name gets the slot, which nothing counts in."""
        tm_common_forget(self.of(slot))

    def next_ticket(self, uint32_t number):
        """The one that a worker takes next."""
        if number >= TM_MAX_TICKETS:
            raise IndexError(number)
        return tm_ticket_next(&self.commons().tickets[number])

    def advance_ticket(self, uint32_t number, uint64_t count):
        """Leaves out so many, of a split that begins anew."""
        if number >= TM_MAX_TICKETS:
            raise IndexError(number)
        tm_ticket_advance(&self.commons().tickets[number], count)
