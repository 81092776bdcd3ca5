"""`tcpmux explain`: which destinations a connection would get, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tcpmux.cli import completing
from tcpmux.cli.instance import client
from tcpmux.cli.output import json_option, percent, say, say_all, say_json
from tcpmux.cli.run import config_option, endpoint_option
from tcpmux.cli.where import Where, admin_option
from tcpmux.errors import TcpmuxError, UsageError, plural, printable
from tcpmux.nearest import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from tcpmux.control.client import Explanation

PASSED = 20  # rules that are not met, shown
_VALUES = {"source": "ADDRESS", "sni": "NAME"}


def _of_files(
    config: Sequence[str], endpoints: Sequence[str], route: str, asked: dict[str, Any]
) -> Explanation:
    """Raises TcpmuxError."""
    from tcpmux.config import load
    from tcpmux.config.rule_facts import facts_of
    from tcpmux.control.explanation import explain_files

    found = load(config, endpoints)
    by_name = {row.name: row for row in found.routes}
    if route not in by_name:
        hint = did_you_mean(route, list(by_name)) or f"there are {', '.join(by_name) or 'none'}"
        raise TcpmuxError(f"no route named {route!r}: {hint}")
    try:
        facts = facts_of(by_name[route].listen, **asked)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return explain_files(found, by_name[route], facts)


def _passed(found: Explanation) -> Iterator[str]:
    passed = found["passed"]
    for row in passed[:PASSED]:
        yield f"  {row['rule']}: no: {row['why']}"
    if len(passed) > PASSED:
        yield f"  and {plural(len(passed) - PASSED, 'rule')} that it does not meet"


def _why_nobody(found: Explanation) -> str:
    if not found["destinations"]:
        return "the rule rejects it"
    has_weight = any(row["weight"] for row in found["destinations"])
    return "nobody is available" if has_weight else "no destination has weight"


def _lines(found: Explanation, asked: dict[str, Any]) -> Iterator[str]:
    if not found["admitted"]:
        yield "its client is not let in (allow, deny): the connection is reset"
        return
    yield from map(printable, _passed(found))
    if found["rule"] is None:
        yield (
            "no rule is met: by the weights of the route"
            if found["passed"]
            else ("the route has no rules: by its weights")
        )
    else:
        yield printable(f"  {found['rule']}: yes: {found['conditions']}")
    shares = [d for d in found["destinations"] if d["effective_weight"]]
    if found["end"]:
        yield f"it is {found['end']}: {_why_nobody(found)}"
    elif found.get("home"):  # an older build does not say
        yield f"it goes to {found['home']}, as each time: the route is sticky by {found['sticky']}"
    elif len(shares) == 1:
        yield f"it goes to {shares[0]['name']}"
    else:
        told = (f"{d['name']} {percent(d['effective_weight'], _whole(shares))}" for d in shares)
        yield f"it goes to {', '.join(told)} of such connections"
        yield from _not_sticky(found, asked)
    for row in found["destinations"]:
        if not row["available"] or row["condition"] != "healthy":
            yield f"  {row['name']} is {row['condition']}"


def _not_sticky(found: Explanation, asked: dict[str, Any]) -> Iterator[str]:
    """Why a sticky route has no destination for this client alone."""
    by = found.get("sticky")
    if not by:
        return
    word, _, kind = by.partition(":")
    if word == "source" and asked["source"]:
        yield f"  the route is sticky by {by}, but this client has no address"
    else:
        option = f"--tlv {kind}=VALUE" if kind else f"--{word} {_VALUES[word]}"
        yield f"  the route is sticky by {by}: with {option} it is known which"


def _whole(shares: Sequence[Any]) -> int:
    return sum(row["effective_weight"] for row in shares)


@click.command("explain")
@click.argument("route", shell_complete=completing.route)
@click.option("--source", metavar="ADDRESS", help="The client: an address, or unix.")
@click.option("--port", metavar="PORT", help="Where it connects to: a port, or an address.")
@click.option("--sni", metavar="NAME", help="The name that its TLS ClientHello asks for.")
@click.option("--alpn", metavar="PROTOCOL", multiple=True, help="A protocol that it offers.")
@click.option("--tls/--no-tls", default=None, help="Whether it begins with a ClientHello.")
@click.option(
    "--tlv", "tlvs", metavar="TYPE=VALUE", multiple=True, help="A TLV of its PROXY header."
)
@config_option
@endpoint_option
@json_option
@admin_option
def explain(
    admin: Where,
    route: str,
    *,
    config: tuple[str, ...],
    endpoints: tuple[str, ...],
    as_json: bool,
    **asked: Any,
) -> int:
    """Tell which destinations a connection would get, and why.

    It says which rule of ROUTE is met, what keeps the connection from meeting those in front of
    it, and the share of each destination now, with weights set at run time, drains and health
    taken into account. With -c it reads files instead of asking a running instance, and takes
    every endpoint for healthy. What is not said is not met by a rule that asks for it; --port is
    not needed where the route has one address. Of a sticky route it tells the client's own
    destination, if what the route tells clients apart by is said.

    \b
    Examples:
        tcpmux explain db --source 10.9.1.2 --sni a.eu.example --alpn postgresql
        tcpmux explain db --source 10.9.1.2 --port 5432 --no-tls
        tcpmux explain db --tlv 0xEA=vpce-123 -c routes.yaml
    """
    found = (
        _of_files(config, endpoints, route, asked)
        if config
        else client(admin, reads=True).explain(route, **asked)
    )
    if as_json:
        say_json(found)
    else:
        at = f" at {found['listener']}" if found["listener"] else ""
        say(printable(f"{found['route']}{at}:"))
        say_all(_lines(found, asked))
    return 0
