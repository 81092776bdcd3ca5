"""How much memory sockets and pipes may take: what the configuration leaves open is worked out from
the host. Runs in the master."""

from __future__ import annotations

import os
from pathlib import Path

from tcpmux.config import Config

DEFAULT_PIPE_PAGES = 16384  # pipe-user-pages-soft, where it can't be told


def buffer_sizes(config: Config) -> tuple[int, int, int, int, int, int]:
    """As the table has them."""
    sizes = config.buffers
    total = _tcp_memory() // 4 if sizes.total is None else sizes.total
    return sizes.client, sizes.endpoint, sizes.pipe, sizes.per_source, total, _pipe_memory()


def _tcp_memory() -> int:
    """Bytes that TCP's sockets of this host may hold before the kernel saves memory (tcp_mem(7));
    where that can't be told, a sixteenth of all."""
    page = os.sysconf("SC_PAGE_SIZE")
    try:
        return int(Path("/proc/sys/net/ipv4/tcp_mem").read_text().split()[1]) * page
    except (OSError, ValueError, IndexError):
        return os.sysconf("SC_PHYS_PAGES") * page // 16


def _pipe_memory() -> int:
    """Bytes of pipes that workers may have together: three quarters of what the kernel lets a user
    have (pipe(7)), as others may be of the same user. 0 = as many as they like."""
    try:
        pages = int(Path("/proc/sys/fs/pipe-user-pages-soft").read_text())
    except (OSError, ValueError):
        pages = DEFAULT_PIPE_PAGES
    return pages * os.sysconf("SC_PAGE_SIZE") * 3 // 4
