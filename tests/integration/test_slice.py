"""Workers get the processor soon."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct

import pytest

from tests.integration.conftest import StartProxy
from tests.integration.routes import route, routes
from tests.support import EchoServer, wait_for

LINUX = tuple(int(part) for part in platform.release().split(".")[:2])
SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}
ATTR = struct.Struct("=IIQiIQQQ")  # sched_attr(2): size, policy, flags, nice, priority, runtime...


def attributes(pid: int) -> tuple[int, int, int]:
    """(policy, nice value, ns of a turn)"""
    buffer = ctypes.create_string_buffer(ATTR.size)
    call = ctypes.CDLL(None, use_errno=True).syscall
    if call(SCHED_GETATTR[platform.machine()], pid, buffer, ATTR.size, 0) != 0:
        raise OSError(ctypes.get_errno(), "sched_getattr")
    _, policy, _, nice, _, runtime, _, _ = ATTR.unpack(buffer.raw)
    return policy, nice, runtime


@pytest.mark.skipif(
    LINUX < (6, 12) or platform.machine() not in SCHED_GETATTR, reason="needs Linux 6.12"
)
def test_workers_have_short_turns(start_proxy: StartProxy, port: int, one: EchoServer) -> None:
    """Also one that follows another; and nothing else about them is otherwise than of the test."""
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address)), workers=2))
    here = attributes(os.getpid())
    assert here[2] != 100_000
    first = proxy.worker_pids()
    for pid in first:
        assert attributes(pid) == (*here[:2], 100_000)
    os.kill(first[0], signal.SIGKILL)
    wait_for(lambda: proxy.worker_pids()[0] not in (0, first[0]), "the next incarnation")
    wait_for(lambda: attributes(proxy.worker_pids()[0])[2] == 100_000, "its turns to be short")
    assert attributes(proxy.control_pid())[2] != 100_000
