"""Types of the compiled module; what things mean is said there."""

from collections.abc import Sequence

from tcpmux.shm._shm import Live, Table, Tickets

def run(
    worker: int,
    table: Table,
    tickets: Tickets,
    live: Live,
    channel: int,
    listeners: Sequence[tuple[int, int, int, bool]],
    pipes: int,
) -> None: ...
