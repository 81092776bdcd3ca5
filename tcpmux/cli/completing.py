"""What a shell offers to complete a command line with: names from the running instance.

It asks the one that the command would ask. Where that is not clear, or nobody answers in time, it
offers nothing, and says nothing: a shell runs it at each press of a key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import click

from tcpmux.errors import TcpmuxError

if TYPE_CHECKING:
    from tcpmux.control.client import RouteNames, RouteStatus

    Completer = Callable[[click.Context, click.Parameter, str], list[str]]

ANSWER_TIME = 0.5  # s; who has typed a name meanwhile waits no longer


def _names(ctx: click.Context) -> Sequence[RouteNames | RouteStatus]:
    from tcpmux.cli import targets
    from tcpmux.cli.instance import only_client
    from tcpmux.cli.where import from_parameters

    try:
        instance = only_client(from_parameters(ctx.params), ANSWER_TIME)
        return targets.names(instance) if instance is not None else ()
    except (TcpmuxError, OSError, ValueError):
        return ()


def _items(texts: Iterable[str], incomplete: str) -> list[str]:
    """What can't be typed as it is, is not offered."""
    fitting = (text for text in dict.fromkeys(texts) if text.startswith(incomplete))
    return [text for text in fitting if text.isprintable() and " " not in text]


def _levels(routes: Sequence[RouteNames | RouteStatus], incomplete: str) -> list[str]:
    """The routes that it could be; if that is one, its destinations, and so on."""
    from tcpmux.cli.targets import each

    every = list(each(routes))
    fitting = [t for t in every if t.destination is None and _may_be(str(t), incomplete)]
    offered = [str(t) for t in fitting]
    while len(fitting) == 1:
        (whole,) = fitting
        fitting = [t for t in every if t.whole == whole and _may_be(str(t), incomplete)]
        offered += map(str, fitting)
    return offered


def _may_be(text: str, incomplete: str) -> bool:
    """Whether it, or a part of it, could be meant."""
    return text.startswith(incomplete) or incomplete.startswith(f"{text}/")


def target(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """ROUTE, ROUTE/DESTINATION and ROUTE/DESTINATION/ADDRESS; DESTINATION or ADDRESS, once that
    has been begun and no route begins so."""
    routes = _names(ctx)
    found = _items(_levels(routes, incomplete), incomplete)
    if not found and incomplete:
        from tcpmux.cli.targets import each

        found = _items((t.last_name for t in each(routes)), incomplete)
    return found


def route(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """ROUTE."""
    return _items((str(route["name"]) for route in _names(ctx)), incomplete)


def rule(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """The name of a rule, of the route that --route says."""
    of = ctx.params.get("route")
    routes = (route for route in _names(ctx) if of in (None, route["name"]))
    return _items((name for route in routes for name in _rules_of(route)), incomplete)


def split(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """ROUTE or, once that has been begun, ROUTE/RULE."""
    if "/" not in incomplete:
        return route(ctx, param, incomplete)
    rules = (f"{route['name']}/{name}" for route in _names(ctx) for name in _rules_of(route))
    return _items(rules, incomplete)


def _rules_of(route: RouteNames | RouteStatus) -> list[str]:
    from tcpmux.cli.targets import rules_of

    return rules_of(route)


def weighted(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """ROUTE or, once that has been begun, ROUTE/DESTINATION= and ROUTE/RULE."""
    if "/" not in incomplete:
        return route(ctx, param, incomplete)
    found = [f"{text}=" for text in target(ctx, param, incomplete) if text.count("/") == 1]
    return found + split(ctx, param, incomplete)


def weights(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """DESTINATION= of the route that has been named, perhaps with a rule; ROUTE/DESTINATION= if
    none has been."""
    named = str(ctx.params.get("route"))
    if "=" in named:
        return weighted(ctx, param, incomplete)
    named = named.partition("/")[0]
    given = {str(text).partition("=")[0] for text in ctx.params.get("weights") or ()}
    destinations = (
        f"{row['name']}="
        for route in _names(ctx)
        if route["name"] == named
        for row in route["destinations"]
        if row["name"] not in given
    )
    return _items(destinations, incomplete)


def part(name: str) -> Completer:
    """What may stand for --destination (or --endpoint), as far as --route and --destination say."""

    def complete(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
        from tcpmux.cli.targets import each

        others = {"route", "destination"} - {name}
        wanted = {key: value for key in others if (value := ctx.params.get(key))}
        every = (target.as_json() for target in each(_names(ctx)))
        fitting = (parts for parts in every if name in parts and wanted.items() <= parts.items())
        return _items((parts[name] for parts in fitting), incomplete)

    return complete


def endpoint(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The ADDRESS of an endpoint; as target(), once something has been begun."""
    from tcpmux.cli.targets import each

    found = target(ctx, param, incomplete) if incomplete else []
    return found or _items((t.endpoint for t in each(_names(ctx)) if t.endpoint), incomplete)


def words(*known: str) -> Completer:
    """Some words, whatever runs."""
    return lambda _ctx, _param, incomplete: [word for word in known if word.startswith(incomplete)]
