"""`tcpmux check`: reads configuration files and says what is wrong with them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from tcpmux.cli.output import say, say_json, show_place
from tcpmux.cli.run import config_option, endpoint_option
from tcpmux.cli.text import shares_of_clients
from tcpmux.config.written import by_text
from tcpmux.errors import plural, printable

if TYPE_CHECKING:
    from tcpmux.config import Config, Log, Problem, Rule


@click.command("check")
@config_option
@endpoint_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def check(config: tuple[str, ...], endpoints: tuple[str, ...], as_json: bool) -> int:
    """Check configuration files, and show what a start would do.

    Does not contact a running instance. Prints each problem on a line of its own, as
    FILE:LINE:COLUMN: WHERE: WHAT, on standard error, and exits with 2 if there is one. Host names
    of endpoints are resolved; one that does not resolve is a warning. Prints the rules and the
    destinations of each route, and for each TCPRoute and Gateway whether the Gateway accepts the
    route.

    \b
    Examples:
        tcpmux check -c routes.yaml
        tcpmux check -c routes.yaml && tcpmux reload
    """
    if not config:
        raise click.UsageError("no file given: name one with -c", click.get_current_context())
    from tcpmux.config import ConfigError, load

    try:
        found = load(config, endpoints)
    except ConfigError as error:
        if as_json:
            say_json({"ok": False, "problems": _plain(error.problems)})
        else:
            for problem in error.problems:
                say(str(problem), err=True)
                show_place(problem)
        return error.exit_code
    _warn_of_user(found)
    _warn_of_log(found.log)
    names = _look_up(found)
    if as_json:
        say_json(_as_json(found, names))
    else:
        _print(found, names, ", ".join(config))
    return 0


def _warn_of_user(found: Config) -> None:
    """What a start would refuse or could not reach, as far as this user can tell."""
    from tcpmux.privileges import UserError, denied_sockets, resolve

    try:
        user = resolve(found.user, found.group)
    except UserError as error:
        say(f"warning: {error}", err=True)
        return
    for path in denied_sockets(user, found.unix_endpoints):
        say(
            f"warning: user {user.name} may not connect to unix:{printable(path)}: connections to "
            "that endpoint will fail",
            err=True,
        )


def _warn_of_log(wanted: Log) -> None:
    """What a start would log to standard error for, as far as this user can tell."""
    from tcpmux import log_file, log_targets

    why = ""
    if wanted.target == "file":
        why = log_file.why_not(wanted.file)
    elif wanted.target in log_targets.PACKETS:
        why = log_targets.why_not(log_targets.PACKETS[wanted.target])
    if why:
        place = f" {printable(wanted.file)}" if wanted.file else ""
        text = f"log.target {wanted.target}{place}: {why}: the log would go to standard error"
        say(f"warning: {text}", err=True)


def _plain(problems: tuple[Problem, ...]) -> list[dict[str, Any]]:
    return [asdict(problem) for problem in problems]


def _look_up(found: Config) -> dict[str, list[str] | str]:
    """The addresses of each host name, or why it has none."""
    if not found.host_names:
        return {}
    from tcpmux.control.resolver import look_up_now

    servers = [str(server) for server in found.dns_servers]
    results = look_up_now(found.host_names, servers)
    for name, result in results.items():
        for note in () if isinstance(result, str) else result.notes:
            say(f"warning: {name}: {note}", err=True)
    return {
        str(name): result
        if isinstance(result, str)
        else list(dict.fromkeys(map(str, result.addresses)))
        for name, result in results.items()
    }


def _loops(found: Config, names: dict[str, list[str] | str]) -> list[str]:
    """Addresses of names that would be left out, as they lead back."""
    from tcpmux.config import Address
    from tcpmux.config.loops import left_out

    known = {
        name: [Address.parse(text) for text in result]
        for name in found.host_names
        if isinstance(result := names.get(str(name)), list)
    }
    return [
        f"{loop.leg.route}: {loop.leg.place}: {loop}: it would be left out"
        for loop in left_out(found, known).values()
    ]


def _print(found: Config, names: dict[str, list[str] | str], files: str) -> None:
    for warning in found.warnings:
        say(f"warning: {warning}", err=True)
    for name, result in names.items():
        if isinstance(result, str):
            say(f"warning: {name} does not resolve: {result}", err=True)
    for loop in _loops(found, names):
        say(f"warning: {loop}", err=True)
    destinations = [d for route in found.routes for d in route.destinations]
    # An endpoint is in a destination as often as it takes turns.
    count = sum(len(set(destination.endpoints)) for destination in destinations)
    say(
        f"{files}: ok: {plural(len(found.routes), 'route')}, "
        f"{plural(len(destinations), 'destination')}, {plural(count, 'endpoint')}"
    )
    for route in found.routes:
        say(f"{route.name} on {', '.join(map(str, route.listen))}")
        sticky = route.policy.sticky
        if sticky.is_on:
            say(f"  {shares_of_clients(by_text(sticky.by, sticky.tlv))}")
        for rule in route.rules:
            say(printable(f"  rule {rule.called} ({rule}): {_goes_to(rule)}"))
        for destination in route.destinations:
            ends = [
                f"{endpoint} ({', '.join(found_)})"
                if isinstance(found_ := names.get(str(endpoint)), list)
                else str(endpoint)
                for endpoint in dict.fromkeys(destination.endpoints)
            ]
            where = ", ".join(ends) or "no endpoint: its share is reset"
            say(f"  {destination.name} {destination.weight}: {where}")
    for attachment in found.attachments:
        say(str(attachment))


def _goes_to(rule: Rule) -> str:
    if rule.reject:
        return "rejected"
    if len(rule.weights) == 1 and rule.weights[0][1]:
        return f"to {rule.weights[0][0]}"
    return ", ".join(f"{name} {weight}" for name, weight in rule.weights)


def _as_json(found: Config, names: dict[str, list[str] | str]) -> dict[str, Any]:
    return {
        "ok": True,
        "problems": [],
        "warnings": _plain(found.warnings),
        "names": names,
        "loops": _loops(found, names),
        "attachments": [asdict(attachment) for attachment in found.attachments],
        "routes": [
            {
                "name": route.name,
                "listen": list(map(str, route.listen)),
                "sticky": by_text(sticky.by, sticky.tlv)
                if (sticky := route.policy.sticky).is_on
                else None,
                "rules": [
                    {
                        "name": rule.called,
                        "conditions": str(rule),
                        "reject": rule.reject,
                        "weights": dict(rule.weights),
                    }
                    for rule in route.rules
                ],
                "destinations": [
                    {
                        "name": d.name,
                        "weight": d.weight,
                        "connect_timeout": d.connect_timeout,
                        "idle_timeout": d.idle_timeout,
                        "endpoints": list(map(str, dict.fromkeys(d.endpoints))),
                    }
                    for d in route.destinations
                ],
            }
            for route in found.routes
        ],
    }
