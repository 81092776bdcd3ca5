"""The listening TCP sockets of this network namespace, as the kernel lists them (sock_diag(7)).
Used by master and control."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST, NLM_F_DUMP = 0x1, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
TCP_LISTEN = 10
INET_DIAG_SKV6ONLY = 11
# linux/netlink.h: nlmsghdr; linux/inet_diag.h: inet_diag_req_v2, inet_diag_msg; nlattr
HEADER = struct.Struct("=IHHII")
REQUEST = struct.Struct("=BBBxI48x")
MESSAGE = struct.Struct("=BBBB2s2s16s16sI8sIIIII")
ATTRIBUTE = struct.Struct("=HH")
BUFFER = 256 * 1024
ANSWER_TIME = 1.0  # s


@dataclass(frozen=True, slots=True)
class ListeningSocket:
    """host: numeric. waiting, most: connections to be accepted. inode: as fstat(2) has it."""

    host: str
    port: int
    waiting: int
    most: int
    inode: int
    v6_only: bool


def listening() -> Iterator[ListeningSocket]:
    """Every one. Raises OSError if the kernel does not say."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as sock:
        sock.settimeout(ANSWER_TIME)
        for family in (socket.AF_INET, socket.AF_INET6):
            yield from _listed(sock, family)


def _listed(sock: socket.socket, family: int) -> Iterator[ListeningSocket]:
    body = REQUEST.pack(family, socket.IPPROTO_TCP, 0, 1 << TCP_LISTEN)
    flags = NLM_F_REQUEST | NLM_F_DUMP
    size = HEADER.size + len(body)
    sock.send(HEADER.pack(size, SOCK_DIAG_BY_FAMILY, flags, 1, 0) + body)
    while True:
        data = sock.recv(BUFFER)
        at = 0
        while at + HEADER.size <= len(data):
            size, kind, _, _, _ = HEADER.unpack_from(data, at)
            if kind == NLMSG_ERROR:
                raise OSError("sock_diag is not available")
            if kind == NLMSG_DONE or size < HEADER.size:
                return
            message = data[at + HEADER.size : at + size]
            if len(message) >= MESSAGE.size:
                yield _parsed(message)
            at += (size + 3) & ~3


def _parsed(data: bytes) -> ListeningSocket:
    fields = MESSAGE.unpack_from(data)
    family, port, address, waiting, most, inode = (fields[i] for i in (0, 4, 6, 11, 12, 14))
    return ListeningSocket(
        socket.inet_ntop(family, address[: 4 if family == socket.AF_INET else 16]),
        int.from_bytes(port, "big"),
        waiting,
        most,
        inode,
        family == socket.AF_INET6 and _attribute(data, INET_DIAG_SKV6ONLY) == b"\1",
    )


def _attribute(data: bytes, wanted: int) -> bytes | None:
    at = MESSAGE.size
    while at + ATTRIBUTE.size <= len(data):
        size, kind = ATTRIBUTE.unpack_from(data, at)
        if size < ATTRIBUTE.size:
            return None
        if kind == wanted:
            return data[at + ATTRIBUTE.size : at + size]
        at += (size + 3) & ~3
    return None


def holder(inode: int) -> str:
    """Who has a socket open, as `nginx (pid 12)`; "" if that can't be seen."""
    wanted = f"socket:[{inode}]"
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    if os.readlink(f"/proc/{pid}/fd/{fd}") == wanted:
                        return f"{name_of(pid)} (pid {pid})"
    return ""


def name_of(pid: int | str) -> str:
    """A process's title's beginning, or what it runs. Raises OSError."""
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read(4096).split(b"\0")[0].decode(errors="replace")
    name = words if words.startswith("tcpmux") else os.path.basename(words)
    return name[:40] or "a process"
