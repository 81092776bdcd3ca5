"""Types of the compiled module, which has the documentation."""

from collections.abc import Sequence

from tcpmux.shm._commons import Commons
from tcpmux.shm._live import Live
from tcpmux.shm._table import Table

def adopt(live: Live, channel: int, listeners: Sequence[tuple[int, int, int, bool]]) -> None: ...
def run(
    worker: int,
    table: Table,
    commons: Commons,
    live: Live,
    kept: Sequence[int],
    offered: Sequence[int],
    takeover: int,
    owner: int,
    pipes: int,
) -> int: ...
