"""Types of the compiled module, which has the documentation."""

from tcpmux.shm._region import Region

class Table(Region):
    generation: int
    worker_count: int
    shard_count: int
    master_pid: int
    busy_poll: int
    buffers: tuple[int, int, int, int, int, int]
    numbers_given: tuple[int, int]
    upgrade: tuple[int, int, str]
    reloads: tuple[int, int]
    last_reload: tuple[int, str]
    started_at: int
    draining: bool
    @staticmethod
    def create(workers: int, shards: int, master_pid: int, started_at: int) -> Table: ...
    def program(self, number: int) -> tuple[int, int, int, int]: ...
    def set_program(
        self, number: int, pid: int, presence: int, starts: int, hangs: int
    ) -> None: ...
    @staticmethod
    def attach(fd: int, writable: bool = False) -> Table: ...
    def set_state(self, state: int) -> None: ...
    def shard_owner(self, shard: int) -> int: ...
    def set_shard_owner(self, shard: int, worker: int) -> None: ...
    def log(self, kinds: int, capacity: int) -> None: ...
    log_style: int
    def label(self, slot: int) -> str: ...
