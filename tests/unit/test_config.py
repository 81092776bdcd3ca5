"""Configuration that can be used, and input that is hardly configuration at all."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tcpmux.config import Address, ConfigError, load
from tcpmux.config.duration import format_duration, parse_duration
from tcpmux.config.instance_schema import AccessLogModel

CONFIGS = Path(__file__).parents[2] / "configs"
ROUTE = """
  - name: {name}
    listen: 127.0.0.1:{port}
    destinations: [{{name: v1, endpoints: [127.0.0.1:2]}}]
"""


def problems(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load([path])
    return [str(problem) for problem in caught.value.problems]


def test_the_least_gets_the_defaults() -> None:
    config = load([CONFIGS / "minimal.yaml"])
    assert config.workers is None
    assert config.admin.socket == "/run/tcpmux.sock"
    assert config.drain_timeout == 45.0
    (route,) = config.routes
    assert (route.connect_timeout, route.idle_timeout) == (10.0, 3600.0)
    assert [(d.name, d.weight) for d in route.destinations] == [("v1", 80), ("v2", 20)]


def test_the_reference_states_the_defaults() -> None:
    least, reference = load([CONFIGS / "minimal.yaml"]), load([CONFIGS / "reference.yaml"])
    assert (reference.workers, reference.admin.socket, reference.drain_timeout) == (
        least.workers,
        least.admin.socket,
        least.drain_timeout,
    )
    log = AccessLogModel(path="/x")
    assert reference.access_log is not None
    for name in ("format", "start", "interval", "buffer"):
        assert getattr(reference.access_log, name) == getattr(log, name)
    for name in ("name", "listen", "connect_timeout", "idle_timeout"):
        assert getattr(reference.routes[0], name) == getattr(least.routes[0], name)


def test_the_demo_is_the_shipped_one() -> None:
    assert load([CONFIGS / "demo.yaml"]).routes[0].listen == (Address("127.0.0.1", 31400, ""),)


def test_anchors_and_a_weight_without_a_weight(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(
        "routes:\n  - name: a\n    listen: [':1', 'unix:/x']\n    destinations: &d\n"
        "      - {name: v1, endpoints: ['[::1]:2']}\n"
        "  - {name: b, listen: '127.0.0.1:3', destinations: *d}\n"
    )
    config = load([file])
    assert config.routes[0].listen == (Address("::", 1, ""), Address("", 0, "/x"))
    assert config.routes[0].destinations == config.routes[1].destinations
    assert config.routes[0].destinations[0].weight == 1


def test_files_are_put_together(tmp_path: Path) -> None:
    one, two = tmp_path / "1.yaml", tmp_path / "2.yaml"
    one.write_text("workers: 3\nroutes:" + ROUTE.format(name="a", port=1))
    two.write_text("drain_timeout: 1s\nroutes:" + ROUTE.format(name="b", port=3))
    config = load([one, two])
    assert [route.name for route in config.routes] == ["a", "b"]
    assert (config.workers, config.drain_timeout) == (3, 1.0)
    two.write_text("workers: 3\nroutes:" + ROUTE.format(name="a", port=1))
    with pytest.raises(ConfigError) as caught:
        load([one, two])
    assert [str(problem) for problem in caught.value.problems] == [
        f"{two}:1:10: workers: key workers is already at {one}:1:10",
        f"{two}:3:11: routes[0].name: a route named a is already at {one}:3:11",
        f"{two}:4:13: routes[0].listen: a listener on 127.0.0.1:1 is already at {one}:4:13",
    ]


def test_all_mistakes_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    one, two = tmp_path / "1.yaml", tmp_path / "2.yaml"
    one.write_text("workers: 0\nrouts: []\n")
    two.write_text("routes: 7")
    with pytest.raises(ConfigError) as caught:
        load([one, two, tmp_path / "3.yaml"])
    assert len(caught.value.problems) == 4


def test_what_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    assert problems(file) == [f"{file}: can't be read: No such file or directory"]
    assert problems(tmp_path) == [
        f"{tmp_path}: no file in this directory ends in .yaml, .yml, .json"
    ]
    file.write_bytes(b"workers: 1\nroutes: \xff")
    assert problems(file) == [f"{file}:2:9: not UTF-8: byte 0xff"]
    file.write_bytes(b"workers: 1\nroutes: \0")
    (message,) = problems(file)
    assert message.startswith(f"{file}:2:1: not YAML: ")
    file.write_bytes(b" " * (16 << 20) + b"x")
    assert problems(file) == [f"{file}: larger than 16 MiB, the most that is read"]


def test_a_byte_order_mark_and_crlf_are_fine(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    text = "routes:" + ROUTE.format(name="a", port=1)
    file.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert load([file]).routes[0].name == "a"


def test_aliases_of_aliases_are_bounded(tmp_path: Path) -> None:
    """The first value that means too many is named; nothing has been made of it yet."""
    file = tmp_path / "r.yaml"
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    file.write_text("\n".join(lines))
    (message,) = problems(file)
    assert message.startswith(f"{file}:6:5: more than 1000000 values")


def test_a_value_that_holds_itself_and_deep_nesting(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("routes: &a [*a]")
    assert "nested more than 32 levels deep" in problems(file)[0]
    file.write_text("routes: " + "[" * 900 + "]" * 900)
    assert "nested more than 32 levels deep" in problems(file)[0]
    file.write_text("routes: " + "[" * 100_000)
    assert len(problems(file)) == 1


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(alphabet="routes:-[]{}&*!|>'\"#\n \t0127.,xyé\0", max_size=200).map(str.encode),
    )
)
def test_random_input_is_refused_in_an_orderly_way(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "r.yaml"
    file.write_bytes(data)
    try:
        config = load([file])
    except ConfigError as error:
        messages = [str(problem) for problem in error.problems]
    else:
        assert config.routes == (), "no more than an empty list can be drawn"
        return
    assert messages
    for message in messages:
        assert message.startswith(str(file))
        assert message.isprintable(), "one line, and nothing that a terminal would obey"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("[::1]:80", "[::1]:80"),
        (":80", "[::]:80"),
        ("[0:0:0:0:0:0:0:1]:1", "[::1]:1"),
        ("unix:/run/a b.sock", "unix:/run/a b.sock"),
    ],
)
def test_addresses(text: str, expected: str) -> None:
    address = Address.parse(text)
    assert str(address) == expected
    assert Address.parse(str(address)) == address
    family = {"u": socket.AF_UNIX, "[": socket.AF_INET6}.get(expected[0], socket.AF_INET)
    assert address.family == family


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("0s", 0.0),
        ("250ms", 0.25),
        ("10s", 10.0),
        ("1h30m", 5400.0),
        ("2d", 172800.0),
        ("1.5s", 1.5),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert parse_duration(format_duration(seconds)) == seconds
