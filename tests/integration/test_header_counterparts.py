"""The PROXY protocol between tcpmux and programs that others wrote, in front of it and behind."""

from __future__ import annotations

import itertools
import os
import socket
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import StartProxy
from tests.integration.routes import route, routes
from tests.others import running, system_program
from tests.support import DEADLINE, free_port

HAPROXY, NGINX = map(system_program, ("haproxy", "nginx"))
STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
FRONTS = ("haproxy v1", "haproxy v2", "nginx v1")
BEHIND = ("haproxy", "nginx")
VERSIONS = (1, 2)
CLIENT = "127.0.0.9"

pytestmark = pytest.mark.skipif(
    not (HAPROXY and NGINX and STREAM.exists()),
    reason="HAProxy, nginx or its stream module is not installed",
)


def of_haproxy(fronts: dict[int, tuple[int, str]], behind: int) -> str:
    """fronts: by its port where it sends connections, and how."""
    text = """
        defaults
          timeout connect 1m
          timeout client 1m
          timeout server 1m
        """
    for port, (to, word) in fronts.items():
        text += f"""
        listen {port}
          mode tcp
          bind 127.0.0.1:{port}
          server tcpmux 127.0.0.1:{to} {word}
        """
    return f"""{text}
        frontend behind
          mode http
          bind 127.0.0.1:{behind} accept-proxy
          http-request return status 200 content-type text/plain lf-string %ci:%cp
"""


def of_nginx(place: Path, fronts: dict[int, int], behind: int) -> str:
    text = "".join(
        f"server {{ listen 127.0.0.1:{port}; proxy_pass 127.0.0.1:{to}; proxy_protocol on; }}\n"
        for port, to in fronts.items()
    )
    return f"""
        {"user root;" if os.geteuid() == 0 else ""}
        load_module {STREAM};
        daemon off; worker_processes 1; pid {place}/pid; error_log {place}/error;
        events {{ }}
        stream {{
          {text}
          server {{
            listen 127.0.0.1:{behind} proxy_protocol;
            return $proxy_protocol_addr:$proxy_protocol_port;
          }}
        }}"""


def said_by(client: socket.socket) -> bytes:
    """nginx answers without having read the question, and what it has not read is reset then."""
    parts = []
    with suppress(ConnectionResetError):
        while data := client.recv(1 << 16):
            parts.append(data)
    return b"".join(parts)


def asked(port: int) -> tuple[str, str]:
    """Who the client is, and who it is said to be."""
    with socket.create_connection(("127.0.0.1", port), DEADLINE, (CLIENT, 0)) as client:
        host, number = client.getsockname()
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = said_by(client).decode()
        return f"{host}:{number}", answer.rpartition("\n")[2]


def test_headers_of_others_and_for_others(start_proxy: StartProxy, tmp_path: Path) -> None:
    """Whoever sends them, in whatever version, and whoever reads them: the client is the client."""
    behind = {name: free_port() for name in BEHIND}
    ours: dict[tuple[str, int], int] = {}
    made: list[dict[str, Any]] = []
    for name, version in itertools.product(BEHIND, VERSIONS):
        ours[name, version] = free_port()
        one = route(f"{name}-{version}", ours[name, version], v1=(1, f"127.0.0.1:{behind[name]}"))
        one["destinations"][0]["send_proxy"] = version
        made.append({**one, "accept_proxy": {"from": ["127.0.0.1"]}})
    chains = {(front, *of): free_port() for front in FRONTS for of in ours}
    words = {"haproxy v1": "send-proxy", "haproxy v2": "send-proxy-v2"}
    to = {port: (ours[name, version], front) for (front, name, version), port in chains.items()}
    (tmp_path / "haproxy.cfg").write_text(
        of_haproxy(
            {port: (at, words[front]) for port, (at, front) in to.items() if front in words},
            behind["haproxy"],
        )
    )
    (tmp_path / "nginx.conf").write_text(
        of_nginx(
            tmp_path,
            {port: at for port, (at, front) in to.items() if front == "nginx v1"},
            behind["nginx"],
        )
    )
    start_proxy(routes(*made))
    with ExitStack() as stack:
        stack.enter_context(
            running(
                [HAPROXY, "-db", "-q", "-f", str(tmp_path / "haproxy.cfg")],
                list(chains.values())[:1],
            )
        )
        stack.enter_context(
            running(
                [NGINX, "-c", f"{tmp_path}/nginx.conf", "-e", f"{tmp_path}/error"],
                list(chains.values())[-1:],
            )
        )
        for chain, port in chains.items():
            is_client, is_said = asked(port)
            assert is_said == is_client, chain
