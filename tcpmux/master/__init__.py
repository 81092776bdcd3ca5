"""The master process: owns the listening sockets and the shared memory, starts the others."""

from tcpmux.master.process import run

__all__ = ["run"]
