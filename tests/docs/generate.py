"""The pages of the reference that are made of what the program declares: `make generated` writes
them, tests/docs/test_generated.py compares them with what is in git."""

from __future__ import annotations

import inspect
import json
import os
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from tcpmux import __version__
from tcpmux.cli.app import cli
from tcpmux.cli.commands import COMMANDS, named
from tcpmux.config import Address, Config, Route
from tcpmux.config.model import Admin, Destination
from tcpmux.control.metrics import Metrics
from tcpmux.control.openapi import document
from tcpmux.control.operations import OPERATIONS
from tcpmux.shm._image import publish_image
from tcpmux.shm._live import Live
from tcpmux.shm._table import Table
from tcpmux.shm.build import build_image
from tcpmux.shm.counters import ROWS
from tcpmux.shm.slots import Names
from tcpmux.shm.view import View
from tests.docs.pages import ROOT, on_github
from tests.unit.reference import Path, nodes_of
from tests.unit.watching import conditions_of

NOTE = "<!-- Made by tests/docs/generate.py: edit what it is made of, then `make generated`. -->\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """With cells in which no character ends a cell."""
    lines = [head, *rows]
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    made = [f"| {' | '.join(line)} |" for line in cells]
    return "\n".join([made[0], "|" + "---|" * len(head), *made[1:]]) + "\n"


def fenced(language: str, text: str, directive: str = "") -> str:
    said = f"<!-- {directive} -->\n" if directive else ""
    return f"{said}```{language}\n{text.rstrip()}\n```\n"


# --- commands -----------------------------------------------------------------------------------


def commands() -> str:
    parts = [
        (
            f"# Commands\n\n{NOTE}\nThis is what `tcpmux --help` and `tcpmux COMMAND --help` say. "
            "[Exit codes](exit-codes.md) are the same for all.\n\n"
        ),
        table(
            ("command", ""),
            [(f"[`{row.name}`](#tcpmux-{row.name})", row.summary) for row in COMMANDS],
        ),
        "\nOptions of `tcpmux` itself, which starts an instance:\n\n",
        options(cli),
    ]
    for row in COMMANDS:
        command = named(row.name)
        context = context_of(command, f"tcpmux {row.name}")
        usage = command.get_usage(context).removeprefix("Usage: ")
        parts += [f"\n## tcpmux {row.name}\n\n", fenced("text", usage), "\n", helped(command)]
        parts += ["\n", options(command)]
    return "".join(parts)


def helped(command: click.Command) -> str:
    """Its help: paragraphs, and what is laid out as it stands, which is examples."""
    found = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(command.help or "")):
        if not paragraph.startswith("\b\n"):
            found.append(prose(" ".join(paragraph.split())))
            continue
        lines = paragraph.removeprefix("\b\n").splitlines()
        shown: list[str] = []
        for line in lines:
            if line.startswith(" "):
                shown.append(line)
            else:
                found += [shown_block(shown)] * bool(shown) + [prose(line.strip())]
                shown = []
        found += [shown_block(shown)] * bool(shown)
    return "\n\n".join(found) + "\n"


def escaped(text: str) -> str:
    text = text.replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([*\[\]])", r"\\\1", text)


def shown_block(lines: list[str]) -> str:
    # What follows an example after some blanks says what it does.
    text = re.sub(r"(?m)(?<=\S)( {3,})(?=\w)", r"\1# ", textwrap.dedent("\n".join(lines)))
    is_shell = text.lstrip().startswith("tcpmux")
    return fenced("sh" if is_shell else "text", text).rstrip()


def prose(text: str) -> str:
    """Characters that Markdown would take for its own."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else escaped(part) for part in parts)


def context_of(command: click.Command, name: str) -> click.Context:
    return click.Context(command, info_name=name, **cli.context_settings)


def options(command: click.Command) -> str:
    context = context_of(command, "tcpmux")
    rows = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            # A command remembers its first help option, whatever context that was made for.
            is_help = "--help" in parameter.opts
            names = ", ".join(context.help_option_names) if is_help else record[0]
            rows.append((f"`{names}`", prose(" ".join(record[1].split()))))
    return table(("option", ""), rows)


# --- configuration ------------------------------------------------------------------------------

# Mappings with keys of their own in the reference, and the words for a heading.
SECTIONS = {
    "": "The instance",
    "admin": "admin",
    "log": "log",
    "access_log": "access_log",
    "buffers": "buffers",
    "dns": "dns",
    "fleet": "fleet",
    "fleet.etcd": "fleet.etcd",
    "defaults": "defaults",
    "routes[]": "routes[]",
    "routes[].destinations[]": "destinations[]",
    "routes[].destinations[].endpoints[]": "endpoints[]",
}


CONFIGURATION = """\
Every key of a routes file, with its default or an example, and its range. `configs/reference.yaml`
has all of it in one file that loads; this page is made from it.

- Durations: `250ms`, `10s`, `1h30m`, `2d`. Sizes: `64KiB`, `1MiB`. Shares: `20%`.
- `-c` names files and directories, and may be repeated: routes are put together, and any other key
  may stand in one file only. See [Reload a changed file](../how-to/reload.md#several-files).
- `${NAME}` and `${NAME:-default}` stand for what is in the environment of the instance; `$$` is a
  `$`. Within `{ }` YAML wants quotes around them.
- Anchors and merge keys (`<<: *anchor`) are YAML's.

`tcpmux check -c FILE` reports every mistake, with line and column.
"""


@dataclass
class Entry:
    """Keys with the comment above them. heading: of a section, without keys."""

    comment: list[str]
    heading: str = ""
    lines: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)


def configuration() -> str:
    text = (ROOT / "configs/reference.yaml").read_text()
    head, _, _ = text.partition("\n\n")
    parts = [
        f"# Configuration\n\n{NOTE}\n",
        CONFIGURATION,
        f"\n## {SECTIONS['']}\n",
    ]
    for entry in entries_of(text, len(head.splitlines())):
        if entry.heading:
            parts.append(f"\n## {entry.heading}\n")
        elif entry.keys:
            parts.append(f"\n### {', '.join(f'`{key}`' for key in entry.keys)}\n")
        if entry.comment:
            parts.append(f"\n{commented(entry.comment)}\n")
        if entry.lines and not re.fullmatch(r" *\w+:", "\n".join(entry.lines)):
            shown = textwrap.dedent("\n".join(entry.lines))
            parts.append("\n" + fenced("yaml", shown, "of: reference"))
    return "".join(parts)


def entries_of(text: str, first: int) -> Iterator[Entry]:
    """In the order of the file, from a line on. Where a key stands again, it is left out."""
    reading = Reading(text)
    for number, line in enumerate(text.splitlines()):
        if number >= first and line.strip():
            yield from reading.line(number, line)
    yield reading.entry


class Reading:
    """Of reference.yaml, line by line; each returns the entries that it ends."""

    def __init__(self, text: str) -> None:
        self.paths: dict[int, Path] = {}
        for path, node in nodes_of(text).items():
            self.paths.setdefault(node.line, path)
        self.seen: set[str] = set()
        self.comment: list[str] = []
        self.entry = Entry([])
        self.section = ""

    def line(self, number: int, line: str) -> list[Entry]:
        path = self.paths.get(number)
        if line.lstrip().startswith("#"):
            self.comment.append(line.lstrip()[1:])
            return []
        if path is None:  # an item of a list, or a part of a value
            self.entry.lines.append(line)
            return []
        name = written_path(path)
        opened = f"{name}[]" if f"{name}[]" in SECTIONS else name
        comment, self.comment = self.comment, []
        if opened in SECTIONS:
            return [] if opened in self.seen else self.open(opened, comment)
        if any(said.strip().startswith("Any key of `defaults`") for said in comment):
            ended = self.end() + [Entry(comment)] * (self.section == "routes[]")
            self.section = ""
            return ended
        if name in self.seen or again(path, self.seen):
            return []
        self.seen.add(name)
        ended = self.end(comment) if comment or not self.entry.keys else []
        key = name[name.rfind("[]", 0, name.rfind("[]")) :] if name.count("[]") > 1 else name
        key = key.removeprefix("[].")
        if not (self.entry.keys and key.startswith(f"{self.entry.keys[0]}.")):
            self.entry.keys.append(key)
        self.entry.lines.append(re.sub(r"^( *)- ", r"\1  ", line))
        return ended

    def open(self, section: str, comment: list[str]) -> list[Entry]:
        self.seen.add(section)
        self.section = section
        return [*self.end(), Entry(comment, SECTIONS[section])]

    def end(self, comment: Sequence[str] = ()) -> list[Entry]:
        """The entry so far, if it has keys; another one begins."""
        ended = [self.entry] * bool(self.entry.keys)
        self.entry = Entry(list(comment))
        return ended


def again(path: Path, seen: set[str]) -> bool:
    """Whether a route, a destination or an endpoint has it that is not the first one shown; or it
    is a key of `defaults`, in another place."""
    inside = written_path(path[:-1])
    return inside in SECTIONS and inside.startswith("routes") and f"defaults.{path[-1]}" in seen


def written_path(path: Path) -> str:
    """("routes", 0, "name") -> routes[].name."""
    return "".join("[]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")


def commented(lines: list[str]) -> str:
    """A comment as Markdown: paragraphs; what is indented is a list of words with their meaning."""
    made: list[str] = []
    for line in lines:
        listed = re.match(r"^ {3}(\S.*?) {2,}(.+)$", line)
        more = re.match(r"^ {5,}(\S.*)$", line)
        if re.match(r"^ (?:    \S|yaml-language-server)", line) or not line.strip():
            made.append("" if not line.strip() else f"`{line.strip()}`")
        elif listed:
            words = ", ".join(f"`{word}`" for word in listed[1].split(", "))
            made += ["", *([""] if made and not made[-1].startswith("- ") else [])][1:]
            made.append(f"- {words}: {prose(listed[2])}")
        elif more and made:
            made[-1] += f" {prose(more[1].strip())}"
        else:
            made.append(prose(line.strip()))
    return "\n".join(made).strip()


# --- metrics ------------------------------------------------------------------------------------

KINDS = {
    "slot": ("Of a route, destination or endpoint", "unit", ""),
    "close": (
        "Reasons why connections end",
        "flag",
        (
            "Label `reason` of `tcpmux_connections_closed_total`. `flag` is what access logs have "
            "as `response_flags`."
        ),
    ),
    "pick": (
        "Reasons why a destination was picked",
        "",
        "Label `reason` of `tcpmux_picks_total`, and `pick_reason` of access logs.",
    ),
    "time": (
        "Histograms",
        "bounds",
        "Per destination; microseconds in the status, seconds in metrics.",
    ),
    "worker": ("Of a worker", "unit", ""),
}


def metrics() -> str:
    families = exposed()
    parts = [
        f"# Metrics\n\n{NOTE}\n",
        (
            "`GET /metrics` has them as text, and as OpenMetrics where a client asks for that: "
            "see [Monitoring](../how-to/monitoring.md). Counters start with the instance and "
            "continue through reloads, upgrades and deaths of processes. Byte counters move while "
            "a connection is open.\n\n"
        ),
    ]
    for title, prefix in (("Istio's", "istio_"), ("Those of tcpmux", "tcpmux_")):
        rows = [
            (f"`{name}`", kind, ", ".join(f"`{label}`" for label in labels), prose(said))
            for name, (kind, said, labels) in families.items()
            if name.startswith(prefix)
        ]
        parts.append(f"## {title}\n\n{table(('metric', 'type', 'labels', ''), rows)}\n")
    parts.append(
        "## Counters\n\nThe same counters are in `tcpmux stats` and, under `counters`, `closed` "
        "and `picked`, in `tcpmux status --json`.\n"
    )
    parts += [counters(kind) for kind in KINDS]
    return "".join(parts)


def counters(kind: str) -> str:
    """A section: the rows of csrc/counters.def of one kind."""
    title, unit, said = KINDS[kind]
    has_metric = kind in ("slot", "time", "worker")
    head = ["counter", *([unit] if unit else []), *(["metric"] if has_metric else []), ""]
    lines = []
    for row in ROWS:
        if row.kind == kind:
            metric = f"`{row.metric}`" if row.metric else ""
            cells = [f"`{row.name}`", *([row.unit] if unit else [])]
            lines.append([*cells, *([metric] if has_metric else []), prose(row.help)])
    return f"\n### {title}\n\n" + (f"{said}\n\n" if said else "") + table(head, lines)


# Of metrics that have no sample where nothing runs.
LABELS = {
    "tcpmux_worker_": ["worker"],
    "tcpmux_program_": ["program"],
    "tcpmux_accept_queue_": ["route", "listen"],
    "tcpmux_destination_": ["route", "destination"],
    "tcpmux_connect": ["route", "destination"],
    "tcpmux_first_byte_seconds": ["route", "destination"],
    "tcpmux_early_close_seconds": ["route", "destination"],
    "tcpmux_rollout_p_value": ["route", "destination", "measure"],
    "tcpmux_rollout_hook_failures_total": ["route", "hook"],
    "tcpmux_rollout_": ["route", "destination"],
    "tcpmux_rollouts_": ["route", "end"],
    "tcpmux_fleet_": ["fleet"],
}


def exposed() -> dict[str, tuple[str, str, list[str]]]:
    """Of an instance with a route: each metric with its type, help and labels."""
    listen, endpoint = Address("127.0.0.1", 31400, ""), Address("127.0.0.1", 9001, "")
    route = Route("tcp-echo", (listen,), (Destination("v1", 80, (endpoint,)),))
    config = Config(None, None, Admin("/x"), 45.0, (route,))
    region, live = Table.create(1, 1, os.getpid(), 1_700_000_000), Live.create(0, 16)
    publish_image(region, build_image(config, {}, Names.new(lambda _: True), {listen: 0}, 1, {}))
    view = View(region.fd, [live.fd])
    text = Metrics(view, __version__, conditions_of(view)).text()
    found: dict[str, tuple[str, str, list[str]]] = {}
    for name, said in re.findall(r"^# HELP (\S+) (.*)$", text, re.MULTILINE):
        kind = re.search(rf"^# TYPE {name} (\w+)$", text, re.MULTILINE)
        assert kind
        sample = re.search(rf"^{name}(?:_bucket)?\{{(.*)\}} ", text, re.MULTILINE)
        unseen = [names for prefix, names in LABELS.items() if name.startswith(prefix)]
        labels = re.findall(r'(\w+)="', sample[1]) if sample else [*unseen, []][0]
        found[name] = kind[1], said, labels + ["le"] * (kind[1] == "histogram")
    return found


# --- API ----------------------------------------------------------------------------------------


def api() -> str:
    made = document(OPERATIONS, __version__)
    parts = [
        f"# API\n\n{NOTE}\n",
        (
            "HTTP and JSON, on the admin socket and, if `admin.http` is set, over TCP: see "
            "[The API and its clients](../how-to/api.md). The instance describes it as OpenAPI at "
            "`/v1/openapi.json`. `GET` changes nothing. What is refused is answered with "
            '`{"error": "..."}`.\n\n'
        ),
    ]
    rows = []
    details = []
    for path, methods in made["paths"].items():
        for method, operation in methods.items():
            title = f"{method.upper()} {path}"
            anchor = on_github(title)
            rows.append((f"[`{title}`](#{anchor})", prose(operation["summary"])))
            details.append(described(title, operation))
    parts += [table(("request", ""), rows), *details]
    refusals = next(iter(next(iter(made["paths"].values())).values()))["responses"]
    parts.append("\n## Refusals\n\n")
    parts.append(
        table(
            ("status", ""),
            [(code, prose(of["description"])) for code, of in refusals.items() if int(code) >= 400],
        )
    )
    parts.append("\n## Types\n")
    for name, schema in sorted(made["components"]["schemas"].items()):
        parts.append(f"\n### {name}\n\n")
        parts.append(
            table(
                ("field", "type"),
                [(f"`{key}`", typed(of)) for key, of in schema["properties"].items()],
            )
        )
    return "".join(parts)


def described(title: str, operation: dict[str, Any]) -> str:
    said = [f"\n## {title}\n\n{prose(operation['description'] or operation['summary'])}\n"]
    inputs = [(f"`{of['name']}`", of["in"], typed(of["schema"])) for of in operation["parameters"]]
    body = operation.get("requestBody")
    if body:
        schema = body["content"]["application/json"]["schema"]
        inputs += [
            (f"`{name}`", "body", typed(of)) for name, of in schema.get("properties", {}).items()
        ]
    if inputs:
        said.append("\n" + table(("parameter", "in", ""), inputs))
    code, answer = next(iter(operation["responses"].items()))
    ((media, content),) = answer["content"].items()
    said.append(f"\nAnswer: {code}, `{media}`, {typed(content['schema'])}.\n")
    return "".join(said)


def typed(schema: dict[str, Any]) -> str:
    """A JSON schema in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(typed(of) for of in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {typed(schema['items'])}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"object of {typed(schema['additionalProperties'])}"
    kind = str(schema.get("type", "any"))
    low, high = schema.get("minimum"), schema.get("maximum")
    return f"{kind}, {low}..{high}" if low is not None and high is not None else kind


PAGES: dict[str, Callable[[], str]] = {
    "reference/commands.md": commands,
    "reference/configuration.md": configuration,
    "reference/metrics.md": metrics,
    "reference/api.md": api,
}
