# cython: language_level=3
"""A worker's region: its heartbeat, counters and connections. csrc/live.h, csrc/trust.h."""

import os

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint32_t, uint64_t
from posix.unistd cimport _SC_PAGESIZE, sysconf

from tcpmux.shm.c_live cimport (
    TM_BUFFER_SIZE, tm_cold, tm_counter_read, tm_listening, tm_listening_checked,
    tm_listening_possible, tm_live, tm_live_annexes, tm_live_at_fault, tm_live_capacity,
    tm_live_colds, tm_live_connections, tm_live_descriptors, tm_live_ending,
    tm_live_generation_seen,
    tm_live_guardian_pid, tm_live_heartbeat, tm_live_init, tm_live_order, tm_live_pid,
    tm_live_presence, tm_live_progress, tm_live_renew, tm_live_set_at_fault,
    tm_live_set_guardian_pid, tm_live_set_pid, tm_live_set_presence, tm_live_size,
    tm_live_starts, TM_MAX_LINES, tm_orders_checked, tm_records_checked, tm_slot_active,
)
from tcpmux.shm.c_table cimport TM_MAX_SHARDS, TM_MAX_SLOTS
from tcpmux.shm._commons cimport Commons
from tcpmux.shm._declared import WORKER_COUNTERS
from tcpmux.shm._region cimport Region

cdef extern from "<sys/mman.h>" nogil:
    enum: MADV_DONTDUMP
    int madvise(void *start, size_t length, int advice)



cdef class Live(Region):
    """One worker's heartbeat, counters and connections. One writer: that worker."""

    cdef tm_live *live(self):
        assert self.base != NULL
        return <tm_live *>self.base

    @staticmethod
    def create(uint32_t worker, uint32_t capacity):
        """capacity: the most connections this worker may have."""
        cdef Live self = Live()
        self._create(f"live-{worker}", tm_live_size(capacity))
        self._keep_from_dumps()
        tm_live_init(self.live(), worker, capacity)
        self.worker, self.capacity = worker, capacity
        return self

    @staticmethod
    def attach(int fd, bint writable=False, *, int worker=-1):
        """Raises ValueError for anything that can't be a live region of this build.

        worker: whose it is, where that is known: the region says so too, but its worker writes
        it. Which build it is of says the table.
        """
        cdef Live self = Live()
        size = os.fstat(fd).st_size
        if tm_live_capacity(size) < 0:
            raise ValueError("not a tcpmux live region")
        self._attach(fd, size, writable)
        self._keep_from_dumps()
        self.capacity = <uint32_t>tm_live_capacity(size)
        self.worker = <uint32_t>worker if worker >= 0 else self.live().worker % TM_MAX_SHARDS
        return self

    cdef void _keep_from_dumps(self):
        """Keeps clients' bytes out of core files, and whatever else is on the same pages: the copy
        buffer, and annexes, which have passwords (csrc/protocol/kept.h)."""
        cdef char *annexes = <char *>tm_live_annexes(
            self.live(), <uint32_t>tm_live_capacity(self.size))
        self._keep_out(<char *>self.live().buffer, TM_BUFFER_SIZE)
        self._keep_out(annexes, self.base + self.size - annexes)

    cdef void _keep_out(self, char *start, size_t size):
        cdef size_t page = <size_t>sysconf(_SC_PAGESIZE)
        cdef size_t first = <size_t>(start - self.base) // page * page
        madvise(self.base + first, start + size - self.base - first, MADV_DONTDUMP)

    def renew(self, Commons commons not None, uint32_t slots):
        """Begins anew with a region whose lives die at their start; returns how many connections
        were lost. slots: those from there on have never been used. csrc/trust.h."""
        return tm_live_renew(self.live(), commons.commons(), self.worker, self.capacity, slots)

    @property
    def pid(self):
        return tm_live_pid(self.live())

    @pid.setter
    def pid(self, int32_t pid):
        tm_live_set_pid(self.live(), pid)

    @property
    def guardian_pid(self):
        """0 = there is none: this worker is not wanted at the moment."""
        return tm_live_guardian_pid(self.live())

    @property
    def descriptors(self):
        """Open in the worker, a second ago; 0 = the kernel does not say."""
        return tm_live_descriptors(self.live())

    @guardian_pid.setter
    def guardian_pid(self, int32_t pid):
        tm_live_set_guardian_pid(self.live(), pid)

    @property
    def presence(self):
        """enum tm_presence of csrc/live.h: PRESENCES has the names."""
        return tm_live_presence(self.live())

    @presence.setter
    def presence(self, int presence):
        tm_live_set_presence(self.live(), presence)

    @property
    def ending(self):
        """How its life ended by itself: OVER, REPLACED, or 0 = it did not. enum tm_ending."""
        return tm_live_ending(self.live())

    @property
    def at_fault(self):
        """Its last life ended by a fault of its own."""
        return tm_live_at_fault(self.live())

    @at_fault.setter
    def at_fault(self, bint at_fault):
        tm_live_set_at_fault(self.live(), at_fault)

    @property
    def channel(self):
        """The worker's descriptor of its line to the master, -1 = none; a number in its process."""
        return self.live().channel

    @channel.setter
    def channel(self, int32_t channel):
        self.live().channel = channel

    @property
    def orders(self):
        """Bits of enum tm_order."""
        return tm_orders_checked(self.live())

    @orders.setter
    def orders(self, uint32_t orders):
        tm_live_order(self.live(), orders)

    @property
    def builds(self):
        """How often its guardian has become another build."""
        return self.live().builds

    @builds.setter
    def builds(self, uint32_t builds):
        self.live().builds = builds

    @property
    def listening(self):
        """The shards it has, as a set of (listener id, shard)."""
        cdef const tm_listening *listening
        cdef uint32_t i
        found = set()
        for i in range(tm_listening_checked(self.live())):
            listening = &self.live().listening[i]
            if tm_listening_possible(listening):
                found.add((listening.id, listening.shard))
        return found

    def has_line(self, uint32_t other):
        """Whether it can talk to worker `other`."""
        return other < TM_MAX_LINES and self.live().lines[other] >= 0

    def gives_to(self, uint32_t other):
        """Whether it hands its connections over to worker `other`."""
        return other < TM_MAX_LINES and bool(self.live().gives_to >> other & 1)

    @property
    def starts(self):
        return tm_live_starts(self.live())

    @property
    def connections(self):
        """How many it has; at most capacity."""
        return min(tm_live_connections(self.live()), self.capacity)

    @property
    def generation_seen(self):
        return tm_live_generation_seen(self.live())

    @property
    def heartbeat_ms(self):
        """Monotonic milliseconds of the last turn of its loop."""
        return tm_live_heartbeat(self.live())

    @property
    def progress(self):
        """Counts loop iterations, events and connections; only a change of it means something."""
        return tm_live_progress(self.live())

    @property
    def records_used(self):
        """Records from here on have never been used."""
        return tm_records_checked(self.live(), self.capacity)

    def record_offset(self, uint32_t index):
        """Where a record begins in the region, bytes."""
        assert index < self.capacity
        return <char *>&self.live().records[index] - self.base

    def cold_offset(self, uint32_t index):
        """The same of its other half, struct tm_cold."""
        assert index < self.capacity
        return <char *>&tm_live_colds(self.live(), self.capacity)[index] - self.base

    def slot_active(self, uint32_t slot):
        """Connections of this worker that are open in a slot."""
        if slot >= TM_MAX_SLOTS:
            raise IndexError(slot)
        return tm_slot_active(&self.live().slots[slot])

    def counters(self):
        """The worker's own counters, by name."""
        cdef const uint64_t *first = <const uint64_t *>&self.live().counters
        return {name: tm_counter_read(&first[i]) for i, name in enumerate(WORKER_COUNTERS)}

    @property
    def pipes(self):
        """How many it has open."""
        return self.live().pipes

    @property
    def pipe_bytes(self):
        """What they can hold together, as pipe-user-pages-soft counts it."""
        return self.live().pipe_bytes

    @property
    def log_dropped(self):
        """Log entries for which there was no room."""
        return self.live().log.dropped
