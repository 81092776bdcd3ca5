"""What a file may say besides plain values: variables, ranges, defaults, anchors, several files."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tcpmux.cli.fmt import formatted
from tcpmux.config import ConfigError, edit, load
from tcpmux.config.edit import NotSaved, save_weights
from tcpmux.config.native import scalar, to_text
from tcpmux.config.rewrite import Target
from tcpmux.config.schema import json_schema
from tcpmux.config.turns import MAX_TURNS, turns
from tests.support import patient
from tests.unit.calling import tcpmux

ROOT = Path(__file__).resolve().parents[2]
GOOD = """routes:
  - name: r
    listen: 127.0.0.1:1
    destinations:
      - {name: v1, weight: 80, endpoints: [127.0.0.1:2]}
      - {name: v2, weight: 20, endpoints: [127.0.0.1:3]}
"""


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str = "r.yaml") -> str:
    Path(name).write_text(text)
    return name


def mistakes(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load([write(text)])
    return [str(problem) for problem in caught.value.problems]


def test_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "7")
    monkeypatch.setenv("EMPTY", "")
    text = GOOD.replace("127.0.0.1:1", "127.0.0.1:${PORT}")
    text = text.replace("80", "'${EMPTY:-70}'").replace("20", '"${NONE:-30}"')
    route = load([write(text)]).routes[0]
    assert str(route.listen[0]) == "127.0.0.1:7"
    assert [d.weight for d in route.destinations] == [70, 30]
    (route,) = load([write(GOOD.replace("127.0.0.1:1", "'unix:/tmp/$$x'"))]).routes
    assert str(route.listen[0]) == "unix:/tmp/$x"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "127.0.0.1:1",
            "127.0.0.1:${NONE}",
            (
                "3:13: routes[0].listen: environment variable NONE is not set: set it, or write "
                "${NONE:-default}"
            ),
        ),
        (
            "80",
            "'${A B}'",
            (
                "5:28: routes[0].destinations[0].weight: expected ${NAME} or ${NAME:-default} "
                "($$ is a dollar sign), got ${A B}"
            ),
        ),
        (
            "127.0.0.1:1",
            ":9-5",
            (
                "3:13: routes[0].listen: expected a range of ports from low to high, such as "
                "9000-9010, got :9-5"
            ),
        ),
        (
            "127.0.0.1:1",
            ":1-99999",
            (
                "3:13: routes[0].listen: expected a port from 1 to 65535 after the last colon, "
                "got :1-99999"
            ),
        ),
        (
            "[127.0.0.1:2]",
            "[{address: 127.0.0.1:2, weight: 0}]",
            "5:75: routes[0].destinations[0].endpoints[0].weight: expected 1..256, got 0",
        ),
        (
            "[127.0.0.1:2]",
            "[{adress: 127.0.0.1:2}]",
            (
                "5:45: routes[0].destinations[0].endpoints[0]: unknown key adress: "
                "did you mean address?"
            ),
        ),
        (
            "[127.0.0.1:2]",
            "['srv:-x']",
            (
                "5:44: routes[0].destinations[0].endpoints[0]: expected a DNS name after srv:, "
                "got srv:-x"
            ),
        ),
        (
            "[127.0.0.1:2]",
            "['a b:1']",
            (
                "5:44: routes[0].destinations[0].endpoints[0]: expected an IP or a host name "
                "before the port, got a b:1"
            ),
        ),
        (
            "[127.0.0.1:2]",
            "[shop.example:0]",
            (
                "5:44: routes[0].destinations[0].endpoints[0]: expected a port from 1 to 65535 "
                "after the last colon, got shop.example:0"
            ),
        ),
        (
            "routes:",
            "dns: {servers: [ns.example]}\nroutes:",
            "1:17: dns.servers[0]: expected the IP or IP:port of a name server, got ns.example",
        ),
        (
            "routes:",
            "defaults: {idle_timout: 1s}\nroutes:",
            "1:12: defaults: unknown key idle_timout: did you mean idle_timeout?",
        ),
        (
            "weight: 80",
            "connect_timeout: 2h",
            "5:37: routes[0].destinations[0].connect_timeout: expected 1ms..1h, got 2h",
        ),
    ],
)
def test_mistakes(old: str, new: str, expected: str) -> None:
    assert f"r.yaml:{expected}" in mistakes(GOOD.replace(old, new, 1))


def test_a_range_of_ports_and_names_as_endpoints() -> None:
    text = GOOD.replace("127.0.0.1:1", "[':9000-9002', '[::1]:8']")
    text = text.replace("[127.0.0.1:2]", "[Shop.example:80, 'srv:_a._tcp.example']")
    config = load([write(text)])
    (route,) = config.routes
    assert [str(a) for a in route.listen] == ["[::]:9000", "[::]:9001", "[::]:9002", "[::1]:8"]
    assert sorted(map(str, config.host_names)) == ["shop.example:80", "srv:_a._tcp.example"]


def test_defaults_and_what_overrides_them() -> None:
    text = GOOD.replace("weight: 80", "weight: 80, idle_timeout: 5s")
    text = "defaults: {connect_timeout: 1s, idle_timeout: 1m}\n" + text
    (route,) = load([write(text)]).routes
    assert (route.connect_timeout, route.idle_timeout) == (1.0, 60.0)
    assert [(d.connect_timeout, d.idle_timeout) for d in route.destinations] == [
        (1.0, 5.0),
        (1.0, 60.0),
    ]


def test_anchors_and_merge_keys() -> None:
    text = """defaults: &slow {connect_timeout: 3s}
routes:
  - &r
    name: a
    listen: :1
    <<: *slow
    destinations: [{name: v, endpoints: []}]
  - <<: *r
    name: b
    listen: :2
"""
    first, second = load([write(text)]).routes
    assert (first.name, second.name) == ("a", "b")
    assert second.connect_timeout == 3.0
    assert second.destinations == first.destinations
    assert mistakes("<<: 5\n" + GOOD) == ["r.yaml:1:5: expected a mapping after <<"]


def test_a_directory_is_read_in_order_of_names() -> None:
    Path("d").mkdir()
    for name in ("b.yaml", "a.yml", "c.json", ".hidden.yaml", "x.txt"):
        destinations = [{"name": "v", "endpoints": []}]
        route = {"name": name[0], "listen": f":{ord(name[0])}", "destinations": destinations}
        (Path("d") / name).write_text(json.dumps({"routes": [route]}))
    assert [route.name for route in load(["d"]).routes] == ["a", "b", "c"]


def test_several_documents_in_a_file() -> None:
    text = "workers: 3\n---\n" + GOOD
    assert load([write(text)]).workers == 3


@pytest.mark.parametrize(
    ("weighted", "expected"),
    [
        ([("a", 1), ("b", 1)], "ab"),
        ([("a", 50), ("b", 50)], "ab"),
        ([("a", 2), ("b", 1)], "aba"),
        ([("a", 5), ("b", 1), ("c", 1)], "aabacaa"),
        ([("a", 0), ("b", 3)], "b"),
        ([("a", 0), ("b", 0)], "ab"),
        ([], ""),
    ],
)
def test_turns(weighted: list[tuple[str, int]], expected: str) -> None:
    assert "".join(turns(weighted)) == expected


def test_turns_are_bounded() -> None:
    found = turns([("a", 1_000_000), ("b", 1)])
    assert len(found) <= MAX_TURNS + 1
    assert found.count("b") == 1


# --- writing ----------------------------------------------------------------------------------


def test_a_config_written_out_is_the_same() -> None:
    text = """workers: 3
busy_poll: 'off'
buffers: {client: 64KiB, per_source: off, total: 1GiB}
drain_timeout: 5s
admin: {socket: "/tmp/a $$x.sock"}
dns: {servers: [127.0.0.1:5300]}
defaults: {connect_timeout: 2s}
routes:
  - name: "12"
    listen: ["[::1]:1", "unix:/tmp/a b", 127.0.0.1:5]
    idle_timeout: 0s
    destinations:
      - {name: "on", weight: 3, idle_timeout: 1h, endpoints: [{address: 127.0.0.1:2, weight: 3},
         shop.example:80]}
      - {name: v2, endpoints: []}
"""
    before = load([write(text)])
    after = load([write(to_text(before), "again.yaml")])
    assert after.routes == before.routes
    assert (
        after.workers,
        after.busy_poll,
        after.drain_timeout,
        after.admin,
        after.dns_servers,
        after.buffers,
    ) == (
        before.workers,
        before.busy_poll,
        before.drain_timeout,
        before.admin,
        before.dns_servers,
        before.buffers,
    )


@pytest.mark.parametrize("text", ["12", "1e5", "on", "0x10", "1:30", "~", "null", "a: b", "#", '"'])
def test_a_scalar_is_read_back_as_text(text: str) -> None:
    Path("s.yaml").write_text(f"admin: {{socket: {scalar('/' + text)}}}\nroutes: []\n")
    assert load(["s.yaml"]).admin.socket == "/" + text


def test_all_weights_0_is_said() -> None:
    found = load([write(GOOD.replace("80", "0").replace("20", "0"))])
    (warning,) = found.warnings
    assert str(warning).endswith(
        "routes[0].destinations: all weights are 0: every connection is reset until one has weight"
    )


# --- changing ---------------------------------------------------------------------------------


def test_saved_weights_touch_nothing_else() -> None:
    text = GOOD.replace("\n", "\r\n") + "# the end"
    Path("r.yaml").write_bytes(text.encode())
    Path("r.yaml").chmod(0o640)
    assert save_weights(["r.yaml"], "r", {"v1": 7}) == Path("r.yaml")
    assert Path("r.yaml").read_bytes().decode() == text.replace("80", "7")
    assert Path("r.yaml").stat().st_mode & 0o777 == 0o640


def test_a_weight_that_is_not_there_comes_after_the_name() -> None:
    text = (
        "routes:\n- name: r\n  listen: :1\n  destinations:\n  - endpoints: []\n    name: v1 # x\n"
    )
    write(text)
    save_weights(["r.yaml"], "r", {"v1": 5})
    assert Path("r.yaml").read_text() == text + "    weight: 5\n"
    write(GOOD.replace("weight: 80, ", ""))
    save_weights(["r.yaml"], "r", {"v1": 5})
    assert "{weight: 5, name: v1, endpoints" in Path("r.yaml").read_text()


@pytest.mark.parametrize(
    ("text", "route", "weights", "message"),
    [
        (GOOD, "x", {"v1": 1}, "route x is in no routes.yaml"),
        (GOOD, "r", {"v9": 1}, "no destination named v9"),
        (GOOD.replace("80", "'${W:-80}'"), "r", {"v1": 1}, "is not a number: edit it by hand"),
        (
            GOOD.replace("weight: 80", "weight: &w 80").replace("weight: 20", "weight: *w"),
            "r",
            {"v2": 1},
            "anchors|is not a number",
        ),
    ],
)
def test_what_cannot_be_saved_changes_nothing(
    text: str, route: str, weights: dict[str, int], message: str
) -> None:
    write(text)
    with pytest.raises(NotSaved, match=message):
        save_weights(["r.yaml"], route, weights)
    assert Path("r.yaml").read_text() == text
    assert [path.name for path in Path().iterdir()] == ["r.yaml"]


def test_a_file_that_somebody_else_changes_meanwhile_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(GOOD)
    replace = edit._replace

    def after_somebody_else(target: Target, *more: Any) -> None:
        target.path.write_text(GOOD + "# mine\n")
        replace(target, *more)

    monkeypatch.setattr(edit, "_replace", after_somebody_else)
    with pytest.raises(NotSaved, match="was changed meanwhile"):
        save_weights(["r.yaml"], "r", {"v1": 5})
    assert Path("r.yaml").read_text() == GOOD + "# mine\n"


def test_fmt_keeps_comments_and_is_stable() -> None:
    text = "# top\nroutes:\n- name: 'r' # why\n  listen: ':1'\n"
    text += "  destinations: [{name: v, endpoints: []}]\n"
    once = formatted(text)
    assert "# top" in once
    assert "  - name: 'r' # why" in once
    assert formatted(once) == once


# --- commands ---------------------------------------------------------------------------------


def test_check_as_json() -> None:
    def run() -> tuple[int, Any]:
        result = tcpmux("check", "--json", "-c", "r.yaml")
        return result.exit_code, json.loads(result.stdout)

    write(GOOD)
    code, found = run()
    assert (code, found["ok"], found["problems"]) == (0, True, [])
    assert found["routes"][0]["destinations"][0]["endpoints"] == ["127.0.0.1:2"]
    write(GOOD.replace("80", "-80"))
    code, found = run()
    assert (code, found["ok"]) == (2, False)
    (problem,) = found["problems"]
    assert (problem["line"], problem["column"]) == (5, 28)
    assert problem["where"] == "routes[0].destinations[0].weight"


def test_the_schema_that_is_shipped_is_the_one_of_the_types() -> None:
    shipped = json.loads((ROOT / "tcpmux/config/routes.schema.json").read_text())
    assert shipped == json_schema()
    result = tcpmux("schema")
    assert json.loads(result.stdout) == shipped


def test_on_a_terminal_the_line_and_a_caret_are_shown() -> None:
    write(GOOD.replace("80", "-80"))
    master, slave = pty.openpty()
    with open(master, "rb", buffering=0) as terminal:
        command = [sys.executable, "-m", "tcpmux", "check", "-c", "r.yaml"]
        code = subprocess.run(command, stderr=slave, timeout=patient(60), check=False).returncode
        os.close(slave)
        shown = terminal.read(4096).decode().replace("\r", "").splitlines()
    assert code == 2
    assert shown == [
        "r.yaml:5:28: routes[0].destinations[0].weight: expected 0..1000000, got -80",
        "        - {name: v1, weight: -80, endpoints: [127.0.0.1:2]}",
        " " * 29 + "^",
    ]


def test_an_editor_with_the_schema_agrees_with_us() -> None:
    schema = jsonschema.Draft202012Validator(json_schema())
    for name in ("reference.yaml", "minimal.yaml", "demo.yaml"):
        value = yaml.safe_load((ROOT / "configs" / name).read_text())
        assert list(schema.iter_errors(value)) == []
    wrong = yaml.safe_load(GOOD.replace("weight: 80", "wieght: 80").replace("20", "-20"))
    found = sorted(".".join(map(str, e.absolute_path)) for e in schema.iter_errors(wrong))
    assert found == ["routes.0.destinations.0", "routes.0.destinations.1.weight"]
