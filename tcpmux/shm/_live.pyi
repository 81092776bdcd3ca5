"""Types of the compiled module, which has the documentation."""

from tcpmux.shm._commons import Commons
from tcpmux.shm._region import Region

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
    def cold_offset(self, index: int) -> int: ...
    def slot_active(self, slot: int) -> int: ...
    def counters(self) -> dict[str, int]: ...
    pipes: int
    pipe_bytes: int
    log_dropped: int
