"""What people have already: Istio's and the Gateway API's files, names in DNS; and the commands
that look at files."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tcpmux.control.client import Refused
from tcpmux.control.operation import Call
from tcpmux.control.operations import Operations
from tests.dns_server import DnsServer
from tests.integration.conftest import StartProxy
from tests.integration.looking import metric
from tests.integration.proxy import Proxy, tcpmux
from tests.integration.routes import route, routes
from tests.integration.test_shifting import split
from tests.others import needs_address_space
from tests.support import DEADLINE, EchoServer, ask, free_port, patient, wait_for

SAMPLES = Path(__file__).resolve().parents[2] / "configs/istio"


def sample(name: str, port: int) -> str:
    """One of Istio's files, listening on another port."""
    return (SAMPLES / name).read_text().replace("31400", str(port))


def given(**hosts: EchoServer) -> list[str]:
    """--endpoint options; __ stands for /, _ for -."""
    options = []
    for host, server in hosts.items():
        target = host.replace("__", "/").replace("_", "-")
        options += ["--endpoint", f"{target}={server.address}"]
    return options


def apply(proxy: Proxy, directory: Path, name: str, text: str) -> None:
    (directory / name).write_text(text)
    proxy.client.reload()


def served(port: int, connections: int) -> Counter[str]:
    """As split(), and "" for those that were reset."""
    found: Counter[str] = Counter()
    for _ in range(connections):
        try:
            found[ask(("127.0.0.1", port)).split()[0]] += 1
        except ConnectionError:
            found[""] += 1
    return found


def diff(proxy: Proxy, *files: Path, options: tuple[str, ...] = ()) -> tuple[int, str]:
    sources = [word for file in files for word in ("-c", str(file))]
    result = tcpmux("diff", "--admin", proxy.admin, *sources, *options)
    assert result.stderr == ""
    return result.returncode, result.stdout


@needs_address_space
@pytest.mark.parametrize(
    ("kind", "v1", "v2"),
    [("", "tcp_echo__v1", "tcp_echo__v2"), ("gateway-api/", "tcp_echo_v1", "tcp_echo_v2")],
)
def test_the_walk_with_files_as_they_are(
    start_proxy: StartProxy,
    tmp_path: Path,
    one: EchoServer,
    two: EchoServer,
    kind: str,
    v1: str,
    v2: str,
) -> None:
    port = free_port()
    conf = tmp_path / "conf.d"
    conf.mkdir()
    (conf / "10.yaml").write_text(sample(f"{kind}tcp-echo-all-v1.yaml", port))
    options = given(**{v1: one, v2: two})
    proxy = start_proxy({"workers": 2}, more=["-c", str(conf), *options])
    assert split(port, 20) == {"one": 20}
    apply(proxy, conf, "20.yaml", sample(f"{kind}tcp-echo-20-v2.yaml", port))
    assert split(port, 20) == {"one": 16, "two": 4}
    proxy.says(": replaces ")

    sources = [proxy.file, conf]
    result = tcpmux("convert", *[w for f in sources for w in ("-c", str(f))], *options)
    assert result.returncode == 0, result.stderr
    assert "workers: 2" in result.stdout
    native = tmp_path / "native.yaml"
    native.write_text(result.stdout)
    assert diff(proxy, native) == (0, "")
    native.write_text(result.stdout.replace("weight: 80", "weight: 50"))
    code, changes = diff(proxy, native)
    assert code == 3
    assert "80->50" in changes
    native.write_text(result.stdout.replace("workers: 2", "workers: 3"))
    assert diff(proxy, native) == (3, "workers 2->3\n")
    assert split(port, 20) == {"one": 16, "two": 4}, "a diff changes nothing"


SERVICE_ENTRY = """
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: tcp-echo}
spec:
  hosts: [tcp-echo]
  ports: [{number: 9000, name: tcp, protocol: TCP}]
  resolution: STATIC
"""


@pytest.mark.parametrize("form", ["inline", "selected"])
def test_endpoints_from_resources(
    start_proxy: StartProxy, tmp_path: Path, one: EchoServer, two: EchoServer, form: str
) -> None:
    port = free_port()
    text = sample("tcp-echo-all-v1.yaml", port) + "---\n" + sample("tcp-echo-20-v2.yaml", port)
    text += SERVICE_ENTRY
    if form == "inline":
        text += f"""  endpoints:
  - {{address: 127.0.0.1, ports: {{tcp: {one.port}}}, labels: {{version: v1}}}}
  - {{address: 127.0.0.1, ports: {{tcp: {two.port}}}, labels: {{version: v2}}}}
"""
    else:
        text += "  workloadSelector: {labels: {app: tcp-echo}}\n"
        for version, server in (("v1", one), ("v2", two)):
            text += f"""---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: {version}}}
spec:
  address: 127.0.0.1
  ports: {{tcp: {server.port}}}
  labels: {{app: tcp-echo, version: {version}}}
"""
    file = tmp_path / "istio.yaml"
    file.write_text(text)
    start_proxy({}, more=["-c", str(file)])
    assert split(port, 20) == {"one": 16, "two": 4}


@pytest.mark.parametrize("how", ["option", "variable"])
def test_the_admin_socket_of_files_that_can_t_name_one(
    start_proxy: StartProxy, one: EchoServer, how: str
) -> None:
    """It stays through reloads and upgrades."""
    port = free_port()
    text = sample("tcp-echo-all-v1.yaml", port)
    more, prefix = ["--admin", "{admin}"], ["env", "TCPMUX_ADMIN={admin}"]
    options = {"more": more} if how == "option" else {"prefix": prefix}
    options["more"] = [*options.get("more", []), *given(tcp_echo__v1=one)]
    proxy = start_proxy(text, **options)
    assert proxy.status()["admin"] == proxy.admin
    seen = len(proxy.log)
    proxy.reload(text.replace("weight: 100", "weight: 99"))
    assert proxy.run("upgrade").returncode == 0
    assert "admin.socket" not in proxy.log[seen:]
    assert split(port, 2) == {"one": 2}


def test_an_admin_socket_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    """Neither is guessed to be the one that is meant. The variable is for commands as well, and
    gives way to the file."""
    config = tmp_path / "routes.yaml"
    config.write_text(f"admin: {{socket: {tmp_path}/a.sock}}\nroutes: []\n")
    result = tcpmux("-c", str(config), "--admin", str(tmp_path / "b.sock"))
    assert result.returncode == 2
    assert result.stderr.endswith(
        f"tcpmux: error: the files say admin.socket: {tmp_path}/a.sock; --admin is for files that "
        "name none\n"
    )
    long = str(tmp_path / ("x" * 200))
    result = tcpmux("-c", str(config), "--admin", long)
    assert result.returncode == 2
    assert "tcpmux: error: --admin: expected an absolute path of at most" in result.stderr
    result = tcpmux("-c", str(config), env={**os.environ, "TCPMUX_ADMIN": long})
    assert result.returncode == 2
    assert "tcpmux: error: TCPMUX_ADMIN: expected an absolute path" in result.stderr


def test_gateway_api_weights_as_its_conformance_test_has_them(
    start_proxy: StartProxy, tmp_path: Path
) -> None:
    """70, 30 and 0 over 500 connections, 10 at a time. There within 5 points; here exact."""
    port = free_port()
    servers = {f"v{n}": EchoServer(f"v{n}") for n in (1, 2, 3)}
    backends = "".join(
        f"    - {{name: {name}, port: 9000, weight: {weight}}}\n"
        for name, weight in (("v1", 70), ("v2", 30), ("v3", 0))
    )
    text = sample("gateway-api/tcp-echo-20-v2.yaml", port)
    text = text[: text.index("  - backendRefs:")] + "  - backendRefs:\n" + backends
    gateway = sample("gateway-api/tcp-echo-all-v1.yaml", port).partition("\n---\n")[0]
    file = tmp_path / "gateway.yaml"
    file.write_text(f"{gateway}\n---\n{text}".replace("tcp-31400", f"tcp-{port}"))
    start_proxy({}, more=["-c", str(file), *given(**servers)])
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: ask(("127.0.0.1", port)).split()[0], range(500)))
    counts = {name: answers.count(name) for name in servers}
    assert counts == {"v1": 350, "v2": 150, "v3": 0}
    for server in servers.values():
        server.close()


def test_an_unknown_backend_rejects_its_share(
    start_proxy: StartProxy, tmp_path: Path, one: EchoServer
) -> None:
    port = free_port()
    text = sample("gateway-api/tcp-echo-all-v1.yaml", port)
    gateway = text.partition("\n---\n")[0]
    file = tmp_path / "gateway.yaml"
    file.write_text(f"{gateway}\n---\n{sample('gateway-api/tcp-echo-20-v2.yaml', port)}")
    proxy = start_proxy({}, more=["-c", str(file), *given(tcp_echo_v1=one)])
    assert served(port, 20) == {"one": 16, "": 4}
    proxy.says("no Service tcp-echo-v2")


# --- names ------------------------------------------------------------------------------------


@pytest.fixture
def dns() -> Iterator[DnsServer]:
    server = DnsServer()
    yield server
    server.close()


def named(port: int, dns: DnsServer, *endpoints: str) -> dict[str, Any]:
    part = route("r", port, v1=(1, "x"))
    part["destinations"][0]["endpoints"] = list(endpoints)
    return routes(part, dns={"servers": [dns.address]})


def addresses(proxy: Proxy) -> list[str]:
    return [e["address"] for e in proxy.destination("v1")["endpoints"]]


def test_a_name_follows_dns_and_keeps_what_it_had(
    start_proxy: StartProxy, dns: DnsServer, one: EchoServer
) -> None:
    port = free_port()
    dns.set_a("shop.test", "127.0.0.1")
    proxy = start_proxy(named(port, dns, f"shop.test:{one.port}"))
    assert addresses(proxy) == [f"127.0.0.1:{one.port}"]
    assert split(port, 4) == {"one": 4}
    dns.set_a("shop.test", "127.0.0.1", "127.0.0.2")
    wait_for(lambda: len(addresses(proxy)) == 2, "the second address")
    dns.set_a("shop.test", "127.0.0.1")
    wait_for(lambda: addresses(proxy) == [f"127.0.0.1:{one.port}"], "it to go away again")
    dns.forget("shop.test")
    proxy.says(f"it keeps 127.0.0.1:{one.port}")
    assert split(port, 4) == {"one": 4}
    dns.set_a("shop.test", "127.0.0.1")
    proxy.says(f"shop.test:{one.port} resolves again")


def test_a_name_that_nobody_knows_gives_its_share_to_the_others(
    start_proxy: StartProxy, dns: DnsServer, one: EchoServer, two: EchoServer
) -> None:
    """From the first moment, and every view says so; until it is known."""
    port = free_port()
    dns.set_empty("shop.test")
    config = named(port, dns, one.address)
    lost = {"name": "v2", "weight": 1, "endpoints": [f"shop.test:{two.port}"]}
    config["routes"][0]["destinations"].append(lost)
    proxy = start_proxy(config)
    follows = f"r/v2: no address for shop.test:{two.port}: the others get its share"
    proxy.says(f"WARNING {follows}")
    assert split(port, 6) == {"one": 6}
    assert proxy.destination("v2")["unresolved"] == 1
    wait_for(lambda: proxy.destination("v2")["names"][0]["error"] != "", "control to look")
    assert "no data" in proxy.run("status").stdout
    assert f"shop.test:{two.port}" in proxy.run("endpoint").stdout
    said = proxy.log.count(follows)
    assert follows in proxy.run("reload").stdout
    proxy.says(follows, times=said + 1)
    proxy.says(f"can't resolve shop.test:{two.port}", times=1)
    assert any(follows in event["text"] for event in proxy.client.events())
    assert proxy.destination("v2")["closed"]["no_endpoint"] == 0
    dns.set_a("shop.test", "127.0.0.1")
    wait_for(lambda: proxy.destination("v2")["effective_weight"] == 1, "the name to be known")
    assert split(port, 6) == {"one": 3, "two": 3}
    assert proxy.destination("v2")["unresolved"] == 0
    proxy.says("r/v2: has an address now")


def test_a_reload_that_adds_an_unknown_name_costs_no_client(
    start_proxy: StartProxy, dns: DnsServer, one: EchoServer
) -> None:
    """Not the first one either; and its answer has the warnings, of names and of files."""
    port = free_port()
    dns.set_empty("shop.test")
    config = named(port, dns, one.address)
    proxy = start_proxy(config)
    lost = {"name": "v2", "weight": 9, "endpoints": ["shop.test:80"]}
    config["routes"][0]["destinations"].append(lost)
    proxy.write(config)
    answer = proxy.run("reload")
    assert split(port, 20) == {"one": 20}
    assert answer.returncode == 0
    lines = answer.stdout.splitlines()
    assert "warning: r/v2: no address for shop.test:80: the others get its share" in lines
    assert any(line.startswith("warning: can't resolve shop.test:80 (") for line in lines)
    assert proxy.destination("v2")["closed"]["no_endpoint"] == 0
    (found,) = wait_for(lambda: proxy.status()["problems"], "it to be told")
    assert (found["severity"], found["destination"]) == ("warning", "v2")
    assert "shop.test:80: does not resolve (" in found["text"]
    again = proxy.run("reload").stdout.splitlines()
    assert "nothing changed" in again
    assert "warning: r/v2: no address for shop.test:80: the others get its share" in again
    proxy.reload(config)
    assert split(port, 20) == {"one": 20}


def test_a_route_whose_only_name_is_unknown_does_as_it_says(
    start_proxy: StartProxy, dns: DnsServer, one: EchoServer
) -> None:
    """on_all_unavailable: connections are held, and served as soon as there is an address. One
    with no endpoints written down is none of that: its share is reset."""
    port, other, bare = free_port(), free_port(), free_port()
    config = named(port, dns, f"shop.test:{one.port}")
    held = route("s", other, v1=(1, f"shop.test:{one.port}"))
    config["routes"] += [held | {"on_all_unavailable": {"hold": "30s"}}]
    nobody = route("n", bare, v1=(1, one.address), v2=(1, "x"))
    nobody["destinations"][1]["endpoints"] = []
    config["routes"].append(nobody)
    proxy = start_proxy(config)
    assert served(port, 3) == {"": 3}
    assert served(bare, 4) == {"one": 2, "": 2}
    assert (
        f"ERROR r/v1: no address for shop.test:{one.port}: new connections are reset" in proxy.log
    )
    with socket.create_connection(("127.0.0.1", other)) as waiting:
        waiting.sendall(b"hello\n")
        wait_for(lambda: proxy.destination("v1", 1)["connections_total"] == 0, "it to wait")
        dns.set_a("shop.test", "127.0.0.1")
        waiting.settimeout(patient(30))
        assert waiting.recv(100).startswith(b"one")
    assert split(port, 3) == {"one": 3}


def test_thousands_of_addresses_reach_the_workers(
    start_proxy: StartProxy, dns: DnsServer, one: EchoServer
) -> None:
    """A name that grows to as many as an answer has room for."""
    port = free_port()
    dns.set_a("shop.test", "127.0.0.1")
    proxy = start_proxy(named(port, dns, f"shop.test:{one.port}"))
    dns.set_a("shop.test", *(f"127.0.{i // 250}.{i % 250 + 1}" for i in range(4000)))
    wait_for(lambda: len(addresses(proxy)) == 4000, "all of them")
    assert "rejected" not in proxy.log


def test_a_name_with_records_learns_new_ones_of_the_other_family(
    start_proxy: StartProxy, dns: DnsServer, one: EchoServer
) -> None:
    port = free_port()
    dns.set_a("shop.test", "127.0.0.1")
    proxy = start_proxy(named(port, dns, f"shop.test:{one.port}"))
    dns.set_aaaa("shop.test", "::1")
    expected = [f"127.0.0.1:{one.port}", f"[::1]:{one.port}"]
    wait_for(lambda: addresses(proxy) == expected, "the AAAA record")


def test_new_names_of_a_reload_are_looked_up_before_it(
    start_proxy: StartProxy, dns: DnsServer, one: EchoServer, two: EchoServer
) -> None:
    """No connection meets a name that is still unknown, however the reload is asked for."""
    port = free_port()
    dns.set_a("first.test", "127.0.0.1")
    dns.set_a("second.test", "127.0.0.1")
    proxy = start_proxy(named(port, dns, one.address))
    proxy.reload(named(port, dns, f"first.test:{two.port}"))
    assert split(port, 3) == {"two": 3}
    proxy.write(named(port, dns, f"second.test:{one.port}"))
    assert proxy.run("reload").returncode == 0
    assert split(port, 3) == {"one": 3}
    assert proxy.destination("v1")["closed"]["no_endpoint"] == 0
    assert metric(proxy.admin, "tcpmux_reloads_total", result="done") == 2


def test_srv_says_host_port_and_weight(
    start_proxy: StartProxy, dns: DnsServer, one: EchoServer, two: EchoServer
) -> None:
    port = free_port()
    for host in ("a.test", "b.test", "c.test"):
        dns.set_a(host, "127.0.0.1")
    dns.set_srv(
        "_shop._tcp.test",
        (1, 30, one.port, "a.test"),
        (1, 10, two.port, "b.test"),
        (2, 10, 1, "c.test"),
    )
    start_proxy(named(port, dns, "srv:_shop._tcp.test"))
    assert split(port, 8) == {"one": 6, "two": 2}


def test_a_silent_name_server_stops_nothing(
    start_proxy: StartProxy, dns: DnsServer, one: EchoServer
) -> None:
    port, other = free_port(), free_port()
    dns.set_a("shop.test", "127.0.0.1")
    proxy = start_proxy(named(port, dns, f"shop.test:{one.port}"))
    dns.mute = True
    asked = dns.asked
    wait_for(lambda: dns.asked > asked, "a question that is not answered")
    config = named(port, dns, f"shop.test:{one.port}")
    config["routes"].append(route("s", other, v1=(1, one.address)))
    proxy.reload(config)
    assert split(other, 2) == {"one": 2}
    assert split(port, 2) == {"one": 2}


# --- endpoints and timeouts of their own ------------------------------------------------------


def test_an_endpoint_takes_turns_by_its_weight_and_is_tried_once(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    port = free_port()
    part = route("r", port, v1=(1, "x"))
    part["destinations"][0]["endpoints"] = [{"address": one.address, "weight": 3}, two.address]
    proxy = start_proxy(routes(part))
    assert split(port, 8) == {"one": 6, "two": 2}
    assert [e["turns"] for e in proxy.destination("v1")["endpoints"]] == [3, 1]
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        refusing = f"127.0.0.1:{holder.getsockname()[1]}"
        part["destinations"][0]["endpoints"] = [{"address": refusing, "weight": 3}, two.address]
        proxy.reload(routes(part))
        assert split(port, 8) == {"two": 8}
        (first, _) = proxy.destination("v1")["endpoints"]
        assert first["connect_failures_total"] <= 8, "each connection tries it once at the most"


def test_a_destination_has_timeouts_of_its_own(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    port = free_port()
    part = route("r", port, v1=(1, one.address), v2=(1, two.address))
    part["destinations"][1]["idle_timeout"] = "200ms"
    proxy = start_proxy(routes(part, defaults={"idle_timeout": "30m"}))
    assert proxy.destination("v1")["idle_timeout_ms"] == 1_800_000
    assert proxy.destination("v2")["idle_timeout_ms"] == 200
    socks = [socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) for _ in range(2)]
    for sock in socks:
        sock.sendall(b"hello\n")
        sock.recv(100)
    wait_for(lambda: proxy.destination("v2")["closed"]["idle_timeout"] == 1, "v2 to time out")
    assert proxy.destination("v1")["connections_active"] == 1
    for sock in socks:
        sock.close()


@needs_address_space
def test_weights_are_saved_and_nothing_else_of_the_file_changes(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    port = free_port()
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address))))
    text = f"""# ours
admin: {{socket: {proxy.admin}}}
routes:
- name: r   # the one
  listen: "127.0.0.1:{port}"
  destinations:
    - {{name: v1, weight: 80, endpoints: [{one.address}]}}
    - name: v2 # new
      endpoints: [ {two.address} ]
"""
    proxy.file.write_text(text)
    assert proxy.run("reload").returncode == 0
    result = proxy.run("weight", "r", "v1=50", "v2=50", "--save")
    assert result.returncode == 0, result.stderr
    assert f"saved in {proxy.file}" in result.stdout
    expected = text.replace("weight: 80", "weight: 50")
    expected = expected.replace("v2 # new\n", "v2 # new\n      weight: 50\n")
    assert proxy.file.read_text() == expected
    assert [proxy.destination(name)["file_weight"] for name in ("v1", "v2")] == [50, 50]
    assert "file:" not in proxy.run("status").stdout
    assert split(port, 4) == {"one": 2, "two": 2}
    assert diff(proxy, proxy.file) == (0, "")


@needs_address_space
def test_a_file_that_is_wrong_is_refused_by_a_diff_too(
    start_proxy: StartProxy, one: EchoServer, tmp_path: Path
) -> None:
    proxy = start_proxy(routes(route("r", free_port(), v1=(1, one.address))))
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("routes: [{name: r, lisen: x}]\n")
    result = proxy.run("diff", "-c", str(wrong))
    assert result.returncode == 2
    assert f"{wrong}:1:20: routes[0]: unknown key lisen: did you mean listen?" in result.stderr


@needs_address_space
def test_the_api_opens_no_file_and_has_nothing_of_the_masters_environment(
    start_proxy: StartProxy, one: EchoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_MASTER", "secret-of-the-master")
    proxy = start_proxy(routes(route("r", free_port(), v1=(1, one.address))))
    secret = tmp_path / "secret"
    secret.write_text("root:hash-of-root\n")
    os.mkfifo(tmp_path / "fifo")
    bodies: list[dict[str, Any]] = [
        {"files": [str(secret)]},
        {"files": [str(tmp_path / "fifo")]},
        {"files": [{"name": str(secret), "content": None}]},
        {"files": [{"name": str(secret)}]},
        {"files": [{"path": str(secret), "name": "a", "content": ""}]},
        {"files": [{"name": str(secret), "content": "workers: ${OF_THE_MASTER}"}]},
        {"files": [{"name": str(secret), "content": "workers: x"}], "endpoints": [str(secret)]},
    ]
    for body in bodies:
        with pytest.raises(Refused) as caught:
            proxy.client.ask(Operations.diff.row, Call[object](body=body))
        assert caught.value.status in (400, 422)
        assert "hash-of-root" not in str(caught.value)
        assert "secret-of-the-master" not in str(caught.value)
    assert proxy.status()["state"] == "running"


@needs_address_space
def test_a_diff_has_what_the_commands_environment_says(
    start_proxy: StartProxy, one: EchoServer
) -> None:
    proxy = start_proxy(routes(route("r", free_port(), v1=(1, one.address))))
    file = proxy.directory / "other.yaml"
    file.write_text(proxy.file.read_text().replace("workers: 2", "workers: ${COUNT}"))
    result = tcpmux(
        "diff", "--admin", proxy.admin, "-c", str(file), env={**os.environ, "COUNT": "3"}
    )
    assert (result.returncode, result.stdout) == (3, "workers 2->3\n")
    result = proxy.run("diff", "-c", str(file))
    assert result.returncode == 2
    assert "environment variable COUNT is not set" in result.stderr


@needs_address_space
def test_a_diff_that_takes_long_keeps_the_master_from_nothing(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    """Ranges of ranges of ports: a megabyte that would take gigabytes. Meanwhile weights change."""
    config = routes(route("r", free_port(), v1=(80, one.address), v2=(20, two.address)))
    proxy = start_proxy(config)
    ranges = ", ".join(['":1024-5119"'] * 200)
    content = "routes:\n" + "".join(
        f"- {{name: r{i}, listen: [{ranges}], destinations: []}}\n" for i in range(400)
    )
    outcome: list[str] = []

    def ask_for_it() -> None:
        try:
            proxy.client.diff([("a.yaml", content)])
        except Refused as error:
            outcome.append(str(error))

    asking = threading.Thread(target=ask_for_it)
    asking.start()
    (child,) = wait_for(lambda: proxy.tree() - proxy.children, "the child that reads it")
    os.kill(child, signal.SIGSTOP)
    assert proxy.client.set_weights("r", {"v1": 1})["changes"] == ["r: v1 80->1"]
    assert outcome == []
    os.kill(child, signal.SIGKILL)
    asking.join(DEADLINE)
    assert "given up" in outcome[0]
    assert proxy.client.diff([("a.yaml", proxy.file.read_text())]) == ["r: v1 1->80"]


def test_a_fifo_in_place_of_the_file_is_refused_and_blocks_nothing(
    start_proxy: StartProxy, one: EchoServer, two: EchoServer
) -> None:
    config = routes(route("r", free_port(), v1=(80, one.address), v2=(20, two.address)))
    proxy = start_proxy(config)
    proxy.file.unlink()
    os.mkfifo(proxy.file)
    with pytest.raises(Refused, match="expected a regular file, and it is a FIFO"):
        proxy.client.reload()
    proxy.signal(signal.SIGHUP)
    wait_for(lambda: proxy.log.count("it is a FIFO") == 2, "the reload to be refused")
    assert proxy.client.set_weights("r", {"v1": 1})["changes"] == ["r: v1 80->1"]
