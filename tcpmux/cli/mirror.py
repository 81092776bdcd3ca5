"""`tcpmux mirror`: a copy of what some clients of a route send, for another destination."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import click

from tcpmux.cli import completing
from tcpmux.cli.conditions import routes_named
from tcpmux.cli.instance import client
from tcpmux.cli.output import json_option, print_applied, say, say_json
from tcpmux.cli.progress import mirror_headline
from tcpmux.cli.where import Where, admin_option
from tcpmux.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tcpmux.control.schema import AnswerDifference, FirstByte, MirrorStatus

_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,2})?)%?", re.ASCII)
WORDS = {
    "agreed": "agreed",
    "content": "answered with other bytes",
    "bytes": "answered with more or fewer bytes",
    "end": "ended in another way",
    "refused": "refused",
    "reset": "reset early",
    "behind": "fell behind",
    "late": "late to end",
    "cut": "cut off, or had nowhere to go",
    "lost": "lost with their worker",
}


@click.command("mirror")
@click.argument("route", shell_complete=completing.route)
@click.argument("percent", required=False)
@click.option("--to", metavar="DESTINATION", help="Which destination gets the copies.")
@json_option
@admin_option
def mirror(admin: Where, route: str, percent: str | None, *, to: str | None, as_json: bool) -> int:
    """Copy what some clients of ROUTE send to another destination.

    PERCENT of its connections get a shadow, until the next reload: 10, 0.5 or off. Clients get the
    answers of their own destination; the shadow's are compared with them, and dropped. Without
    PERCENT it shows what became of the shadows so far.

    \b
    Examples:
        tcpmux mirror tcp-echo 10 --to v2
        tcpmux mirror tcp-echo
        tcpmux mirror tcp-echo off
    """
    if percent is None:
        if to is not None:
            raise UsageError("--to needs a percentage, as in: tcpmux mirror ROUTE 10 --to v2")
        return _show(admin, route, as_json=as_json)
    if as_json:
        raise UsageError("--json is for what is shown without a percentage")
    instance = client(admin)
    applied = instance.set_mirror(route, _number(percent), to)
    print_applied(applied, f"nothing changed: {route} already has this mirror")
    return 0


def _number(text: str) -> float:
    """Raises UsageError."""
    found = _PERCENT.fullmatch(text)
    if text != "off" and (found is None or float(found[1]) > 100):
        raise UsageError(f"expected a percentage such as 10 or 0.5, or off; got {text!r}")
    return float(found[1]) if found else 0.0


def _show(admin: Where, route: str, *, as_json: bool) -> int:
    instance = client(admin, reads=True)
    (found,) = routes_named(instance.status()["routes"], [route])
    state = found.get("mirror")  # an older build does not say
    if as_json:
        say_json(state)
    elif state is None:
        say(f"{route}: no connection gets a shadow")
    else:
        for line in lines(route, state):
            say(line)
    return 0


def lines(route: str, state: MirrorStatus) -> Iterator[str]:
    """What is known of a mirror."""
    yield f"{route}: {mirror_headline(state)}"
    for word, count in state["results"].items():
        if count:
            yield f"  {count} {WORDS.get(word, word)}"
    if state["skipped_total"]:
        yield f"  {state['skipped_total']} connections were picked and got none"
    if state["differences"]:
        yield f"  first byte that differed     {_offsets(state['differences'])}"
    if state["shadow_first_byte"]["count"]:
        yield f"  first byte of connections  {_times(state['first_byte'])}"
        yield f"  first byte of shadows      {_times(state['shadow_first_byte'])}"


def _offsets(differences: list[AnswerDifference]) -> str:
    """`8192 in 3 of the last 8, 100..131, 7 (the end of one)`: the newest first, each once."""
    counts = Counter((one["offset"], one["within"], one["result"]) for one in differences)
    return ", ".join(
        (f"{at}" if within == 1 else f"{at}..{at + within - 1}")
        + (" (the end of one)" if result == "bytes" else "")
        + (f" in {count} of the last {len(differences)}" if count > 1 else "")
        for (at, within, result), count in counts.items()
    )


def _times(of: FirstByte) -> str:
    values = ((name, of[name]) for name in ("p50", "p95", "p99"))
    return "  ".join(f"{name} {value * 1000:.1f}ms" for name, value in values if value is not None)
