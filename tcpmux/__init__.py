"""tcpmux splits TCP connections between destinations by weight, and shifts it while they flow.

For programs: Client and AsyncClient talk to a running instance, as the commands do. What goes wrong
is a TcpmuxError: an AdminError, such as NotRunning, PermissionDenied, Refused or WaitTimeout, or a
UsageError for arguments that make no sense.

    from tcpmux import Client
    with Client() as client:
        client.set_weights("tcp-echo", {"v1": 100, "v2": 0})
        client.wait_drained("tcp-echo/v2", timeout=600)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tcpmux.control.asking import (
        AdminError,
        Interrupted,
        NotRunning,
        PermissionDenied,
        Refused,
        TokenMissing,
        Unanswered,
        WaitTimeout,
    )
    from tcpmux.control.async_client import AsyncClient
    from tcpmux.control.client import Client
    from tcpmux.control.remote import NotEncrypted
    from tcpmux.errors import TcpmuxError, UsageError

__version__ = "0.1.0"

__all__ = [
    "AdminError",
    "AsyncClient",
    "Client",
    "Interrupted",
    "NotEncrypted",
    "NotRunning",
    "PermissionDenied",
    "Refused",
    "TcpmuxError",
    "TokenMissing",
    "Unanswered",
    "UsageError",
    "WaitTimeout",
    "__version__",
]

_ELSEWHERE = {
    "AsyncClient": "control.async_client",
    "Client": "control.client",
    "NotEncrypted": "control.remote",
    "TcpmuxError": "errors",
    "UsageError": "errors",
}


def __getattr__(name: str) -> Any:
    # Looked up when asked for: it takes longer than everything else a worker has to import,
    # and during an upgrade connections wait for that.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"tcpmux.{_ELSEWHERE.get(name, 'control.asking')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
