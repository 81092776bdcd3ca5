"""What one side of a connection can do to the other, as scripts, and what both then observe.

A script knows two ends and not what lies between them. Its observations are in the order in
which it made them; it waits for what a direct connection shows for sure, so that two runs of
it can be compared line by line. Runs in the process of the test.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.relay.harness import Family, Flow, Link, listen, reset, transfer, unsent
from tests.support import DEADLINE, patient, wait_for

BLOCK = bytes(n * 7 % 251 for n in range(1 << 16))
SMALL = BLOCK[:768]
BULK = BLOCK * 32 + SMALL  # 2 MiB and an odd rest
ANSWER = BLOCK[::-1] * 128 + SMALL  # 8 MiB and an odd rest

FILL_LIMIT = 128 << 20  # bytes; a sender that gets that far is not held back at all

HAPPENINGS = (
    (select.POLLIN, "IN"),
    (select.POLLRDHUP, "RDHUP"),
    (select.POLLHUP, "HUP"),
    (select.POLLERR, "ERR"),
)


def error_name(error: OSError) -> str:
    return errno.errorcode[error.errno] if error.errno else "deadline passed"


@dataclass(slots=True)
class End:
    """One end of a connection; what it observes goes to `log`, which both ends share."""

    name: str
    sock: socket.socket
    log: list[str]

    def note(self, text: str) -> None:
        self.log.append(f"{self.name}: {text}")

    def reads(self, expected: bytes) -> None:
        """Reads that many bytes, or up to the end or error that comes first."""
        got = bytearray()
        how = ""
        while len(got) < len(expected) and not how:
            try:
                part = self.sock.recv(len(expected) - len(got))
                got += part
                how = "" if part else " and the end of input"
            except OSError as error:
                how = f" and {error_name(error)}"
        what = "as sent" if got == expected[: len(got)] else "that nobody sent"
        self.note(f"read {len(got)} bytes {what}{how}")

    def reads_end(self) -> None:
        try:
            data = self.sock.recv(1 << 16)
            self.note(f"{len(data)} bytes too many" if data else "end of input")
        except OSError as error:
            self.note(f"read says {error_name(error)}")

    def writes(self, data: bytes = b"!") -> None:
        try:
            self.sock.sendall(data)
            self.note(f"wrote {len(data)} bytes")
        except OSError as error:
            self.note(f"write says {error_name(error)}")

    def shuts(self) -> None:
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.note(f"shutdown says {error_name(error)}")

    def awaits(self, happening: int) -> None:
        """Until poll tells of all of that; notes everything that it tells of."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN | select.POLLRDHUP)
        end = time.monotonic() + DEADLINE
        told = 0
        while told & happening != happening and time.monotonic() < end:
            # The kernel sets a reset socket's bits one by one, so the first answer may be half.
            told = next((events for _, events in poll.poll(10)), 0)
        self.note("poll tells " + " ".join(name for bit, name in HAPPENINGS if told & bit))

    def awaits_data(self) -> None:
        self.awaits(select.POLLIN)

    def awaits_death(self) -> None:
        """Until the connection is over both ways, without reading."""
        self.awaits(select.POLLRDHUP | select.POLLHUP)

    def has_nothing_under_way(self) -> None:
        """Until the next kernel has taken every byte: an RST would overtake the others. On a UNIX
        socket nothing can overtake; there, what counts as unsent is what nobody has read."""
        if self.sock.family != socket.AF_UNIX:
            wait_for(lambda: unsent(self.sock) == 0, "what was sent to be taken")

    def fills(self) -> None:
        """Writes until the kernel takes no more for now."""
        fill([self.sock], patient(0.02))


def fill(senders: Sequence[socket.socket], quiet: float, before: Sequence[int] = ()) -> list[int]:
    """Writes what filling() gives to all of them at once, until none has taken a byte for
    `quiet` seconds, from which it guesses that they are full. Returns the bytes that each took,
    at most about FILL_LIMIT; with those that it took `before`."""
    taken = dict(zip(senders, before or [0] * len(senders), strict=True))
    for sock in senders:
        sock.setblocking(False)
    while ready := select.select([], [s for s in senders if taken[s] < FILL_LIMIT], [], quiet)[1]:
        for sock in ready:
            with suppress(BlockingIOError):
                taken[sock] += sock.send(BLOCK[taken[sock] % len(BLOCK) :])
    for sock in senders:
        sock.settimeout(DEADLINE)
    return list(taken.values())


def filling(length: int) -> bytes:
    """The first bytes of what fill() writes."""
    return (BLOCK * (length // len(BLOCK) + 1))[:length]


def link_directly(family: Family, directory: Path) -> Link:
    """Both ends of a connection with nothing in between."""
    with listen(family, directory) as listener:
        client = socket.socket(listener.family, socket.SOCK_STREAM)
        client.settimeout(DEADLINE)
        client.connect(listener.getsockname())
        server = listener.accept()[0]
        server.settimeout(DEADLINE)
    return Link(client, server)


def drive_into_splice(link: Link) -> None:
    """Three reads of 16 KiB or more in a row switch a half; here are hundreds, both ways."""
    for _ in range(2):
        transfer(Flow(link.client, link.server, BULK), Flow(link.server, link.client, BULK))


# --- the scripts: `actor` does what the script is called, `other` observes ---------------------


def half_close(actor: End, other: End, payload: bytes) -> None:
    """A question, FIN, and only then an answer of 8 MiB."""
    transfer(Flow(actor.sock, other.sock, payload, shut=True))
    other.note("has read the question and the end of input")
    transfer(Flow(other.sock, actor.sock, ANSWER, shut=True))
    actor.note("has read the answer and the end of input")
    for end in (actor, other):
        end.awaits_death()
        end.reads_end()
        end.writes()


def both_ways(actor: End, other: End, payload: bytes) -> None:
    """Both write at the same time, and each sends FIN after its last byte."""
    transfer(
        Flow(actor.sock, other.sock, payload, shut=True),
        Flow(other.sock, actor.sock, ANSWER[: len(payload)], shut=True),
    )
    for end in (actor, other):
        end.note("has read everything and the end of input")
        end.awaits_death()
        end.reads_end()


def reset_seen_by_reader(actor: End, other: End, payload: bytes) -> None:
    transfer(Flow(actor.sock, other.sock, payload), Flow(other.sock, actor.sock, payload))
    reset(actor.sock)
    other.reads_end()
    other.reads_end()
    other.writes()


def reset_seen_by_writer(actor: End, other: End, payload: bytes) -> None:
    transfer(Flow(actor.sock, other.sock, payload), Flow(other.sock, actor.sock, payload))
    reset(actor.sock)
    other.awaits_death()
    other.writes()
    other.writes()
    other.reads_end()


def data_then_reset(actor: End, other: End, payload: bytes) -> None:
    """The other side looks only once the connection is dead: the bytes are there all the same."""
    data = payload[: 1 << 15]  # fits into every receive queue
    actor.writes(data)
    actor.has_nothing_under_way()
    reset(actor.sock)
    other.awaits_death()
    other.reads(data)
    other.reads_end()
    other.writes()


def data_then_reset_while_reading(actor: End, other: End, payload: bytes) -> None:
    """The other side reads all the time and blocks in read when the reset comes."""
    sent = 0
    got = bytearray()
    actor.sock.setblocking(False)
    while sent < len(payload) or unsent(actor.sock):
        if sent < len(payload):
            with suppress(BlockingIOError):
                sent += actor.sock.send(payload[sent:])
        if select.select([other.sock], [], [], 0.01)[0]:
            got += other.sock.recv(1 << 16)
    reset(actor.sock)
    assert got == payload[: len(got)]
    while len(got) < len(payload) and (part := other.sock.recv(1 << 16)):
        got += part
    other.note(f"read {len(got)} bytes, " + ("as sent" if got == payload else "not as sent"))
    other.reads_end()
    other.reads_end()
    other.writes()


def reset_with_data_both_ways(actor: End, other: End, payload: bytes) -> None:
    """What the other side sent is lost; what it was sent is not."""
    data = payload[: 1 << 14]
    other.writes(data)
    actor.awaits_data()
    actor.writes(data)
    actor.has_nothing_under_way()
    reset(actor.sock)
    other.awaits_death()
    other.reads(data)
    other.reads_end()
    other.writes()


def close_unread(actor: End, other: End, payload: bytes) -> None:
    """A plain close with bytes in the receive queue: the kernel makes a reset of it."""
    other.writes(payload[: 1 << 14])
    actor.awaits_data()
    actor.sock.close()
    other.awaits_death()
    other.reads_end()
    other.reads_end()
    other.writes()


def data_then_close_unread(actor: End, other: End, payload: bytes) -> None:
    data = payload[: 1 << 14]
    other.writes(data)
    actor.awaits_data()
    actor.writes(data)
    actor.has_nothing_under_way()
    actor.sock.close()
    other.awaits_death()
    other.reads(data)
    other.reads_end()
    other.reads_end()


def reset_after_half_close(actor: End, other: End, payload: bytes) -> None:
    """To who has seen the end of input the reset shows as EPIPE, and only when writing."""
    transfer(Flow(actor.sock, other.sock, payload, shut=True))
    reset(actor.sock)
    other.awaits_death()
    other.reads_end()
    other.writes()
    other.writes()


def reset_after_the_others_half_close(actor: End, other: End, payload: bytes) -> None:
    transfer(Flow(other.sock, actor.sock, payload, shut=True))
    reset(actor.sock)
    other.awaits_death()
    other.reads_end()
    other.reads_end()
    other.writes()


def reset_during_the_answer(actor: End, other: End, payload: bytes) -> None:
    """The other side is blocked in writing the answer to a question that ended with FIN."""
    transfer(Flow(actor.sock, other.sock, payload, shut=True))
    other.fills()
    reset(actor.sock)
    other.awaits_death()
    other.writes()
    other.writes()
    other.reads_end()


def reset_while_the_other_is_blocked(actor: End, other: End, payload: bytes) -> None:
    transfer(Flow(actor.sock, other.sock, payload))
    other.fills()
    reset(actor.sock)
    other.awaits_death()
    other.writes()
    other.writes()
    other.reads_end()


def data_then_close(actor: End, other: End, payload: bytes) -> None:
    """What was written before a close arrives, and then an end of input."""
    data = payload[: 1 << 15]
    actor.writes(data)
    actor.sock.close()
    other.reads(data)
    other.reads_end()
    other.reads_end()


def close_before_the_other_writes(actor: End, other: End, payload: bytes) -> None:
    """A close is a FIN; who writes after it hears that nobody is there any more."""
    transfer(Flow(actor.sock, other.sock, payload), Flow(other.sock, actor.sock, payload))
    actor.sock.close()
    other.reads_end()
    other.writes()
    other.awaits_death()
    other.writes()
    other.reads_end()


def shut_both_ways(actor: End, other: End, payload: bytes) -> None:
    """shutdown(SHUT_RDWR) with the socket kept open."""
    transfer(Flow(actor.sock, other.sock, payload), Flow(other.sock, actor.sock, payload))
    actor.sock.shutdown(socket.SHUT_RDWR)
    other.reads_end()
    other.writes()
    other.awaits_death()
    other.writes()
    actor.awaits_death()
    actor.reads_end()
    actor.writes()


Script = Callable[[End, End, bytes], None]
FINISHING: tuple[Script, ...] = (half_close, both_ways)
CLOSING: tuple[Script, ...] = (data_then_close, close_before_the_other_writes, shut_both_ways)
RESETTING: tuple[Script, ...] = (  # where the actor has read everything
    reset_seen_by_reader,
    reset_seen_by_writer,
    data_then_reset,
    data_then_reset_while_reading,
    reset_after_half_close,
    reset_after_the_others_half_close,
)
RESETTING_UNREAD: tuple[Script, ...] = (  # and where it has not: a UNIX socket can say that
    reset_with_data_both_ways,
    reset_during_the_answer,
    reset_while_the_other_is_blocked,
    close_unread,
    data_then_close_unread,
)
