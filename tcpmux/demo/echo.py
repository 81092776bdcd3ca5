"""Line echo servers for the demo and for trying things out; a process of their own.

    python -m tcpmux.demo.echo one=127.0.0.1:9001 two=127.0.0.1:9002

Each answers every line with its prefix and the line, as the tcp-echo-server of Istio's
examples does: `hello` comes back as `one hello`. A client that has sent FIN still gets its
answers, then FIN.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING

from tcpmux.config import Address

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_LINE = 1024 * 1024  # bytes
LISTENING = "listening"  # printed, as a line, when every server does


async def echo(prefix: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serves one connection to its end."""
    try:
        while line := await reader.readline():
            writer.write(prefix + b" " + line)
            await writer.drain()
    except (ConnectionError, ValueError):  # ValueError: beyond MAX_LINE
        pass
    finally:
        writer.close()


async def start_echo_server(prefix: str, address: Address) -> asyncio.Server:
    """Listens and serves until closed. Raises OSError."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await echo(prefix.encode(), reader, writer)

    if address.path:
        return await asyncio.start_unix_server(serve, address.path, limit=MAX_LINE)
    return await asyncio.start_server(serve, address.host, address.port, limit=MAX_LINE)


async def _run(servers: Sequence[tuple[str, Address]]) -> None:
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    running = [await start_echo_server(prefix, address) for prefix, address in servers]
    print(LISTENING, flush=True)
    await over.wait()
    for server in running:
        server.close()


def main(arguments: Sequence[str]) -> int:
    """Each argument is PREFIX=ADDRESS. Returns the exit code."""
    try:
        pairs = [argument.partition("=") for argument in arguments]
        servers = [(prefix, Address.parse(address)) for prefix, _, address in pairs]
    except ValueError as error:
        print(f"tcpmux: error: {error}", file=sys.stderr)
        return 2
    if not servers:
        print("usage: python -m tcpmux.demo.echo PREFIX=ADDRESS...", file=sys.stderr)
        return 2
    try:
        asyncio.run(_run(servers))
    except OSError as error:
        print(f"tcpmux: error: can't listen: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
