"""The master process: owns the listening sockets and the shared memory, starts the others."""

from tcpmux.master.start import run

__all__ = ["run"]
