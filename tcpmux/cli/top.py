"""`tcpmux top`: a live view on a terminal."""

from __future__ import annotations

import os
import select
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from tcpmux.cli.conditions import SEVERITIES, place_of
from tcpmux.cli.converging import briefly
from tcpmux.cli.instance import client
from tcpmux.cli.output import (
    duration_text,
    human_bytes,
    human_seconds,
    percent,
    show_all_characters,
)
from tcpmux.cli.text import cut, fitted, fitted_end, padded
from tcpmux.cli.top_model import DESTINATION_SORTS, Figures, Model
from tcpmux.cli.where import Where, admin_option
from tcpmux.control.condition import COLORS
from tcpmux.control.schema import SORT_KEYS
from tcpmux.errors import TcpmuxError, plural, printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tcpmux.control.client import Client, Connection

BARS = " ▁▂▃▄▅▆▇█"
CONNECTIONS = 200  # fetched for the list
PROBLEMS = 3  # shown
HELP = "q quit  s sort routes  c sort connections  r reverse  / pause"


def sparkline(values: Iterator[float] | list[float], width: int) -> str:
    """One character for each of the last `width` values, between nothing and the greatest."""
    shown = list(values)[-width:]
    most = max(shown, default=0.0)
    if most <= 0:
        return (BARS[0] * len(shown)).rjust(width)
    steps = len(BARS) - 1
    return "".join(BARS[round(v / most * steps) if v > 0 else 0] for v in shown).rjust(width)


def _asked(row: Figures) -> str:
    return "-" if row.asked is None else percent(round(row.asked * 10000), 10000)


def _known(text: Callable[[Figures], str]) -> Callable[[Figures], str]:
    """Of a destination; of a rule only connections are counted."""
    return lambda row: "-" if row.is_rule else text(row)


# Of the list of destinations, after the name: head, width and text of each. The first of them are
# always shown, the rest where there is room.
COLUMNS: tuple[tuple[str, int, Callable[[Figures], str]], ...] = (
    ("CONDITION", 9, lambda row: row.condition.word),
    ("ASKED", 6, _asked),
    ("SEEN", 6, _known(lambda row: percent(*row.measured))),
    ("CONN/S", 6, lambda row: f"{row.connections:.0f}"),
    ("ACTIVE", 6, lambda row: str(row.active)),
    ("ERR/S", 5, _known(lambda row: f"{row.errors:.0f}")),
    ("BYTES/S", 9, _known(lambda row: human_bytes(int(row.bytes)))),
    ("WEIGHT", 7, _known(lambda row: str(row.weight))),
)
NARROW = 6
NAME = 14  # columns of a name, at least


@dataclass(slots=True)
class View:
    """What the user has chosen, and how it is drawn."""

    model: Model
    sort: int = 0
    reverse: bool = False
    connection_sort: int = 0
    paused: bool = False
    connections: list[Connection] = field(default_factory=list)
    connections_total: int = 0
    trouble: str = ""

    def key(self, key: str) -> bool:
        """False: the user wants to go."""
        if key in ("q", "Q", "\x03", "\x1b"):
            return False
        if key == "s":
            self.sort = (self.sort + 1) % len(DESTINATION_SORTS)
        elif key == "c":
            self.connection_sort = (self.connection_sort + 1) % len(SORT_KEYS)
        elif key == "r":
            self.reverse = not self.reverse
        elif key in ("/", "p", " "):
            self.paused = not self.paused
        return True

    def draw(self, width: int, height: int) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        lines = [self._head(width), *self._problems(width)]
        room = height - 4 - len(lines)
        rows = max(3, min(room * 3 // 5, self.model.row_count() + len(self.model.convergences)))
        lines += self._routes(width, rows)
        lines.append(Text(""))
        lines += self._connection_lines(width, max(0, height - len(lines) - 2))
        orders = DESTINATION_SORTS[self.sort], SORT_KEYS[self.connection_sort]
        order = f"by {' and '.join(orders)}{' reversed' * self.reverse}"
        lines.append(_line(f"{HELP}  ({order})", width, "dim"))
        return Group(*lines)

    def _problems(self, width: int) -> list[Any]:
        made = []
        for problem in self.model.problems[:PROBLEMS]:
            at = f"{problem['severity']}: {place_of(problem)}: {problem['text']}"
            made.append(_line(at, width, SEVERITIES.get(problem["severity"], "")))
        left = self.model.problems_total - len(made)
        if left > 0:
            made.append(_line(f"and {plural(left, 'problem')} more: tcpmux status", width))
        return made

    def _head(self, width: int) -> Any:
        table = self.model.table
        if not table:
            return _line(f"tcpmux: {self.trouble or 'connecting'}", width, "bold")
        nothing: dict[str, Any] = {"workers": [], "time": 0}
        sample = self.model.samples[-1] if self.model.samples else nothing
        workers = sample["workers"]
        current = sum(worker["generation"] >= table["generation"] for worker in workers)
        up = human_seconds(sample["time"] - table["started_at"])
        connections = plural(sum(w["connections"] for w in workers), "connection")
        text = (
            f"tcpmux {table['state']}, generation {table['generation']} in {current} of "
            f"{plural(len(workers), 'worker')}, {connections}, up {up}"
        )
        marks = [self.trouble] if self.trouble else []
        marks += ["paused"] if self.paused else []
        return _line(" | ".join([text, *marks]), width, "bold")

    def _routes(self, width: int, rows: int) -> list[Any]:
        columns, taken = COLUMNS[:NARROW], sum(size + 1 for _, size, _ in COLUMNS[:NARROW])
        for column in COLUMNS[NARROW:]:
            if width - taken - column[1] - 1 < NAME:
                break
            columns, taken = (*columns, column), taken + column[1] + 1
        trend = max(0, min(30, width - taken - NAME - 12)) if len(columns) == len(COLUMNS) else 0
        name = max(NAME, width - taken - trend - (trend > 0))
        heads = " ".join(f"{head:>{size}}" for head, size, _ in columns[1:])
        head = f"{'ROUTE/DESTINATION':<{name}} {'CONDITION':<{columns[0][1]}} {heads}"
        made = [_line(head, width, "reverse")]
        shown = self.model.rows(DESTINATION_SORTS[self.sort], rows, reverse=self.reverse)
        last_of = {row.route: number for number, row in enumerate(shown)}
        for number, row in enumerate(shown):
            label = fitted_end(f"{row.route}/{row.name}", name)
            figures = " ".join(f"{text(row):>{size}}" for _, size, text in columns[1:])
            line = f" {figures} {sparkline(row.trend, trend) if trend else ''}"
            made.append(
                _pieces(
                    width,
                    (f"{label} ", ""),
                    (f"{row.condition.word:<{columns[0][1]}}", COLORS.get(row.condition.word, "")),
                    (line, "red" if row.errors else ""),
                )
            )
            state = self.model.convergences.get(row.route)
            if state and last_of[row.route] == number:
                style = "yellow" if state["reason"] else "dim"
                made.append(_line(f"  {briefly(state)}", width, style))
        return made[: rows + 1]

    def _connection_lines(self, width: int, rows: int) -> list[Any]:
        sort = SORT_KEYS[self.connection_sort]
        head = f"{'CLIENT':<21} {'TO':<21} {'AGE':>7} {'IDLE':>7} {'IN':>9} {'OUT':>9}  "
        via = any(row.get("peer") for row in self.connections)
        title = f"{head}{'VIA':<21} " if via else head
        title += f"{self.connections_total} open, by {sort}"
        made = [_line(title, width, "reverse")]
        for row in self.connections[: max(0, rows - 1)]:
            to = f"{row['route']}/{row['destination'] or '-'}"
            text = (
                f"{fitted(row['client'], 21)} {fitted(to, 21)} {duration_text(row['age']):>7} "
                f"{duration_text(row['idle']):>7} {human_bytes(row['bytes_in']):>9} "
                f"{human_bytes(row['bytes_out']):>9}  {row.get('peer') or ''}"
            )
            made.append(_line(text, width))
        return made


def _line(text: str, columns: int, style: str = "") -> Any:
    """One row of the screen, whatever is in the text."""
    from rich.text import Text

    shown = cut(printable(text), columns)
    return Text(padded(shown, columns) if style == "reverse" else shown, style=style)


def _pieces(columns: int, *pieces: tuple[str, str]) -> Any:
    """As _line(), of several texts, each with its style."""
    from rich.text import Text

    made = Text()
    for text, style in pieces:
        made.append(cut(printable(text), columns - made.cell_len), style=style)
    return made


@contextmanager
def _keys() -> Iterator[int]:
    """Keys come one by one, not lines; yields the descriptor to read from, -1 = none."""
    if not sys.stdin.isatty():
        yield -1
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    try:
        yield fd
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


class _Reader(threading.Thread):
    """Fills the model from the stream, and returns when the connection is lost. wake: a descriptor
    that gets a byte for each event."""

    def __init__(self, instance: Client, view: View, wake: int) -> None:
        super().__init__(daemon=True)
        self._instance = instance
        self._view = view
        self._wake = wake

    def run(self) -> None:
        while True:
            try:
                for kind, data in self._instance.stream(rules=True):
                    self._view.trouble = ""
                    if self._view.paused:
                        continue
                    self._view.model.take(kind, data)
                    if kind == "sample":
                        self._look_at_connections()
                    os.write(self._wake, b".")
                self._view.trouble = "connection lost"
            except TcpmuxError as error:
                self._view.trouble = str(error)
            os.write(self._wake, b".")
            time.sleep(1.0)

    def _look_at_connections(self) -> None:
        sort = SORT_KEYS[self._view.connection_sort]
        found = self._instance.connections(sort=sort, limit=CONNECTIONS)
        self._view.connections = found["connections"]
        self._view.connections_total = found["total"]


@click.command("top")
@click.option("--once", is_flag=True, help="Draw the screen once, after two samples, and exit.")
@admin_option
def top(admin: Where, once: bool) -> int:
    """Watch the split, the rates and the connections, live.

    Problems come first, the worst on top. ASKED is the configured share, SEEN the
    share of new connections in the last 10 seconds. ROUTE/RULE is a rule, with the connections that
    have met it. A line below a route whose live connections are being brought to its weights says
    how far that is. Needs at least 60x24. Keys: q quits, s and c
    change what routes and connections are sorted by, r reverses the order, / pauses.

    \b
    Example:
        tcpmux top
    """
    from rich.console import Console
    from rich.live import Live

    show_all_characters()
    instance = client(admin, reads=True)
    instance.events(1 << 40)  # so that what is wrong is said before the screen is taken
    view = View(Model())
    ours, theirs = os.pipe()
    _Reader(instance, view, theirs).start()
    console = Console(markup=False, highlight=False, emoji=False)
    if once:
        while len(view.model.samples) < 3:
            os.read(ours, 100)
        console.print(view.draw(console.width, 24), soft_wrap=True)
        return 0
    if not console.is_terminal:
        raise TcpmuxError("top needs a terminal: use --once, or `tcpmux status --watch`")
    with (
        _keys() as keys,
        Live(console=console, screen=True, auto_refresh=False) as live,
        suppress(KeyboardInterrupt),
    ):
        while True:
            live.update(view.draw(console.width, console.height), refresh=True)
            ready, _, _ = select.select([ours, *([keys] if keys >= 0 else [])], [], [])
            if ours in ready:
                os.read(ours, 100)
            if keys in ready and not view.key(os.read(keys, 1).decode("ascii", "replace")):
                return 0
    return 0
