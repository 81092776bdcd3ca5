"""Every kind of mistake in a configuration, with the exact message it gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tcpmux.config import ConfigError, load

GOOD = """routes:
  - name: r
    listen: 127.0.0.1:1
    destinations:
      - name: v1
        endpoints: [127.0.0.1:2]
"""


class Case:
    """A bad file and the lines that it is answered with."""

    def __init__(self, name: str, text: str, *expected: str) -> None:
        self.name = name
        self.text = text
        self.expected = expected


def top(lines: str) -> str:
    """GOOD with lines before it."""
    return lines + GOOD


def rt(line: str) -> str:
    """GOOD with one line more in its route."""
    return GOOD.replace("    destinations", line + "    destinations")


def dest(lines: str) -> str:
    """GOOD with other lines in its destination, after the name."""
    return GOOD.replace("        endpoints: [127.0.0.1:2]\n", lines)


CASES = [
    Case("empty", "", "r.yaml: the file is empty"),
    Case("comment only", "# nothing\n", "r.yaml: the file is empty"),
    Case("scalar", "hello", "r.yaml:1:1: expected a mapping with keys such as routes, got hello"),
    Case("list", "- a\n", "r.yaml:1:1: expected a mapping with keys such as routes, got a list"),
    Case(
        "null document",
        "---\n",
        "r.yaml: the file is empty",
    ),
    Case("not yaml", "routes: [", "r.yaml:2:1: not YAML: did not find expected node content"),
    Case(
        "tab", "routes:\n\t- a", "r.yaml:2:1: not YAML: found character that cannot start any token"
    ),
    Case(
        "two documents",
        GOOD + "---\n" + GOOD,
        "r.yaml:9:11: routes[0].name: a route named r is already at r.yaml:2:11",
        "r.yaml:10:13: routes[0].listen: a listener on 127.0.0.1:1 is already at r.yaml:3:13",
    ),
    Case("undefined alias", "routes: *nope", "r.yaml:1:9: not YAML: no anchor named nope"),
    Case(
        "python tag",
        "routes: !!python/object/apply:os.system ['true']",
        "r.yaml:1:9: routes: tags are not supported, got tag:yaml.org,2002:python/object/apply:os.system",
        "r.yaml:1:42: routes[0]: expected a mapping, got true",
    ),
    Case("own tag", "routes: !mine []", "r.yaml:1:9: routes: tags are not supported, got !mine"),
    Case(
        "duplicate key",
        top("workers: 1\nworkers: 2\n"),
        "r.yaml:2:1: workers: given twice, first at line 1 column 1",
    ),
    Case(
        "unknown top", top("worker: 2\n"), "r.yaml:1:1: unknown key worker: did you mean workers?"
    ),
    Case(
        "unknown far",
        top("frobnicate: 2\n"),
        "r.yaml:1:1: unknown key frobnicate: there are: workers, busy_poll, drain_timeout, user, group, state_dir, admin, log, access_log, buffers, dns, fleet, defaults, routes",
    ),
    Case(
        "buffer of a client",
        top("buffers: {client: 1KiB}\n"),
        "r.yaml:1:19: buffers.client: expected 4KiB..1GiB, got 1KiB",
    ),
    Case(
        "buffer of a pipe",
        top("buffers: {pipe: 2MiB}\n"),
        "r.yaml:1:17: buffers.pipe: expected 64KiB..1MiB, got 2MiB",
    ),
    Case(
        "all buffers",
        top("buffers: {total: 5}\n"),
        "r.yaml:1:18: buffers.total: expected a size such as 1MiB, off or auto, got 5",
    ),
    Case(
        "unknown in route",
        rt("    lisen: x\n"),
        "r.yaml:4:5: routes[0]: unknown key lisen: did you mean listen?",
    ),
    Case(
        "unknown in destination",
        dest("        wieght: 3\n        endpoints: []\n"),
        "r.yaml:6:9: routes[0].destinations[0]: unknown key wieght: did you mean weight?",
    ),
    Case(
        "unknown in admin",
        top("admin: {sokcet: /x}\n"),
        "r.yaml:1:9: admin: unknown key sokcet: did you mean socket?",
    ),
    Case("routes missing", "workers: 2\n", "r.yaml: routes is missing"),
    Case("routes text", "routes: tcp\n", "r.yaml:1:9: routes: expected a list, got tcp"),
    Case("routes null", "routes:\n", "r.yaml:1:8: routes: expected a list, got nothing"),
    Case("route is text", "routes: [x]\n", "r.yaml:1:10: routes[0]: expected a mapping, got x"),
    Case(
        "no listen",
        GOOD.replace("    listen: 127.0.0.1:1\n", ""),
        "r.yaml:2:5: routes[0]: listen is missing",
    ),
    Case(
        "no name", GOOD.replace("- name: r\n    ", "- "), "r.yaml:2:5: routes[0]: name is missing"
    ),
    Case(
        "no destinations",
        "routes:\n  - name: r\n    listen: 127.0.0.1:1\n",
        "r.yaml:2:5: routes[0]: destinations is missing",
    ),
    Case(
        "empty destinations",
        "routes:\n  - name: r\n    listen: 127.0.0.1:1\n    destinations: []\n",
        "r.yaml:4:19: routes[0].destinations: expected at least one entry, got none",
    ),
    Case("no endpoints", dest(""), "r.yaml:5:9: routes[0].destinations[0]: endpoints is missing"),
    Case(
        "name number",
        GOOD.replace("name: r", "name: 12"),
        "r.yaml:2:11: routes[0].name: expected a name, got 12 (put it in quotes)",
    ),
    Case(
        "name bool",
        GOOD.replace("name: r", "name: yes"),
        "r.yaml:2:11: routes[0].name: expected a name, got yes (put it in quotes)",
    ),
    Case(
        "name digits",
        GOOD.replace("name: r", "name: 007"),
        "r.yaml:2:11: routes[0].name: expected a name, got 007 (put it in quotes)",
    ),
    Case(
        "fallback digits",
        rt("    on_unavailable: {fallback: 007}\n"),
        "r.yaml:4:32: routes[0].on_unavailable.fallback: expected a name, got 007 (put it in quotes)",
    ),
    Case(
        "weight in quotes",
        dest("        weight: '5'\n        endpoints: []\n"),
        'r.yaml:6:17: routes[0].destinations[0].weight: expected 0..1000000, got the string "5": write it without quotes',
    ),
    Case(
        "weight as it stands there",
        dest("        weight: 1_000_000_000\n        endpoints: []\n"),
        "r.yaml:6:17: routes[0].destinations[0].weight: expected 0..1000000, got 1_000_000_000",
    ),
    Case(
        "workers in quotes",
        top("workers: '2'\n"),
        'r.yaml:1:10: workers: expected auto or 1..64, got the string "2": write it without quotes',
    ),
    Case(
        "boolean in quotes",
        top("access_log: {path: /x, start: 'true'}\n"),
        'r.yaml:1:31: access_log.start: expected true or false, got the string "true": write it without quotes',
    ),
    Case(
        "level of the log",
        top("log: {level: warn}\n"),
        "r.yaml:1:14: log.level: expected one of debug, info, warning, error, got warn",
    ),
    Case(
        "format of the log",
        top("log: {format: [json]}\n"),
        "r.yaml:1:15: log.format: expected one of text, json, got a list",
    ),
    Case(
        "target of the log",
        top("log: {target: /var/log/x}\n"),
        "r.yaml:1:15: log.target: expected one of stderr, journal, syslog, file, got /var/log/x",
    ),
    Case(
        "file of the log",
        top("log: {target: file, file: x}\n"),
        "r.yaml:1:27: log.file: expected an absolute path, got x",
    ),
    Case(
        "target of the log without its file",
        top("log: {target: file}\n"),
        "r.yaml:1:6: log: target file and a path at `file` belong together",
    ),
    Case(
        "file of the log without its target",
        top("log: {file: /x}\n"),
        "r.yaml:1:6: log: target file and a path at `file` belong together",
    ),
    Case(
        "port with many digits",
        GOOD.replace("127.0.0.1:1\n", "127.0.0.1:00000999999\n"),
        "r.yaml:3:13: routes[0].listen: expected a port from 1 to 65535 after the last colon, got 127.0.0.1:00000999999",
    ),
    Case(
        "percent with many digits",
        rt("    retry: {budget: 00000000199999%}\n"),
        "r.yaml:4:21: routes[0].retry.budget: expected 0%..100%, got 00000000199999%",
    ),
    Case(
        "weight with many digits",
        dest(f"        weight: {'9' * 5001}\n        endpoints: []\n"),
        f"r.yaml:6:17: routes[0].destinations[0].weight: expected 0..1000000, got {'9' * 57}...",
    ),
    Case(
        "duration with many digits",
        rt(f"    idle_timeout: {'9' * 5001}s\n"),
        f"r.yaml:4:19: routes[0].idle_timeout: expected a duration such as 10s, 250ms or 1h30m, got {'9' * 57}...",
    ),
    Case(
        "name chars",
        GOOD.replace("name: r", "name: 'a b'"),
        "r.yaml:2:11: routes[0].name: expected 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit, got a b",
    ),
    Case(
        "name long",
        GOOD.replace("name: r", "name: " + "x" * 64),
        "r.yaml:2:11: routes[0].name: expected 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit, got xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...",
    ),
    Case(
        "name empty",
        GOOD.replace("name: r", "name: ''"),
        "r.yaml:2:11: routes[0].name: expected 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit, got an empty string",
    ),
    Case(
        "name newline",
        GOOD.replace("name: r", 'name: "a\\nb"'),
        "r.yaml:2:11: routes[0].name: expected 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit, got a\\nb",
    ),
    Case(
        "weight negative",
        dest("        weight: -5\n        endpoints: []\n"),
        "r.yaml:6:17: routes[0].destinations[0].weight: expected 0..1000000, got -5",
    ),
    Case(
        "weight large",
        dest("        weight: 1000001\n        endpoints: []\n"),
        "r.yaml:6:17: routes[0].destinations[0].weight: expected 0..1000000, got 1000001",
    ),
    Case(
        "weight text",
        dest("        weight: many\n        endpoints: []\n"),
        "r.yaml:6:17: routes[0].destinations[0].weight: expected 0..1000000, got many",
    ),
    Case(
        "weight float",
        dest("        weight: 0.5\n        endpoints: []\n"),
        "r.yaml:6:17: routes[0].destinations[0].weight: expected 0..1000000, got 0.5",
    ),
    Case(
        "weight bool",
        dest("        weight: true\n        endpoints: []\n"),
        "r.yaml:6:17: routes[0].destinations[0].weight: expected 0..1000000, got true",
    ),
    Case(
        "weight null",
        dest("        weight:\n        endpoints: []\n"),
        "r.yaml:6:16: routes[0].destinations[0].weight: expected 0..1000000, got nothing",
    ),
    Case(
        "workers zero", top("workers: 0\n"), "r.yaml:1:10: workers: expected auto or 1..64, got 0"
    ),
    Case(
        "workers many", top("workers: 65\n"), "r.yaml:1:10: workers: expected auto or 1..64, got 65"
    ),
    Case(
        "workers text",
        top("workers: all\n"),
        "r.yaml:1:10: workers: expected auto or 1..64, got all",
    ),
    Case(
        "drain bare",
        top("drain_timeout: 45\n"),
        "r.yaml:1:16: drain_timeout: expected a duration such as 10s, 250ms or 1h30m, got 45",
    ),
    Case(
        "drain text",
        top("drain_timeout: soon\n"),
        "r.yaml:1:16: drain_timeout: expected a duration such as 10s, 250ms or 1h30m, got soon",
    ),
    Case(
        "drain long",
        top("drain_timeout: 8d\n"),
        "r.yaml:1:16: drain_timeout: expected 0s..7d, got 8d",
    ),
    Case(
        "connect zero",
        rt("    connect_timeout: 0s\n"),
        "r.yaml:4:22: routes[0].connect_timeout: expected 1ms..1h, got 0s",
    ),
    Case(
        "connect list",
        rt("    connect_timeout: [1]\n"),
        "r.yaml:4:22: routes[0].connect_timeout: expected a duration such as 10s, 250ms or 1h30m, got a list",
    ),
    Case(
        "idle negative",
        rt("    idle_timeout: -1s\n"),
        "r.yaml:4:19: routes[0].idle_timeout: expected a duration such as 10s, 250ms or 1h30m, got -1s",
    ),
    Case(
        "socket relative",
        top("admin: {socket: tcpmux.sock}\n"),
        "r.yaml:1:17: admin.socket: expected an absolute path of at most 107 bytes, got tcpmux.sock",
    ),
    Case(
        "http without a token",
        top("admin:\n  http: 127.0.0.1:9901\n"),
        "r.yaml:2:9: admin.http: anyone who can connect to 127.0.0.1:9901 could change everything: set token_file, or insecure: true to allow that",
    ),
    Case(
        "token and insecure",
        top("admin: {http: ':9901', insecure: true, token_file: /t}\n"),
        "r.yaml:1:34: admin.insecure: expected either this or a token_file, got both",
    ),
    Case(
        "read-only token and insecure",
        top("admin: {http: ':9901', insecure: true, read_only_token_file: /t}\n"),
        "r.yaml:1:34: admin.insecure: expected either this or a read_only_token_file, got both",
    ),
    Case(
        "read-only token relative",
        top("admin: {http: ':9901', read_only_token_file: t}\n"),
        "r.yaml:1:46: admin.read_only_token_file: expected an absolute path, got t",
    ),
    Case(
        "insecure text",
        top("admin: {insecure: maybe}\n"),
        "r.yaml:1:19: admin.insecure: expected true or false, got maybe",
    ),
    Case(
        "admin text",
        top("admin: /run/x.sock\n"),
        "r.yaml:1:8: admin: expected a mapping, got /run/x.sock",
    ),
    Case(
        "listen no port",
        GOOD.replace("127.0.0.1:1\n", "127.0.0.1\n", 1),
        "r.yaml:3:13: routes[0].listen: expected IP:port, [IPv6]:port or unix:/path, got 127.0.0.1",
    ),
    Case(
        "listen port 0",
        GOOD.replace("127.0.0.1:1\n", "127.0.0.1:0\n", 1),
        "r.yaml:3:13: routes[0].listen: expected a port from 1 to 65535 after the last colon, got 127.0.0.1:0",
    ),
    Case(
        "listen big port",
        GOOD.replace("127.0.0.1:1\n", "127.0.0.1:65536\n", 1),
        "r.yaml:3:13: routes[0].listen: expected a port from 1 to 65535 after the last colon, got 127.0.0.1:65536",
    ),
    Case(
        "listen name",
        GOOD.replace("127.0.0.1:1\n", "localhost:1\n", 1),
        "r.yaml:3:13: routes[0].listen: expected a numeric IP before the port, got localhost:1",
    ),
    Case(
        "listen v6 bare",
        GOOD.replace("127.0.0.1:1\n", "::1:80\n", 1),
        "r.yaml:3:13: routes[0].listen: expected an IPv6 address in brackets: [::1]:80, got ::1:80",
    ),
    Case(
        "listen unix relative",
        GOOD.replace("127.0.0.1:1\n", "unix:x\n", 1),
        "r.yaml:3:13: routes[0].listen: expected an absolute path after unix:, got unix:x",
    ),
    Case(
        "listen unix long",
        GOOD.replace("127.0.0.1:1\n", "unix:/" + "x" * 107 + "\n", 1),
        "r.yaml:3:13: routes[0].listen: expected a path of at most 107 bytes after unix:, got unix:/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...",
    ),
    Case(
        "listen empty list",
        GOOD.replace("127.0.0.1:1\n", "[]\n", 1),
        "r.yaml:3:13: routes[0].listen: expected at least one entry, got none",
    ),
    Case(
        "listen int",
        GOOD.replace("127.0.0.1:1\n", "80\n", 1),
        "r.yaml:3:13: routes[0].listen: expected IP:port, [IPv6]:port or unix:/path, got 80",
    ),
    Case(
        "endpoint any",
        dest("        endpoints: [0.0.0.0:1]\n"),
        "r.yaml:6:21: routes[0].destinations[0].endpoints[0]: expected the address of one endpoint, got 0.0.0.0:1",
    ),
    Case(
        "endpoint no host",
        dest("        endpoints: [':80']\n"),
        "r.yaml:6:21: routes[0].destinations[0].endpoints[0]: expected the address of one endpoint, got :80",
    ),
    Case(
        "endpoints text",
        dest("        endpoints: 127.0.0.1:1\n"),
        "r.yaml:6:20: routes[0].destinations[0].endpoints: expected a list, got 127.0.0.1:1",
    ),
    Case(
        "endpoint twice",
        dest("        endpoints: [127.0.0.1:1, 127.0.0.1:1]\n"),
        "r.yaml:6:34: routes[0].destinations[0].endpoints[1]: the endpoint 127.0.0.1:1 is already at r.yaml:6:21",
    ),
    Case(
        "destination twice",
        GOOD + "      - name: v1\n        endpoints: []\n",
        "r.yaml:7:15: routes[0].destinations[1].name: a destination named v1 is already at r.yaml:5:15",
    ),
    Case(
        "route twice",
        GOOD + GOOD[8:].replace(":1\n", ":3\n", 1),
        "r.yaml:7:11: routes[1].name: a route named r is already at r.yaml:2:11",
    ),
    Case(
        "listen twice",
        GOOD + GOOD[8:].replace("name: r", "name: s"),
        "r.yaml:8:13: routes[1].listen: a listener on 127.0.0.1:1 is already at r.yaml:3:13",
    ),
    Case(
        "several",
        top("workers: 0\n").replace("name: r", "nam: r"),
        "r.yaml:1:10: workers: expected auto or 1..64, got 0",
        "r.yaml:3:5: routes[0]: unknown key nam: did you mean name?",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_message(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(case.text)
    with pytest.raises(ConfigError) as caught:
        load(["r.yaml"])
    assert str(caught.value).splitlines() == list(case.expected)
    assert caught.value.exit_code == 2
