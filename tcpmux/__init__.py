"""tcpmux splits TCP connections between destinations by weight, and shifts it while they flow.

For programs: Client and AsyncClient talk to a running instance, as the commands do; what goes
wrong is a TcpmuxError.

    from tcpmux import Client
    Client().set_weights("tcp-echo", {"v1": 50, "v2": 50})
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tcpmux.control.async_client import AsyncClient
    from tcpmux.control.client import Client
    from tcpmux.errors import TcpmuxError

__version__ = "0.1.0"

__all__ = ["AsyncClient", "Client", "TcpmuxError", "__version__"]


def __getattr__(name: str) -> Any:
    # Looked up when asked for: it takes longer than everything else a worker has to import,
    # and during an upgrade connections wait for that.
    if name == "AsyncClient":
        from tcpmux.control.async_client import AsyncClient

        return AsyncClient
    if name == "Client":
        from tcpmux.control.client import Client

        return Client
    if name == "TcpmuxError":
        from tcpmux.errors import TcpmuxError

        return TcpmuxError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
