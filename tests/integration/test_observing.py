"""Seeing what a running instance does, and steering it: with commands, over HTTP, in metrics."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tcpmux import AdminError, AsyncClient, Client, Refused, WaitTimeout
from tcpmux.control.schema import GroupKey
from tests.integration.conftest import StartProxy
from tests.integration.looking import OPEN, connected, get, metric, start, talk, with_http
from tests.integration.proxy import Proxy
from tests.integration.routes import route, routes
from tests.others import needs_reachable
from tests.support import DEADLINE, TOKEN, EchoServer, ask, free_port, wait_for


def test_bytes_move_in_every_view_while_a_connection_lives(
    start_proxy: StartProxy, one: EchoServer
) -> None:
    port = free_port()
    config, address = with_http(route("r", port, v1=(1, one.address)))
    proxy = start(start_proxy, config, address)
    with connected(port) as sock:
        for total in (10, 1010, 2010):
            if total > 10:
                talk(sock, 1000)
            labels = {"destination_service": "r", "destination_version": "v1"}
            wait_for(
                lambda: metric(address, "istio_tcp_received_bytes_total", **labels) == total,  # noqa: B023
                "the metric to move",
            )
            listed = proxy.client.connections()
            assert [c["bytes_in"] for c in listed["connections"]] == [total]
            (found,) = json.loads(proxy.run("conns", "--json").stdout)["connections"]
            assert found["bytes_in"] == total
        (found,) = listed["connections"]
        name, our_port = sock.getsockname()
        assert found["client"] == f"{name}:{our_port}"
        assert (found["route"], found["destination"]) == ("r", "v1")
        assert (found["endpoint"], found["state"]) == (one.address, "relaying")
        assert found["pick_reason"] == "only"
        assert found["connect_seconds"] is not None
        assert metric(address, "tcpmux_connections_active", destination="v1") == 1
        assert metric(address, "tcpmux_first_byte_seconds_count", destination="v1") == 1
        assert metric(address, "tcpmux_connection_duration_seconds_count") == 0
    wait_for(
        lambda: metric(address, "tcpmux_connection_duration_seconds_count") == 1, "its duration"
    )
    assert metric(address, "tcpmux_connections_closed_total", reason="finished") == 1


def check_groups(client: Client, of_v1: int, one: str, two: str) -> None:
    """What connections are counted by; 5 of them, two of route b, of_v1 of destinations v1."""

    def counts(by: GroupKey, **more: Any) -> dict[tuple[str, ...], int]:
        found = client.connection_groups(by, **more)
        levels = ("route", "destination", "endpoint", "client")
        named = {
            tuple(name for level in levels if (name := group[level]) is not None): group  # type: ignore[literal-required]
            for group in found["groups"]
        }
        assert found["total"] == sum(group["connections"] for group in found["groups"])
        assert found["groups_total"] == len(found["groups"]) == len(named)
        return {name: group["connections"] for name, group in named.items()}

    assert counts("route") == {("a",): 3, ("b",): 2}
    assert list(counts("route", sort="bytes_in")) == [("b",), ("a",)]
    assert list(counts("route", sort="-connections")) == [("b",), ("a",)]
    assert counts("client") == {("127.0.0.1",): 5}
    assert counts("client", client="10.0.0.0/8") == {}
    shares = {("a", "v1"): of_v1 - 2, ("a", "v2"): 5 - of_v1, ("b", "v1"): 2}
    assert counts("destination") == shares
    ends = {"v1": one, "v2": two}
    assert counts("endpoint") == {(*of, ends[of[1]]): count for of, count in shares.items()}
    assert counts("destination", route="b") == {("b", "v1"): 2}
    (youngest,) = client.connections(sort="-age", limit=1)["connections"]
    (group,) = client.connection_groups("client")["groups"]
    assert group["bytes_in"] == 5050
    assert group["age"] >= youngest["age"]
    limited = client.connection_groups("route", limit=1)
    assert (limited["total"], limited["groups_total"], len(limited["groups"])) == (5, 2, 1)


def test_filters_sort_and_limit(start_proxy: StartProxy, one: EchoServer, two: EchoServer) -> None:
    ports = free_port(), free_port()
    proxy = start_proxy(
        routes(
            route("a", ports[0], v1=(1, one.address), v2=(1, two.address)),
            route("b", ports[1], v1=(1, one.address)),
        )
    )
    with ExitStack() as stack:
        socks = [stack.enter_context(connected(port)) for port in (*ports, *ports, ports[0])]
        talk(socks[3], 5000)

        def count(**filters: Any) -> int:
            return proxy.client.connections(**filters)["total"]

        assert count() == 5
        assert (count(route="a"), count(route="b")) == (3, 2)
        assert count(route="a", destination="v1") + count(route="a", destination="v2") == 3
        assert count(route="b", destination="v1", endpoint=one.address) == 2
        assert (count(client="127.0.0.0/8"), count(client="10.0.0.0/8")) == (5, 0)
        assert (count(older=3600.0), count(idle=3600.0)) == (0, 0)
        found = proxy.client.connections(sort="bytes_in", limit=1)
        assert (found["total"], len(found["connections"])) == (5, 1)
        assert found["connections"][0]["bytes_in"] == 5010
        for sort in ("age", "-age", "idle", "-bytes_out", "client"):
            assert len(proxy.client.connections(sort=sort)["connections"]) == 5
        printed = proxy.run("conns", "b", "--limit", "1").stdout
        assert "and 1 more of 2" in printed
        of_v1 = count(route="a", destination="v1") + 2
        assert (count(destination="v1"), count(endpoint=one.address)) == (of_v1, of_v1)
        assert count(endpoint=two.address) == count(destination="v2") == 5 - of_v1
        check_groups(proxy.client, of_v1, one.address, two.address)
    wrong = proxy.run("conns", "--route", "aa")
    assert (wrong.returncode, wrong.stderr) == (
        1,
        "tcpmux: error: no route named 'aa': did you mean a?\n",
    )


def test_kill_takes_only_ids_of_connections(start_proxy: StartProxy, one: EchoServer) -> None:
    proxy = start_proxy(routes(route("r", free_port(), v1=(1, one.address))))
    for more in ((), ("--yes",)):
        nonsense = proxy.run("kill", "9-9-9", "nonsense", *more)
        assert nonsense.returncode == 1
        assert "'nonsense' is not the id of a connection" in nonsense.stderr
    for wrong, told in (
        (("--route", "q"), "no route named 'q'"),
        (("--route", "r", "--destination", "v9"), "no destination of route r named 'v9'"),
        (
            ("--route", "r", "--destination", "v1", "--endpoint", "192.0.2.1:1"),
            "no endpoint of r/v1 named '192.0.2.1:1'",
        ),
    ):
        dry = proxy.run("kill", *wrong)
        assert (dry.returncode, dry.stdout) == (1, "")
        assert told in dry.stderr
    gone = proxy.run("kill", "9-9-9")
    assert "would reset 0 connections; 1 of the IDs is not of an open connection" in gone.stdout
    assert gone.returncode == 1


def test_an_endpoint_of_several_routes_is_drained_in_all_or_in_none(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    """And what was done is said."""
    parts = [route(name, free_port(), v1=(1, "x")) for name in "abc"]
    for part in parts:
        part["destinations"][0]["endpoints"] = [one.address, two.address]
    parts[1]["destinations"][0]["endpoints"] = [one.address]
    proxy = start_proxy(routes(*parts))

    def states() -> list[str]:
        return [r["destinations"][0]["endpoints"][0]["state"] for r in proxy.status()["routes"]]

    for verb in ("endpoint", "drain"):
        order = (one.address, "drain") if verb == "endpoint" else (one.address,)
        refused = proxy.run(verb, *order)
        assert refused.returncode == 1
        assert "b/v1 would keep its share" in refused.stderr or "b would have" in refused.stderr
        assert states() == ["ready"] * 3
    forced = proxy.run("endpoint", one.address, "drain", "--force")
    assert forced.returncode == 0
    for name in "abc":
        assert f"{name}: v1 endpoint {one.address} draining" in forced.stdout
    assert forced.stdout.count("generation") == 1, "one change"
    assert states() == ["draining"] * 3
    assert proxy.run("enable", one.address).returncode == 0
    assert states() == ["ready"] * 3


def test_a_route_is_drained_as_a_whole_if_that_is_forced(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    """Of a socket with slashes in its address, too; what has been said goes for every command."""
    own, other = free_port(), free_port()
    proxy = start_proxy(
        routes(
            route("shop", own, v1=(1, one.address), v2=(1, two.address)),
            route("mail", other, v1=(1, one.address)),
        )
    )

    def states() -> list[str]:
        return [d["state"] for r in proxy.client.routes() for d in r["destinations"]]

    refused = proxy.run("drain", "shop")
    assert (refused.returncode, states()) == (1, ["ready"] * 3)
    assert "shop would have no destination left" in refused.stderr
    with connected(own):
        forced = proxy.run("drain", "shop", "--force", "--wait", "--timeout", "0")
        assert "1 connection left" in forced.stderr
        assert states() == ["draining", "draining", "ready"]
        assert "would reset 1 connection" in proxy.run("kill", "shop").stdout
        assert proxy.run("kill", "shop", "--yes").stdout == "reset 1 connection\n"
        assert proxy.run("drain", "shop", "--wait").stdout.endswith("no connections are left\n")
    assert proxy.run("enable", "shop").returncode == 0
    assert states() == ["ready"] * 3
    assert proxy.run("weight", "shop/v1=3").returncode == 0
    assert proxy.destination("v1")["weight"] == 3
    names = [
        {
            "name": r["name"],
            "destinations": [
                {"name": d["name"], "endpoints": [e["address"] for e in d["endpoints"]]}
                for d in r["destinations"]
            ],
            "rules": [],
        }
        for r in proxy.client.routes()
    ]
    assert proxy.client.names() == names


def test_weights_that_leave_nobody_need_force(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    port = free_port()
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address), v2=(1, two.address))))
    refused = proxy.run("weight", "r", "v1=0", "v2=0")
    assert refused.returncode == 1
    assert "all weights would be 0: r would have no destination left" in refused.stderr
    assert proxy.run("drain", "v2").returncode == 0
    refused = proxy.run("weight", "r", "v1=0")
    assert "r would have no destination left" in refused.stderr
    assert proxy.run("weight", "r", "v1=0", "v2=0", "--force").returncode == 0
    assert proxy.destination("v1")["weight"] == 0


def test_an_undo_that_leaves_nobody_needs_force(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    """As a change of weights does: whichever way they come to be all 0."""
    port = free_port()
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address), v2=(1, two.address))))
    assert proxy.run("weight", "r", "v1=0", "v2=0", "--force").returncode == 0
    assert proxy.run("weight", "r", "v1=3").returncode == 0
    refused = proxy.run("undo", "r")
    assert refused.returncode == 1
    assert "all weights would be 0: r would have no destination left" in refused.stderr
    assert ask(("127.0.0.1", port)) == "one hello\n"
    assert proxy.run("undo", "r", "--force").returncode == 0
    assert proxy.destination("v1")["weight"] == 0
    assert proxy.run("undo", "r").returncode == 0
    assert proxy.destination("v1")["weight"] == 3
    assert proxy.run("weight", "r", "v1=1").returncode == 0
    config = routes(route("r", port, v1=(0, one.address), v2=(0, two.address)))
    proxy.reload(config)
    proxy.says("all weights are 0: every connection is reset")


def test_kill_shows_first_and_then_resets(start_proxy: StartProxy, one: EchoServer) -> None:
    port = free_port()
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address))))
    with ExitStack() as stack:
        socks = [stack.enter_context(connected(port)) for _ in range(6)]
        dry = proxy.run("kill", "--route", "r")
        assert "would reset 6 connections" in dry.stdout
        assert all(talk(sock) for sock in socks)
        oldest = proxy.client.connections(limit=1)["connections"][0]
        named = proxy.run("kill", oldest["id"], "--yes")
        assert named.stdout == "reset 1 connection\n"
        again = proxy.client.kill([oldest["id"]])
        assert again == {"killed": 0, "gone": 1, "left": 0}
        began = time.monotonic()
        rest = proxy.run("kill", "--route", "r", "--rate", "10/s", "--yes")
        assert rest.stdout == "reset 5 connections\n"
        assert time.monotonic() - began >= 0.4
        for sock in socks:
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
    (route_status,) = proxy.client.routes()
    assert route_status["closed"]["killed"] == 6
    kinds = [event["kind"] for event in proxy.client.events()]
    assert kinds.count("kill") == 2
    bare = proxy.run("kill", "--yes")
    assert bare.returncode == 2


def test_weights_by_steps_and_back(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    port = free_port()
    proxy = start_proxy(routes(route("r", port, v1=(80, one.address), v2=(20, two.address))))

    def weights() -> list[int]:
        return [d["weight"] for d in proxy.client.routes()[0]["destinations"]]

    said = proxy.run("weight", "r", "v2=+5", "--wait")
    assert said.stdout == "r: v2 20->25\ngeneration 2 in 2 of 2 workers\n"
    assert weights() == [80, 25]
    refused = proxy.run("weight", "r", "v1=-81", "v2=7")
    assert "v1: 80-81 is -1, not 0..1000000" in refused.stderr
    assert weights() == [80, 25]
    assert proxy.run("undo", "r").returncode == 0
    assert weights() == [80, 20]
    assert proxy.run("undo", "r").returncode == 0
    assert weights() == [80, 25]
    near = proxy.run("weight", "rr", "v1=1")
    assert "no route named 'rr': did you mean r?" in near.stderr
    events = proxy.client.events()
    assert [e["text"] for e in events if e["kind"] == "weights"] == [
        "r: v2 20->25, generation 2",
        "r: v2 25->20, generation 3",
        "r: v2 20->25, generation 4",
    ]
    assert all("(pid " in event["by"] for event in events if event["kind"] == "weights")


def test_a_drained_destination_gets_nothing_new(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    port = free_port()
    config = routes(route("r", port, v1=(1, one.address), v2=(1, two.address)))
    proxy = start_proxy(config)
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(connected(port))
        late = proxy.run("drain", "v1", "--wait", "--timeout", "0.2")
        assert late.returncode == 1
        assert "2 connections left" in late.stderr
        assert {ask(("127.0.0.1", port)) for _ in range(10)} == {"two hello\n"}
        proxy.reload({**config, "drain_timeout": "44s"})
        assert {ask(("127.0.0.1", port)) for _ in range(4)} == {"two hello\n"}
        assert "v1" in proxy.run("routes").stdout
        (status,) = proxy.client.routes()
        assert [d["state"] for d in status["destinations"]] == ["draining", "ready"]
        nobody = proxy.run("disable", "v2")
        assert "no destination left" in nobody.stderr
    done = proxy.run("drain", "v1", "--wait")
    assert done.stdout.endswith("drained: no connections are left\n")
    assert proxy.run("enable", "v1").returncode == 0
    assert {ask(("127.0.0.1", port)) for _ in range(4)} == {"one hello\n", "two hello\n"}


def test_an_endpoint_can_be_taken_out(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    port = free_port()
    part = route("r", port, v1=(1, one.address))
    part["destinations"][0]["endpoints"].append(two.address)
    proxy = start_proxy(routes(part))
    assert proxy.run("disable", two.address).returncode == 0
    assert {ask(("127.0.0.1", port)) for _ in range(8)} == {"one hello\n"}
    refused = proxy.run("disable", one.address)
    assert "no destination left" in refused.stderr
    forced = proxy.run("disable", one.address, "--force")
    assert forced.returncode == 0
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        ask(("127.0.0.1", port))
    proxy.client.enable("r", "v1", one.address)
    proxy.client.enable("r", "v1", two.address)
    assert {ask(("127.0.0.1", port)) for _ in range(8)} == {"one hello\n", "two hello\n"}


def test_counters_and_events_outlive_control(start_proxy: StartProxy, one: EchoServer) -> None:
    port = free_port()
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address))))
    with connected(port) as sock:
        proxy.client.set_weights("r", {"v1": 7})
        before = proxy.client.events()
        pid = proxy.control_pid()
        os.kill(pid, signal.SIGKILL)
        assert talk(sock)

        def back() -> bool:
            with suppress(Exception):
                return proxy.control_pid() != pid and proxy.status()["generation"] == 2
            return False

        wait_for(back, "another control")
        assert talk(sock)
        proxy.children |= proxy.tree()
        assert proxy.destination("v1")["bytes_in_total"] == 30
        after = proxy.client.events()
        assert after[: len(before)] == before
        assert [event["kind"] for event in after[len(before) :]] == ["control"]


@needs_reachable
def test_events_and_states_outlive_an_upgrade(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    port = free_port()
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address), v2=(1, two.address))))
    proxy.client.drain("r", "v1")
    before = proxy.client.events()
    proxy.client.upgrade()
    proxy.says("done")
    proxy.children |= proxy.tree()
    wait_for(lambda: proxy.log.count("control is ready") == 2, "control")
    after = proxy.client.events()
    assert after[: len(before)] == before
    assert after[-1]["text"].startswith("upgrade 1: done")
    assert [d["state"] for d in proxy.client.routes()[0]["destinations"]] == ["draining", "ready"]
    assert {ask(("127.0.0.1", port)) for _ in range(4)} == {"two hello\n"}


def test_over_http_only_who_may(start_proxy: StartProxy, one: EchoServer, token_file: Path) -> None:
    config, address = with_http(route("r", free_port(), v1=(1, one.address)))
    proxy = start(start_proxy, config, address, token_file=str(token_file), hosts=["mux.example"])
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert get(address, "/")[0] == 200
    assert get(address, "/static/app.js")[0] == 200
    assert get(address, "/static/../server.py")[0] == 404
    assert get(address, "/v1/status")[0] == 401
    assert get(address, "/v1/status", Authorization="Bearer wrong")[0] == 401
    assert get(address, "/v1/status", **bearer)[0] == 200
    assert get(address, "/metrics", **bearer)[0] == 200
    assert get(address, "/v1/status", Host="mux.example:80", **bearer)[0] == 200
    assert get(address, "/v1/status", Host="localhost", **bearer)[0] == 200
    for host in ("evil.example", "", "127.0.0.2.evil.example", "[::"):
        assert get(address, "/v1/status", Host=host, **bearer)[0] == 403
    port = address.rpartition(":")[2]
    for foreign in (
        {"Origin": "http://evil.example"},
        {"Origin": f"http://127.0.0.1:{int(port) ^ 1}"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ):
        path = "/v1/routes/r/weights"
        assert get(address, path, "PUT", '{"v1": 5}', **foreign, **bearer)[0] == 403
    assert proxy.destination("v1")["weight"] == 1
    own = {"Origin": f"http://{address}", "Sec_Fetch_Site": "same-origin"}
    assert get(address, "/v1/routes/r/weights", "PUT", '{"v1": 5}', **own, **bearer)[0] == 200
    assert proxy.client.events()[-1]["by"] == "127.0.0.1 over HTTP"
    for path in ("/v1/reload", "/v1/stop", "/v1/routes/r/undo", "/v1/connections/kill"):
        assert get(address, path, **bearer)[0] == 405


def test_an_http_address_that_is_taken_refuses_the_reload(
    start_proxy: StartProxy, one: EchoServer
) -> None:
    config = routes(route("r", free_port(), v1=(1, one.address)))
    proxy = start_proxy(config)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        full = {"workers": 1, "admin": {"socket": proxy.admin, "http": address, **OPEN}, **config}
        proxy.reload(json.dumps(full))
        proxy.says(f"can't listen on {address}, which admin.http names")
        assert len(proxy.status()["workers"]) == 2
    proxy.reload(json.dumps(full))
    wait_for(lambda: _answers(address), "the page")
    proxy.children |= proxy.tree()


def _answers(address: str) -> bool:
    with suppress(OSError):
        return bool(get(address, "/")[0] == 200)
    return False


def test_garbage_and_idle_clients_do_not_keep_others_out(
    start_proxy: StartProxy, one: EchoServer
) -> None:
    proxy = start_proxy(routes(route("r", free_port(), v1=(1, one.address))))
    with ExitStack() as stack:
        for number in range(2000):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.settimeout(DEADLINE)
            sock.connect(proxy.admin)
            with suppress(BrokenPipeError, ConnectionResetError):
                if number % 3 == 1:
                    sock.sendall(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n")
                elif number % 3 == 2:
                    sock.sendall(os.urandom(200))
            if number % 500 == 0:
                assert proxy.status()["state"] == "running"
        assert proxy.status()["state"] == "running"
        descriptors = len(os.listdir(f"/proc/{proxy.control_pid()}/fd"))
        assert descriptors < 1200
    assert "Traceback" not in proxy.log


def test_a_client_that_does_not_read_the_stream_holds_nothing_up(
    start_proxy: StartProxy, one: EchoServer
) -> None:
    proxy = start_proxy(routes(route("r", free_port(), v1=(1, one.address))))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(proxy.admin)
        sock.sendall(b"GET /v1/stream HTTP/1.1\r\nHost: x\r\n\r\n")
        kinds: list[str] = []
        for update in Client(proxy.admin).stream("r"):
            kinds.append(update.kind)
            if update.kind == "sample" and kinds.count("sample") == 2:
                assert update.data["histograms"] is not None
                assert update.data["histograms"]["route"] == "r"
                break
        assert kinds == ["table", "events", "conditions", "sample", "sample"]


def test_the_client_for_programs_with_a_loop(start_proxy: StartProxy, one: EchoServer) -> None:
    port = free_port()
    proxy = start_proxy(routes(route("r", port, v1=(3, one.address))))

    async def scenario() -> None:
        async with AsyncClient(proxy.admin) as client:
            await work(client)

    async def work(client: AsyncClient) -> None:
        assert (await client.status())["generation"] == 1
        applied = await client.set_weights("r", {"v1": "+2"})
        assert applied["changes"] == ["r: v1 3->5"]
        assert (await client.undo("r"))["generation"] == 3
        with connected(port):
            found = await client.connections(route="r")
            assert (await client.kill([found["connections"][0]["id"]]))["killed"] == 1
        with pytest.raises(Refused, match="no destination left") as refused:
            await client.drain("r", "v1")
        assert refused.value.hint == "force"
        assert [event["kind"] for event in await client.events()][:2] == ["start", "weights"]
        with connected(port):
            await client.wait_for(lambda s: s["routes"][0]["connections_active"] == 1, DEADLINE)
            with pytest.raises(AdminError, match="r/v1 takes new connections"):
                await client.wait_drained("r/v1", DEADLINE)
            await client.drain("r", "v1", force=True)
            for target in ("r", "r/v1", f"r/v1/{one.address}"):
                with pytest.raises(WaitTimeout, match=f"{target} has 1 connection left"):
                    await client.wait_drained(target, 0)
        for target in ("r", "r/v1", f"r/v1/{one.address}"):
            await client.wait_drained(target, DEADLINE)

    asyncio.run(scenario())


def test_the_log_level_is_set_everywhere(start_proxy: StartProxy, one: EchoServer) -> None:
    proxy = start_proxy(routes(route("r", free_port(), v1=(1, one.address))))
    assert proxy.run("log-level", "error").stdout == "log level error\n"
    length = len(proxy.log)
    proxy.client.set_weights("r", {"v1": 9})
    assert len(proxy.log) == length
    assert proxy.client.events()[-1]["text"] == "r: v1 1->9, generation 2"
    assert proxy.run("log-level", "info").returncode == 0
    proxy.client.set_weights("r", {"v1": 8})
    proxy.says("r: v1 9->8")


def test_a_change_is_whole_or_absent_when_control_is_killed_meanwhile(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    proxy = start_proxy(routes(route("r", free_port(), v1=(9, one.address), v2=(9, two.address))))
    applied = 9
    for number in range(1, 9):
        pid = proxy.control_pid()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(proxy.admin)
            body = json.dumps({"v1": number, "v2": number})
            head = f"PUT /v1/routes/r/weights HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}"
            sock.sendall(f"{head}\r\n\r\n{body}".encode())
            time.sleep(number * 0.0005)
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: _another_control(proxy, pid), "another control")  # noqa: B023
        proxy.children |= proxy.tree()
        weights = {d["weight"] for d in proxy.client.routes()[0]["destinations"]}
        assert weights in ({number}, {applied})
        applied = weights.pop()
        # Its next incarnation waits longer the younger it dies.
        proxy.client.set_weights("r", {"v1": applied, "v2": applied})


def _another_control(proxy: Proxy, pid: int) -> bool:
    with suppress(Exception):
        return proxy.control_pid() != pid and bool(proxy.status())
    return False


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_another_user_is_refused_whatever_the_mode_of_the_socket(
    start_proxy: StartProxy, one: EchoServer
) -> None:
    proxy = start_proxy(routes(route("r", free_port(), v1=(1, one.address))))
    # In a directory that anybody may enter.
    with TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)  # noqa: S103
        path = f"{directory}/admin.sock"
        os.link(proxy.admin, path)
        os.chmod(path, 0o666)  # noqa: S103
        program = (
            "import socket; s = socket.socket(socket.AF_UNIX); s.connect(%r); "
            "s.sendall(b'GET /v1/status HTTP/1.0\\r\\n\\r\\n'); print(s.recv(4096).decode())"
        )
        done = subprocess.run(
            ["/usr/bin/python3", "-c", program % path],
            user=65534,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=True,
            cwd="/",
        )
    assert done.stdout.startswith("HTTP/1.1 403")
    assert "user 65534 may not: only root may" in done.stdout
    assert proxy.status()["state"] == "running"


def test_every_reading_command_has_json_and_tables(
    start_proxy: StartProxy, one: EchoServer
) -> None:
    port = free_port()
    proxy = start_proxy(routes(route("shop", port, v1=(1, one.address))))
    assert ask(("127.0.0.1", port)) == "one hello\n"
    for command in ("status", "routes", "stats", "conns", "events", "workers"):
        found = json.loads(proxy.run(command, "--json").stdout)
        assert found, command
        table = proxy.run(command).stdout
        assert table.strip(), command
    assert "finished 1" in proxy.run("stats").stdout
    assert one.address in proxy.run("routes").stdout
    drawn = proxy.run("top", "--once").stdout
    assert "shop/v1" in drawn


def test_watch_shows_again_until_it_is_interrupted(
    start_proxy: StartProxy, one: EchoServer
) -> None:
    proxy = start_proxy(routes(route("r", free_port(), v1=(1, one.address))))
    with subprocess.Popen(
        [sys.executable, "-m", "tcpmux", "routes", "--watch", "0.1", "--admin", proxy.admin],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        heads = 0
        while heads < 3:
            heads += process.stdout.readline().startswith("ROUTE")
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(DEADLINE) == 0
