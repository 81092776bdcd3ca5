"""Types of the compiled module; what things mean is said there."""

from array import array
from collections.abc import Sequence

from tcpmux.config import Address
from tcpmux.shm.image import Image

LAYOUT: str

def field_rows() -> list[tuple[str, str, str, int, int]]: ...
def fields_of(owner: str) -> dict[str, tuple[int, int]]: ...
def layout_of(rows: object, protocol: object) -> str: ...

UPGRADE_STATES: tuple[str, ...]
PRESENCES: tuple[str, ...]
ABSENT: int
PRESENT: int
STOPPED: int
HANGING: int
OVER: int
REPLACED: int
ORDER_DRAIN: int
ORDER_RETIRE: int
MAX_LISTENERS: int
MAX_SHARDS: int
MAX_SLOTS: int
MAX_TICKETS: int
MAX_TURNS: int
MAX_RANGES: int
ROUTE_RULES: tuple[str, ...]
DESTINATION_RULES: tuple[str, ...]
CLOSE_REASONS: tuple[str, ...]
PICK_REASONS: tuple[str, ...]
WORKER_COUNTERS: tuple[str, ...]
LOG_ENTRIES: int
LOG_ENTRY_SIZE: int
LOG_ENDS: int
LOG_STARTS: int

def counter_rows() -> list[tuple[str, str, str, str]]: ...
def pick_plan(weights: Sequence[int]) -> tuple[int, int, tuple[int, ...]]: ...
def address_hash(address: Address | str) -> int: ...
def pick(weights: Sequence[int], ticket: int) -> int: ...
def check_memory(fd: int) -> None: ...

class Region:
    fd: int
    size: int
    @property
    def reader_fd(self) -> int: ...
    def unmap(self) -> None: ...
    def close(self) -> None: ...

class Table(Region):
    generation: int
    worker_count: int
    shard_count: int
    master_pid: int
    control_pid: int
    logger_pid: int
    busy_poll: int
    numbers_given: tuple[int, int]
    upgrade: tuple[int, int, str]
    reloads: tuple[int, int]
    started_at: int
    draining: bool
    @staticmethod
    def create(workers: int, shards: int, master_pid: int, started_at: int) -> Table: ...
    @staticmethod
    def attach(fd: int, writable: bool = False) -> Table: ...
    def set_state(self, state: int) -> None: ...
    def shard_owner(self, shard: int) -> int: ...
    def set_shard_owner(self, shard: int, worker: int) -> None: ...
    def publish(self, image: Image) -> int: ...
    def read(self) -> tuple[int, Image]: ...
    def log(self, kinds: int, capacity: int) -> None: ...
    def label(self, slot: int) -> str: ...

class Commons(Region):
    @staticmethod
    def create() -> Commons: ...
    @staticmethod
    def attach(fd: int, writable: bool = False) -> Commons: ...
    def connections(self, slot: int) -> int: ...
    def waiting(self, slot: int) -> int: ...
    def failures(self, slot: int) -> tuple[int, int]: ...
    def suspicions(self, slot: int) -> tuple[int, int, int]: ...
    def note(
        self,
        slot: int,
        *,
        failure: bool = False,
        success: bool = False,
        answer: bool = False,
        suspicion: int | None = None,
    ) -> None: ...
    def failing(self, slots: array[int]) -> list[int]: ...
    def totals(self) -> tuple[int, int, int, int]: ...
    def avoided_until(self, slot: int) -> float: ...
    def forget(self, slot: int) -> None: ...

class Live(Region):
    worker: int
    capacity: int
    pid: int
    guardian_pid: int
    @property
    def descriptors(self) -> int: ...
    presence: int
    ending: int
    at_fault: bool
    channel: int
    orders: int
    builds: int
    starts: int
    listening: set[tuple[int, int]]
    def has_line(self, other: int) -> bool: ...
    def gives_to(self, other: int) -> bool: ...
    connections: int
    generation_seen: int
    heartbeat_ms: int
    progress: int
    @staticmethod
    def create(worker: int, capacity: int) -> Live: ...
    @staticmethod
    def attach(fd: int, writable: bool = False, *, worker: int = -1) -> Live: ...
    def renew(self, commons: Commons, slots: int) -> int: ...
    records_used: int
    def record_offset(self, index: int) -> int: ...
    def slot_active(self, slot: int) -> int: ...
    def counters(self) -> dict[str, int]: ...
    pipes: int
    log_dropped: int
