"""Who may be signalled: a child, or whom the kernel names as the sender of a message. A number that
somebody says is nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator

import pytest

from tcpmux import processes
from tcpmux.master import held
from tcpmux.master.held import Held, is_own_child
from tcpmux.master.line import Line, Worker, describe_exit
from tcpmux.processes import Sender, identify_senders, is_alive, receive
from tcpmux.shm._live import Live
from tcpmux.worker.messages import GUARD, MESSAGE, SEEN, STARTED
from tests.others import OTHER, as_other, needs_root


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "100"]) as process:
        yield process
        process.kill()


@pytest.fixture
def line() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        identify_senders(ours)
        yield ours, theirs


@pytest.fixture
def no_pidfds(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that does not permit them."""

    def refuse(*_: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    monkeypatch.setattr(processes, "SO_PASSPIDFD", 9999)


def send_from_child(theirs: socket.socket, data: bytes, uid: int = 0) -> int:
    """The pid of a child that has sent this, and has ended when this returns."""
    pid = os.fork()
    if pid == 0:
        if uid:
            os.setresuid(uid, uid, uid)
        theirs.send(data)
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def test_the_kernel_says_who_sent_a_message(line: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = line
    theirs.send(b"x")
    data, fds, sender = receive(ours, 8)
    assert (data, fds) == (b"x", [])
    assert sender is not None
    assert (sender.pid, sender.uid) == (os.getpid(), os.getuid())
    sender.close()


def test_descriptors_that_nobody_wants_are_closed(
    line: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = line
    before = len(os.listdir("/proc/self/fd"))
    for count in (1, 2, 100):
        socket.send_fds(theirs, [b"x"], [0] * count)
        _, fds, sender = receive(ours, 8)
        assert fds == []
        assert sender is not None
        sender.close()
    assert len(os.listdir("/proc/self/fd")) == before
    socket.send_fds(theirs, [b"x" * 9], [0, 0])
    with pytest.raises(ValueError, match="more than 8"):
        receive(ours, 8, 4)
    assert len(os.listdir("/proc/self/fd")) == before


def test_who_has_ended_is_not_held(line: tuple[socket.socket, socket.socket]) -> None:
    """Its pid may be anybody's by now."""
    ours, theirs = line
    send_from_child(theirs, b"x")
    _, _, sender = receive(ours, 8)
    assert sender is not None
    process = Held.sender(sender, os.getuid())
    assert process is None or process.has_ended
    if process is not None:
        process.signal(signal.SIGTERM)  # nobody, and no error
        process.close()


@needs_root
def test_who_runs_as_somebody_else_is_not_held(
    line: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = line
    with as_other(lambda: theirs.send(b"x")) as pid:
        _, _, sender = receive(ours, 8)
        assert sender is not None
        assert (sender.pid, sender.uid) == (pid, OTHER)
        assert Held.sender(sender, os.getuid()) is None
        assert is_alive(pid)


@pytest.mark.parametrize("pid", [-1, 0, 1])
def test_no_number_of_that_kind_is_signalled(pid: int) -> None:
    """kill(2) takes them for every process, one's own group, and init."""
    assert not is_own_child(pid)
    sender = Sender(pid, os.getuid(), os.getgid())
    assert Held.sender(sender, os.getuid()) is None
    assert not is_alive(-1)
    assert not is_alive(0)


def test_without_pidfds_only_children_are_signalled(
    no_pidfds: None, line: tuple[socket.socket, socket.socket], bystander: subprocess.Popen[bytes]
) -> None:
    ours, _ = line
    Held(os.getpid(), -1).signal(signal.SIGKILL)
    identify_senders(ours)
    assert is_alive(bystander.pid)
    child = Held.child(bystander.pid)
    assert child.pidfd == -1
    assert not child.has_ended
    child.signal(signal.SIGTERM)
    assert bystander.wait() == -signal.SIGTERM
    child.signal(signal.SIGTERM)  # reaped: the number is nobody's of ours
    assert not is_alive(bystander.pid)


def test_before_linux_6_5_a_pid_has_to_run_as_ours_do(
    monkeypatch: pytest.MonkeyPatch, bystander: subprocess.Popen[bytes]
) -> None:
    sender = Sender(bystander.pid, os.getuid(), os.getgid())
    process = Held.sender(sender, os.getuid())
    assert process is not None
    assert process.pidfd >= 0
    process.close()
    monkeypatch.setattr(held, "uid_of", lambda _: OTHER)  # another's since it sent that
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    process = Held.sender(Sender(bystander.pid, os.getuid(), os.getgid()), os.getuid())
    assert process is not None
    assert process.pidfd == -1


@needs_root
def test_a_worker_is_who_says_so_not_what_it_says(bystander: subprocess.Popen[bytes]) -> None:
    """Messages and regions name a bystander; the sender is held."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    live = Live.create(0, 8)
    live.pid = live.guardian_pid = bystander.pid
    worker = Worker(0, live, OTHER)
    worker.begin(ours, None, None)
    assert worker.unguarded  # and so will be told to have a guardian

    def speak() -> None:
        theirs.send(MESSAGE.pack(STARTED, 0, 0, bystander.pid, 0))
        theirs.send(MESSAGE.pack(SEEN, 0, 0, 0, bystander.pid))

    with (
        as_other(speak) as pid,
        as_other(lambda: theirs.send(MESSAGE.pack(GUARD, 0, 0, 0, bystander.pid))) as guardian,
    ):
        worker.receive()
        assert worker.held is not None
        assert worker.held.pid == pid
        assert worker.guardian == guardian
        worker.held.signal(signal.SIGKILL)
        assert not worker.unguarded
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert bystander.poll() is None
    theirs.close()
    worker.ended()
    live.close()


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "died"),
        (9, "killed by SIGKILL"),
        (40, "killed by signal 40"),
        (3 << 8, "exited with code 3"),
        ((1 << 64) - 1, "died"),
        (126, "killed by signal 126"),
    ],
)
def test_any_wait_status_has_words(status: int, text: str) -> None:
    """One that came in a message may be any number."""
    assert describe_exit(status) == text


def test_a_line_that_breaks_closes_what_came() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    line = Line(ours)
    before = len(os.listdir("/proc/self/fd"))
    theirs.send(b"half")
    assert line.receive() is None
    assert line.socket is None
    assert len(os.listdir("/proc/self/fd")) == before - 1
    theirs.close()
