"""What `tcpmux demo` does: shifts traffic between two echo servers and counts the answers.

Runs in the command line's process; the servers and tcpmux are its children. Nothing is
mocked: the file is edited, the master gets SIGHUP, and the clients are plain sockets.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click
import yaml

from tcpmux.config import Address, ConfigError, load
from tcpmux.control.client import AdminError, Client
from tcpmux.demo.echo import LISTENING
from tcpmux.demo.processes import Child, DemoFailed, check_free

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import FrameType

DEMO_FILE = Path(__file__).with_name("demo.yaml")
PREFIXES = ("one", "two")  # what the servers of the first and second destination answer with
CONNECTIONS = 20  # in each half of the walk
BEFORE = (100, 0)
AFTER = (80, 20)
START_TIME = 20.0  # s
ANSWER_TIME = 5.0  # s


@dataclass(frozen=True, slots=True)
class Scene:
    """Where things are. destinations: name -> addresses of its echo servers."""

    directory: Path
    source: Path
    route: str
    listen: Address
    destinations: Mapping[str, tuple[Address, ...]]

    @property
    def file(self) -> Path:
        return self.directory / "demo.yaml"

    @property
    def admin(self) -> Path:
        return self.directory / "tcpmux.sock"

    @property
    def client(self) -> Client:
        return Client(self.admin, ANSWER_TIME)

    @property
    def addresses(self) -> list[Address]:
        return [self.listen, *(a for found in self.destinations.values() for a in found)]

    def write(self, weights: tuple[int, ...]) -> None:
        """Writes the copy of the demo's file with these weights, all at once."""
        content = yaml.safe_load(self.source.read_text())
        content["admin"] = {"socket": str(self.admin)}
        for destination, weight in zip(content["routes"][0]["destinations"], weights, strict=True):
            destination["weight"] = weight
        new = self.file.with_suffix(".new")
        new.write_text(yaml.safe_dump(content, sort_keys=False))
        new.replace(self.file)


def look_around(directory: Path, source: Path) -> Scene:
    """The scene that the demo's file describes. Raises DemoFailed."""
    try:
        route = load([source]).routes[0]
    except ConfigError as error:
        raise DemoFailed(str(error)) from error
    destinations = {
        d.name: tuple(e for e in d.endpoints if isinstance(e, Address)) for d in route.destinations
    }
    return Scene(directory, source, route.name, route.listen[0], destinations)


def ask(address: Address, text: str) -> str:
    """One connection: a line, FIN, and the answer up to FIN. Raises OSError."""
    with socket.socket(address.family, socket.SOCK_STREAM) as sock:
        sock.settimeout(ANSWER_TIME)
        sock.connect(address.sockaddr)
        sock.sendall(f"{text}\n".encode())
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := sock.recv(4096):
            answer += chunk
    return answer.decode().strip()


class LongLived:
    """A connection that stays open over the change."""

    def __init__(self, address: Address) -> None:
        self._sock = socket.socket(address.family, socket.SOCK_STREAM)
        self._sock.settimeout(ANSWER_TIME)
        self._sock.connect(address.sockaddr)
        self._answers = self._sock.makefile("rb")

    def ask(self, text: str) -> str:
        self._sock.sendall(f"{text}\n".encode())
        return self._answers.readline().decode().strip()

    def close(self) -> None:
        self._answers.close()
        self._sock.close()


@dataclass(frozen=True, slots=True)
class Sent:
    """Answers to a number of connections, and the weights they were sent under."""

    weights: tuple[int, ...]
    first_words: tuple[str, ...]

    def got(self) -> list[int]:
        return [self.first_words.count(prefix) for prefix in PREFIXES]

    def asked(self) -> list[int]:
        total = sum(self.weights)
        return [weight * len(self.first_words) // total for weight in self.weights]


def send(scene: Scene, weights: tuple[int, ...], say: Callable[[str], None]) -> Sent:
    """Sends CONNECTIONS connections, one after the other."""
    words = []
    for number in range(CONNECTIONS):
        answer = ask(scene.listen, f"hello {number}")
        word, _, rest = answer.partition(" ")
        if word not in PREFIXES or rest != f"hello {number}":
            raise DemoFailed(f"connection {number} got {answer!r}")
        words.append(word)
    say(f"  {' '.join(words)}")
    return Sent(weights, tuple(words))


def await_generation(scene: Scene, tcpmux: Child, above: int) -> int:
    """Until every worker uses a generation above this one; returns it."""
    reached = above

    def in_force() -> bool:
        nonlocal reached
        try:
            status = scene.client.status()
        except AdminError:  # not there yet
            return False
        reached = status["generation"]
        return (
            status["pid"] == tcpmux.pid
            and reached > above
            and all(worker["generation"] == reached for worker in status["workers"])
        )

    tcpmux.await_condition(f"waiting for generation {above + 1}", in_force, START_TIME)
    return reached


@contextmanager
def started(scene: Scene, say: Callable[[str], None]) -> Iterator[Child]:
    """Both servers and tcpmux; ends them and checks that nothing is left. Raises DemoFailed."""
    check_free(scene.addresses)
    scene.write(BEFORE)
    children: list[Child] = []
    try:
        arguments = [
            f"{prefix}={address}"
            for prefix, found in zip(PREFIXES, scene.destinations.values(), strict=True)
            for address in found
        ]
        servers = Child(
            "the echo servers", "tcpmux.demo.echo", arguments, scene.directory / "echo.log"
        )
        children.append(servers)
        servers.await_line(LISTENING, START_TIME)
        tcpmux = Child("tcpmux", "tcpmux", ["-c", str(scene.file)], scene.directory / "tcpmux.log")
        children.append(tcpmux)
        await_generation(scene, tcpmux, 0)
        tcpmux.remember_family()
        say(f"tcpmux -c {scene.file} (pid {tcpmux.pid})")
        yield tcpmux
    except (DemoFailed, AdminError, OSError):
        for child in children:
            click.echo(child.log.read_bytes(), nl=False, err=True)
        raise
    finally:
        # The servers last: tcpmux, as it drains, may still be talking to them.
        faults = [fault for child in reversed(children) for fault in child.end()]
    if scene.admin.exists():
        faults.append(f"{scene.admin} was left")
    if faults:
        raise DemoFailed("; ".join(faults))
    check_free(scene.addresses)
    say("Stopped: no process, socket or file is left.")


def print_table(scene: Scene, halves: tuple[Sent, Sent]) -> None:
    """What was asked for, and what came."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("destination")
    for half in halves:
        table.add_column("/".join(map(str, half.weights)) + " asked", justify="right")
        table.add_column("got", justify="right", style="bold")
    for index, name in enumerate(scene.destinations):
        table.add_row(
            name, *(str(count[index]) for half in halves for count in (half.asked(), half.got()))
        )
    Console().print(table)


def walk(scene: Scene, tcpmux: Child, say: Callable[[str], None]) -> None:
    """The walk itself. Raises DemoFailed as soon as something is not as promised."""
    client = scene.client
    first, second = scene.destinations
    with ExitStack() as open_connections:
        long_lived = LongLived(scene.listen)
        open_connections.callback(long_lived.close)
        hello = long_lived.ask("hello")
        say(f"\nA long-lived connection: {hello!r}")
        say(f"\n{CONNECTIONS} connections at {first} {BEFORE[0]}, {second} {BEFORE[1]}:")
        before = send(scene, BEFORE, say)
        generation = client.status()["generation"]
        scene.write(AFTER)
        tcpmux.signal(signal.SIGHUP)
        generation = await_generation(scene, tcpmux, generation)
        say(f"\nWeights in the file changed, SIGHUP to the master: generation {generation}")
        say(f"{CONNECTIONS} connections at {first} {AFTER[0]}, {second} {AFTER[1]}:")
        after = send(scene, AFTER, say)
        still = long_lived.ask("still here")
        say(f"\nThe long-lived connection: {still!r}\n")
    print_table(scene, (before, after))
    for half in (before, after):
        if half.got() != half.asked():
            raise DemoFailed(f"weights {half.weights} gave {half.got()}, not {half.asked()}")
    if (hello, still) != (f"{PREFIXES[0]} hello", f"{PREFIXES[0]} still here"):
        raise DemoFailed(f"the long-lived connection got {hello!r} and {still!r}")


def stay(scene: Scene, tcpmux: Child, say: Callable[[str], None]) -> None:
    """Says how to play, and returns on Ctrl-C or when tcpmux has ended."""
    first, second = scene.destinations
    host, port = scene.listen.host, scene.listen.port
    say(f"""
{first} answers "{PREFIXES[0]}", {second} answers "{PREFIXES[1]}"; all traffic goes to {first}.
In another terminal:
    export TCPMUX_ADMIN={scene.admin}
    (date; sleep 1) | nc {host} {port}
    tcpmux weight {scene.route} {first}={AFTER[0]} {second}={AFTER[1]}
    for i in $(seq 20); do (date; sleep 1) | nc {host} {port}; done
    tcpmux status
Or edit {scene.file}
and have it read again:
    tcpmux reload
tcpmux logs to {tcpmux.log}
Ctrl-C ends the demo.""")
    try:
        code = tcpmux.wait()
        say(f"tcpmux has ended with code {code}.")
    except KeyboardInterrupt:
        say("")


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM takes the way of Ctrl-C, so that it leaves no children either."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


def run_demo(*, serve: bool = False, source: Path = DEMO_FILE) -> int:
    """Runs the demo on the addresses of `source`; returns the exit code."""

    def say(text: str) -> None:
        print(text, flush=True)

    try:
        with (
            _terminated_like_interrupted(),
            tempfile.TemporaryDirectory(prefix="tcpmux-demo-") as name,
        ):
            scene = look_around(Path(name), source)
            with started(scene, say) as tcpmux:
                (stay if serve else walk)(scene, tcpmux, say)
    except (DemoFailed, AdminError) as error:
        print(f"tcpmux: error: {error}", file=sys.stderr)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        print(f"tcpmux: error: the demo failed: {reason}", file=sys.stderr)
    except KeyboardInterrupt:
        print("tcpmux: error: interrupted", file=sys.stderr)
    else:
        return 0
    return 1
