"""How the commands print: numbers for people, tables, and what a change has done."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import sys
import textwrap
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from tcpmux.cli.text import cut, padded, width
from tcpmux.errors import plural, printable
from tcpmux.files import Unreadable, read_file

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from tcpmux.config.problems import Problem
    from tcpmux.control.client import Applied

MIN_WIDTH = 40  # columns; with fewer, lines are longer than the screen is wide
WIDTH_OF_A_PIPE = 160  # columns; nothing is cut off to fit a terminal that is not there


def human_bytes(count: int) -> str:
    """`999 B`, `1.5 KiB`, `20.0 GiB`: powers of 1024, one decimal."""
    if count < 1024:
        return f"{count} B"
    size = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        size /= 1024
        if size < 1023.95:  # above, one decimal would show 1024.0
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} PiB"


def human_seconds(seconds: float) -> str:
    """`12s`, `3m 05s`, `2h 10m`, `5d 03h`: the two units that matter."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02d}h"


def percent(part: int, whole: int) -> str:
    """`80%`, `33.3%`; `-` of nothing. Never 0% or 100% for what is only close to it."""
    if whole == 0:
        return "-"
    share = 100 * part / whole
    if share in (0.0, 100.0):
        return f"{share:.0f}%"
    return f"{min(max(share, 0.1), 99.9):.1f}".removesuffix(".0") + "%"


def duration_text(seconds: float) -> str:
    """As human_seconds(), and `0.42s` below ten seconds."""
    return f"{seconds:.2f}s" if seconds < 9.995 else human_seconds(seconds)


def columns(
    rows: Sequence[Sequence[str]],
    numbers: Collection[int] = (),
    *,
    optional: Sequence[int] = (),
    most: int | None = None,
) -> Iterator[str]:
    """Lines of a table without lines, the first row being the heads; for many rows. numbers: the
    columns that end at the right. most: columns of the screen that there are; optional: which of
    the table are left out, the first of them first, until it fits."""
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(width, column)) for column in zip(*shown, strict=True)]
    kept = list(range(len(widths)))
    for at in optional:
        if most is None or sum(widths[i] + 2 for i in kept) - 2 <= most:
            break
        kept.remove(at)
    for row, texts in zip(rows, shown, strict=True):
        cells = (painted(padded(texts[i], widths[i], right=i in numbers), row[i]) for i in kept)
        yield "  ".join(cells).rstrip()


class Styled(str):
    """A text with a color: of a terminal's sixteen, or bold."""

    style: str

    def __new__(cls, text: str, style: str) -> Styled:
        made = super().__new__(cls, text)
        made.style = style
        return made


def painted(text: str, like: str) -> str:
    """A text in the color of another, where there is color; escaped as by say()."""
    text = printable(text)
    style = like.style if isinstance(like, Styled) else ""
    if not style or not has_color():
        return text
    return click.style(text, bold=True) if style == "bold" else click.style(text, fg=style)


def has_color() -> bool:
    """Whether standard output is a terminal that is to have color (https://no-color.org)."""
    dumb = os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and not dumb


def screen_width() -> int | None:
    """Columns of the terminal; None = standard output is none, and nothing need fit."""
    if not sys.stdout.isatty():
        return None
    return max(MIN_WIDTH, shutil.get_terminal_size().columns)


def wrapped(text: str, indent: str, most: int | None) -> Iterator[str]:
    """A text in lines that fit, each indented; most: as of columns()."""
    shown = printable(text)
    if most is None:
        yield indent + shown
        return
    yield from textwrap.wrap(
        shown,
        max(most, len(indent) + 20),
        initial_indent=indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
    )


def show_all_characters() -> None:
    """From now on what standard output can't encode is a `?` there: for people, whose terminal may
    have another character set."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def say(text: str, *, err: bool = False) -> None:
    """Prints one line. Whatever is in it stays on that line, and does nothing to a terminal."""
    click.echo(printable(text), err=err)


def say_all(lines: Iterable[str]) -> None:
    """As say(), many of them."""
    say_painted(map(printable, lines))


def say_painted(lines: Iterable[str]) -> None:
    """As say_all(), of lines that columns(), painted() or wrapped() have made."""
    show_all_characters()
    click.echo("\n".join(lines))


def say_json(value: object) -> None:
    """Prints it as JSON, in ASCII: as it is, and nothing for a terminal to act on."""
    click.echo(json.dumps(value, indent=2))


json_option = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
watch_option = click.option(
    "--watch",
    metavar="[SECONDS]",
    is_flag=False,
    flag_value=1.0,
    type=click.FloatRange(0.1, 3600),
    default=None,
    help="Repeat every SECONDS (default 1) until Ctrl-C.",
)


def watching(every: float | None, show: Callable[[], object]) -> int:
    """Calls show() once or, if asked to, again and again; returns the exit code."""
    if every is None:
        show()
        return 0
    terminal = sys.stdout.isatty()
    with suppress(KeyboardInterrupt):
        while True:
            if terminal:
                click.clear()
            show()
            sys.stdout.flush()
            time.sleep(every)
    return 0


def console() -> Console:
    """For tables on standard output. Text from outside is never taken as markup, and is escaped."""
    from rich.console import Console

    class Escaping(Console):
        def render_str(self, text: str, **how: Any) -> Text:
            return super().render_str(printable(text), **how)

    show_all_characters()
    return Escaping(
        markup=False,
        highlight=False,
        emoji=False,
        width=None if sys.stdout.isatty() else WIDTH_OF_A_PIPE,
    )


def table(title: str, text_column: str, *number_columns: str) -> Table:
    """A table for people: the first column is text, the others are numbers."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(
        title=Text(printable(title), style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
    )
    made.add_column(text_column, overflow="fold")
    for column in number_columns:
        made.add_column(column, justify="right", overflow="fold")
    return made


def print_applied(applied: Applied, if_nothing: str) -> None:
    """What changed, and the workers that use it already."""
    for change in applied["changes"] or [if_nothing]:
        say(change)
    # A build before this one tells none.
    for warning in applied.get("warnings", ()):
        say(f"warning: {warning}")
    generation = applied["generation"]
    behind = [worker for worker in applied["workers"] if worker["generation"] < generation]
    total = len(applied["workers"])
    say(f"generation {generation} in {total - len(behind)} of {plural(total, 'worker')}")
    for worker in behind:
        runs = f"pid {worker['pid']}, generation {worker['generation']}"
        where = runs if worker["pid"] else "not running"
        say(f"not yet in worker {worker['id']} ({where})")


def show_place(problem: Problem) -> None:
    """On a terminal, the line of a file that a problem is in, and a caret under the place."""
    if not problem.line or not sys.stderr.isatty():
        return
    from tcpmux.config.sources import Files, source_of

    if not isinstance(source_of(problem.file), Files):
        return
    try:
        text = read_file(problem.file).data.decode("utf-8-sig", "replace")
    except Unreadable:
        return
    line = next(itertools.islice(text.split("\n"), problem.line - 1, None), "")
    shown = "".join(c if c.isprintable() else " " for c in line)
    say(f"  {cut(shown, WIDTH_OF_A_PIPE)}", err=True)
    say(f"  {' ' * width(shown[: problem.column - 1])}^", err=True)
