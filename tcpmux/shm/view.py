"""An instance as its shared memory shows it. Used in control and in the log process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tcpmux.shm._commons import Commons
from tcpmux.shm._image import read_image
from tcpmux.shm._live import Live
from tcpmux.shm._readings import Counters
from tcpmux.shm._table import Table
from tcpmux.shm.image import Image

if TYPE_CHECKING:
    from array import array


class View:
    """The route table and the workers' regions, given as descriptors of their memfds.

    Raises ValueError for a descriptor that is not a region of this build.
    """

    def __init__(
        self,
        table_fd: int,
        live_fds: Sequence[int],
        *,
        commons_fd: int = -1,
        writable: bool = False,
    ) -> None:
        self.table = Table.attach(table_fd)
        self._commons = Commons.attach(commons_fd) if commons_fd >= 0 else None
        self.lives = [
            Live.attach(fd, writable=writable, worker=number) for number, fd in enumerate(live_fds)
        ]
        self.counters = Counters(self.lives)
        self._image: tuple[int, Image] = (0, Image((), ()))

    @property
    def commons(self) -> Commons:
        """Only where its descriptor was given."""
        assert self._commons is not None
        return self._commons

    def waiting(self, slot: int) -> int:
        """Connections that wait for a place in a destination, or for one of its endpoints."""
        return 0 if self._commons is None else self._commons.waiting(slot)

    @property
    def pinned(self) -> int:
        """Bytes of kernel memory that connections hold which nobody reads."""
        return 0 if self._commons is None else self._commons.pinned

    def suspicions(self, slot: int) -> int:
        """Connections that an endpoint has ended without a byte, since the start."""
        return 0 if self._commons is None else self._commons.suspicions(slot)[1]

    def failing(self, slots: array[int]) -> list[int]:
        """Those of these slots of endpoints with failures or suspicions in a row."""
        return [] if self._commons is None else self._commons.failing(slots)

    def moved(self, slots: array[int], seen: array[int]) -> list[int]:
        """Those whose failures or suspicions are others than `seen` says: Commons.moved()."""
        return [] if self._commons is None else self._commons.moved(slots, seen)

    def image(self) -> tuple[int, Image]:
        """The generation in force, and its image; read only when it has changed."""
        if self._image[0] != self.table.generation:
            self._image = read_image(self.table)
        return self._image
