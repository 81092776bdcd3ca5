"""What only the kernel knows of an instance: open descriptors, queues of connections that wait
to be accepted. Runs in control."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST, NLM_F_DUMP = 0x1, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
TCP_LISTEN = 10
# linux/netlink.h: nlmsghdr; linux/inet_diag.h: inet_diag_req_v2, inet_diag_msg
HEADER = struct.Struct("=IHHII")
REQUEST = struct.Struct("=BBBxI48x")
MESSAGE = struct.Struct("=BBBB2s2s16s16sI8sIIIII")
BUFFER = 256 * 1024
ANSWER_TIME = 1.0  # s


def descriptors(pid: int) -> int:
    """How many a process has open; 0 if that can't be seen."""
    path = f"/proc/{pid}/fd"
    try:
        # Linux 6.2 counts them for us.
        return os.stat(path).st_size or len(os.listdir(path))
    except OSError:
        return 0


def accept_queues(ports: Iterable[int]) -> dict[tuple[str, int], tuple[int, int]]:
    """(address, port) of each listening TCP socket on these ports -> (connections that wait, the
    most there can be), of all sockets that share the address. {} if the kernel does not say."""
    wanted = set(ports)
    found: dict[tuple[str, int], tuple[int, int]] = {}
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as sock:
            sock.settimeout(ANSWER_TIME)
            for family in (socket.AF_INET, socket.AF_INET6):
                _ask(sock, family, wanted, found)
    except OSError:
        pass
    return found


def _ask(
    sock: socket.socket,
    family: int,
    wanted: set[int],
    found: dict[tuple[str, int], tuple[int, int]],
) -> None:
    body = REQUEST.pack(family, socket.IPPROTO_TCP, 0, 1 << TCP_LISTEN)
    flags = NLM_F_REQUEST | NLM_F_DUMP
    size = HEADER.size + len(body)
    sock.send(HEADER.pack(size, SOCK_DIAG_BY_FAMILY, flags, 1, 0) + body)
    while True:
        data = sock.recv(BUFFER)
        at = 0
        while at + HEADER.size <= len(data):
            size, kind, _, _, _ = HEADER.unpack_from(data, at)
            if kind in (NLMSG_DONE, NLMSG_ERROR) or size < HEADER.size:
                return
            _note(data[at + HEADER.size : at + size], wanted, found)
            at += (size + 3) & ~3


def _note(data: bytes, wanted: set[int], found: dict[tuple[str, int], tuple[int, int]]) -> None:
    if len(data) < MESSAGE.size:
        return
    fields = MESSAGE.unpack_from(data)
    family, raw_port, raw_address, waiting, most = (fields[i] for i in (0, 4, 6, 11, 12))
    port = int.from_bytes(raw_port, "big")
    if port not in wanted:
        return
    address = socket.inet_ntop(family, raw_address[: 4 if family == socket.AF_INET else 16])
    before = found.get((address, port), (0, 0))
    found[address, port] = before[0] + waiting, before[1] + most
