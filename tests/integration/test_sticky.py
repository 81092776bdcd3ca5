"""A client of a sticky route has the same version each time, whatever happens around it."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from tcpmux.shm._pick import sticky_address_key, sticky_key, sticky_pick
from tcpmux.shm.image import Contender, Contest
from tcpmux.shm.sticky import home, name_hash
from tests.client_hellos import hello
from tests.integration.conftest import StartProxy
from tests.integration.disturbances import address, kill_workers, set_workers, upgrade
from tests.integration.proxy import Proxy
from tests.integration.routes import route, routes
from tests.integration.servers import Server, saying
from tests.integration.test_accept_proxy import tlv, v2
from tests.integration.test_health import CHECK, await_health
from tests.support import DEADLINE, EchoServer, ask, free_port, read_all, short_directory, wait_for

CLIENTS = [f"127.1.{n % 7}.{n + 1}" for n in range(60)]


def versions(proxy: Proxy, port: int = 0, clients: list[str] = CLIENTS) -> dict[str, str]:
    """The version that each client gets, by its first word; "reset" for none."""
    found = {}
    where = ("127.0.0.1", port or address(proxy)[1])
    for client in clients:
        try:
            with socket.create_connection(where, DEADLINE, source_address=(client, 0)) as sock:
                sock.sendall(b"hello\n")
                sock.shutdown(socket.SHUT_WR)
                found[client] = read_all(sock).split()[0].decode()
        except ConnectionError:
            found[client] = "reset"
    return found


def foretold(weights: dict[str, int], salt: str, names: dict[str, str]) -> dict[str, str]:
    """As any host would have it. names: what each destination answers with."""
    contenders = tuple(
        Contender(name_hash(name), weight, weight, index)
        for index, (name, weight) in enumerate(weights.items())
    )
    answers = [names[name] for name in weights]
    keys = {client: sticky_address_key(name_hash(salt), client, 32, 64) for client in CLIENTS}
    homes = {client: home([Contest(0, contenders)], key) for client, key in keys.items()}
    return {client: answers[at] for client, at in homes.items() if at is not None}


def sticky(one: str, two: str, weights: tuple[int, int] = (50, 50), **more: Any) -> dict[str, Any]:
    made = route("shop", free_port(), v1=(weights[0], one), v2=(weights[1], two))
    return {**made, "sticky": "source", **more}


def moves(then: dict[str, str], now: dict[str, str]) -> set[tuple[str, str]]:
    return {(then[client], now[client]) for client in CLIENTS if then[client] != now[client]}


def test_it_outlives_everything(start_proxy: StartProxy, one: EchoServer, two: EchoServer) -> None:
    """Every worker, every next incarnation, a reload, another number of workers, an upgrade: the
    same answer, which any other host would give as well."""
    made = sticky(one.address, two.address, (70, 30))
    proxy = start_proxy(routes(made, workers=2))
    expected = foretold({"v1": 70, "v2": 30}, "shop", {"v1": "one", "v2": "two"})
    assert versions(proxy) == expected
    assert versions(proxy) == expected
    kill_workers(proxy)
    assert versions(proxy) == expected
    proxy.reload(routes({**made, "destinations": made["destinations"][::-1]}, workers=2))
    assert versions(proxy) == expected
    set_workers(proxy, made, 3)
    assert versions(proxy) == expected
    upgrade(proxy, 1)
    assert versions(proxy) == expected
    picked = {d: proxy.destination(d)["picked"] for d in ("v1", "v2")}
    assert all({k for k, n in found.items() if n} == {"sticky"} for found in picked.values())
    assert picked["v2"]["sticky"] == 6 * Counter(expected.values())["two"]


def test_a_canary_that_grows_keeps_its_clients(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    proxy = start_proxy(routes(sticky(one.address, two.address, (95, 5)), workers=2))
    then = versions(proxy)
    for weight in (20, 50, 90, 100):
        proxy.run("weight", "shop", f"v1={100 - weight}", f"v2={weight}")
        now = versions(proxy)
        assert moves(then, now) <= {("one", "two")}
        then = now
    assert {*then.values()} == {"two"}


def test_one_that_is_down_and_back(start_proxy: StartProxy, one: EchoServer) -> None:
    """Its clients go to the other version, and return to it."""
    two = Server(saying(b"two\n"))
    proxy = start_proxy(routes(sticky(one.address, two.address, check=CHECK, passive="off")))
    well = versions(proxy)
    two.close()
    await_health(proxy, two.address, "down")
    assert {*versions(proxy).values()} == {"one"}
    again = Server(saying(b"two\n"), two.port)
    await_health(proxy, two.address, "up")
    assert versions(proxy) == well
    again.close()


def test_a_fallback_gets_the_clients_of_the_one_that_is_down(
    start_proxy: StartProxy,
    one: EchoServer,
    two: EchoServer,
    echo_servers: Callable[..., EchoServer],
) -> None:
    three = Server(saying(b"three\n"))
    made = route(
        "shop", free_port(),
        v1=(40, one.address), v2=(30, two.address), v3=(30, three.address),
    )  # fmt: skip
    made |= {"sticky": "source", "check": CHECK, "passive": "off"}
    proxy = start_proxy(routes({**made, "on_unavailable": {"fallback": "v1"}}))
    well = versions(proxy)
    three.close()
    await_health(proxy, three.address, "down")
    assert moves(well, versions(proxy)) == {("three", "one")}


def test_a_version_of_weight_0_may_keep_its_clients(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    """Those that it had, over reloads, upgrades and deaths; until it is drained."""
    made = sticky(one.address, two.address, (60, 40), sticky={"by": "source", "zero": "stay"})
    proxy = start_proxy(routes(made, workers=2))
    then = versions(proxy)
    assert {*then.values()} == {"one", "two"}
    proxy.run("weight", "shop", "v1=0", "v2=100")
    assert versions(proxy) == then
    made["destinations"][0]["weight"], made["destinations"][1]["weight"] = 0, 70
    proxy.reload(routes(made, workers=2))
    assert versions(proxy) == then
    kill_workers(proxy)
    upgrade(proxy, 1)
    assert versions(proxy) == then
    assert proxy.run("drain", "shop/v1").returncode == 0
    assert {*versions(proxy).values()} == {"two"}


def test_a_reload_to_0_and_leave(start_proxy: StartProxy, one: EchoServer, two: EchoServer) -> None:
    made = sticky(one.address, two.address)
    proxy = start_proxy(routes(made))
    then = versions(proxy)
    made["destinations"][0]["weight"] = 0
    proxy.reload(routes(made))
    assert {*versions(proxy).values()} == {"two"}
    made["destinations"][0]["weight"] = 50
    proxy.reload(routes(made))
    assert versions(proxy) == then


def test_routes_of_a_group_agree(start_proxy: StartProxy, one: EchoServer, two: EchoServer) -> None:
    parts = []
    for name, group in (("web", "shop"), ("ws", "shop"), ("alone", None)):
        more = {"by": "source", **({"group": group} if group else {})}
        parts.append({**sticky(one.address, two.address, sticky=more), "name": name})
    proxy = start_proxy(routes(*parts))
    web, ws, alone = (versions(proxy, int(part["listen"].split(":")[1])) for part in parts)
    assert web == ws == foretold({"v1": 1, "v2": 1}, "shop", {"v1": "one", "v2": "two"})
    assert alone == foretold({"v1": 1, "v2": 1}, "alone", {"v1": "one", "v2": "two"})
    assert alone != web


def test_clients_with_a_prefix_in_common_are_one(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    of = {"by": "source", "prefix": {"ipv4": 24}}
    found = versions(start_proxy(routes(sticky(one.address, two.address, sticky=of))))
    networks = {(client.rpartition(".")[0], version) for client, version in found.items()}
    assert len(networks) == 7


def test_a_client_of_one_that_is_full_gets_its_next_best(
    start_proxy: StartProxy,
    one: EchoServer,
    two: EchoServer,
    echo_servers: Callable[..., EchoServer],
) -> None:
    """The same each time, though others would be as near by weight."""
    three = echo_servers("three")
    made = route(
        "shop", free_port(), v1=(50, one.address), v2=(25, two.address), v3=(25, three.address)
    )
    made["sticky"] = "source"
    made["destinations"][0] |= {"max_connections": 1, "on_full": "spill"}
    proxy = start_proxy(routes(made))
    names = {"v1": "one", "v2": "two", "v3": "three"}
    at_one = [client for client, name in versions(proxy).items() if name == "one"]
    rest = foretold({"v1": 0, "v2": 25, "v3": 25}, "shop", names)
    with ExitStack() as stack:
        where = address(proxy)
        stack.enter_context(
            socket.create_connection(where, DEADLINE, source_address=(at_one[0], 0))
        )
        wait_for(lambda: proxy.active() == 1, "its only place to be taken")
        assert versions(proxy, clients=at_one) == {client: rest[client] for client in at_one}
    assert proxy.destination("v2")["picked"]["spilled"] > 0


def test_the_client_is_the_one_that_a_header_names(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    made = sticky(one.address, two.address, accept_proxy={"from": ["127.0.0.1"]})
    proxy = start_proxy(routes(made))
    expected = foretold({"v1": 50, "v2": 50}, "shop", {"v1": "one", "v2": "two"})
    for client in CLIENTS[:12]:
        for family, named in (("TCP4", client), ("TCP6", f"::ffff:{client}")):
            to = "192.0.2.1" if family == "TCP4" else "2001:db8::1"
            head = f"PROXY {family} {named} {to} 1000 443\r\n"
            said = ask(address(proxy), f"{head}hello")
            assert said.split()[0] == expected[client]


def test_clients_without_a_key_are_divided_exactly(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    """As those of a UNIX socket, which have no address."""
    with short_directory() as directory:
        path = f"{directory}/s"
        made = {**sticky(one.address, two.address, (3, 1)), "listen": f"unix:{path}"}
        proxy = start_proxy(routes(made, workers=2))
        found: Counter[str] = Counter()
        for _ in range(40):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(DEADLINE)
                sock.connect(path)
                sock.sendall(b"hello\n")
                sock.shutdown(socket.SHUT_WR)
                found[read_all(sock).split()[0].decode()] += 1
        assert found == {"one": 30, "two": 10}
        assert proxy.destination("v1")["picked"]["weighted"] == 30


def test_the_name_that_a_client_asks_for(start_proxy: StartProxy) -> None:
    """However its case; who has none is divided exactly."""
    one, two = Server(saying(b"one\n")), Server(saying(b"two\n"))
    proxy = start_proxy(routes(sticky(one.address, two.address, sticky="sni"), workers=2))

    def answer(sent: bytes) -> str:
        with socket.create_connection(address(proxy), DEADLINE) as sock:
            sock.sendall(sent)
            return sock.recv(64).decode().strip()

    contenders = [(name_hash(name), 1) for name in ("v1", "v2")]
    for number in range(12):
        name = f"shop-{number}.example"
        best = sticky_pick(sticky_key(name_hash("shop"), name.encode()), contenders)
        expected = "two" if best else "one"
        assert {answer(hello(name)), answer(hello(name.upper()))} == {expected}
    assert Counter(answer(hello()) for _ in range(8)) == {"one": 4, "two": 4}
    one.close()
    two.close()


def test_a_tlv_of_the_header(start_proxy: StartProxy, one: EchoServer, two: EchoServer) -> None:
    """The whole value of the first one of its type, whoever the client is and whatever else the
    header has; who sends none, or one that is too long to be kept, is divided exactly."""
    of = sticky(one.address, two.address, sticky="tlv:0xEA", accept_proxy={"from": ["127.0.0.1"]})
    proxy = start_proxy(routes(of, workers=2))

    def answer(number: int, tlvs: bytes) -> str:
        with socket.create_connection(address(proxy), DEADLINE) as sock:
            sock.sendall(v2(number, tlvs) + b"hello\n")
            sock.shutdown(socket.SHUT_WR)
            return read_all(sock).split()[0].decode()

    contenders = [(name_hash(name), 1) for name in ("v1", "v2")]
    found = set()
    for number in range(12):
        value = b"" if not number else f"vpce-{number}".encode() * (number % 9 + 1)
        best = sticky_pick(sticky_key(name_hash("shop"), value), contenders)
        expected = "two" if best else "one"
        own, other = tlv(0xEA, value), tlv(0xEA, b"another")
        assert {answer(1, own), answer(2, tlv(0xE1, b"x" * 200) + own + other)} == {expected}
        found.add(expected)
    kill_workers(proxy)
    assert answer(3, own) == expected
    assert found == {"one", "two"}
    for tlvs in (b"", tlv(0xE1, b"x"), tlv(0xEA, b"x" * 110)):
        assert Counter(answer(n, tlvs) for n in range(8)) == {"one": 4, "two": 4}


def test_explain_tells_the_clients_own_version(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    """As connections have it, with weights and states as they are, or as the file says."""
    rule = {"name": "some", "source": ["127.1.0.0/22"], "weights": {"v1": 1, "v2": 1}}
    of = {"by": "source", "zero": "stay"}
    made = sticky(one.address, two.address, (3, 1), rules=[rule], sticky=of)
    proxy = start_proxy(routes(made))
    versions_of = {"v1": "one", "v2": "two"}

    def told() -> dict[str, str]:
        homes = {client: proxy.client.explain("shop", source=client)["home"] for client in CLIENTS}
        return {client: versions_of[str(home)] for client, home in homes.items()}

    then = versions(proxy)
    assert told() == then
    client = next(client for client in CLIENTS if then[client] == "two" and client > "127.1.4")
    for command in (["explain", "shop"], ["explain", "shop", "-c", str(proxy.file)]):
        done = proxy.run(*command, "--source", client)
        last = "it goes to v2, as each time: the route is sticky by source"
        assert done.stdout.splitlines()[-1] == last
    assert proxy.run("weight", "shop", "v2=0").returncode == 0
    assert told() == versions(proxy) == then
    found = proxy.client.explain("shop", source=client)
    assert [(row["name"], row["weight"]) for row in found["destinations"]] == [("v1", 3), ("v2", 0)]
    assert proxy.run("drain", "shop/v2").returncode == 0
    assert set(told().values()) == {"one"}
    assert told() == versions(proxy)


def test_explain_says_what_a_sticky_route_goes_by(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    parts = []
    for name, by in (("a", "source"), ("b", "sni"), ("c", "tlv:0xEA")):
        more: dict[str, Any] = {"accept_proxy": {"from": ["127.0.0.1"]}} if name == "c" else {}
        parts.append({**sticky(one.address, two.address, sticky=by, **more), "name": name})
    proxy = start_proxy(routes(*parts))
    sticky_by = "  the route is sticky by"
    for asked, told in (
        (["a"], f"{sticky_by} source: with --source ADDRESS it is known which"),
        (["a", "--source", "unix"], f"{sticky_by} source, but this client has no address"),
        (["b", "--source", "10.0.0.1"], f"{sticky_by} sni: with --sni NAME it is known which"),
        (["c"], f"{sticky_by} tlv:0xEA: with --tlv 0xEA=VALUE it is known which"),
    ):
        lines = proxy.run("explain", *asked).stdout.splitlines()
        assert lines[-2:] == ["it goes to v1 50%, v2 50% of such connections", told]
    contenders = [(name_hash(name), 1) for name in ("v1", "v2")]
    for route_name, asked, key in (
        ("b", ["--sni", "A.b"], sticky_key(name_hash("b"), b"a.b")),
        ("c", ["--tlv", "0xEA=v"], sticky_key(name_hash("c"), b"\x01v")),
        ("a", ["--source", "::1"], sticky_address_key(name_hash("a"), "::", 32, 64)),
    ):
        version = ("v1", "v2")[sticky_pick(key, contenders) or 0]
        done = proxy.run("explain", route_name, *asked)
        assert f"it goes to {version}, as each time" in done.stdout


def test_a_rule_with_weights(start_proxy: StartProxy, one: EchoServer, two: EchoServer) -> None:
    """It is sticky by its own weights, also when these become 0 and its clients stay."""
    rule = {"name": "some", "source": ["127.1.0.0/22"], "weights": {"v1": 1, "v2": 1}}
    made = sticky(
        one.address, two.address, (1, 0),
        rules=[rule], sticky={"by": "source", "zero": "stay"},
    )  # fmt: skip
    proxy = start_proxy(routes(made, workers=2))
    half = foretold({"v1": 1, "v2": 1}, "shop", {"v1": "one", "v2": "two"})
    expected = {
        client: half[client] if int(client.split(".")[2]) < 4 else "one" for client in CLIENTS
    }
    assert "two" in expected.values()
    assert versions(proxy) == expected
    assert proxy.run("weight", "shop/some", "v1=1", "v2=0").returncode == 0
    assert versions(proxy) == expected
    kill_workers(proxy)
    upgrade(proxy, 1)
    assert versions(proxy) == expected
    rule["weights"] = {"v1": 7, "v2": 0}
    proxy.reload(routes(made, workers=2))
    assert versions(proxy) == expected
    assert proxy.run("drain", "shop/v2").returncode == 0
    assert {*versions(proxy).values()} == {"one"}
