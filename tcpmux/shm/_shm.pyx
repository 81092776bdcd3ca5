# cython: language_level=3
"""The shared-memory regions as Python objects: the only code that maps memory.

Runs in the master (creates all, writes the table), in workers (map what they need) and in
control (reads). Layout and rules: csrc/route_table.h and csrc/live.h.
"""

import time
import fcntl
import os
import socket
try:
    from _blake2 import blake2b  # hashlib loads OpenSSL, for which connections would wait as well
except ImportError:
    from hashlib import blake2b

from libc.errno cimport errno
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset, strlen
from libc.stdlib cimport calloc, free
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap
from posix.types cimport off_t
from posix.unistd cimport _SC_PAGESIZE, sysconf

from tcpmux.shm._layout cimport (
    AF_INET, AF_INET6, AF_UNIX, htons, sockaddr_in, sockaddr_in6, tm_address,
    tm_avoided_until, TM_BUFFER_SIZE, tm_common, tm_common_forget, tm_commons, tm_counted_now,
    tm_counter_read, tm_destination, tm_destination_rules, tm_endpoint, TM_ERROR_SIZE,
    tm_failures, tm_failures_all,
    tm_note_answer, tm_note_failure, tm_note_success, tm_note_suspicion, tm_suspecting,
    tm_suspicions, tm_suspicions_all, tm_image, TM_LABEL_SIZE, tm_listener, tm_listening, tm_live,
    tm_live_at_fault, tm_live_connections, tm_live_descriptors, tm_live_ending, TM_LIVE_FORMAT,
    tm_live_generation_seen, tm_live_guardian_pid, tm_live_heartbeat, tm_live_init, tm_live_pid,
    tm_live_capacity, tm_live_colds, tm_live_order, tm_live_presence, tm_live_progress, tm_live_renew,
    tm_live_set_at_fault, tm_live_set_guardian_pid, tm_live_set_pid, tm_live_set_presence,
    tm_live_size, tm_live_starts, tm_listening_checked, tm_listening_possible, TM_LOG_ENDS,
    TM_LOG_ENTRIES, tm_log_entry, TM_LOG_STARTS, TM_MAGLEV, tm_maglev_fill, tm_maglev_size,
    TM_MAX_ALL_DESTINATIONS, TM_MAX_DESTINATIONS, TM_MAX_ENDPOINTS, TM_MAX_LINES,
    TM_MAX_LISTENERS, TM_MAX_PLACES, TM_MAX_RANGES, TM_MAX_ROUTES,
    TM_MAX_SHARDS, TM_MAX_SLOTS, TM_MAX_SOURCES, TM_MAX_TICKETS, TM_MAX_TURNS, TM_NAME_SIZE, TM_NONE,
    TM_CONTROL, TM_LOGGER, tm_program, TM_PROGRAMS,
    TM_ORDER_DRAIN, TM_ORDER_RETIRE, tm_orders_checked, tm_peer, tm_pick, tm_pick_plan, tm_range, tm_route, tm_route_rules,
    TM_RUNNING, tm_records_checked, tm_slot, tm_slot_active, tm_state, tm_table, TM_BUFFERS, tm_pinned_epoch, tm_pinned_sum, tm_table_buffer, tm_table_busy_poll,
    TM_TABLE_FORMAT, tm_table_generation, tm_table_idle_image, tm_table_image, tm_table_init, tm_table_is_still,
    tm_table_publish, tm_table_set_buffer, tm_table_set_busy_poll, tm_table_set_log, tm_table_set_shard_owner,
    tm_table_set_state, tm_table_shard_owner, tm_table_state, tm_table_valid, tm_ticket,
    tm_turn, tm_turn_hash,
)

cdef extern from "<sys/mman.h>" nogil:
    enum: MADV_DONTDUMP
    int madvise(void *start, size_t length, int advice)

cdef extern from "sock.h" nogil:
    void tm_peer_from(tm_peer *peer, const tm_address *address)
    bint tm_sock_local_failure(int error)
    bint tm_sock_missing_loopback(const tm_address *address)

cdef extern from "watch.h" nogil:
    struct tm_beat:
        pass
    void tm_beat_step(tm_beat *beat)
    uint64_t tm_beat_steps(const tm_beat *beat)
    void tm_beat_tell(tm_beat *beat, uint64_t told)
    uint64_t tm_beat_told(const tm_beat *beat)

cdef extern from *:
    """
    #include "live.h"
    struct tm_counter_row { const char *kind, *place, *name, *unit, *help; };
    static const struct tm_counter_row tm_counter_rows[] = {
    #define TM_SLOT(name, unit, help) {"slot", "", #name, unit, help},
    #define TM_SLOT_ROUTE(name, unit, help) {"slot", "route", #name, unit, help},
    #define TM_SLOT_BASE(name, unit, help) {"slot", "base", #name, unit, help},
    #define TM_CLOSE(name, flag, help) {"close", "", #name, flag, help},
    #define TM_CLOSE_REJECTED(name, flag, help) {"close", "rejected", #name, flag, help},
    #define TM_PICK(name, help) {"pick", "", #name, "", help},
    #define TM_TIME(name, bounds, help) {"time", "", #name, #bounds, help},
    #define TM_WORKER(name, unit, help) {"worker", "", #name, unit, help},
    #include "counters.def"
    };
    static const unsigned tm_counter_row_count =
        sizeof(tm_counter_rows) / sizeof(tm_counter_rows[0]);
    struct tm_rule_row { const char *kind, *name; };
    static const struct tm_rule_row tm_rule_rows[] = {
    #define TM_ROUTE_RULE(name, unit, help) {"RouteRules", #name},
    #define TM_DESTINATION_RULE(name, unit, help) {"DestinationRules", #name},
    #include "rules.def"
    };
    static const unsigned tm_rule_row_count = sizeof(tm_rule_rows) / sizeof(tm_rule_rows[0]);
    #include "handoff_message.h"
    #include "channel.h"
    struct tm_field_row { const char *owner, *declaration, *name; size_t offset, size; };
    static const struct tm_field_row tm_field_rows[] = {
    #include "fields.rows"
    };
    static const unsigned tm_field_row_count = sizeof(tm_field_rows) / sizeof(tm_field_rows[0]);
    """
    struct tm_field_row:
        const char *owner
        const char *declaration
        const char *name
        size_t offset
        size_t size
    const tm_field_row tm_field_rows[]
    const unsigned tm_field_row_count

    struct tm_counter_row:
        const char *kind
        const char *place
        const char *name
        const char *unit
        const char *help
    const tm_counter_row tm_counter_rows[]
    const unsigned tm_counter_row_count

    struct tm_rule_row:
        const char *kind
        const char *name
    const tm_rule_row tm_rule_rows[]
    const unsigned tm_rule_row_count


def field_rows():
    """(struct, declaration, name, offset, size) of every field that processes share, and the text
    of every enum: csrc/fields.py."""
    return [(row.owner.decode(), row.declaration.decode(), row.name.decode(), row.offset, row.size)
            for row in tm_field_rows[:tm_field_row_count]]


def fields_of(owner):
    """{name: (offset, size)} of the fields of a struct."""
    return {name: (offset, size) for struct, _, name, offset, size in field_rows()
            if struct == owner}


def layout_of(rows, protocol):
    """What two builds have to have in common, as 16 characters."""
    return blake2b(repr((rows, protocol)).encode(), digest_size=8).hexdigest()


# Two builds with the same layout can work on the same memory, and speak on the same lines. The
# number is for what changes without a field: in what order is written, what a message means.
LAYOUT = layout_of(field_rows(), (TM_TABLE_FORMAT, TM_LIVE_FORMAT, 2))
UPGRADE_STATES = ("idle", "running", "failed")  # enum tm_upgrade
PRESENCES = ("absent", "present", "stopped", "hanging")  # enum tm_presence
ABSENT, PRESENT, STOPPED, HANGING = range(4)
PROGRAMS = ("control", "log")  # enum tm_program_id
CONTROL, LOGGER = TM_CONTROL, TM_LOGGER
OVER, REPLACED = 1, 2  # enum tm_ending
ORDER_DRAIN, ORDER_RETIRE = TM_ORDER_DRAIN, TM_ORDER_RETIRE
MAX_LISTENERS = TM_MAX_LISTENERS
MAX_SHARDS = TM_MAX_SHARDS
MAX_SLOTS = TM_MAX_SLOTS
MAX_TICKETS = TM_MAX_TICKETS
MAX_TURNS = TM_MAX_TURNS
MAX_RANGES = TM_MAX_RANGES
LOG_ENTRIES = TM_LOG_ENTRIES
LOG_ENTRY_SIZE = sizeof(tm_log_entry)
LOG_ENDS, LOG_STARTS = TM_LOG_ENDS, TM_LOG_STARTS


def counter_rows():
    """(kind, place, name, unit, help) of every counter, in order: tcpmux/shm/counters.py."""
    return [(row.kind.decode(), row.place.decode(), row.name.decode(), row.unit.decode(),
             row.help.decode()) for row in tm_counter_rows[:tm_counter_row_count]]


def _names(wanted):
    return tuple(name for kind, _, name, _, _ in counter_rows() if kind == wanted)


def _rules(str kind, size_t size):
    """Names of the rules, in the order of the C layout; those of the type `kind` of rules.py."""
    cdef size_t i
    names = tuple(tm_rule_rows[i].name.decode() for i in range(tm_rule_row_count)
                  if (<bytes>tm_rule_rows[i].kind).decode() == kind)
    assert len(names) * sizeof(uint64_t) == size, f"{kind} and rules.def"
    return names


ROUTE_RULES = _rules("RouteRules", sizeof(tm_route_rules))
DESTINATION_RULES = _rules("DestinationRules", sizeof(tm_destination_rules))
CLOSE_REASONS = _names("close")
PICK_REASONS = _names("pick")
WORKER_COUNTERS = _names("worker")
SLOT_COUNTERS = _names("slot")
TIMES = _names("time")


def pick_plan(weights):
    """(period, stride, cumulative thresholds) for a route's weights: see csrc/pick.h."""
    cdef uint32_t given[64]
    cdef uint32_t cumulative[64]
    cdef uint32_t period, stride
    cdef uint32_t count = len(weights)
    if count > TM_MAX_DESTINATIONS:
        raise ValueError(f"at most {TM_MAX_DESTINATIONS} destinations a route, got {count}")
    for i, weight in enumerate(weights):
        if not 0 <= weight <= 1000000:
            raise ValueError(f"a weight is 0..1000000, got {weight}")
        given[i] = weight
    tm_pick_plan(given, count, &period, &stride, cumulative)
    return period, stride, tuple(cumulative[i] for i in range(count))


def pick(weights, uint64_t ticket):
    """Index of the destination that ticket number `ticket` goes to. Needs a positive weight."""
    cdef tm_route route
    memset(&route, 0, sizeof(route))
    route.period, route.stride, thresholds = pick_plan(weights)
    if route.period == 0:
        raise ValueError("no weight is positive")
    route.destination_count = len(thresholds)
    for i, threshold in enumerate(thresholds):
        route.cumulative[i] = threshold
    return tm_pick(&route, ticket)


# No process that has it can take the memory away from under another one, nor keep a later master
# from writing it. Whoever must not write gets a descriptor that can't: Region.reader_fd.
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
MFD_NOEXEC_SEAL = 8  # Linux 6.3; sysctl vm.memfd_noexec may ask for it


def sealed_memory(str name, size_t size):
    """A memfd of its final size that only its own user can open anew. Raises OSError."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create(name, flags | MFD_NOEXEC_SEAL)
    except OSError:
        fd = os.memfd_create(name, flags)
    try:
        os.fchmod(fd, 0o600)
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def check_memory(int fd):
    """Raises ValueError unless it is memory that nobody can take away: whoever reads it would be
    killed by SIGBUS."""
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        raise ValueError("not a tcpmux region: no memory at all") from None
    if seals & SEALS != SEALS:
        raise ValueError("not a tcpmux region: its size is not fixed")


cdef class Region:
    """A memfd mapped into this process until unmap() or the end of the object."""

    def __cinit__(self):
        self.fd = self.reading = -1

    def __dealloc__(self):
        self.unmap()

    cdef int _map(self, int fd, size_t size, bint writable) except -1:
        cdef void *base = mmap(NULL, size, PROT_READ | PROT_WRITE if writable else PROT_READ,
                               MAP_SHARED, fd, 0)
        if base == MAP_FAILED:
            raise OSError(errno, "can't map shared memory")
        self.base = <char *>base
        self.size = size
        self.fd = fd
        return 0

    cdef int _create(self, str name, size_t size) except -1:
        fd = sealed_memory(f"tcpmux-{name}", size)
        try:
            self._map(fd, size, True)
        except BaseException:
            os.close(fd)
            raise
        return 0

    cdef int _attach(self, int fd, size_t size, bint writable) except -1:
        """Of a descriptor that another process may have made. One that can only read is opened
        anew, in the same place, for a master that takes over."""
        check_memory(fd)
        if writable and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
            try:
                os.dup2(again, fd, inheritable=os.get_inheritable(fd))
            finally:
                os.close(again)
        return self._map(fd, size, writable)

    @property
    def reader_fd(self):
        """Another descriptor of the same memory, which can't be used to write: for processes of
        which this one is not the writer. As fd where /proc is not mounted."""
        if self.reading < 0:
            try:
                self.reading = os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return self.fd
        return self.reading

    def unmap(self):
        """Takes the region out of this process's memory; the descriptor stays open."""
        if self.base != NULL:
            munmap(self.base, self.size)
            self.base = NULL

    def close(self):
        """Unmaps, and closes the descriptor."""
        self.unmap()
        for fd in (self.fd, self.reading):
            if fd >= 0:
                os.close(fd)
        self.fd = self.reading = -1


cdef class Beat(Region):
    """By which the master sees that a program of its own goes on. One for each process."""

    @staticmethod
    def create():
        """In the master, which only reads: the descriptor that can write is for the program.
        Raises OSError."""
        cdef Beat self = Beat()
        cdef int fd = sealed_memory("tcpmux-beat", sizeof(tm_beat))
        try:
            self._map(fd, sizeof(tm_beat), False)
        except BaseException:
            os.close(fd)
            raise
        return self

    @staticmethod
    def attach(int fd):
        """In the program; takes the descriptor. Raises OSError, ValueError."""
        cdef Beat self = Beat()
        self._attach(fd, sizeof(tm_beat), True)
        self.can_write = True
        self.give_away()
        return self

    def give_away(self):
        """Closes the descriptor; the memory stays mapped."""
        os.close(self.fd)
        self.fd = -1

    def step(self):
        """Says that it goes on. In the program only."""
        assert self.base != NULL and self.can_write
        tm_beat_step(<tm_beat *>self.base)

    @property
    def steps(self):
        """How many there have been, if the program is to be believed."""
        assert self.base != NULL
        return tm_beat_steps(<const tm_beat *>self.base)

    @property
    def told(self):
        """Of how many lines dropped the log process has told, if it is to be believed."""
        assert self.base != NULL
        return tm_beat_told(<const tm_beat *>self.base)

    @told.setter
    def told(self, uint64_t count):
        assert self.base != NULL and self.can_write
        tm_beat_tell(<tm_beat *>self.base, count)


cdef void put_name(char *place, str name):
    cdef bytes encoded = name.encode("ascii")
    assert 0 < len(encoded) < TM_NAME_SIZE
    memset(place, 0, TM_NAME_SIZE)
    memcpy(place, <char *>encoded, len(encoded))


cdef str name_text(const char *place):
    return (<bytes>place[:TM_NAME_SIZE]).split(b"\0", 1)[0].decode("ascii")


cdef void put_label(tm_table *table, uint32_t slot, str label):
    cdef bytes encoded = os.fsencode(label)[:TM_LABEL_SIZE - 1]
    assert slot < TM_MAX_SLOTS
    memset(table.labels[slot], 0, TM_LABEL_SIZE)
    memcpy(table.labels[slot], <char *>encoded, len(encoded))


cdef int put_address(tm_address *place, address) except -1:
    """From a config Address (host, port, path)."""
    cdef bytes raw
    memset(place, 0, sizeof(tm_address))
    if address.path:
        raw = os.fsencode(address.path)
        assert <size_t>len(raw) < sizeof(place.un.sun_path)
        place.un.sun_family = AF_UNIX
        memcpy(place.un.sun_path, <char *>raw, len(raw))
        place.length = sizeof(place.un)
    elif ":" in address.host:
        raw = socket.inet_pton(socket.AF_INET6, address.host)
        place.in6.sin6_family = AF_INET6
        place.in6.sin6_port = htons(address.port)
        memcpy(place.in6.sin6_addr.s6_addr, <char *>raw, 16)
        place.length = sizeof(sockaddr_in6)
    else:
        raw = socket.inet_pton(socket.AF_INET, address.host)
        place.in_.sin_family = AF_INET
        place.in_.sin_port = htons(address.port)
        memcpy(&place.in_.sin_addr, <char *>raw, 4)
        place.length = sizeof(sockaddr_in)
    return 0


cdef str address_text(const tm_address *address):
    """As people write it: 127.0.0.1:80, [::1]:80, unix:/path."""
    cdef tm_peer peer
    if address.any.sa_family == AF_UNIX:
        return "unix:" + os.fsdecode(<bytes>address.un.sun_path)
    tm_peer_from(&peer, address)
    return peer_text(&peer)


cdef str peer_text(const tm_peer *peer):
    """127.0.0.1:80, [::1]:80; unix: for a UNIX socket without a name; "" for none."""
    if peer.family == AF_INET:
        return f"{peer.ip[0]}.{peer.ip[1]}.{peer.ip[2]}.{peer.ip[3]}:{peer.port}"
    if peer.family == AF_INET6:
        return f"[{socket.inet_ntop(socket.AF_INET6, <bytes>(<char *>peer.ip)[:16])}]:{peer.port}"
    return "unix:" if peer.family else ""


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
        error = (<bytes>table.upgrade_error[:TM_ERROR_SIZE]).split(b"\0", 1)[0]
        return table.upgrades, table.upgrade_state, error.decode("utf-8", "replace")

    @upgrade.setter
    def upgrade(self, value):
        cdef tm_table *table = self.table()
        number, state, error = value
        cdef bytes text = error.encode("utf-8", "replace")[:TM_ERROR_SIZE - 1]
        memset(table.upgrade_error, 0, TM_ERROR_SIZE)
        memcpy(table.upgrade_error, <char *>text, len(text))
        table.upgrades, table.upgrade_state = number, state

    @property
    def reloads(self):
        """(carried out, refused) since the start."""
        return self.table().reloads_done, self.table().reloads_refused

    @reloads.setter
    def reloads(self, value):
        self.table().reloads_done, self.table().reloads_refused = value

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

    def publish(self, image not None):
        """Puts an Image in force; returns its generation.

        Precondition: every worker has seen the generation before it. The image is within
        the limits: tcpmux.shm.routes makes no other.
        """
        cdef tm_image *out = tm_table_idle_image(self.table())
        cdef tm_route *route
        cdef uint32_t at
        # Before anybody counts in their slots.
        put_new_labels(self.table(), image, tm_table_generation(self.table()))
        for row in image.routes:
            assert out.route_count < TM_MAX_ROUTES
            route = &out.routes[out.route_count]
            out.route_count += 1
            put_route(out, route, row)
        for row in image.listeners:
            at = out.listener_count
            assert at < TM_MAX_LISTENERS and row.id < TM_MAX_LISTENERS
            put_address(&out.listeners[at].address, row.address)
            out.listeners[at].id = row.id
            out.listeners[at].route = row.route
            out.route_of_listener[<uint32_t>row.id] = row.route
            out.listener_count += 1
        return tm_table_publish(self.table())

    def read(self):
        """(generation, Image) in force: copied, and whole even while the master publishes."""
        cdef uint64_t generation
        while True:
            generation = tm_table_generation(self.table())
            if generation == 0:
                return 0, image_types().Image((), ())
            try:
                image = read_image(tm_table_image(self.table(), generation))
            except (UnicodeDecodeError, ValueError, IndexError):
                # Torn: two generations came out while reading. If not, it is corrupt.
                if tm_table_is_still(self.table(), generation):
                    raise
                continue
            if tm_table_is_still(self.table(), generation):
                return generation, image


cdef int put_new_labels(tm_table *table, image, uint64_t before) except -1:
    """Of names that have been given their slots since that generation."""
    for route in image.routes:
        if route.born > before:
            put_label(table, route.slot, route.name)
        for destination in route.destinations:
            if destination.born > before:
                put_label(table, destination.slot, destination.name)
            for endpoint in destination.endpoints:
                if endpoint.born > before:
                    put_label(table, endpoint.slot, str(endpoint.address))
    return 0


cdef int put_route(tm_image *out, tm_route *route, row) except -1:
    cdef tm_destination *destination
    cdef uint32_t i
    put_name(route.name, row.name)
    route.first_destination = out.destination_count
    route.destination_count = len(row.destinations)
    route.ticket = row.ticket
    route.slot = row.slot
    route.born = row.born
    route.connect_timeout_ms = row.connect_timeout_ms
    route.idle_timeout_ms = row.idle_timeout_ms
    weights = tuple(d.effective_weight for d in row.destinations)
    route.period, route.stride, thresholds = pick_plan(weights)
    for i in range(route.destination_count):
        route.cumulative[i] = thresholds[i]
    put_rules(<uint64_t *>&route.rules, row.rules, ROUTE_RULES)
    put_ranges(out, route, row.admitted)
    for source in row.destinations:
        assert out.destination_count < TM_MAX_ALL_DESTINATIONS
        destination = &out.destinations[out.destination_count]
        out.destination_count += 1
        put_name(destination.name, source.name)
        destination.route = out.route_count - 1
        destination.weight = source.weight
        destination.file_weight = source.file_weight
        destination.effective_weight = source.effective_weight
        destination.connect_timeout_ms = source.connect_timeout_ms
        destination.idle_timeout_ms = source.idle_timeout_ms
        destination.ticket = source.ticket
        destination.slot = source.slot
        destination.born = source.born
        destination.admin_state = source.state
        destination.ramp = source.ramp
        destination.panic = source.panic
        destination.unresolved = source.unresolved
        put_rules(<uint64_t *>&destination.rules, source.rules, DESTINATION_RULES)
        put_endpoints(out, destination, source)
        put_turns(out, destination, source.turns, source.reserves)
    return 0


cdef int put_rules(uint64_t *place, rules, tuple names) except -1:
    for i, name in enumerate(names):
        place[<size_t>i] = getattr(rules, name)
    return 0


cdef int put_ranges(tm_image *out, tm_route *route, bytes admitted) except -1:
    cdef uint32_t count = 0 if admitted is None else len(admitted) // sizeof(tm_range)
    assert out.range_count + count <= TM_MAX_RANGES
    route.first_range = out.range_count
    route.range_count = TM_NONE if admitted is None else count
    if count:
        memcpy(&out.ranges[out.range_count], <const char *>admitted, count * sizeof(tm_range))
    out.range_count += count
    return 0


cdef int put_endpoints(tm_image *out, tm_destination *destination, row) except -1:
    cdef tm_endpoint *endpoint
    destination.first_endpoint = out.endpoint_count
    destination.endpoint_count = len(row.endpoints)
    for source in row.endpoints:
        assert out.endpoint_count < TM_MAX_ENDPOINTS
        endpoint = &out.endpoints[out.endpoint_count]
        out.endpoint_count += 1
        put_address(&endpoint.address, source.address)
        endpoint.slot = source.slot
        endpoint.born = source.born
        endpoint.admin_state = source.state
        endpoint.weight = source.weight
        endpoint.health = source.health
        endpoint.ramp = source.ramp
        endpoint.max_connections = source.max_connections
        endpoint.priority = source.priority
        endpoint.state_until = source.until
        endpoint.hash = address_hash(source.address)
    return 0


def address_hash(address):
    """64 bits that are the same for an address everywhere and in every release."""
    return int.from_bytes(blake2b(os.fsencode(str(address)), digest_size=8).digest(), "little")


cdef int put_turns(tm_image *out, tm_destination *destination, tuple turns,
                   tuple reserves) except -1:
    cdef tm_turn *turn
    cdef dict taken = {}
    assert out.turn_count + len(turns) + len(reserves) <= TM_MAX_TURNS
    destination.first_turn = out.turn_count
    destination.turn_count = len(turns)
    destination.reserve_count = len(reserves)
    destination.first_place = out.place_count
    destination.place_count = 0
    for index in turns + reserves:
        turn = &out.turns[out.turn_count]
        out.turn_count += 1
        turn.endpoint = index
        turn.number = taken.get(index, 0)
        taken[index] = turn.number + 1
    if destination.rules.balance == TM_MAGLEV and turns:
        put_places(out, destination)
    return 0


cdef int put_places(tm_image *out, tm_destination *destination) except -1:
    """The table of maglev. With too many of them it is looked for without: as source_hash."""
    cdef uint32_t size = tm_maglev_size(destination.turn_count)
    cdef uint32_t count = destination.turn_count
    cdef uint64_t *hashes
    cdef uint32_t turn
    if size < count or out.place_count + size > TM_MAX_PLACES:
        return 0
    hashes = <uint64_t *>calloc(count, 2 * sizeof(uint64_t) + sizeof(uint32_t))
    if hashes == NULL:
        raise MemoryError
    for turn in range(count):
        hashes[turn] = tm_turn_hash(out, destination, turn)
    tm_maglev_fill(&out.places[out.place_count], size, hashes, count,
                   <uint32_t *>(hashes + 2 * count), hashes + count)
    free(hashes)
    destination.place_count = size
    out.place_count += size
    return 0


cdef list slice_of(uint32_t first, uint32_t count, uint32_t most):
    if count > most or first > most - count:
        raise ValueError("image index out of bounds")
    return list(range(first, first + count))


# tcpmux.shm.image, once an image has been read. Workers read none, and what a new build's worker
# imports its connections wait for.
cdef object types = None


cdef object image_types():
    global types
    if types is None:
        from tcpmux.shm import image as types
    return types


cdef object read_rules(const uint64_t *place, object kind, tuple names):
    return kind(**{name: place[<size_t>i] for i, name in enumerate(names)})


cdef object read_endpoint(const tm_endpoint *endpoint):
    return types.EndpointRow(
        address_text(&endpoint.address), endpoint.slot, endpoint.born, endpoint.admin_state,
        endpoint.weight, endpoint.health, endpoint.ramp, endpoint.max_connections,
        endpoint.priority, endpoint.state_until)


cdef object read_destination(const tm_image *image, const tm_destination *destination):
    endpoints = [
        read_endpoint(&image.endpoints[<uint32_t>e])
        for e in slice_of(destination.first_endpoint, destination.endpoint_count,
                          TM_MAX_ENDPOINTS)]
    turns = [
        image.turns[<uint32_t>t].endpoint
        for t in slice_of(destination.first_turn,
                          destination.turn_count + destination.reserve_count, TM_MAX_TURNS)]
    return types.DestinationRow(
        name_text(destination.name), destination.weight, destination.file_weight,
        destination.effective_weight, destination.connect_timeout_ms,
        destination.idle_timeout_ms, destination.ticket, destination.slot, destination.born,
        tuple(endpoints), destination.admin_state, destination.ramp,
        read_rules(<const uint64_t *>&destination.rules, types.DestinationRules, DESTINATION_RULES),
        tuple(turns[:destination.turn_count]), tuple(turns[destination.turn_count:]),
        bool(destination.panic), destination.unresolved)


cdef object read_route(const tm_image *image, const tm_route *route):
    cdef uint32_t count = route.range_count
    admitted = None
    if count != TM_NONE:
        slice_of(route.first_range, count, TM_MAX_RANGES)
        admitted = (<const char *>&image.ranges[route.first_range])[:count * sizeof(tm_range)]
    destinations = [
        read_destination(image, &image.destinations[<uint32_t>d])
        for d in slice_of(route.first_destination, route.destination_count,
                          TM_MAX_ALL_DESTINATIONS)]
    return types.RouteRow(
        name_text(route.name), route.connect_timeout_ms, route.idle_timeout_ms, route.ticket,
        route.slot, route.born, tuple(destinations),
        read_rules(<const uint64_t *>&route.rules, types.RouteRules, ROUTE_RULES), admitted)


cdef object read_image(const tm_image *image):
    cdef const tm_listener *listener
    image_types()
    routes = [read_route(image, &image.routes[<uint32_t>r])
              for r in slice_of(0, image.route_count, TM_MAX_ROUTES)]
    listeners = []
    for at in slice_of(0, image.listener_count, TM_MAX_LISTENERS):
        listener = &image.listeners[<uint32_t>at]
        listeners.append(types.ListenerRow(address_text(&listener.address), listener.id,
                                           listener.route))
    return types.Image(tuple(routes), tuple(listeners))


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

    def suspicions(self, uint32_t slot):
        """(in a row, since the start, clients they are of at least) of an endpoint: connections
        that it has ended without a byte."""
        cdef tm_common *at = self.of(slot)
        return tm_suspicions(at), tm_suspicions_all(at), tm_suspecting(at)

    def note(self, uint32_t slot, *, bint failure=False, bint success=False, bint answer=False,
             suspicion=None):
        """As workers do; suspicion: a client's key, 64 bits."""
        cdef tm_common *at = self.of(slot)
        if failure:
            tm_note_failure(at)
        if success:
            tm_note_success(at)
        if answer:
            tm_note_answer(at)
        if suspicion is not None:
            tm_note_suspicion(at, suspicion)

    def failing(self, slots):
        """Those among these slots (an array of type I) of endpoints with failures or suspicions in
        a row."""
        cdef const uint32_t[::1] all = slots
        cdef Py_ssize_t i
        return [all[i] for i in range(all.shape[0])
                if all[i] < TM_MAX_SLOTS and (
                    tm_failures(&self.commons().slots[all[i]])
                    or tm_suspicions(&self.commons().slots[all[i]]))]

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
        """Bytes of clients don't get into a core file. What is on the same pages does not, either."""
        cdef size_t page = <size_t>sysconf(_SC_PAGESIZE)
        cdef size_t start = (<char *>self.live().buffer - self.base) // page * page
        cdef size_t end = <char *>self.live().buffer - self.base + TM_BUFFER_SIZE
        madvise(self.base + start, end - start, MADV_DONTDUMP)

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
        cdef const tm_listening *place
        cdef uint32_t i
        found = set()
        for i in range(tm_listening_checked(self.live())):
            place = &self.live().listening[i]
            if tm_listening_possible(place):
                found.add((place.id, place.shard))
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
        """How many turns, events and connections it has dealt with; only a change means something."""
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


# --- errors of sockets ------------------------------------------------------------------------

# Of this host, which say nothing of an endpoint.
LOCAL_FAILURES = frozenset(error for error in range(1, 4096) if tm_sock_local_failure(error))


def is_missing_loopback(address):
    """Whether an Address is a loopback address that this host does not have."""
    cdef tm_address place
    if address.path:
        return False
    put_address(&place, address)
    return tm_sock_missing_loopback(&place)
