"""psycopg with a libpq of PostgreSQL 17 or newer, in all its modes, through `starttls: postgres`.

It is no test dependency: without it these are skipped. `pip install 'psycopg[binary]'` brings one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.docs.postgres_by_name import haproxy, postgresql
from tests.docs.test_postgresql import PROGRAMS
from tests.integration.proxy import Proxy
from tests.others import NOBODY, certificate, system_program
from tests.support import free_port, patient, short_directory

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")
DIRECT, NEGOTIATED = "direct.example", "shop.example"

pytestmark = [
    pytest.mark.skipif(psycopg.pq.version() < 170000, reason="psycopg's libpq is older than 17"),
    pytest.mark.skipif(not PROGRAMS, reason="PostgreSQL (package postgresql) is not installed"),
    pytest.mark.skipif(not system_program("haproxy"), reason="HAProxy is not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to run PostgreSQL as another user"),
]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of a route: one name leads to PostgreSQL, another to a HAProxy that ends direct TLS."""
    listen, ends_tls = free_port(), free_port()
    with short_directory() as place, short_directory() as own, ExitStack() as stack:
        pem = certificate(place, NEGOTIATED)
        for path in (place, pem):
            os.chown(path, NOBODY, NOBODY)
        server = stack.enter_context(postgresql(pem, "pg", kinds=("host",)))
        text = f"listen l\n  bind 127.0.0.1:{ends_tls} ssl crt {pem} alpn postgresql\n"
        text += f"  server s 127.0.0.1:{server}\n"
        stack.enter_context(haproxy(place, text, ends_tls))
        rules: list[dict[str, Any]] = [
            {"name": "direct", "sni": [DIRECT], "alpn": ["postgresql"], "to": "direct"},
            {"name": "negotiated", "sni": [NEGOTIATED], "to": "pg"},
            {"name": "others", "tls": True, "reject": True},
        ]
        route = {
            "name": "pg",
            "listen": f"127.0.0.1:{listen}",
            "preread": {"starttls": "postgres"},
            "rules": rules,
            "destinations": [
                {"name": "pg", "weight": 1, "endpoints": [f"127.0.0.1:{server}"]},
                {"name": "direct", "weight": 0, "endpoints": [f"127.0.0.1:{ends_tls}"]},
            ],
        }
        proxy = Proxy(own, {"workers": 2, "routes": [route]})
        stack.callback(proxy.stop)
        yield listen


def is_tls_at_the_server(port: int, name: str, **options: str) -> bool:
    """Of a session that has been asked something; Raises OperationalError."""
    url = (
        f"host={name} hostaddr=127.0.0.1 port={port} user=postgres connect_timeout={patient(20):g}"
    )
    with psycopg.connect(url, **options) as client:
        (found,) = client.execute(
            "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
        ).fetchone()
    return bool(found)


@pytest.mark.parametrize(
    "options",
    [
        {"sslmode": "require"},
        {"sslmode": "prefer"},
        {"sslmode": "prefer", "gssencmode": "prefer"},
        {"sslmode": "require", "sslnegotiation": "postgres"},
    ],
    ids=str,
)
def test_clients_that_ask_for_tls_first_reach_postgresql_with_it(
    port: int, options: dict[str, str]
) -> None:
    assert is_tls_at_the_server(port, NEGOTIATED, **options)


def test_clients_of_direct_tls_reach_what_ends_it(port: int) -> None:
    options = {"sslmode": "require", "sslnegotiation": "direct"}
    assert not is_tls_at_the_server(port, DIRECT, **options)


def test_clients_that_allow_or_demand_no_tls_are_served_without_it(port: int) -> None:
    assert not is_tls_at_the_server(port, NEGOTIATED, sslmode="disable")
    assert not is_tls_at_the_server(port, NEGOTIATED, sslmode="allow")


def test_a_name_that_no_rule_has_is_turned_away(port: int) -> None:
    with pytest.raises(psycopg.OperationalError):
        is_tls_at_the_server(port, "other.example", sslmode="require")
    with pytest.raises(psycopg.OperationalError):
        is_tls_at_the_server(port, "other.example", sslmode="require", sslnegotiation="direct")
