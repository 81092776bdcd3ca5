"""Addresses of listeners and endpoints. Used by every process that reads configuration."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass

UNIX_PATH_MAX = 107  # bytes; sun_path of unix(7) less its NUL
NAME_MAX = 253  # characters of a DNS name (RFC 1035, without the root's dot)
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)


def is_host_name(text: str) -> bool:
    """Whether it can be a DNS name, and is no numeric address: its last label is no number."""
    labels = text.removesuffix(".").split(".")
    return (
        len(text) <= NAME_MAX
        and all(_LABEL.fullmatch(label) for label in labels)
        and not labels[-1].isdigit()
    )


@dataclass(frozen=True, slots=True)
class HostName:
    """An endpoint by name: its addresses are those that DNS and /etc/hosts have for it.

    port 0: an SRV name, whose records say which hosts, ports and weights.
    """

    name: str
    port: int

    def __str__(self) -> str:
        return f"{self.name}:{self.port}" if self.port else f"srv:{self.name}"


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address (host is a numeric IP) or a UNIX socket (path is set, host "" and port 0)."""

    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, text: str) -> Address:
        """From `127.0.0.1:80`, `[::1]:80`, `:80` (every address, as [::]:80) or `unix:/path`.

        Raises ValueError with one clause that says what was expected.
        """
        if text.startswith("unix:"):
            return cls._unix(text[5:])
        host, colon, port = text.rpartition(":")
        if not colon:
            raise ValueError("expected IP:port, [IPv6]:port or unix:/path")
        if not _PORT.fullmatch(port) or not 1 <= int(port) <= 65535:
            raise ValueError("expected a port from 1 to 65535 after the last colon")
        return cls(cls._host(host), int(port), "")

    @classmethod
    def _unix(cls, path: str) -> Address:
        if not path.startswith("/"):
            raise ValueError("expected an absolute path after unix:")
        if "\0" in path or len(os.fsencode(path)) > UNIX_PATH_MAX:
            raise ValueError(f"expected a path of at most {UNIX_PATH_MAX} bytes after unix:")
        return cls("", 0, path)

    @classmethod
    def of_socket(cls, sock: socket.socket) -> Address:
        """What a socket is bound to, written as parse() would: the two compare equal."""
        name = sock.getsockname()
        if sock.family == socket.AF_UNIX:
            return cls("", 0, os.fsdecode(name))
        return cls.of_ip(name[0].partition("%")[0], name[1])

    @classmethod
    def of_ip(cls, ip: str, port: int) -> Address:
        """From a numeric IP without brackets. Raises ValueError."""
        return cls(cls._host(f"[{ip}]" if ":" in ip else ip), port, "")

    @staticmethod
    def _host(host: str) -> str:
        if host == "":
            return "::"
        # Several times as fast as ipaddress, and as strict: no leading zeros, no short forms.
        try:
            if host.startswith("[") and host.endswith("]"):
                return socket.inet_ntop(
                    socket.AF_INET6, socket.inet_pton(socket.AF_INET6, host[1:-1])
                )
            socket.inet_pton(socket.AF_INET, host)
        except (OSError, ValueError):
            pass
        else:
            return host
        if ":" in host:
            raise ValueError("expected an IPv6 address in brackets: [::1]:80")
        raise ValueError("expected a numeric IP before the port")

    @property
    def family(self) -> socket.AddressFamily:
        if self.path:
            return socket.AF_UNIX
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    @property
    def sockaddr(self) -> tuple[str, int] | str:
        """For socket.bind() and connect()."""
        return self.path or (self.host, self.port)

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


Endpoint = Address | HostName
ENDPOINT_FORMS = "IP:port, [IPv6]:port, NAME:port, srv:NAME or unix:/path"


def parse_endpoint(text: str) -> Endpoint:
    """As Address.parse(), and `shop.example.org:80` and `srv:_shop._tcp.example.org`.

    Raises ValueError with one clause that says what was expected.
    """
    if text.startswith("srv:"):
        name = text[4:]
        if not is_host_name(name):
            raise ValueError("expected a DNS name after srv:")
        return HostName(name.lower(), 0)
    try:
        address = Address.parse(text)
    except ValueError as error:
        host, _, port = text.rpartition(":")
        if is_host_name(host) and not text.startswith("unix:"):
            # The port is judged as everywhere.
            return HostName(host.lower(), Address.parse(f":{port}").port)
        told = str(error).replace("IP:port, [IPv6]:port or unix:/path", ENDPOINT_FORMS)
        raise ValueError(told.replace("a numeric IP", "an IP or a host name")) from None
    if address.host in ("::", "0.0.0.0"):  # noqa: S104
        raise ValueError("expected the address of one endpoint")
    return address


def parse_listen(text: str) -> list[Address]:
    """As Address.parse(), and a range of ports: `:9000-9010`. Raises ValueError likewise."""
    head, colon, ports = text.rpartition(":")
    low, dash, high = ports.partition("-")
    if text.startswith("unix:") or not colon or not dash:
        return [Address.parse(text)]
    first, last = (Address.parse(f"{head}:{port}") for port in (low, high))
    if first.port >= last.port:
        raise ValueError("expected a range of ports from low to high, such as 9000-9010")
    return [Address(first.host, port, "") for port in range(first.port, last.port + 1)]
