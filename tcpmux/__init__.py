"""tcpmux splits TCP connections between destinations by weight, and shifts it while they flow."""

from __future__ import annotations


def __getattr__(name: str) -> str:
    # Looked up when asked for: it takes longer than everything else a worker has to import,
    # and during an upgrade connections wait for that.
    if name == "__version__":
        from importlib.metadata import version

        return version("tcpmux")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
