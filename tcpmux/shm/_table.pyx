# cython: language_level=3
"""The route table without the content of its images: csrc/route_table.h.

Written by the master alone."""

import os

from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from tcpmux.shm.c_live cimport TM_LOG_ENTRIES
from tcpmux.shm.c_table cimport (
    TM_BUFFERS, TM_ERROR_SIZE, TM_LABEL_SIZE, TM_MAX_SHARDS, TM_MAX_SLOTS, tm_program,
    TM_PROGRAMS, TM_RUNNING, tm_state, tm_table, tm_table_buffer, tm_table_busy_poll,
    tm_table_generation, tm_table_init, tm_table_log_style, tm_table_set_buffer,
    tm_table_set_busy_poll, tm_table_set_log, tm_table_set_log_style, tm_table_set_shard_owner,
    tm_table_set_state, tm_table_shard_owner, tm_table_state, tm_table_valid,
)
from tcpmux.shm._declared import LAYOUT
from tcpmux.shm._region cimport Region


cdef class Table(Region):
    """The route table. One writer: the master."""

    cdef tm_table *table(self):
        assert self.base != NULL
        return <tm_table *>self.base

    @staticmethod
    def create(uint32_t workers, uint32_t shards, int32_t master_pid, long long started_at):
        cdef Table self = Table()
        self._create("table", sizeof(tm_table))
        tm_table_init(self.table(), workers, shards, master_pid, started_at)
        self.table().layout = int(LAYOUT, 16)
        return self

    @staticmethod
    def attach(int fd, bint writable=False):
        """Raises ValueError for anything that is not a table of this build."""
        cdef Table self = Table()
        size = os.fstat(fd).st_size
        if size < <Py_ssize_t>sizeof(tm_table):
            raise ValueError("not a tcpmux route table")
        self._attach(fd, size, writable)
        if not tm_table_valid(self.table(), size) or self.table().layout != int(LAYOUT, 16):
            raise ValueError("not a tcpmux route table of this format")
        return self

    @property
    def generation(self):
        return tm_table_generation(self.table())

    @property
    def worker_count(self):
        """How many workers there are to be."""
        return self.table().worker_count

    @worker_count.setter
    def worker_count(self, uint32_t count):
        self.table().worker_count = count

    @property
    def shard_count(self):
        return self.table().shard_count

    @property
    def master_pid(self):
        return self.table().master_pid

    @master_pid.setter
    def master_pid(self, int32_t pid):
        self.table().master_pid = pid

    def program(self, uint32_t number):
        """(pid, presence, starts, hangs) of a program beside the workers: an index of PROGRAMS."""
        assert number < TM_PROGRAMS
        cdef tm_program *program = &self.table().programs[number]
        return program.pid, program.presence, program.starts, program.hangs

    def set_program(self, uint32_t number, int32_t pid, uint32_t presence, uint64_t starts,
                    uint64_t hangs):
        """As program() returns it."""
        assert number < TM_PROGRAMS
        cdef tm_program *program = &self.table().programs[number]
        program.pid, program.presence = pid, presence
        program.starts, program.hangs = starts, hangs

    @property
    def numbers_given(self):
        """(slots, tickets) that have belonged to some name: those from there on are fresh."""
        return self.table().slots_given, self.table().tickets_given

    @numbers_given.setter
    def numbers_given(self, numbers):
        self.table().slots_given, self.table().tickets_given = numbers

    @property
    def upgrade(self):
        """(number of the last one, UPGRADE_STATES index, error in one line)."""
        cdef tm_table *table = self.table()
        return table.upgrades, table.upgrade_state, error_text(table.upgrade_error)

    @upgrade.setter
    def upgrade(self, value):
        cdef tm_table *table = self.table()
        number, state, error = value
        put_error(table.upgrade_error, error)
        table.upgrades, table.upgrade_state = number, state

    @property
    def reloads(self):
        """(carried out, refused) since the start."""
        return self.table().reloads_done, self.table().reloads_refused

    @reloads.setter
    def reloads(self, value):
        self.table().reloads_done, self.table().reloads_refused = value

    @property
    def last_reload(self):
        """(Unix time in s, 0 = there was none; why it was refused in one line, "" = it was not)."""
        cdef tm_table *table = self.table()
        return table.reloaded_at, error_text(table.reload_error)

    @last_reload.setter
    def last_reload(self, value):
        self.table().reloaded_at = value[0]
        put_error(self.table().reload_error, value[1])

    @property
    def busy_poll(self):
        """How long a worker looks for events before it sleeps, in microseconds; -1 = as it pays."""
        return tm_table_busy_poll(self.table())

    @busy_poll.setter
    def busy_poll(self, int32_t busy_poll):
        tm_table_set_busy_poll(self.table(), busy_poll)

    @property
    def buffers(self):
        """What connections may hold whose peer does not read, in bytes: client, endpoint, pipe,
        per_source, total (0 = no limit); and what all pipes may have together (0 = no limit)."""
        return tuple(tm_table_buffer(self.table(), which) for which in range(TM_BUFFERS))

    @buffers.setter
    def buffers(self, sizes):
        for which, size in zip(range(TM_BUFFERS), sizes, strict=True):
            tm_table_set_buffer(self.table(), which, size)

    def log(self, uint32_t kinds, uint32_t capacity):
        """Has workers log from now on. kinds: LOG_ENDS and LOG_STARTS, 0 = nothing; capacity:
        entries of each that may wait to be written."""
        assert capacity <= TM_LOG_ENTRIES
        tm_table_set_log(self.table(), kinds, capacity)

    @property
    def log_style(self):
        """How all processes log: LogStyle.number (tcpmux/log_style.py)."""
        return tm_table_log_style(self.table())

    @log_style.setter
    def log_style(self, uint32_t number):
        tm_table_set_log_style(self.table(), number)

    def label(self, uint32_t slot):
        """The name or address that a counter slot belongs to, or last did; "" = none."""
        if slot >= TM_MAX_SLOTS:
            return ""
        return os.fsdecode((<bytes>self.table().labels[slot][:TM_LABEL_SIZE]).split(b"\0", 1)[0])

    @property
    def started_at(self):
        return self.table().started_at

    @property
    def draining(self):
        return tm_table_state(self.table()) != TM_RUNNING

    def set_state(self, int state):
        tm_table_set_state(self.table(), <tm_state>state)

    def shard_owner(self, uint32_t shard):
        assert shard < TM_MAX_SHARDS
        return tm_table_shard_owner(self.table(), shard)

    def set_shard_owner(self, uint32_t shard, int32_t worker):
        assert shard < TM_MAX_SHARDS
        tm_table_set_shard_owner(self.table(), shard, worker)



cdef str error_text(const char *field):
    return (<bytes>field[:TM_ERROR_SIZE]).split(b"\0", 1)[0].decode("utf-8", "replace")



cdef void put_error(char *field, str text):
    cdef bytes encoded = text.encode("utf-8", "replace")[:TM_ERROR_SIZE - 1]
    memset(field, 0, TM_ERROR_SIZE)
    memcpy(field, <char *>encoded, len(encoded))
