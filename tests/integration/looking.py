"""Looking at a running instance as others do: over HTTP, and with a connection through it."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.integration.conftest import StartProxy
from tests.integration.proxy import Proxy
from tests.integration.routes import routes
from tests.support import DEADLINE, free_port, wait_for

OPEN = {"insecure": True}


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    """A connection that has got an answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as sock:
        talk(sock)
        yield sock


def talk(sock: socket.socket, size: int = 10) -> bytes:
    sock.sendall(b"x" * (size - 1) + b"\n")
    return sock.recv(65536)


def get(address: str, path: str, method: str = "GET", body: str = "", **headers: str) -> Any:
    """(status, text) of a request to IP:port or, if that is a path, to a UNIX socket."""
    connection = http.client.HTTPConnection(address.lstrip("/"), timeout=DEADLINE)
    if address.startswith("/"):
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(DEADLINE)
        connection.sock.connect(address)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body or None, named)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text


def metric(address: str, name: str, **labels: str) -> float:
    """The sum of the samples with these labels."""
    _, text = get(address, "/metrics")
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def with_http(*parts: dict[str, Any], **top: Any) -> tuple[dict[str, Any], str]:
    """A configuration with admin.http, to be completed by Proxy; and its address."""
    address = f"127.0.0.1:{free_port()}"
    return routes(*parts, **top), address


def start(start_proxy: StartProxy, config: dict[str, Any], address: str, **admin: Any) -> Proxy:
    """Names the admin socket, which only a proxy's directory tells, beside admin.http."""
    proxy = start_proxy(config)
    own = {"socket": proxy.admin, "http": address, **({} if "token_file" in admin else OPEN)}
    full = {"workers": 2, "admin": {**own, **admin}, **config}
    before = proxy.control_pid()
    proxy.reload(json.dumps(full))
    try:
        wait_for(lambda: proxy.log.count("control is ready") > 1, "another control")
    except AssertionError as error:
        raise AssertionError(f"{error}:\n{proxy.log}") from None
    assert proxy.control_pid() != before
    proxy.children |= proxy.tree()
    return proxy
