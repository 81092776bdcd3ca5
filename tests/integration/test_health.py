"""An endpoint dies, hangs, lies or comes back; a version does; and what clients notice of it."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import psutil
import pytest

from tcpmux.control.client import AdminError, EndpointStatus
from tests.integration.conftest import StartProxy
from tests.integration.proxy import Proxy
from tests.integration.routes import route, routes
from tests.integration.servers import black_hole, hanging, resetting, saying, serving
from tests.integration.test_reload import refused
from tests.support import DEADLINE, EchoServer, ask, free_port, refusing_port, wait_for, will_reset

CHECK = {"type": "tcp", "interval": "100ms", "fast_interval": "50ms", "timeout": "500ms"}


def answers(port: int, connections: int) -> Counter[str]:
    """First word of each answer; "reset" for none."""
    found: Counter[str] = Counter()
    for _ in range(connections):
        try:
            found[ask(("127.0.0.1", port)).split(" ")[0]] += 1
        except (ConnectionError, OSError):
            found["reset"] += 1
    return found


def endpoint(proxy: Proxy, address: str) -> EndpointStatus:
    return next(
        e
        for r in proxy.status()["routes"]
        for d in r["destinations"]
        for e in d["endpoints"]
        if e["address"] == address
    )


def health_is(proxy: Proxy, address: str, health: str) -> bool:
    return bool(endpoint(proxy, address)["health"] == health)


def await_health(proxy: Proxy, address: str, health: str) -> None:
    wait_for(partial(health_is, proxy, address, health), f"{address} to be {health}")


def said(proxy: Proxy, text: str) -> bool:
    return any(text in event["text"] for event in proxy.client.events())


def three(port: int, one: EchoServer, two: EchoServer, last: str, **more: Any) -> dict[str, Any]:
    part = route("r", port, v1=(50, one.address), v2=(30, two.address), v3=(20, last))
    return {**part, "check": CHECK, "passive": "off", **more}


# --- a version dies ---------------------------------------------------------------------------


def test_the_share_of_a_dead_version_goes_to_the_others_exactly(
    start_proxy: StartProxy,
    one: EchoServer,
    two: EchoServer,
    echo_servers: Callable[..., EchoServer],
) -> None:
    port = free_port()
    last = echo_servers("three")
    proxy = start_proxy(routes(three(port, one, two, last.address)))
    assert answers(port, 100) == {"one": 50, "two": 30, "three": 20}
    dead = last.address
    last.close()
    await_health(proxy, dead, "down")
    assert answers(port, 80) == {"one": 50, "two": 30}
    found = endpoint(proxy, dead)
    assert "connection refused" in found["health_reason"]
    assert found["check"] == "tcp"
    assert found["next_try"] is not None
    assert said(proxy, "r/v3: no endpoint is healthy: the others get its share")
    proxy.says(f"WARNING r/v3: endpoint {dead} is down")
    shown = proxy.run("status").stdout
    assert f"v3: {dead} is down" in shown
    assert "v3 is down (the others get its share)" in shown


def test_or_it_is_reset_exactly(start_proxy: StartProxy, one: EchoServer, two: EchoServer) -> None:
    port = free_port()
    with refusing_port() as dead:
        part = three(port, one, two, f"127.0.0.1:{dead}", on_unavailable="reject")
        proxy = start_proxy(routes(part))
        await_health(proxy, f"127.0.0.1:{dead}", "down")
        assert answers(port, 100) == {"one": 50, "two": 30, "reset": 20}
        assert proxy.destination("v3")["closed"]["no_endpoint"] == 20


def test_or_one_of_the_others_gets_it(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    port = free_port()
    with refusing_port() as dead:
        part = three(port, one, two, f"127.0.0.1:{dead}", on_unavailable={"fallback": "v2"})
        proxy = start_proxy(routes(part))
        await_health(proxy, f"127.0.0.1:{dead}", "down")
        assert answers(port, 100) == {"one": 50, "two": 50}


def test_a_version_without_weight_is_known_to_be_well_before_it_gets_any(
    start_proxy: StartProxy, one: EchoServer
) -> None:
    port = free_port()
    with refusing_port() as dead:
        part = route("r", port, v1=(1, one.address), v2=(0, f"127.0.0.1:{dead}"))
        proxy = start_proxy(routes({**part, "check": CHECK}))
        await_health(proxy, f"127.0.0.1:{dead}", "down")
        proxy.client.set_weights("r", {"v2": 1})
        assert answers(port, 10) == {"one": 10}


# --- all are dead -----------------------------------------------------------------------------


def test_a_client_waits_for_an_endpoint_to_come_back(
    start_proxy: StartProxy, echo_servers: Callable[..., EchoServer]
) -> None:
    port, behind = free_port(), free_port()
    part = route("r", port, v1=(1, f"127.0.0.1:{behind}"))
    part = {**part, "check": CHECK, "on_all_unavailable": {"hold": "30s"}}
    proxy = start_proxy(routes(part))
    await_health(proxy, f"127.0.0.1:{behind}", "down")
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as client:
        client.sendall(b"hello\n")
        wait_for(lambda: proxy.active() == 1, "the client to be held")
        with serving(saying(b"back\n"), behind):
            assert client.recv(64) == b"back\n"
    assert proxy.destination("v1")["closed"]["no_endpoint"] == 0


def test_a_route_that_resets_every_client_is_never_silent(start_proxy: StartProxy) -> None:
    """Without any check, from the first client on."""
    port = free_port()
    with refusing_port() as dead:
        part = route("r", port, v1=(1, f"127.0.0.1:{dead}"))
        proxy = start_proxy(routes({**part, "passive": "off"}))
        assert answers(port, 1) == {"reset": 1}
        why = f"connects fail: v1 127.0.0.1:{dead} (connection refused)"
        text = f"r: every new client is reset (1 so far): {why}"
        proxy.says(f"ERROR {text}", times=1)
        proxy.says(f"WARNING r/v1: 1 connect to 127.0.0.1:{dead} failed: connection refused")
        wait_for(lambda: said(proxy, text), "it to be an event")
        assert not said(proxy, "1 connect to")
        proxy.client.set_log_level("debug")
        each = f"DEBUG r/v1: connect to 127.0.0.1:{dead} for 127.0.0.1:"

        def shows_each() -> bool:
            """Control hears of the level a moment later."""
            assert answers(port, 1) == {"reset": 1}
            return each in proxy.log

        wait_for(shows_each, "each failed connect to be shown")


def test_one_that_waits_in_vain_is_reset(start_proxy: StartProxy) -> None:
    port = free_port()
    with refusing_port() as dead:
        part = route("r", port, v1=(1, f"127.0.0.1:{dead}"))
        part = {**part, "check": CHECK, "on_all_unavailable": {"hold": "100ms"}}
        proxy = start_proxy(routes(part))
        await_health(proxy, f"127.0.0.1:{dead}", "down")
        assert answers(port, 3) == {"reset": 3}
        assert proxy.status()["routes"][0]["closed"]["no_endpoint"] == 3
        proxy.says(
            "ERROR r: no destination with weight has a healthy endpoint: new connections are"
        )


def test_a_route_can_stop_listening_until_somebody_is_well(start_proxy: StartProxy) -> None:
    port, behind = free_port(), free_port()
    part = route("r", port, v1=(1, f"127.0.0.1:{behind}"))
    part = {**part, "check": CHECK, "on_all_unavailable": "refuse"}
    proxy = start_proxy(routes(part))
    for _ in range(2):
        wait_for(partial(refused, port), "connections to be refused")
        assert proxy.status()["routes"][0]["listen"] == []
        assert not proxy.status()["routes"][0]["available"]
        with serving(saying(b"back\n"), behind):
            wait_for(lambda: not refused(port), "connections to be taken")
            assert ask(("127.0.0.1", port)) == "back\n"
    assert said(
        proxy, "r: no destination with weight has a healthy endpoint: new connections are refused"
    )


# --- endpoints --------------------------------------------------------------------------------


def test_an_endpoint_that_refuses_is_noticed_by_nobody(
    start_proxy: StartProxy, one: EchoServer
) -> None:
    port = free_port()
    with refusing_port() as dead:
        part = route("r", port, v1=(1, one.address))
        part["destinations"][0]["endpoints"].append(f"127.0.0.1:{dead}")
        proxy = start_proxy(routes(part, workers=2))
        assert answers(port, 200) == {"one": 200}
        # Workers pass it over for a second after each failure; five in a row eject it.
        assert proxy.destination("v1")["connect_failures_total"] < 50


def test_clients_of_a_black_hole_wait_no_longer_than_connect_timeout(
    start_proxy: StartProxy, one: EchoServer
) -> None:
    port = free_port()
    with black_hole() as hole:
        part = route("r", port, v1=(1, one.address))
        part["destinations"][0]["endpoints"].append(f"127.0.0.1:{hole}")
        part = {**part, "check": {**CHECK, "timeout": "200ms"}, "connect_timeout": "300ms"}
        proxy = start_proxy(routes(part))
        assert answers(port, 20) == {"one": 20}
        await_health(proxy, f"127.0.0.1:{hole}", "down")
        assert endpoint(proxy, f"127.0.0.1:{hole}")["health_reason"].endswith(
            "no answer within 0.2 s"
        )
        before = proxy.destination("v1")["connect_timeouts_total"]
        assert answers(port, 20) == {"one": 20}
        assert proxy.destination("v1")["connect_timeouts_total"] == before


@pytest.mark.parametrize(
    ("handle", "reason"),
    [
        (hanging(), "no answer within 1 s"),
        (saying(b"-ERR go away\r\n"), "answered '-ERR go away"),
        (resetting, "connection reset by peer"),
    ],
    ids=["hangs", "lies", "resets"],
)
def test_one_that_accepts_and_is_not_well_is_found_out(
    start_proxy: StartProxy, handle: Callable[[socket.socket], None], reason: str
) -> None:
    check = {**CHECK, "type": "redis", "timeout": "1s"}
    with serving(handle) as bad, serving(saying(b"+PONG\r\n")) as good:
        part = route("r", free_port(), v1=(1, good.address))
        part["destinations"][0]["endpoints"].append(bad.address)
        proxy = start_proxy(routes({**part, "check": check}))
        await_health(proxy, bad.address, "down")
        assert reason in endpoint(proxy, bad.address)["health_reason"]
        assert health_is(proxy, good.address, "up")


def greeted(word: bytes) -> Callable[[socket.socket], None]:
    """Wants to be greeted, and else closes at once, with data unread: the kernel makes that RST."""

    def talk(client: socket.socket) -> None:
        if client.recv(5) == b"hello":
            client.sendall(word)
            client.recv(64)

    return talk


def closing(client: socket.socket) -> None:
    """Ends what it does not like by FIN."""
    client.recv(4096)


def send_garbage(port: int, clients: int = 8) -> None:
    """Each from an address of its own."""
    for number in range(clients):
        with socket.create_connection(
            ("127.0.0.1", port), DEADLINE, (f"127.0.1.{number + 1}", 0)
        ) as sock:
            sock.sendall(b"garbage" * 100)
            with suppress(OSError):
                while sock.recv(64):
                    pass


def test_what_clients_send_moves_no_traffic(start_proxy: StartProxy) -> None:
    """One version resets whoever does not greet it: that is between the two."""
    port = free_port()
    with serving(greeted(b"one \n")) as one, serving(saying(b"two \n")) as two:
        proxy = start_proxy(routes(route("r", port, v1=(95, one.address), v2=(5, two.address))))
        for _ in range(3):
            send_garbage(port)
        wait_for(lambda: proxy.active() == 0, "the garbage to end")
        assert proxy.destination("v1")["closed"]["endpoint_reset"] >= 20
        found: Counter[str] = Counter()
        for _ in range(100):
            with socket.create_connection(("127.0.0.1", port), DEADLINE) as sock:
                sock.sendall(b"hello")
                found[sock.recv(64).decode().split()[0]] += 1
        assert found == {"one": 95, "two": 5}
        assert health_is(proxy, one.address, "up")
        assert endpoint(proxy, one.address)["health_reason"] == ""


def test_what_clients_bring_about_is_shown_where_that_is_asked_for(
    start_proxy: StartProxy, one: EchoServer
) -> None:
    """And only if a check fails as well does anything follow from it."""
    ports = [free_port() for _ in range(3)]
    never = {"type": "redis", "interval": "1h", "fast_interval": "1h", "fall": 100}
    kinds: list[dict[str, Any]] = [
        {"passive": {"resets": True}},
        {"passive": {"early_close": "1h"}},
        {"passive": {"resets": True}, "check": never},
    ]
    with (
        serving(greeted(b"")) as resets,
        serving(closing) as closes,
        serving(greeted(b"")) as sick,
    ):
        servers = [resets, closes, sick]
        parts = [
            {**route(f"r{n}", port, v1=(1, server.address), v2=(0, one.address)), **kind}
            for n, (port, server, kind) in enumerate(zip(ports, servers, kinds, strict=True))
        ]
        for part in parts:
            part["destinations"][0]["endpoints"].append({"address": one.address, "backup": True})
        proxy = start_proxy(routes(*parts))
        for port in ports:
            send_garbage(port)
        for server in (resets, closes):
            wait_for(lambda s=server: endpoint(proxy, s.address)["suspected"], "a suspicion")  # type: ignore[misc]
            found = endpoint(proxy, server.address)
            assert found["health"] == "up"
            assert "a check succeeds, so it stays in use" in found["health_reason"]
        await_health(proxy, sick.address, "ejected")
        assert "and a check fails" in endpoint(proxy, sick.address)["health_reason"]
        assert said(proxy, "is suspected: ")
        assert "suspected: " in proxy.run("endpoint").stdout
        shown = proxy.run("status").stdout
        assert re.search(
            f"v1: {resets.address} is degraded since [\\d:]+ \\(\\w+\\): suspected: ", shown
        )


def resetting_at_once(client: socket.socket) -> None:
    will_reset(client)


def closing_at_once(_: socket.socket) -> None:
    pass


def visit(port: int, clients: int, *, words: bytes = b"") -> None:
    """Each from an address of its own; stays until it is turned away or answered."""
    for number in range(clients):
        with (
            suppress(OSError),
            socket.create_connection(
                ("127.0.0.1", port), DEADLINE, (f"127.0.1.{number + 1}", 0)
            ) as sock,
        ):
            sock.sendall(words)
            sock.recv(64)


@pytest.mark.parametrize(
    ("server_does", "how"),
    [(resetting_at_once, "reset by"), (closing_at_once, "closed at once by")],
)
def test_one_that_accepts_and_ends_every_connection_is_shown_as_degraded(
    start_proxy: StartProxy, server_does: Callable[[socket.socket], None], how: str
) -> None:
    """It stays in use. It is healthy again as soon as a connection is answered."""
    port, behaviour = free_port(), [server_does]

    def behave(client: socket.socket) -> None:
        behaviour[0](client)

    with serving(behave) as server:
        proxy = start_proxy(routes(route("r", port, v1=(1, server.address))))
        visit(port, 8)

        def shown() -> bool:
            return endpoint(proxy, server.address)["condition"] == "degraded"

        wait_for(shown, "it to be degraded")
        found = endpoint(proxy, server.address)
        assert found["health"] == "up"
        assert f"connections were {how} the endpoint without an answer" in found["condition_reason"]
        assert proxy.status()["routes"][0]["condition"] == "degraded"
        behaviour[0] = saying(b"hello")
        visit(port, 1, words=b"hello")
        wait_for(lambda: not shown(), "it to be healthy")
        assert said(proxy, "is answering clients again")


def test_those_who_come_and_go_colour_no_endpoint(start_proxy: StartProxy) -> None:
    """One that sends what the endpoint refuses; and many that leave before it has said a word."""
    ports = free_port(), free_port(), free_port()
    with (
        serving(greeted(b"")) as refuses,
        serving(closing) as reads,
        serving(resetting_at_once) as resets,
    ):
        proxy = start_proxy(
            routes(
                route("a", ports[0], v1=(1, refuses.address)),
                route("b", ports[1], v1=(1, reads.address)),
                route("c", ports[2], v1=(1, resets.address)),
            )
        )
        for _ in range(20):
            send_garbage(ports[0], 1)
        for number in range(10):
            source = f"127.0.1.{number + 1}", 0
            with socket.create_connection(("127.0.0.1", ports[1]), DEADLINE, source) as sock:
                if number % 2:
                    sock.shutdown(socket.SHUT_WR)
                    sock.recv(64)
        wait_for(lambda: proxy.active() == 0, "all to end")
        visit(ports[2], 8)

        def has_looked() -> bool:
            return endpoint(proxy, resets.address)["condition"] == "degraded"

        wait_for(has_looked, "a look at all of them")
        for server in (refuses, reads):
            assert endpoint(proxy, server.address)["condition"] == "healthy"


def test_at_the_end_of_an_ejection_no_client_finds_out_that_it_is_dead_still(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    """A backup and a fallback serve, for as long as it takes."""
    ports = free_port(), free_port()
    passive = {"ejection_time": "200ms"}
    with refusing_port() as dead:
        address = f"127.0.0.1:{dead}"
        backed = route("backed", ports[0], v1=(1, address))
        backed["destinations"][0]["endpoints"].append({"address": one.address, "backup": True})
        fallen = route("fallen", ports[1], v1=(1, address), v2=(0, two.address))
        fallen["on_unavailable"] = {"fallback": "v2"}
        proxy = start_proxy(routes({**backed, "passive": passive}, {**fallen, "passive": passive}))

        def are_ejected() -> bool:
            for port in ports:
                answers(port, 1)
            shown = [r["destinations"][0]["endpoints"][0] for r in proxy.status()["routes"]]
            return all(each["health"] == "ejected" for each in shown)

        wait_for(are_ejected, "both to be ejected")
        found: Counter[str] = Counter()

        def have_ended_twice() -> bool:
            for port in ports:
                found.update(answers(port, 5))
            texts = [event["text"] for event in proxy.client.events()]
            return all(
                any(f"{name}/v1" in text and "another 0.6 s" in text for text in texts)
                for name in ("backed", "fallen")
            )

        wait_for(have_ended_twice, "two ejections to have ended")
        assert found.keys() == {"one", "two"}


def test_the_last_endpoint_of_a_route_is_never_ejected(start_proxy: StartProxy) -> None:
    port = free_port()
    with refusing_port() as dead:
        address = f"127.0.0.1:{dead}"
        part = route("r", port, v1=(1, address))
        proxy = start_proxy(routes({**part, "passive": {"errors": 1}}))
        assert answers(port, 10) == {"reset": 10}
        wait_for(
            lambda: said(proxy, "failing, but stays in use: nothing else could serve"),
            "that to be said",
        )
        assert health_is(proxy, address, "up")


def test_with_too_few_well_all_are_used_and_that_is_said(
    start_proxy: StartProxy, one: EchoServer
) -> None:
    port = free_port()
    with refusing_port() as dead, black_hole() as hole:
        part = route("r", port, v1=(1, one.address))
        part["destinations"][0]["endpoints"] += [f"127.0.0.1:{dead}", f"127.0.0.1:{hole}"]
        check = {**CHECK, "timeout": "100ms"}
        part = {**part, "check": check, "panic_threshold": "50%", "connect_timeout": "50ms"}
        proxy = start_proxy(routes(part))
        wait_for(lambda: proxy.destination("v1")["panic"], "panic")
        assert said(
            proxy, "only 1 of 3 endpoints are healthy, panic_threshold is 50%: all are used"
        )
        assert [e["turns"] for e in proxy.destination("v1")["endpoints"]] == [1, 1, 1]
        assert answers(port, 12) == {"one": 12}


def test_a_backup_serves_only_while_the_others_can_not(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    port = free_port()
    part = route("r", port, v1=(1, one.address))
    part["destinations"][0]["endpoints"].append({"address": two.address, "backup": True})
    proxy = start_proxy(routes({**part, "check": CHECK}))
    assert answers(port, 10) == {"one": 10}
    dead = one.address
    one.close()
    await_health(proxy, dead, "down")
    assert answers(port, 10) == {"two": 10}


def test_a_backup_serves_before_anybody_knows(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    """Without checks: nobody is reset until the primary is ejected, nor when that is over. Over all
    workers the backups take turns exactly, while nobody knows and when all know."""
    port = free_port()
    with refusing_port() as dead:
        part = route("r", port, v1=(1, f"127.0.0.1:{dead}"))
        part["destinations"][0]["endpoints"] += [
            {"address": server.address, "backup": True} for server in (one, two)
        ]
        proxy = start_proxy(routes({**part, "passive": "off"}, workers=2))
        assert answers(port, 40) == {"one": 20, "two": 20}
        passive = {"errors": 1, "ejection_time": "1s"}
        proxy.reload(routes({**part, "passive": passive}, workers=2))
        assert "reset" not in answers(port, 4)

        def is_over() -> bool:
            assert "reset" not in answers(port, 4)
            return said(proxy, f"endpoint 127.0.0.1:{dead} is ejected for another 2 s")

        wait_for(is_over, "an ejection to be over, and the next to begin")
        failures = proxy.destination("v1")["connect_failures_total"]
        assert answers(port, 40) == {"one": 20, "two": 20}
        assert proxy.destination("v1")["connect_failures_total"] == failures


def test_a_fallback_serves_before_anybody_knows(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    port = free_port()
    with refusing_port() as dead:
        part = three(port, one, two, f"127.0.0.1:{dead}", on_unavailable={"fallback": "v2"})
        proxy = start_proxy(routes({**part, "check": "off", "passive": "off"}, workers=2))
        assert answers(port, 100) == {"one": 50, "two": 50}
        assert proxy.destination("v2")["picked"]["failed_over"] == 20


def test_a_name_that_leads_back_is_left_out(start_proxy: StartProxy, one: EchoServer) -> None:
    """No connection goes round, and the log says why the endpoint is not there."""
    port = free_port()
    part = route("r", f":{port}", v1=(1, one.address))
    part["destinations"][0]["endpoints"].append(f"localhost:{port}")
    proxy = start_proxy(routes(part))
    assert answers(port, 10) == {"one": 10}
    own = f"127.0.0.1:{port} is the route's own listener [::]:{port}"
    proxy.says(f"ERROR r: localhost:{port}: {own}: left out")
    assert {e["address"] for e in proxy.destination("v1")["endpoints"]} == {one.address}
    # What a file says is refused.
    part["destinations"][0]["endpoints"].append(f"127.0.0.1:{port}")
    proxy.reload(routes(part))
    proxy.says("reload refused, nothing changed")
    proxy.says(f"routes[0].destinations[0].endpoints[2]: {own}")
    assert answers(port, 10) == {"one": 10}


def test_a_connect_fails_over_to_another_destination_if_asked(
    start_proxy: StartProxy, one: EchoServer
) -> None:
    port = free_port()
    with refusing_port() as dead:
        part = route("r", port, v1=(1, one.address), v2=(1, f"127.0.0.1:{dead}"))
        part = {**part, "retry": {"across": True}, "passive": "off"}
        proxy = start_proxy(routes(part))
        assert answers(port, 40) == {"one": 40}
        assert proxy.destination("v1")["picked"] == {
            "weighted": 20, "only": 0, "sticky": 0, "spilled": 0, "failed_over": 20,
            "rehomed": 0, "mirrored": 0,
        }  # fmt: skip
        closed = proxy.destination("v2")["closed"]
        assert {reason: count for reason, count in closed.items() if count} == {"passed_on": 20}
        wait_for(lambda: proxy.active() == 0, "connections to end")


def test_retries_have_a_budget(start_proxy: StartProxy, one: EchoServer) -> None:
    """None at all: the first failure is the client's."""
    port = free_port()
    with refusing_port() as dead:
        part = route("r", port, v1=(1, f"127.0.0.1:{dead}"))
        part["destinations"][0]["endpoints"].append({"address": one.address, "backup": True})
        part["destinations"][0]["endpoints"].append(one.address.replace("127.0.0.1", "127.0.0.2"))
        retry = {"budget": "0%", "burst": 0}
        proxy = start_proxy(routes({**part, "retry": retry, "passive": "off"}))
        assert answers(port, 1) == {"reset": 1}
        assert proxy.destination("v1")["closed"]["retries_used_up"] == 1


# --- and what goes on -------------------------------------------------------------------------


def test_health_outlives_control_and_reloads(start_proxy: StartProxy, one: EchoServer) -> None:
    port = free_port()
    with refusing_port() as dead:
        part = route("r", port, v1=(1, one.address), v2=(1, f"127.0.0.1:{dead}"))
        config = routes({**part, "check": CHECK, "passive": "off"})
        proxy = start_proxy(config)
        await_health(proxy, f"127.0.0.1:{dead}", "down")
        pid = proxy.control_pid()
        os.kill(pid, signal.SIGKILL)
        assert answers(port, 10) == {"one": 10}

        def is_back() -> bool:
            with suppress(AdminError, ValueError, psutil.Error):
                return proxy.control_pid() != pid and bool(proxy.status())
            return False

        wait_for(is_back, "another control process")
        assert answers(port, 10) == {"one": 10}
        config["routes"][0]["destinations"][0]["weight"] = 3
        proxy.reload(config)
        assert answers(port, 10) == {"one": 10}
        assert health_is(proxy, f"127.0.0.1:{dead}", "down")
        # Without a check nobody knows it to be down.
        del config["routes"][0]["check"]
        proxy.reload(config)
        assert said(proxy, "r: v2 check tcp->off")
        await_health(proxy, f"127.0.0.1:{dead}", "up")


def test_what_is_back_gets_its_share_by_and_by(
    start_proxy: StartProxy, one: EchoServer, echo_servers: Callable[..., EchoServer]
) -> None:
    """Never less than before, and at each step exactly what the weights in force say."""
    port, behind = free_port(), free_port()
    part = route("r", port, v1=(1, one.address), v2=(1, f"127.0.0.1:{behind}"))
    slow_start = {"duration": "4s", "floor": "10%"}
    proxy = start_proxy(
        routes({**part, "check": CHECK, "passive": "off", "slow_start": slow_start})
    )
    await_health(proxy, f"127.0.0.1:{behind}", "down")
    with serving(saying(b"two\n"), behind):
        shares: list[float] = []
        while not shares or shares[-1] < 1:
            v1, v2 = proxy.status()["routes"][0]["destinations"]
            if v2["effective_weight"]:
                percent = v2["slow_start_percent"]
                assert 10 <= percent <= 100
                assert v2["effective_weight"] * 100 == v1["effective_weight"] * percent
                shares.append(v2["effective_weight"] / v1["effective_weight"])
        assert shares == sorted(shares)
        assert shares[0] < 0.5
        assert len(set(shares)) > 3


def test_an_endpoint_can_be_taken_out_for_a_time(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    port = free_port()
    part = route("r", port, v1=(1, one.address))
    part["destinations"][0]["endpoints"].append(two.address)
    proxy = start_proxy(routes(part))
    done = proxy.run("endpoint", two.address, "drain", "--for", "4s")
    assert done.returncode == 0, done.stderr
    assert "draining" in endpoint(proxy, two.address)["state"]
    assert endpoint(proxy, two.address)["state_until"] is not None
    assert answers(port, 4) == {"one": 4}
    again = proxy.run("drain", f"r/v1/{two.address}", "--wait")
    assert "stays draining (ready again at " in again.stdout
    wait_for(lambda: endpoint(proxy, two.address)["state"] == "ready", "it to be ready again")
    assert answers(port, 4) == {"one": 2, "two": 2}
    listed = proxy.run("endpoint").stdout
    assert one.address in listed
    assert "r/v1" in listed
    drained = proxy.run("endpoint", two.address, "drain")
    assert drained.returncode == 0
    (drained_at,) = [
        line for line in proxy.run("endpoint").stdout.splitlines() if "drained" in line
    ]
    assert drained_at.startswith(two.address)
    wait_for(
        lambda: "v1: 1 of 2 endpoints drained" in proxy.run("status").stdout, "the status to say so"
    )
    timed = proxy.run("disable", f"r/v1/{two.address}", "--for", "90s")
    assert "disabled (ready again at " in timed.stdout
    assert endpoint(proxy, two.address)["state_until"] is not None
    for wrong, text in (
        (("endpoint", two.address, "drain", "--for", "soon"), "expected a duration"),
        (("drain", two.address, "--for", "0s"), "expected more than 0"),
        (("disable", "r/v1", "--for", "1s"), "--for requires an endpoint"),
        (("drain", "--for", "1s"), "require a TARGET"),
    ):
        refused = proxy.run(*wrong)
        assert refused.returncode == 2
        assert text in refused.stderr


def test_a_drain_of_an_address_is_of_all_its_routes_or_of_none(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    """Of one of them nobody would be left; --route leaves that one out."""
    both, alone = route("both", free_port(), v1=(1, one.address)), free_port()
    both["destinations"][0]["endpoints"].append(two.address)
    proxy = start_proxy(routes(both, route("alone", alone, v1=(1, one.address))))

    def states() -> list[str]:
        return [
            e["state"]
            for r in proxy.status()["routes"]
            for e in r["destinations"][0]["endpoints"]
            if e["address"] == one.address
        ]

    refused = proxy.run("endpoint", one.address, "drain")
    assert refused.returncode != 0
    assert "alone" in refused.stderr
    assert states() == ["ready", "ready"]
    assert proxy.run("endpoint", one.address, "drain", "--route", "both").returncode == 0
    assert states() == ["draining", "ready"]
    assert proxy.run("endpoint", one.address, "drain", "--route", "nope").returncode == 1
    listed = proxy.run("endpoint", one.address, "--route", "alone").stdout.splitlines()
    assert len(listed) == 2
    assert "alone/v1" in listed[1]
