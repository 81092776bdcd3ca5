"""What docs/migrate/nginx.md says is mapped, is; and what it says is missing, changes traffic."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tcpmux.convert.conversion import Conversion, convert
from tcpmux.convert.kinds import Input

PAGE = Path(__file__).resolve().parents[2] / "docs/migrate/nginx.md"
TARGET = "proxy_pass 127.0.0.1:9;"
OF_SERVERS = (
    *("weight=", "backup", "down", "max_conns=", "max_fails=", "fail_timeout=", "slow_start="),
    *("resolve", "service="),
)
OF_UPSTREAMS = ("least_conn", "random", "hash ", "least_time", "state ")
NAMED_ALONE = ("map", "geo", "server_name", "set", "zone", "resolver", "$server_addr", "$protocol")


def table_under(heading: str) -> list[tuple[str, str]]:
    """(first, second column) of its table."""
    part = PAGE.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.*) \| (.*) \|$", part, re.MULTILINE)
    return [row for row in rows if row != ("nginx", "tcpmux") and row[0] != "nginx"]


def examples_under(heading: str) -> list[str]:
    found = [
        example for first, _ in table_under(heading) for example in re.findall(r"`([^`]+)`", first)
    ]
    return [example for example in found if example not in NAMED_ALONE]


def file_with(example: str) -> str:
    """nginx.conf with the directive or the parameter where it belongs."""
    if example.startswith("worker_"):
        return f"{example}; stream {{ server {{ listen 80; {TARGET} }} }}"
    if example.startswith(OF_SERVERS):
        # The others are the same, since a rule for failures is an upstream's.
        with_rule = example if "fail" in example or "slow" in example else ""
        host = "a.example" if "resolve" in example else "10.0.0.1"
        host = host if "service" in example else f"{host}:9"
        return _upstream(f"server {host} {example}; server 10.0.0.2:9 {with_rule};")
    if example.startswith(OF_UPSTREAMS):
        return _upstream(f"{example}; server 10.0.0.1:9; server 10.0.0.2:9;")
    return _server(*_of_server(example))


def _of_server(example: str) -> tuple[str, str]:
    """What stands in the server, and beside it."""
    zone = "limit_conn_zone $binary_remote_addr zone=z:1m;"
    for start, inside, beside in (
        (
            "limit_conn_zone $proxy_protocol_addr",
            f"listen 80 proxy_protocol; {TARGET} limit_conn z 2;",
            f"{example};",
        ),
        ("limit_conn_zone", f"listen 80; {TARGET} limit_conn z 2;", f"{example};"),
        ("limit_conn ", f"listen 80; {TARGET} {example};", zone),
        ("split_clients $ssl", "listen 80; proxy_pass $x; ssl_preread on;", example),
        ("split_clients $proxy", "listen 80 proxy_protocol; proxy_pass $x;", example),
        ("split_clients", "listen 80; proxy_pass $x;", example),
        ("map ", "listen 80; proxy_pass $x; ssl_preread on;", example),
        ("geo ", "listen 80; proxy_pass $x;", example),
        ("listen ", f"{TARGET} {example};", ""),
        ("proxy_pass", f"listen 80; {example};", ""),
        ("return", f"listen 80; {example};", ""),
        ("pass", f"listen 80; {example};", ""),
    ):
        if example.startswith(start):
            return inside, beside
    return f"listen 80; {TARGET} {example};", ""


def _upstream(directives: str) -> str:
    upstream = f"upstream u {{ zone u 1m; {directives} }}"
    header = " proxy_protocol" if "$proxy_protocol_addr" in directives else ""
    return _server(f"listen 80{header}; proxy_pass u;", upstream)


def _server(directives: str, stream: str) -> str:
    return f"stream {{ {stream} server {{ {directives} }} }}"


def conversion_of(example: str) -> Conversion:
    return convert("nginx", [Input("nginx.conf", file_with(example))])


@pytest.mark.parametrize("example", examples_under("Mapped"))
def test_what_is_mapped(example: str) -> None:
    found = conversion_of(example)
    assert not found.changes, [str(change) for change in found.changes]
    assert found.text


@pytest.mark.parametrize("example", examples_under("What tcpmux does not have"))
def test_what_is_missing(example: str) -> None:
    assert conversion_of(example).changes


def test_the_tables_are_read() -> None:
    assert len(examples_under("Mapped")) > 40
    assert len(examples_under("What tcpmux does not have")) > 15
