"""Hosts that take routes and weights from one etcd: real members, real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest
import yaml

from tcpmux.control.client import AdminError, Client
from tcpmux.halves import FLEET
from tests.etcd_cluster import Cluster, cluster, settings, ways
from tests.integration.conftest import StartProxy
from tests.integration.disturbances import upgrade
from tests.integration.proxy import Proxy
from tests.integration.routes import route
from tests.others import certificate, needs_address_space
from tests.support import EchoServer, free_port, patient, wait_for

pytestmark = needs_address_space  # documents are read by such a child
KEYS = "/tcpmux/prod/"


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Cluster]:
    with cluster(tmp_path) as made:
        yield made


class Host:
    """One of a fleet, whose documents listen on ${PORT:-...}. port: that one, and then it is
    started in the quick way; 0 = another one, which its environment has, and so it is started as
    users do."""

    def __init__(
        self,
        start: StartProxy,
        etcd: Cluster,
        directory: Path,
        name: str,
        port: int = 0,
        **more: Any,
    ) -> None:
        self.name, self.port = name, port or free_port()
        state = directory / f"state-{name}"
        state.mkdir(exist_ok=True)
        urls = more.pop("urls", etcd.urls)  # etcd is asked there
        config = {"state_dir": str(state), "fleet": settings(urls, name), **more}
        prefix = [] if port else ["env", f"PORT={self.port}"]
        self.proxy: Proxy = start(config, prefix=prefix)

    def weights(self, name: str = "shop") -> dict[str, int] | None:
        for found in self.proxy.status()["routes"]:
            if found["name"] == name:
                return {d["name"]: d["weight"] for d in found["destinations"]}
        return None

    def has(self, **weights: int) -> None:
        def is_so() -> bool:
            with suppress(AdminError):  # another control begins
                return self.weights() == weights
            return False

        wait_for(is_so, f"{self.name} to have {weights}")

    def fleet(self) -> Any:
        return self.proxy.status()["fleet"]

    def problem(self) -> str:
        try:
            return str(self.fleet()["problem"])
        except AdminError as error:  # another control begins
            return str(error)

    def says(self, text: str) -> None:
        wait_for(lambda: text in self.problem(), f"{self.name} to say {text!r}")

    def is_well(self) -> None:
        wait_for(lambda: not self.problem(), f"{self.name} to follow etcd")


def talk(port: int) -> str:
    """What a client is answered; "" = nothing."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), patient(5)) as client:
        client.sendall(b"x\n")
        return client.makefile("r").readline().strip()
    return ""


StartHost = Callable[..., Host]


@pytest.fixture
def host(start_proxy: StartProxy, etcd: Cluster, tmp_path: Path, port: int) -> StartHost:
    """Only the first has the port of the documents."""
    ports = chain([port], repeat(0))
    return lambda name, **more: Host(start_proxy, etcd, tmp_path, name, next(ports), **more)


def shop(one: EchoServer, two: EchoServer, port: int) -> str:
    made = route("shop", f"127.0.0.1:${{PORT:-{port}}}", v1=(100, one.address), v2=(0, two.address))
    return yaml.safe_dump({"routes": [made]}, sort_keys=False)


@pytest.fixture
def document(tmp_path: Path, one: EchoServer, two: EchoServer, port: int) -> Path:
    path = tmp_path / "shop.yaml"
    path.write_text(shop(one, two, port))
    return path


def test_hosts_take_routes_and_weights_from_etcd(
    host: StartHost, etcd: Cluster, document: Path
) -> None:
    """From nothing to a shift over two hosts, by commands at either."""
    a, b = host("a"), host("b")
    done = a.proxy.run("fleet", "put", "-c", str(document), "--why", "first", "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 hosts, 4 of 4 workers have change 1" in done.stdout
    assert [talk(each.port) for each in (a, b)] == ["one x", "one x"]
    done = b.proxy.run("fleet", "weight", "shop", "v1=0", "v2=100", "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 hosts, 4 of 4 workers have change 2" in done.stdout
    assert [talk(each.port) for each in (a, b)] == ["two x", "two x"]
    assert set(etcd.get(KEYS)) >= {f"{KEYS}routes/shop", f"{KEYS}weights/shop", f"{KEYS}version"}
    assert etcd.get(f"{KEYS}routes/")[f"{KEYS}routes/shop"].decode() == document.read_text()
    assert "fleet prod: this is host a, at change 2" in a.proxy.run("status").stdout
    history = a.proxy.run("fleet", "history").stdout
    assert "put: shop written (first)" in history
    assert "weights: shop: v1=0, v2=100" in history
    assert "at b" in history
    done = a.proxy.run("fleet", "undo", "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [talk(each.port) for each in (a, b)] == ["one x", "one x"]


def test_hosts_divide_the_split_among_them(host: StartHost, document: Path) -> None:
    """Of two hosts with a connection each, one goes to v1 and one to v2, whatever was before."""
    a, b = host("a"), host("b")
    assert a.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
    for number in range(1, 4):
        talk(a.port)
        done = a.proxy.run("fleet", "weight", "shop", f"v1={number}", f"v2={number}", "--wait")
        assert done.returncode == 0, done.stdout
        assert {talk(a.port), talk(b.port)} == {"one x", "two x"}
        os.kill(b.proxy.control_pid(), signal.SIGKILL)  # which keeps its place
        b.proxy.says("control is ready", times=number + 1)
        b.is_well()
        talk(b.port)
        done = a.proxy.run("fleet", "weight", "shop", "v1=1", "v2=0", "--wait")
        assert done.returncode == 0, done.stdout


def test_rules_have_weights_of_their_own(host: StartHost, document: Path) -> None:
    """And a start without etcd has them as well."""
    text = document.read_text()
    rule = "  rules: [{name: testers, source: [127.0.0.0/8], weights: {v1: 1, v2: 0}}]\n"
    document.write_text(text + rule)
    a = host("a")
    assert a.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
    assert talk(a.port) == "one x"
    done = a.proxy.run("fleet", "weight", "shop/testers", "v1=0", "v2=+5", "--wait")
    assert (done.returncode, "shop/testers: v1=0, v2=5" in done.stdout) == (0, True), done.stderr
    assert talk(a.port) == "two x"
    assert a.weights() == {"v1": 100, "v2": 0}
    a.proxy.stop()
    a.proxy.start()
    assert talk(a.port) == "two x"
    document.write_text(text)
    done = a.proxy.run("fleet", "put", "-c", str(document), "--wait")
    assert "shop/testers: the document's weights replace those of the fleet" in done.stdout
    assert talk(a.port) == "one x"


# --- what is refused --------------------------------------------------------------------------


def test_a_document_that_is_wrong_is_refused_by_every_host_alike(
    host: StartHost, etcd: Cluster, document: Path, one: EchoServer, two: EchoServer
) -> None:
    """By key and line; the last good one stays; weights are still followed; mended, it is used."""
    hosts = [host("a"), host("b")]
    assert hosts[0].proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
    etcd.put(f"{KEYS}routes/shop", document.read_text().replace("weight: 100", "weight: -1"))
    wrong = f"{KEYS}routes/shop:6:13: routes[0].destinations[0].weight: expected 0..1000000, got -1"
    for each in hosts:
        each.says(wrong)
        each.proxy.says(f"ERROR fleet prod: refused, the last good configuration stays: {wrong}")
        assert each.proxy.status()["problems"][0]["severity"] == "error"
        assert talk(each.port) == "one x"
    done = hosts[0].proxy.run("fleet", "weight", "shop", "v1=0", "v2=1", "--wait")
    assert done.returncode == 1
    assert done.stdout.count(wrong) == 2, done.stdout
    for each in hosts:
        each.has(v1=0, v2=1)
    assert hosts[0].proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
    for each in hosts:
        each.is_well()
        each.has(v1=0, v2=1)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("routes: [", "bad:2:1: not YAML"),
        ("routes: []\nadmin: {insecure: true}", "bad:2:1: admin: admin can't be in a document"),
        ("routes:\n- name: ${NOWHERE}", "environment variable NOWHERE is not set"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: x}", "got a resource of Kubernetes"),
        ("", "bad: the file is empty"),
        ("- x", "bad:1:1: expected a mapping"),
    ],
)
def test_put_refuses_what_hosts_would_refuse(
    host: StartHost, etcd: Cluster, tmp_path: Path, text: str, why: str
) -> None:
    """Before anything is written."""
    a = host("a")
    a.is_well()
    bad = tmp_path / "bad.yaml"
    bad.write_text(text)
    done = a.proxy.run("fleet", "put", "-c", str(bad))
    assert (done.returncode, why in done.stderr) == (2, True), done.stderr
    assert etcd.get(f"{KEYS}routes/") == etcd.get(f"{KEYS}version") == {}


def test_a_document_with_an_odd_name_is_refused_by_key_and_line(
    start_proxy: StartProxy, etcd: Cluster, tmp_path: Path
) -> None:
    """By an instance that has never had to show such a name."""
    a = Host(start_proxy, etcd, tmp_path, "a")
    endpoints = "destinations: [{name: v, weight: 1, endpoints: ['127.0.0.1:1']}]"
    text = f'routes:\n- name: "a\\nb"\n  listen: 127.0.0.1:1\n  {endpoints}\n'
    etcd.put(f"{KEYS}routes/odd", text)
    a.says("routes/odd:2:9: routes[0].name: expected 1 to 63 letters")


def test_a_route_that_the_file_has_as_well_is_refused_with_both_places(
    start_proxy: StartProxy, etcd: Cluster, tmp_path: Path, one: EchoServer, two: EchoServer
) -> None:
    own = route("shop", free_port(), v1=(1, one.address))
    proxy = start_proxy(
        {"state_dir": str(tmp_path), "fleet": settings(etcd.urls, "a"), "routes": [own]}
    )
    etcd.put(f"{KEYS}routes/x", shop(one, two, free_port()))
    wait_for(lambda: proxy.status()["fleet"]["problem"], "it to be refused")  # type: ignore[index]
    proxy.says(
        f"{KEYS}routes/x:2:9: routes[0].name: a route named shop is already at {proxy.file}:"
    )


def test_values_that_make_no_sense_change_nothing(
    host: StartHost, etcd: Cluster, document: Path
) -> None:
    """Whoever may write into etcd may write anything."""
    a = host("a")
    assert a.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
    assert a.proxy.run("fleet", "weight", "shop", "v1=1", "v2=3", "--wait").returncode == 0
    for key, value in (
        ("weights/shop", b"\xff{"),
        ("weights/shop", json.dumps({"weights": {"v1": -1}}).encode()),
        ("weights/shop", json.dumps({"weights": {"v1": 10**30}}).encode()),
        ("weights/shop", b"[" * 100_000),
        ("weights/nobody", json.dumps({"weights": {"v1": 1}}).encode()),
        ("weights/", b"{}"),
        ("routes/a b", b"routes: []"),
        ("routes/x", b"\xff\xfe"),
        ("routes/x", b"a: &a [x, x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]"),
        ("hosts/z", b"nonsense"),
        ("places/no", b""),
        ("history/x", b""),
    ):
        etcd.put(f"{KEYS}{key}", value)
        if key.startswith("routes/"):
            a.says(key)
            etcd.delete(f"{KEYS}{key}")
    assert a.weights() == {"v1": 1, "v2": 3}
    assert a.proxy.run("fleet", "status").returncode == 0
    alone = "1 of 1 hosts, 2 of 2 workers have change 2"  # a host has a lease
    wait_for(lambda: alone in a.proxy.run("fleet", "status").stdout, "it to be the only host")
    assert a.proxy.run("fleet", "history").returncode == 0
    a.proxy.says(f"not used, what was there before stays: {KEYS}weights/shop: no JSON")
    a.says(f"not used: {KEYS}weights/")
    etcd.delete(f"{KEYS}weights/")
    a.is_well()
    a.has(v1=100, v2=0)
    a.is_well()
    for key, why in (
        ("shop/x", "no such route or rule"),
        ("none", "no such route or rule"),
        ("shop", "no destination v9"),
    ):
        etcd.put(f"{KEYS}weights/{key}", json.dumps({"weights": {"v9": 1}}))
        a.says(f"not used: {KEYS}weights/{key}: {why}: delete or mend it")
        etcd.delete(f"{KEYS}weights/{key}")
        a.is_well()
    assert a.weights() == {"v1": 100, "v2": 0}


# --- etcd fails -------------------------------------------------------------------------------


def test_a_start_without_etcd_has_what_was_in_force_last(
    host: StartHost, etcd: Cluster, document: Path
) -> None:
    a = host("a")
    assert a.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
    assert a.proxy.run("fleet", "weight", "shop", "v1=1", "v2=3", "--wait").returncode == 0
    a.proxy.stop()
    etcd.kill()
    a.proxy.start()
    a.proxy.says("fleet prod: its last good configuration is in force: 1 route, change 2; etcd has")
    a.proxy.says(f"shop: listening on 127.0.0.1:{a.port}, v1 1, v2 3")
    assert a.weights() == {"v1": 1, "v2": 3}
    assert talk(a.port) in ("one x", "two x")
    a.says("etcd is not followed: http://127.0.0.1:")
    done = a.proxy.run("fleet", "status")
    assert done.returncode == 1
    assert "etcd does not answer; this host, a, has change 2" in done.stdout
    done = a.proxy.run("fleet", "weight", "shop", "v1=1", "v2=1")
    assert (done.returncode, "etcd does not answer" in done.stderr) == (1, True)
    etcd.start()
    a.is_well()
    assert a.proxy.run("fleet", "weight", "shop", "v1=0", "v2=3", "--wait").returncode == 0


def test_a_last_good_configuration_that_is_not_good_keeps_nobody_from_starting(
    host: StartHost, etcd: Cluster, document: Path, tmp_path: Path
) -> None:
    """One that is corrupt, here: what was in force comes from etcd."""
    a = host("a")
    assert a.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
    a.proxy.stop()
    etcd.kill()
    (state,) = (path for path in (tmp_path / "state-a").iterdir() if "fleet" in path.name)
    with state.open("r+b") as file:
        for at in (60, (32 << 20) + 60):
            file.seek(at)
            file.write(b"\0\0\0")
    a.proxy.start()
    a.proxy.says("ERROR fleet prod: its last good configuration can't be used, and its routes are")
    assert a.weights() is None
    etcd.start()
    a.has(v1=100, v2=0)
    assert talk(a.port) == "one x"


def test_control_and_master_that_die_lose_nothing_of_the_fleet(
    host: StartHost, etcd: Cluster, document: Path
) -> None:
    """Nor does a reload, with etcd or without."""
    a = host("a")
    assert a.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
    assert a.proxy.run("fleet", "weight", "shop", "v1=1", "v2=3", "--wait").returncode == 0
    os.kill(a.proxy.control_pid(), signal.SIGKILL)
    a.proxy.says("control is ready", times=2)
    a.is_well()
    etcd.kill()
    a.says("etcd is not followed")
    seen = len(a.proxy.log)
    a.proxy.signal(signal.SIGHUP)
    a.proxy.says("reloaded: nothing changed", after=seen)
    a.proxy.process.kill()
    a.proxy.process.wait()
    a.proxy.start()
    assert a.weights() == {"v1": 1, "v2": 3}
    etcd.start()
    a.is_well()
    assert a.proxy.run("fleet", "weight", "shop", "v1=5", "v2=3", "--wait").returncode == 0


def test_an_upgrade_takes_the_fleet_along(host: StartHost, etcd: Cluster, document: Path) -> None:
    """While etcd is gone."""
    a = host("a")
    assert a.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
    assert a.proxy.run("fleet", "weight", "shop", "v1=0", "v2=3", "--wait").returncode == 0
    etcd.kill()
    a.says("etcd is not followed")
    upgrade(a.proxy, 1)
    assert a.weights() == {"v1": 0, "v2": 3}
    assert talk(a.port) == "two x"
    etcd.start()
    a.is_well()
    assert a.proxy.run("fleet", "weight", "shop", "v1=1", "v2=0", "--wait").returncode == 0
    assert talk(a.port) == "one x"


def test_etcd_that_is_wiped_takes_nothing_away(
    host: StartHost, etcd: Cluster, document: Path
) -> None:
    """An operator brings it back from a host."""
    a, b = host("a"), host("b")
    assert a.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
    assert a.proxy.run("fleet", "weight", "shop", "v1=1", "v2=3", "--wait").returncode == 0
    etcd.kill()
    etcd.members[0].wipe()
    etcd.start()
    for each in (a, b):
        each.says("etcd has change none, which is older than change 2, in force here")
        assert each.weights() == {"v1": 1, "v2": 3}
    none = "0 of 2 hosts, 0 of 4 workers have change 0"
    wait_for(lambda: none in a.proxy.run("fleet", "status").stdout, "hosts to say what they have")
    done = a.proxy.run("fleet", "restore", "--wait")
    assert (done.returncode, "v1 1->" in done.stdout) == (0, False)
    assert "shop: v1=1, v2=3" in done.stdout
    assert "shop: v1=1, v2=3" in b.proxy.run("fleet", "history").stdout
    for each in (a, b):
        each.is_well()
        assert each.weights() == {"v1": 1, "v2": 3}
    assert a.proxy.run("fleet", "get").stdout == document.read_text()


def test_routes_that_vanish_from_etcd_stay_until_somebody_confirms(
    host: StartHost, etcd: Cluster, document: Path
) -> None:
    a = host("a")
    assert a.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
    etcd.delete(f"{KEYS}routes/")
    a.says("1 of 1 routes are gone from etcd (shop), and no change through tcpmux says so")
    assert talk(a.port) == "one x"
    assert a.proxy.run("fleet", "confirm", "--wait").returncode == 0
    a.is_well()
    assert a.weights() is None
    done = a.proxy.run("fleet", "undo")  # tcpmux has not deleted it
    assert "change 2 (confirm) has changed nothing" in done.stderr


def test_no_other_change_decides_on_what_is_held_back(
    host: StartHost, etcd: Cluster, document: Path
) -> None:
    """It would list what is left as what is wanted, and all hosts would drop the rest."""
    a, b = host("a"), host("b")
    assert a.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
    assert a.proxy.run("fleet", "weight", "shop", "v1=1", "v2=3", "--wait").returncode == 0

    def refuses(why: str) -> None:
        for words in (("weight", "shop", "v1=1"), ("put", "-c", str(document)), ("undo",)):
            done = b.proxy.run("fleet", *words)
            assert (done.returncode, why in done.stderr) == (1, True), (words, done.stderr)
        for each in (a, b):
            assert each.weights() == {"v1": 1, "v2": 3}

    etcd.delete(f"{KEYS}routes/")
    refuses("not before somebody decides: 1 of 1 routes are gone from etcd (shop)")
    etcd.delete(KEYS)
    refuses("not before somebody decides: ")
    c = host("c")  # which has never known any of it
    c.is_well()
    for number in range(1, 5):
        done = c.proxy.run("fleet", "put", "-c", str(document), "--why", str(number))
        assert done.returncode == 0, done.stderr
    for each in (a, b):
        each.says("change 4, made without change 2, in force here")
        assert each.weights() == {"v1": 1, "v2": 3}
    assert a.proxy.run("fleet", "restore", "--wait").returncode == 0
    for each in (a, b, c):
        each.is_well()
        assert each.weights() == {"v1": 1, "v2": 3}


def test_an_etcd_that_has_gone_back_is_noticed_by_its_revision(
    host: StartHost, etcd: Cluster, document: Path
) -> None:
    """Where nothing but etcdctl has changed it since, so that no number has become less."""
    a = host("a")
    assert a.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
    before = etcd.get(KEYS)
    for weight in range(1, 30):
        etcd.put(f"{KEYS}weights/shop", json.dumps({"weights": {"v1": 0, "v2": weight}}))
    a.has(v1=0, v2=29)
    etcd.kill()
    etcd.members[0].wipe()
    a.says("etcd is not followed")
    etcd.members[0].start()
    wait_for(lambda: written(etcd, before), "the copy to be there")
    a.says("etcd has change")
    assert a.weights() == {"v1": 0, "v2": 29}
    assert a.proxy.run("fleet", "confirm", "--wait").returncode == 0
    a.has(v1=100, v2=0)


def written(etcd: Cluster, keys: dict[str, bytes]) -> bool:
    """Whether it has been; tells nobody why not."""
    with suppress(AssertionError, OSError):
        for key, value in keys.items():
            if "/hosts/" not in key and "/places/" not in key:
                etcd.put(key, value)
        return True
    return False


def test_a_document_that_is_deleted_by_a_command_goes_at_once(
    host: StartHost, etcd: Cluster, document: Path
) -> None:
    a = host("a")
    assert a.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
    assert a.proxy.run("fleet", "delete", "shop", "--wait").returncode == 0
    assert a.weights() is None
    assert a.proxy.run("fleet", "undo", "--wait").returncode == 0
    a.has(v1=100, v2=0)
    done = a.proxy.run("fleet", "delete", "nothing")
    assert "the fleet has no document 'nothing'; there are: shop" in done.stderr


def test_etcd_that_is_compacted_is_read_anew(
    host: StartHost, etcd: Cluster, document: Path
) -> None:
    """While it was away, so that the watch can't go on where it was."""
    with ways(etcd.members) as (way,):
        a, b = host("a", urls=[way.url]), host("b")
        assert b.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
        way.cut()
        a.says("etcd is not followed")
        for weight in range(1, 5):
            done = b.proxy.run("fleet", "weight", "shop", f"v1={weight}", "v2=100")
            assert done.returncode == 0, done.stderr
        etcd.compact()
        assert a.weights() == {"v1": 100, "v2": 0}
        way.mend()
        a.has(v1=4, v2=100)
        a.is_well()


def test_etcd_without_room_is_still_followed(
    start_proxy: StartProxy, tmp_path: Path, document: Path, port: int
) -> None:
    with cluster(tmp_path, options=["--quota-backend-bytes", "16777216"]) as etcd:
        a = Host(start_proxy, etcd, tmp_path, "a", port)
        assert a.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0

        def is_full() -> bool:
            try:
                etcd.put("/elsewhere", b"x" * 1_000_000)
            except AssertionError:
                return True
            return False

        wait_for(is_full, "etcd to be full")
        done = a.proxy.run("fleet", "weight", "shop", "v1=0", "v2=1")
        assert done.returncode == 1
        assert "etcd refuses: " in done.stderr
        assert "space exceeded: make room" in done.stderr
        etcd.delete(f"{KEYS}routes/")
        a.says("1 of 1 routes are gone")
        assert talk(a.port) == "one x"


def test_a_host_that_is_cut_off_lags_and_is_named(
    host: StartHost, etcd: Cluster, document: Path
) -> None:
    with ways(etcd.members) as (way,):
        a, b = host("a", urls=[way.url]), host("b")
        assert b.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
        way.cut()
        done = b.proxy.run(
            "fleet", "weight", "shop", "v1=0", "v2=1", "--wait", "--timeout", "500ms"
        )
        assert done.returncode == 1
        assert "1 of 2 hosts, 2 of 4 workers have change 2" in done.stdout
        assert "a lags: it has change 1" in done.stdout
        assert talk(a.port) == "one x"
        way.mend()
        a.has(v1=0, v2=1)


def test_a_watch_that_says_nothing_is_found_out(
    host: StartHost, etcd: Cluster, document: Path
) -> None:
    """What is between forgets it, while everything else is answered."""
    with ways(etcd.members) as (way,):
        a, b = host("a", urls=[way.url]), host("b")
        assert b.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
        way.forget_watches()
        assert b.proxy.run("fleet", "weight", "shop", "v1=0", "v2=1").returncode == 0
        b.has(v1=0, v2=1)
        assert a.weights() == {"v1": 100, "v2": 0}
        a.has(v1=0, v2=1)
        a.proxy.says("the watch does not tell of what has changed")
        a.is_well()
        way.forget_watches()
        etcd.put(f"{KEYS}weights/shop", json.dumps({"weights": {"v1": 5, "v2": 5}}))
        wait_for(lambda: a.weights() == {"v1": 5, "v2": 5}, "it to be found out", patient(40))


def test_slow_etcd_is_as_good_as_none_and_harms_nobody(
    host: StartHost, etcd: Cluster, document: Path
) -> None:
    with ways(etcd.members) as (way,):
        a = host("a", urls=[way.url])
        assert a.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
        way.delay = 5.0
        a.says("no answer within 1.5 s")
        assert talk(a.port) == "one x"
        way.delay = 0.0
        a.is_well()


def test_members_that_are_killed_one_after_the_other(
    start_proxy: StartProxy, tmp_path: Path, document: Path
) -> None:
    """Three of them: one, the leader, one that stands still, and all."""
    with cluster(tmp_path, 3) as etcd:
        a, b = (Host(start_proxy, etcd, tmp_path, name) for name in "ab")
        assert a.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
        number = 0

        def shift() -> None:
            nonlocal number
            number += 1
            weights = (f"v1={number}", f"v2={100 - number}")

            def is_done() -> bool:
                done = a.proxy.run("fleet", "weight", "shop", *weights)
                return done.returncode == 0

            wait_for(is_done, "a change to be written")
            for each in (a, b):
                each.has(v1=number, v2=100 - number)

        held = socket.create_connection(("127.0.0.1", a.port), patient(5))
        held.sendall(b"x\n")
        assert held.makefile("r").readline() == "one x\n"
        shift()
        for victim in (etcd.members[1], etcd.leader()):
            victim.kill()
            shift()
            victim.start()
            etcd.settle()
        still = etcd.members[0]
        still.stop()
        shift()
        still.go_on()
        shift()
        etcd.kill()
        for each in (a, b):
            each.says("etcd is not followed")
            assert each.weights() == {"v1": number, "v2": 100 - number}
        etcd.start()
        shift()
        for each in (a, b):
            each.is_well()
        for each in (a, b):  # none that is older than what was in force, nor any that nobody wrote
            seen = [int(number) for number in re.findall(r"shop: v1 \d+->(\d+)", each.proxy.log)]
            assert seen == sorted(seen)
            assert seen[-1] == number
        with held:
            held.sendall(b"x\n")
            assert held.makefile("r").readline() == "one x\n"


def test_routes_that_only_etcd_knows_outlive_a_master(
    host: StartHost, etcd: Cluster, document: Path, tmp_path: Path
) -> None:
    """Where nothing can be kept on the disk; nor does a reload drop them."""
    a = host("a", state_dir=str(tmp_path / "nowhere"))
    a.proxy.says("WARNING what the fleet says can't be kept: a start without etcd would have no")
    assert a.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
    assert a.proxy.run("fleet", "weight", "shop", "v1=1", "v2=3", "--wait").returncode == 0
    etcd.kill()
    a.says("etcd is not followed")
    a.proxy.process.kill()
    a.proxy.process.wait()
    a.proxy.start()
    a.proxy.says("routes stay as they are until etcd says which there are")
    a.proxy.signal(signal.SIGHUP)
    a.proxy.says("reload refused, nothing changed: routes of the fleet are in force that only etcd")
    assert a.weights() == {"v1": 1, "v2": 3}
    assert talk(a.port)
    etcd.start()
    a.is_well()
    assert a.weights() == {"v1": 1, "v2": 3}
    assert a.proxy.run("fleet", "weight", "shop", "v1=5", "v2=3", "--wait").returncode == 0


# --- who is asked, and as whom ----------------------------------------------------------------


def test_etcd_with_tls_that_knows_hosts_by_their_certificates(
    start_proxy: StartProxy, tmp_path: Path, document: Path, port: int
) -> None:
    """Whose files only root can read; without one a host is told so, and has it after a reload."""
    pem = certificate(tmp_path, "127.0.0.1")
    pem.chmod(0o600)
    with cluster(tmp_path, pem=pem) as etcd:
        files = dict.fromkeys(("ca", "certificate", "key"), str(pem))
        a = Host(start_proxy, etcd, tmp_path, "a", fleet=settings(etcd.urls, "a", **files))
        a.is_well()
        assert a.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
        assert talk(a.port) == "one x"
        stranger = settings(etcd.urls, "b", ca=str(pem))
        b = Host(start_proxy, etcd, tmp_path, "b", port, fleet=stranger)
        b.says("etcd is not followed: https://127.0.0.1:")
        nobody = settings(etcd.urls, "c")
        c = Host(start_proxy, etcd, tmp_path, "c", port, fleet=nobody)
        c.says("its certificate is not trusted: ")
        b.says("it wants a certificate that it trusts: fleet.etcd.certificate")
        missing = settings(etcd.urls, "d", ca=str(tmp_path / "no.pem"))
        d = Host(start_proxy, etcd, tmp_path, "d", fleet=missing)
        d.says("no.pem: No such file or directory")
        state = str(tmp_path / "state-d")
        d.proxy.write({"state_dir": state, "fleet": settings(etcd.urls, "d", **files)})
        d.proxy.signal(signal.SIGHUP)
        d.has(v1=100, v2=0)


def test_etcd_without_tls_that_is_asked_with_it(host: StartHost, etcd: Cluster) -> None:
    a = host("a", urls=[url.replace("http:", "https:") for url in etcd.urls])
    a.says("speak TLS")
    a.says("its endpoint is http://")


def test_etcd_with_users(
    start_proxy: StartProxy, etcd: Cluster, tmp_path: Path, document: Path, port: int
) -> None:
    """A host becomes one, and again when its token is over, as after a restart of etcd."""
    etcd.add_user("tcpmux", "s3cret", KEYS)
    password = tmp_path / "password"
    password.write_text("s3cret\n")
    password.chmod(0o600)
    whom = {"user": "tcpmux", "password_file": str(password)}
    a = Host(start_proxy, etcd, tmp_path, "a", fleet=settings(etcd.urls, "a", **whom))
    a.is_well()
    assert a.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
    etcd.kill()
    a.says("etcd is not followed")
    etcd.start()
    a.is_well()
    assert a.proxy.run("fleet", "weight", "shop", "v1=1", "v2=3", "--wait").returncode == 0
    b = Host(start_proxy, etcd, tmp_path, "b", port)
    b.says("user name is empty")
    other = {**settings(etcd.urls, "c", **whom), "name": "other"}
    c = Host(start_proxy, etcd, tmp_path, "c", port, fleet=other)
    c.says("permission denied")
    password.chmod(0o644)
    d = Host(start_proxy, etcd, tmp_path, "d", port, fleet=settings(etcd.urls, "d", **whom))
    d.says("others may read it (mode 0644)")


def test_hosts_that_are_copies_of_one_have_places_of_their_own(
    host: StartHost, etcd: Cluster, tmp_path: Path, document: Path
) -> None:
    """Whose files in state_dir are the same."""
    a, b = host("a"), host("b")
    assert a.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
    for each in (a, b):
        each.is_well()
        each.proxy.stop()
    (one,), (two,) = (list((tmp_path / f"state-{name}").glob("fleet*")) for name in "ab")
    two.write_bytes(one.read_bytes())
    for each in (a, b):
        each.proxy.start()
        each.is_well()
    assert sorted(etcd.get(f"{KEYS}places/")) == [f"{KEYS}places/0", f"{KEYS}places/1"]


def test_two_hosts_of_one_name_are_noticed(host: StartHost, document: Path) -> None:
    a = host("a")
    a.is_well()
    other = host("a")
    other.says("another instance says that it is host a")
    assert other.proxy.status()["problems"][0]["severity"] == "warning"
    assert not a.problem()


def test_steps_are_from_what_the_fleet_has(host: StartHost, document: Path) -> None:
    """And a change of one host alone lasts until the fleet's next one."""
    a, b = host("a"), host("b")
    assert a.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
    a.proxy.client.set_weights("shop", {"v1": 7, "v2": 7})
    assert b.weights() == {"v1": 100, "v2": 0}
    own = "weights of its own for shop"
    wait_for(lambda: own in a.proxy.run("fleet", "hosts").stdout, "its own to be said")
    done = a.proxy.run("fleet", "weight", "shop", "v2=+5", "--wait")
    assert done.returncode == 0, done.stderr
    for each in (a, b):
        assert each.weights() == {"v1": 100, "v2": 5}
    wait_for(lambda: own not in a.proxy.run("fleet", "hosts").stdout, "them to be gone")
    b.proxy.client.set_weights("shop", {"v1": 7, "v2": 7})
    done = a.proxy.run("fleet", "weight", "shop", "v1=100", "v2=5", "--wait")  # as they are there
    assert done.returncode == 0, done.stderr
    assert b.weights() == {"v1": 100, "v2": 5}
    done = a.proxy.run("fleet", "weight", "shop", "v1=0", "v2=0")
    assert (done.returncode, "all weights would be 0" in done.stderr) == (1, True)
    done = a.proxy.run("fleet", "weight", "shop", "v3=1")
    assert "no destination" in done.stderr
    done = a.proxy.run("fleet", "weight", "shop", "v1=1", "--epoch", "1")
    assert "the last change of the fleet is 3, not 1" in done.stderr


def test_documents_keep_weights_unless_they_have_others(host: StartHost, document: Path) -> None:
    a = host("a")
    assert a.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
    assert a.proxy.run("fleet", "weight", "shop", "v1=1", "v2=3", "--wait").returncode == 0
    text = document.read_text()
    document.write_text(text.replace("weight: 100", "weight: 100\n    connect_timeout: 3s"))
    assert a.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
    assert a.weights() == {"v1": 1, "v2": 3}
    document.write_text(text.replace("weight: 100", "weight: 50"))
    assert a.proxy.run("fleet", "diff", "-c", str(document)).returncode == 3
    done = a.proxy.run("fleet", "put", "-c", str(document), "--wait")
    assert "shop: the document's weights replace those of the fleet" in done.stdout
    assert a.weights() == {"v1": 50, "v2": 0}


def test_documents_leave_weights_that_one_host_has_by_itself(
    host: StartHost, document: Path, tmp_path: Path, one: EchoServer
) -> None:
    """Until the fleet sets these again."""
    a = host("a")
    assert a.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
    a.proxy.client.set_weights("shop", {"v1": 7, "v2": 7})
    other = tmp_path / "other.yaml"
    made = route("other", free_port(), v1=(1, one.address))
    other.write_text(yaml.safe_dump({"routes": [made]}))
    assert a.proxy.run("fleet", "put", "-c", str(other), "--wait").returncode == 0
    assert a.weights() == {"v1": 7, "v2": 7}
    assert a.proxy.run("fleet", "weight", "shop", "v1=1", "v2=0", "--wait").returncode == 0
    assert a.weights() == {"v1": 1, "v2": 0}
    a.proxy.client.set_weights("shop", {"v1": 100, "v2": 0})  # those of the document
    text = document.read_text()
    document.write_text(text.replace("weight: 0", "weight: 0\n    max_connections: 9"))
    assert a.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
    assert a.weights() == {"v1": 100, "v2": 0}
    document.write_text(document.read_text().replace("weight: 100", "weight: 50"))
    assert a.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
    assert a.weights() == {"v1": 50, "v2": 0}


def test_a_document_that_is_no_text_takes_nothing_away(
    host: StartHost, etcd: Cluster, document: Path, tmp_path: Path, one: EchoServer
) -> None:
    """Another one that is put is not to delete it, which all hosts would follow."""
    a = host("a")
    assert a.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
    etcd.put(f"{KEYS}routes/shop", b"\xff")
    a.says("routes/shop: line 1 is not UTF-8")
    other = tmp_path / "other.yaml"
    made = route("other", free_port(), v1=(1, one.address))
    other.write_text(yaml.safe_dump({"routes": [made]}))
    done = a.proxy.run("fleet", "put", "-c", str(other))
    assert "line 1 is not UTF-8: put it anew, or delete it" in done.stderr
    assert "put it anew, or delete it" in a.proxy.run("fleet", "confirm").stderr
    assert a.weights() == {"v1": 100, "v2": 0}
    assert a.proxy.run("fleet", "delete", "shop", "--wait").returncode == 0
    assert a.weights() is None


def test_undo_writes_nothing_but_routes_and_weights(
    host: StartHost, etcd: Cluster, document: Path
) -> None:
    a = host("a")
    assert a.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
    for key in ("/elsewhere", f"{KEYS}version", f"{KEYS}weights/\ud800"):
        change = {"kind": "put", "before": {key: "x"}, "after": {key: None}}
        etcd.put(f"{KEYS}before/{1:012}", json.dumps(change))
        done = a.proxy.run("fleet", "undo")
        assert (done.returncode, "change 1 makes no sense" in done.stderr) == (1, True)
    assert etcd.get("/elsewhere") == {}


def test_the_history_is_bounded_also_where_numbers_have_jumped(
    host: StartHost, etcd: Cluster, document: Path
) -> None:
    """As after a restore of etcd, and whatever somebody has put there."""
    a = host("a")
    assert a.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
    for number in range(2, 150):
        when: Any = 1e30 if number % 2 else "never"
        etcd.put(f"{KEYS}history/{number:012}", json.dumps({"epoch": number, "when": when}))
    done = a.proxy.run("fleet", "history")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 100), done.stderr
    version = json.loads(etcd.get(f"{KEYS}version")[f"{KEYS}version"])
    etcd.put(f"{KEYS}version", json.dumps({**version, "epoch": 500}))
    assert a.proxy.run("fleet", "weight", "shop", "v1=1", "--wait").returncode == 0
    assert list(etcd.get(f"{KEYS}history/")) == [f"{KEYS}history/{501:012}"]
    done = a.proxy.run("fleet", "weight", "shop", "v1=0", "v2=0", "--force")
    assert (done.returncode, "which a fleet can't have" in done.stderr) == (1, True)


def test_a_user_that_may_not_write_follows_and_says_so_once(
    start_proxy: StartProxy, etcd: Cluster, tmp_path: Path, document: Path, port: int
) -> None:
    etcd.put(f"{KEYS}routes/shop", document.read_text())
    etcd.add_user("tcpmux", "s3cret", f"{KEYS}routes/")
    password = tmp_path / "password"
    password.write_text("s3cret\n")
    password.chmod(0o600)
    whom = {"user": "tcpmux", "password_file": str(password)}
    fleet = settings(etcd.urls, "a", **whom)
    etcd.become("root", "s3cret")
    etcd.allow("tcpmux", KEYS, "READ")
    a = Host(start_proxy, etcd, tmp_path, "a", port, fleet=fleet)
    a.says("permission denied")
    a.has(v1=100, v2=0)
    etcd.put(f"{KEYS}weights/shop", '{"weights": {"v1": 0, "v2": 1}}')
    a.has(v1=0, v2=1)
    assert a.proxy.log.count("etcd is not followed") == 1
    assert "follows etcd at" not in a.proxy.log


def test_another_fleet_by_a_reload_would_drop_all_routes(host: StartHost, document: Path) -> None:
    """By a slip of the pen as well."""
    a = host("a")
    assert a.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
    file = Path(a.proxy.file)
    file.write_text(file.read_text().replace("prod", "prdo"))
    a.proxy.signal(signal.SIGHUP)
    a.proxy.says("another fleet, /tcpmux/prdo/ instead of /tcpmux/prod/: its routes would be gone")
    assert talk(a.port) == "one x"


def test_a_number_that_nobody_can_have_reached_jams_nothing(
    host: StartHost, etcd: Cluster, document: Path
) -> None:
    a, b = host("a"), host("b")
    assert a.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
    version = json.loads(etcd.get(f"{KEYS}version")[f"{KEYS}version"])
    etcd.put(f"{KEYS}version", json.dumps({**version, "epoch": 1 << 53}))
    for each in (a, b):
        each.says("nobody makes so many")
    assert a.proxy.run("fleet", "restore", "--wait").returncode == 0
    for each in (a, b):
        each.is_well()
    done = b.proxy.run("fleet", "weight", "shop", "v1=1", "v2=3", "--wait")
    assert (done.returncode, "change 3" in done.stdout) == (0, True)


def test_what_was_not_kept_is_kept_as_soon_as_control_is_back(
    host: StartHost, etcd: Cluster, document: Path, tmp_path: Path
) -> None:
    """It may have been killed between putting it in force and writing it down."""
    a = host("a")
    assert a.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
    (state,) = (path for path in (tmp_path / "state-a").iterdir() if "fleet" in path.name)

    def is_kept() -> bool:
        with state.open("rb") as file:
            return FLEET.read(file.fileno()) is not None

    wait_for(is_kept, "it to be on the disk")
    os.truncate(state, 0)
    os.kill(a.proxy.control_pid(), signal.SIGKILL)
    wait_for(is_kept, "it to be on the disk again")


def test_an_instance_in_no_fleet_says_so(start_proxy: StartProxy, one: EchoServer) -> None:
    proxy = start_proxy({"routes": [route("r", free_port(), v1=(1, one.address))]})
    assert proxy.status()["fleet"] is None
    for words in (("status",), ("undo",), ("weight", "r", "v1=1")):
        done = proxy.run("fleet", *words)
        assert (done.returncode, "this instance is in no fleet" in done.stderr) == (1, True)


def test_changes_at_the_same_time_are_one_after_the_other(
    host: StartHost, etcd: Cluster, document: Path
) -> None:
    """None is lost, and each has a number of its own."""
    hosts = [host("a"), host("b")]
    assert hosts[0].proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
    epochs: list[int] = []

    def shift(each: Host, first: int) -> None:
        client = Client(each.proxy.admin)
        for number in range(first, first + 8):
            epochs.append(client.set_fleet_weights("shop", {"v1": number})["epoch"])

    threads = [
        threading.Thread(target=shift, args=(each, 10 * at + 1)) for at, each in enumerate(hosts)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(patient(60))
    assert sorted(epochs) == list(range(2, 18))
    entries = hosts[0].proxy.client.fleet_history()
    assert [entry["epoch"] for entry in entries] == list(range(1, 18))
    assert len(etcd.get(f"{KEYS}before/")) == 10
    last = int(entries[-1]["text"].partition("v1=")[2].partition(",")[0])
    for each in hosts:
        each.has(v1=last, v2=0)


def test_what_only_one_host_can_not_do_is_tried_again(host: StartHost, document: Path) -> None:
    a, b = host("a"), host("b")
    b.is_well()
    with socket.create_server(("127.0.0.1", b.port)) as other:
        done = a.proxy.run("fleet", "put", "-c", str(document), "--wait", "--timeout", "20s")
        assert done.returncode == 1, done.stdout
        assert f"b: can't listen on 127.0.0.1:{b.port}" in done.stdout, done.stdout
        assert talk(a.port) == "one x"
        other.close()
        wait_for(b.weights, "b to have it", patient(30))
    b.is_well()


def test_documents_of_any_size_are_bounded(host: StartHost, etcd: Cluster, document: Path) -> None:
    a = host("a", urls=[etcd.urls[0].replace("127.0.0.1", "localhost")])
    a.is_well()
    text = document.read_text()
    document.write_text(text + f"# {'x' * 1_400_000}\n")
    done = a.proxy.run("fleet", "put", "-c", str(document))
    assert (done.returncode, "are more than etcd takes at once" in done.stderr) == (1, True)
    document.write_text(text + f"# {'x' * 600_000}\n")
    assert a.proxy.run("fleet", "put", "-c", str(document), "--wait").returncode == 0
    assert a.weights() == {"v1": 100, "v2": 0}


# --- the page ---------------------------------------------------------------------------------

# Each row of its table, by its first words.
ROWS: dict[str, Callable[..., None]] = {
    "a member of etcd dies": test_members_that_are_killed_one_after_the_other,
    "all of etcd is gone": test_members_that_are_killed_one_after_the_other,
    "a host starts while etcd is gone": test_a_start_without_etcd_has_what_was_in_force_last,
    "etcd is cut off from some hosts": test_a_host_that_is_cut_off_lags_and_is_named,
    "etcd is slow": test_slow_etcd_is_as_good_as_none_and_harms_nobody,
    "etcd is compacted": test_etcd_that_is_compacted_is_read_anew,
    "etcd has no room left": test_etcd_without_room_is_still_followed,
    "etcd is wiped": test_etcd_that_is_wiped_takes_nothing_away,
    "more than half of the routes vanish": (
        test_routes_that_vanish_from_etcd_stay_until_somebody_confirms
    ),
    "a document is wrong": test_a_document_that_is_wrong_is_refused_by_every_host_alike,
    "a value that makes no sense": test_values_that_make_no_sense_change_nothing,
    "control or the master of a host dies": (
        test_control_and_master_that_die_lose_nothing_of_the_fleet
    ),
    "two hosts have the same name": test_two_hosts_of_one_name_are_noticed,
}


def test_how_it_fails_is_on_the_page() -> None:
    """And nothing that no test shows."""
    text = (Path(__file__).parents[2] / "docs/how-to/fleet.md").read_text()
    table = text.partition("## How it fails")[2].partition("\n\n")[2].partition("\n\n")[0]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()[2:]]
    assert len(rows) == len(ROWS)
    for row, known in zip(rows, ROWS, strict=True):
        assert row.startswith(known)
