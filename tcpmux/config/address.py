"""Addresses of listeners and endpoints. Used by every process that reads configuration."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass

UNIX_PATH_MAX = 107  # bytes; sun_path of unix(7) less its NUL


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
        if not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65535):
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
        return cls(str(ipaddress.ip_address(name[0])), name[1], "")

    @staticmethod
    def _host(host: str) -> str:
        if host == "":
            return "::"
        try:
            if host.startswith("[") and host.endswith("]"):
                return str(ipaddress.IPv6Address(host[1:-1]))
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            pass
        if ":" in host:
            raise ValueError("expected an IPv6 address in brackets: [::1]:80")
        raise ValueError("expected a numeric IP before the port: host names are not looked up")

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
