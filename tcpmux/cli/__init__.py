"""The command line. Runs in a process of its own; only `run` becomes the master."""

from tcpmux.cli.app import main

__all__ = ["main"]
