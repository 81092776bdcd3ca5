"""Real members of etcd, which tests kill, wipe, compact and cut off."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tcpmux.control.fleet.values import behind, key_value, packed
from tests.support import free_port, patient, wait_for

PROGRAM = shutil.which("etcd")


class Member:
    """One process. options: more of its command line. pem: its certificate and key, by which it
    also knows clients; None = it is plain HTTP."""

    def __init__(
        self, name: str, directory: Path, options: Sequence[str], pem: Path | None = None
    ) -> None:
        self.name = name
        self._tls = None
        if pem is not None:
            self._tls = ssl.create_default_context(cafile=pem)
            self._tls.load_cert_chain(pem)
            ca = directory / f"{name}-ca.pem"  # without the key, which etcd takes for another one
            begin = "-----BEGIN CERTIFICATE-----"
            ca.write_text(begin + pem.read_text().partition(begin)[2])
            options = [
                *options,
                *("--cert-file", str(pem), "--key-file", str(pem)),
                *("--trusted-ca-file", str(ca), "--client-cert-auth"),
            ]
        self.directory = directory / name
        self.port, self._peer_port = free_port(), free_port()
        self.url = f"{'http' if pem is None else 'https'}://127.0.0.1:{self.port}"
        self.peer = f"http://127.0.0.1:{self._peer_port}"
        self.cluster = ""
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """And does not wait until it answers: alone it may not."""
        assert PROGRAM is not None
        with (self.directory.parent / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    PROGRAM,
                    *("--name", self.name),
                    *("--data-dir", str(self.directory)),
                    *("--listen-client-urls", self.url),
                    *("--advertise-client-urls", self.url),
                    *("--listen-peer-urls", self.peer),
                    *("--initial-advertise-peer-urls", self.peer),
                    *("--initial-cluster", self.cluster),
                    *("--heartbeat-interval", "50", "--election-timeout", "500"),
                    *self._options,
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """It stands still, and so do its connections."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def wipe(self) -> None:
        """To be called while it does not run."""
        assert self._process is None
        shutil.rmtree(self.directory)

    def ask(self, path: str, token: str = "", **asked: Any) -> dict[str, Any]:
        headers = {"Content-Type": "text/plain", **({"Authorization": token} if token else {})}
        request = Request(  # noqa: S310
            f"{self.url}/v3/{path}", json.dumps(asked).encode(), headers
        )
        with urlopen(  # noqa: S310
            request, timeout=patient(5), context=self._tls
        ) as answer:
            found: dict[str, Any] = json.load(answer)
        return found


class Cluster:
    """Some members."""

    def __init__(
        self, directory: Path, count: int, options: Sequence[str] = (), pem: Path | None = None
    ) -> None:
        self._token = ""
        self.members = [Member(f"m{number}", directory, options, pem) for number in range(count)]
        for member in self.members:
            member.cluster = ",".join(f"{each.name}={each.peer}" for each in self.members)
        self.start()

    @property
    def urls(self) -> list[str]:
        return [member.url for member in self.members]

    def start(self) -> None:
        for member in self.members:
            member.start()
        wait_for(self._answers, "etcd to answer", patient(30))

    def _answers(self) -> bool:
        try:
            return bool(self.members[0].ask("kv/range", key=packed("x")))
        except HTTPError as error:
            return error.code == 400  # it wants to know who asks
        except OSError:
            return False

    def kill(self) -> None:
        for member in self.members:
            member.kill()

    def settle(self) -> None:
        """All members answer, and have a leader."""

        def is_so() -> bool:
            with suppress(OSError):
                return bool(self.leader())
            return False

        wait_for(is_so, "all members to have a leader", patient(30))

    def leader(self) -> Member:
        status = self.members[0].ask("maintenance/status")
        for member in self.members:
            if member.ask("maintenance/status")["header"]["member_id"] == status["leader"]:
                return member
        raise AssertionError("no leader")

    # --- what is in it, past tcpmux -----------------------------------------------------------

    def _any(self, path: str, **asked: Any) -> dict[str, Any]:
        for member in self.members:
            with suppress(OSError):
                return member.ask(path, self._token, **asked)
        raise AssertionError("no member answers")

    def add_user(self, name: str, password: str, prefix: str) -> None:
        """Who may read and write what begins with that; from then on everybody has to be one."""
        for each in ("root", name):
            self._any("auth/user/add", name=each, password=password)
            self._any("auth/role/add", name=each)
            self._any("auth/user/grant", user=each, role=each)
        allowed = {
            "permType": "READWRITE",
            "key": packed(prefix),
            "range_end": packed(behind(prefix)),
        }
        self._any("auth/role/grant", name=name, perm=allowed)
        self._any("auth/enable")

    def become(self, name: str, password: str) -> None:
        """From now on it is asked as that user."""
        self._token = self._any("auth/authenticate", name=name, password=password)["token"]

    def allow(self, name: str, prefix: str, how: str) -> None:
        """Another range of keys, with READ, WRITE or READWRITE."""
        allowed = {"permType": how, "key": packed(prefix), "range_end": packed(behind(prefix))}
        self._any("auth/role/grant", name=name, perm=allowed)

    def put(self, key: str, value: str | bytes) -> None:
        self._any("kv/put", key=packed(key), value=packed(value))

    def delete(self, prefix: str) -> None:
        self._any("kv/deleterange", key=packed(prefix), range_end=packed(behind(prefix)))

    def get(self, prefix: str) -> dict[str, bytes]:
        found = self._any("kv/range", key=packed(prefix), range_end=packed(behind(prefix)))
        every = [key_value(each) for each in found.get("kvs", [])]
        return {each.key: each.value or b"" for each in every}

    def compact(self) -> None:
        """All that was before now is forgotten."""
        revision = self._any("kv/range", key=packed("x"))["header"]["revision"]
        self._any("kv/compaction", revision=revision, physical=True)


@contextmanager
def cluster(
    directory: Path, count: int = 1, options: Sequence[str] = (), pem: Path | None = None
) -> Iterator[Cluster]:
    """Skips the test where there is no etcd."""
    if PROGRAM is None:
        pytest.skip("etcd is not installed (Debian: etcd-server)")
    made = Cluster(directory, count, options, pem)
    try:
        yield made
    finally:
        made.kill()


class Way:
    """A way to a member, which can be made slow, or be cut so that nothing is heard."""

    def __init__(self, port: int) -> None:
        self.delay = 0.0
        self._watches: list[asyncio.Event] = []
        self._to = port
        self.port = free_port()
        self._began = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve_all()), daemon=True)
        self._thread.start()
        assert self._began.wait(patient(10))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _serve_all(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over, self._open = asyncio.Event(), asyncio.Event()
        self._open.set()
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self._began.set()
        await self._over.wait()
        server.close()
        # Whoever has just been accepted begins after the first round.
        for _ in range(3):
            serving = asyncio.all_tasks() - {asyncio.current_task()}
            for each in serving:
                each.cancel()
            await asyncio.gather(*serving, return_exceptions=True)
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back = None
        goes_on = asyncio.Event()
        goes_on.set()
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._to)
            await asyncio.gather(
                self._pass(reader, back, goes_on), self._pass(there, writer, goes_on)
            )
        except (OSError, asyncio.CancelledError):
            pass  # it is refused, or over
        finally:
            for each in filter(None, (writer, back)):
                each.transport.abort()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, goes_on: asyncio.Event
    ) -> None:
        while part := await reader.read(65536):
            if part.startswith(b"POST /v3/watch"):
                self._watches.append(goes_on)
            await asyncio.sleep(self.delay)
            await self._open.wait()
            await goes_on.wait()
            writer.write(part)
        writer.close()

    def forget_watches(self) -> None:
        """Nothing comes by way of those that there are, and nobody is told."""

        def forget() -> None:
            for watch in self._watches:
                watch.clear()

        self._loop.call_soon_threadsafe(forget)

    def cut(self) -> None:
        self._loop.call_soon_threadsafe(self._open.clear)

    def mend(self) -> None:
        self._loop.call_soon_threadsafe(self._open.set)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(patient(10))


@contextmanager
def ways(members: Sequence[Member]) -> Iterator[list[Way]]:
    made = [Way(member.port) for member in members]
    try:
        yield made
    finally:
        for way in made:
            way.close()


def settings(urls: Sequence[str], host: str, **etcd: Any) -> Mapping[str, Any]:
    """`fleet` of a file."""
    return {"name": "prod", "host": host, "etcd": {"endpoints": list(urls), **etcd}}
