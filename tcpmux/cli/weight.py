"""`tcpmux weight`: shifts the traffic of a route, at once."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from tcpmux.cli import completing, targets
from tcpmux.cli.instance import client
from tcpmux.cli.output import print_applied, say
from tcpmux.cli.where import Where, admin_option
from tcpmux.control.asking import WaitTimeout
from tcpmux.control.limits import MAX_WEIGHT
from tcpmux.errors import TcpmuxError, UsageError, one_line

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from tcpmux.control.client import Applied, Client, Status

WAIT_TIME = 30.0  # s for workers that are behind
_WEIGHT = re.compile(r"[+-]?[0-9]{1,7}", re.ASCII)


def parse_weights(pairs: Sequence[str]) -> dict[str, int | str]:
    """`v1=80 v2=+5` as {"v1": 80, "v2": "+5"}. Raises UsageError."""
    weights: dict[str, int | str] = {}
    for pair in pairs:
        name, equals, number = pair.partition("=")
        if not name or not equals:
            raise UsageError(f"expected DESTINATION=WEIGHT, as in v1=80, got {pair!r}")
        if not _WEIGHT.fullmatch(number) or abs(int(number)) > MAX_WEIGHT:
            raise UsageError(
                f"{name}: a weight is a whole number 0..{MAX_WEIGHT}, or a step such as +5; "
                f"got {number!r}"
            )
        if name in weights:
            raise UsageError(f"{name} is given twice")
        weights[name] = number if number[0] in "+-" else int(number)
    return weights


def _is_late(applied: Applied) -> bool:
    """Whether a worker does not use it yet."""
    return any(w["generation"] < applied["generation"] for w in applied["workers"])


def _await_workers(instance: Client, applied: Applied) -> None:
    """Until all of them use what was applied, or WAIT_TIME is over."""

    def are_done(status: Status) -> bool:
        applied["workers"] = [
            {"id": w["id"], "pid": w["pid"], "generation": w["generation"]}
            for w in status["workers"]
        ]
        return not _is_late(applied)

    if _is_late(applied):
        with suppress(WaitTimeout):
            instance.wait_for(are_done, WAIT_TIME)


def _save(instance: Client, route: str, rule: str, wanted: Collection[str]) -> None:
    """Raises TcpmuxError, and says that they are in force even so."""
    from tcpmux.config.edit import save_weights

    try:
        status = instance.status()
        now = _weights_of(status, route, rule)
        now = {name: now.get(name, 0) for name in wanted}
        path = save_weights(status["config"], route, now, rule)
    except TcpmuxError as error:
        raise TcpmuxError(
            "the weights are in force, but not saved: the next reload restores those of the file: "
            f"{one_line(error)}"
        ) from None
    say(f"saved in {path}")
    try:
        if rule:
            instance.note_saved_rule_weights(route, rule, now)
        else:
            instance.note_saved_weights(route, now)
    except TcpmuxError as error:
        say(
            "warning: the instance could not be told, and says until the next reload that the file "
            f"has other weights: {one_line(error)}",
            err=True,
        )


def _weights_of(status: Status, route: str, rule: str) -> dict[str, int]:
    """Of a route's destinations; with a rule, those that they have in it, as far as it is any."""
    (found,) = (r for r in status["routes"] if r["name"] == route)
    if not rule:
        return {d["name"]: d["weight"] for d in found["destinations"]}
    (of,) = (r for r in found["rules"] if r["name"] == rule)
    return {d["name"]: d["weight"] for d in of["destinations"]}


def _resolved(
    instance: Client, wanted: Mapping[str, int | str]
) -> tuple[str, dict[str, int | str]]:
    """The route, and its weights, where each destination is named as a target. Raises
    TcpmuxError."""
    names = targets.names(instance)
    by_route: dict[str, dict[str, int | str]] = {}
    for text, weight in wanted.items():
        (found, *others) = targets.find(names, text)
        if others or found.destination is None or found.endpoint is not None:
            raise UsageError(f"{text} is not a destination: expected ROUTE/DESTINATION=WEIGHT")
        weights = by_route.setdefault(found.route, {})
        if found.destination in weights:
            raise UsageError(f"{found} is given twice")
        weights[found.destination] = weight
    if len(by_route) > 1:
        raise UsageError(
            f"these are destinations of {len(by_route)} routes, {' and '.join(by_route)}: change "
            "one route at a time"
        )
    return by_route.popitem()


@click.command("weight")
@click.argument("route", shell_complete=completing.weighted)
@click.argument(
    "weights",
    metavar="DESTINATION=WEIGHT...",
    nargs=-1,
    shell_complete=completing.weights,
)
@click.option("--save", is_flag=True, help="Also write the weights to the file.")
@click.option(
    "--force",
    is_flag=True,
    help="Proceed even if no destination is left; new connections are then reset.",
)
@click.option(
    "--wait",
    is_flag=True,
    help="Wait until every worker uses the weights; exit with 1 if one does not.",
)
@admin_option
def weight(
    admin: Where,
    route: str,
    weights: tuple[str, ...],
    *,
    save: bool,
    force: bool,
    wait: bool,
) -> int:
    """Shift the traffic of a route, at once.

    ROUTE may also be put before each destination: tcp-echo/v1=80. ROUTE/RULE names one of its
    rules, which has weights of its own (`tcpmux status ROUTE` lists them).

    Sets weights of its destinations, for new connections; open ones stay where they are. A
    destination gets exactly weight / sum of weights of the connections, or of a sticky route about
    so many of its clients; 0 is none. Destinations not named keep their weight; +5 and -5 are steps
    from the current weight. Without --save the file is not changed, and the next reload restores
    its weights; with --save only these numbers change in it. Weights that leave no destination for
    connections, such as all 0, are refused without --force.

    \b
    Examples:
        tcpmux weight tcp-echo v1=80 v2=20     every fifth connection to v2
        tcpmux weight tcp-echo v1=0 v2=1       all of them to v2
        tcpmux weight tcp-echo v2=+5 --wait    a little more, once all workers use it
        tcpmux weight tcp-echo/v2=+5           the same destination, named as other commands do
        tcpmux weight tcp-echo/testers v2=1    of those that meet the rule testers
    """
    has_route = "=" not in route
    if has_route and not weights:
        raise click.UsageError(
            "Missing argument 'DESTINATION=WEIGHT...'", click.get_current_context()
        )
    wanted = parse_weights(weights if has_route else (route, *weights))
    instance = client(admin)
    if not has_route:
        route, wanted = _resolved(instance, wanted)
    route = route.removesuffix("/")
    name, _, rule = route.partition("/")
    applied = (
        instance.set_rule_weights(name, rule, wanted, force=force)
        if rule
        else instance.set_weights(route, wanted, force=force)
    )
    if wait:
        _await_workers(instance, applied)
    print_applied(applied, f"nothing changed: {route} already has these weights")
    if save:
        _save(instance, name, rule, wanted)
    return 1 if wait and _is_late(applied) else 0
