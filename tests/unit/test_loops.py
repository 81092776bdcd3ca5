"""Routes that lead back to themselves: what files tell, and what names turn out to mean."""

from __future__ import annotations

import os
import socket
from ipaddress import ip_address
from pathlib import Path

import pytest
import yaml

from tcpmux.config import Address, ConfigError, HostName, load
from tcpmux.config.loops import is_local, left_out
from tcpmux.master.change import Known
from tcpmux.master.consequences import without_addresses
from tcpmux.shm.build import build_image
from tcpmux.shm.slots import Names
from tests.integration.routes import routes


def written(directory: Path, *parts: dict[str, object]) -> Path:
    path = directory / "routes.yaml"
    path.write_text(yaml.safe_dump(routes(*parts)))
    return path


def on(
    name: str, listen: str | list[str], *endpoints: object, weight: int = 1
) -> dict[str, object]:
    destination = {"name": "d", "weight": weight, "endpoints": list(endpoints)}
    return {"name": name, "listen": listen, "destinations": [destination]}


def problems(directory: Path, *parts: dict[str, object]) -> list[str]:
    """One a line, without the file."""
    try:
        load([written(directory, *parts)])
    except ConfigError as error:
        return [f"{p.line}: {p.message}" for p in error.problems]
    return []


def own_address() -> str:
    """Of this host, beside loopback; "" = it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))
        except OSError:
            return ""
        return str(sock.getsockname()[0])


@pytest.mark.parametrize(
    ("listen", "endpoint"),
    [
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("0.0.0.0:80", "127.0.0.1:80"),
        ("0.0.0.0:80", "127.3.2.1:80"),
        (":80", "127.0.0.1:80"),
        (":80", "[::1]:80"),
        ("[::]:80", "[::ffff:127.0.0.1]:80"),
        ("127.0.0.1:80", "[::ffff:127.0.0.1]:80"),
        (":79-81", "[::1]:80"),
        ("192.0.2.7:80", "192.0.2.7:80"),
        ("unix:/run/x.sock", "unix:/run/x.sock"),
        ("unix:/run/x.sock", "unix:/run/../run/x.sock"),
    ],
)
def test_a_route_s_own_listener_is_no_endpoint(tmp_path: Path, listen: str, endpoint: str) -> None:
    """Whatever its weight, and beside others."""
    part = on("r", listen, "192.0.2.1:1", {"address": endpoint, "backup": True}, weight=0)
    (found,) = problems(tmp_path, part)
    assert "is the route's own listener" in found
    assert endpoint.replace("unix:", "") in found


@pytest.mark.parametrize(
    ("listen", "endpoint"),
    [
        ("127.0.0.1:80", "127.0.0.1:81"),
        ("127.0.0.1:80", "127.0.0.2:80"),
        ("127.0.0.1:80", "[::1]:80"),
        ("0.0.0.0:80", "[::1]:80"),
        ("0.0.0.0:80", "192.0.2.1:80"),
        (["192.0.2.7:80"], "192.0.2.8:80"),
        ("unix:/run/x.sock", "unix:/run/y.sock"),
    ],
)
def test_other_addresses_are_fine(tmp_path: Path, listen: str, endpoint: str) -> None:
    assert problems(tmp_path, on("r", listen, endpoint)) == []


def test_the_host_s_own_address(tmp_path: Path) -> None:
    address = own_address() or "127.0.0.1"
    (found,) = problems(tmp_path, on("r", ":80", f"{address}:80"))
    assert found.endswith(f"{address}:80 is the route's own listener [::]:80")
    assert is_local(ip_address(address))
    assert not is_local(ip_address("192.0.2.1"))
    assert not is_local(ip_address("2001:db8::1"))


def test_a_unix_socket_by_another_name(tmp_path: Path) -> None:
    os.symlink(tmp_path, tmp_path / "link")
    own, by_link = f"unix:{tmp_path}/a", f"unix:{tmp_path}/link/a"
    assert len(problems(tmp_path, on("r", own, by_link))) == 1
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{tmp_path}/a")
        os.link(tmp_path / "a", tmp_path / "b")
        assert len(problems(tmp_path, on("r", own, f"unix:{tmp_path}/b"))) == 1


def test_a_circle_of_routes_is_told_once(tmp_path: Path) -> None:
    a = on("a", ":81", "127.0.0.1:82", "192.0.2.1:1")
    b = on("b", "127.0.0.1:82", "192.0.2.1:1", "[::1]:83")
    c = on("c", [":83", ":84"], "127.0.0.1:81")
    (found,) = problems(tmp_path, a, b, c)
    assert found.endswith(
        "127.0.0.1:82 is a listener of a route that leads back here: a -> b -> c -> a"
    )
    # Without the last leg it is a chain.
    c = on("c", [":83", ":84"], "192.0.2.1:2")
    assert problems(tmp_path, a, b, c) == []
    # A way in from outside the circle is not part of it.
    (found,) = problems(
        tmp_path, on("in", ":80", "127.0.0.1:81"), a, b, on("c", ":83", "127.0.0.1:82")
    )
    assert found.endswith("[::1]:83 is a listener of a route that leads back here: b -> c -> b")


def test_the_particular_listener_gets_it(tmp_path: Path) -> None:
    """What is sent to 127.0.0.1 is not for the one that listens everywhere."""
    every = on("every", "0.0.0.0:80", "127.0.0.1:80")
    assert problems(tmp_path, every, on("one", "127.0.0.1:80", "192.0.2.1:1")) == []


def test_it_is_told_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "routes:\n  - name: r\n    listen: :80\n    destinations:\n      - name: v1\n"
        "        endpoints: [192.0.2.1:80, 127.0.0.1:80]\n"
    )
    with pytest.raises(ConfigError) as caught:
        load([path])
    assert str(caught.value).endswith(
        "r.yaml:6:35: routes[0].destinations[0].endpoints[1]: "
        "127.0.0.1:80 is the route's own listener [::]:80"
    )


def test_what_names_mean_is_left_out_where_it_leads_back(tmp_path: Path) -> None:
    """In the route that it leads back to, and in no other."""
    parts = on("a", ":80", "name.test:80", "192.0.2.1:1"), on("b", ":81", "name.test:80")
    config = load([written(tmp_path, *parts)])
    name = HostName("name.test", 80)
    known = {name: (Address.parse("127.0.0.1:80"), Address.parse("192.0.2.9:80"))}
    loops = left_out(config, known)
    assert [(route, str(address)) for route, address in loops] == [("a", "127.0.0.1:80")]
    names = Names.new(lambda _: True)
    image = build_image(config, {}, names, {}, 1, known, loops=loops)
    assert [[str(e.address) for e in r.destinations[0].endpoints] for r in image.routes] == [
        ["192.0.2.9:80", "192.0.2.1:1"],
        ["127.0.0.1:80", "192.0.2.9:80"],
    ]


def test_a_name_of_which_nothing_is_left_gives_its_share_away(tmp_path: Path) -> None:
    """As one that has no address, and that is said."""
    destinations = [
        {"name": "v1", "endpoints": ["name.test:80"]},
        {"name": "v2", "endpoints": ["192.0.2.1:1"]},
    ]
    part: dict[str, object] = {"name": "a", "listen": ":80", "destinations": destinations}
    config = load([written(tmp_path, part)])
    known: Known = {HostName("name.test", 80): (Address.parse("127.0.0.1:80"),)}
    loops = left_out(config, known)
    image = build_image(config, {}, Names.new(lambda _: True), {}, 1, known, loops=loops)
    lost, other = image.routes[0].destinations
    assert (lost.endpoints, lost.effective_weight, other.effective_weight) == ((), 0, 1)
    (text,) = without_addresses(config, image, known)
    assert text == "a/v1: no address for name.test:80: the others get its share"


def test_names_in_a_circle_are_left_out_until_there_is_none(tmp_path: Path) -> None:
    """A leg that a file names is not: the one that DNS has brought is."""
    parts = on("a", ":80", "127.0.0.1:81"), on("b", ":81", "one.test:80", "two.test:80")
    config = load([written(tmp_path, *parts)])
    bad, good = Address.parse("[::1]:80"), Address.parse("192.0.2.9:80")
    known = {HostName("one.test", 80): (bad, good), HostName("two.test", 80): (good,)}
    (loop,) = left_out(config, known).values()
    assert (loop.leg.route, loop.leg.endpoint) == ("b", bad)
    assert str(loop) == "[::1]:80 is a listener of a route that leads back here: b -> a -> b"
    assert left_out(config, {}) == {}
