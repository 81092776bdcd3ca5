"""`tcpmux fleet`: all hosts that take their routes and weights from one etcd."""

from __future__ import annotations

import time
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import click

from tcpmux.cli.converging import seconds
from tcpmux.cli.diff import DIFFERENT
from tcpmux.cli.instance import client
from tcpmux.cli.output import human_seconds, say, say_json
from tcpmux.cli.run import config_option
from tcpmux.cli.weight import parse_weights
from tcpmux.cli.where import Where, admin_option
from tcpmux.errors import TcpmuxError, UsageError, clock, listed, plural, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tcpmux.control.client import Client
    from tcpmux.control.schema import FleetChanged, FleetHost, FleetStatus

READS = ("status", "hosts", "get", "diff", "history")
ACTIONS = (*READS, "put", "delete", "weight", "undo", "restore", "confirm")
WAIT_TIME = 30.0  # s, by default
LOOK = 0.05  # s between two looks at the hosts
SHOWN = 10  # names in a line


@click.command("fleet")
@click.argument("action", type=click.Choice(ACTIONS), metavar="ACTION")
@click.argument("what", nargs=-1, metavar="[ROUTE|NAME...] [DESTINATION=WEIGHT...]")
@config_option
@click.option("--only", is_flag=True, help="With put: the fleet is to have no other documents.")
@click.option("--why", metavar="TEXT", help="Kept in the history, with a change.")
@click.option(
    "--epoch",
    type=click.IntRange(0),
    metavar="N",
    help="Refuse a change unless N is the fleet's last one.",
)
@click.option(
    "--force", is_flag=True, help="With weight: even if nobody is left to take connections."
)
@click.option("--wait", is_flag=True, help="Wait until every live host uses the change.")
@click.option(
    "--timeout",
    callback=seconds,
    metavar="DURATION",
    help="How long --wait waits: 30s.",
)
@click.option("--json", "as_json", is_flag=True, help="Print status, hosts or history as JSON.")
@admin_option
def fleet(admin: Where, action: str, what: tuple[str, ...], **given: Any) -> int:
    """Show the fleet, or change all its hosts at once.

    A fleet is hosts whose files name the same one in the same etcd (`fleet`). Any of them is asked,
    and it looks over a change before it writes it. ACTION is one of:

    \b
    status    what the fleet has, which hosts live, and what is wrong
    hosts     the hosts alone: who has which change in force
    get       print documents: all, or those named
    put       write the files of -c as documents, each named as its file
    delete    delete documents
    weight    set weights of ROUTE on all hosts, as `tcpmux weight` does on one
    diff      what put would change, as this host sees it
    history   who changed what, when and why
    undo      take back the last change of the fleet; a second time: make it again
    restore   write what is in force on this host into etcd, which has lost it
    confirm   use what is in etcd, though it is older or has lost most routes

    put and delete keep weights that were set with weight, unless a document has other weights for
    that route than before. While a host holds back what is in etcd, it refuses all changes but
    restore and confirm. With --wait the exit code is 1 if a live host does not have the change
    in time, or refuses it, and a line says which.

    \b
    Examples:
        tcpmux fleet put -c shop.yaml --why "v2 is there" --wait
        tcpmux fleet weight shop v1=95 v2=5 --wait
        tcpmux fleet status
        tcpmux fleet undo --wait
    """
    _check_options(action, what, given)
    instance = client(admin, reads=action in READS)
    if action in ("status", "hosts", "history", "get"):
        return _show(instance, action, what, as_json=given["as_json"])
    done = _changed(instance, action, what, given)
    for line in done["changes"]:
        say(printable(line))
    if action == "diff":
        return DIFFERENT if done["changes"] else 0
    say(f"change {done['epoch']}" + ("" if done["changes"] else ": nothing is different"))
    if not given["wait"]:
        return 0
    return _wait(instance, done["epoch"], given["timeout"] or WAIT_TIME)


def _check_options(action: str, what: Sequence[str], given: Mapping[str, Any]) -> None:
    """Raises UsageError for what means nothing here."""
    changing = tuple(name for name in ACTIONS if name not in READS)
    of = {
        "config": ("put", "diff"),
        "only": ("put", "diff"),
        "why": changing,
        "epoch": changing,
        "force": ("weight",),
        "wait": changing,
        "timeout": changing,
        "as_json": ("status", "hosts", "history"),
    }
    for name, value in given.items():
        if value not in (None, False, ()) and action not in of[name]:
            option = {"as_json": "--json", "config": "-c"}.get(name, f"--{name}")
            raise UsageError(f"{option} is for {', '.join(of[name])}, not for {action}")
    if action in ("put", "diff") and not given["config"]:
        raise UsageError(f"{action} needs a file: name one with -c")
    needs = {"weight": "a ROUTE and DESTINATION=WEIGHT", "delete": "the name of a document"}
    if len(what) < {"weight": 2, "delete": 1}.get(action, 0):
        raise UsageError(f"{action} needs {needs[action]}")
    if what and action not in ("weight", "delete", "get"):
        raise UsageError(f"{action} takes no {what[0]!r}")


def _changed(
    instance: Client, action: str, what: Sequence[str], given: Mapping[str, Any]
) -> FleetChanged:
    more = {"why": given["why"] or "", "epoch": given["epoch"]}
    if action == "weight":
        weights = parse_weights(what[1:])
        route = what[0].removesuffix("/")
        return instance.set_fleet_weights(route, weights, force=given["force"], **more)
    if action == "delete":
        return instance.put_fleet_documents([], what, **more)
    if action in ("put", "diff"):
        files = _documents(given["config"])
        dry_run = action == "diff"
        return instance.put_fleet_documents(files, only=given["only"], dry_run=dry_run, **more)
    return instance.change_fleet(action, **more)


def _documents(config: Sequence[str]) -> list[tuple[str, str]]:
    """(name, content) of each file: as it stands there, ${NAME} and all."""
    from tcpmux.config import ConfigError, Problem, read_texts, sources_of

    problems: list[Problem] = []
    texts = list(read_texts(sources_of(config), problems))
    if problems:
        raise ConfigError(problems)
    return [(PurePath(text.name).stem, text.content) for text in texts]


# --- showing ------------------------------------------------------------------------------------


def _show(instance: Client, action: str, what: Sequence[str], *, as_json: bool) -> int:
    if action == "get":
        return _get(instance, what)
    if action == "history":
        entries = instance.fleet_history()
        if as_json:
            say_json(entries)
            return 0
        for entry in entries:
            why = f" ({printable(entry['why'])})" if entry["why"] else ""
            who = printable(entry["who"])
            text = printable(entry["text"])
            say(f"{entry['epoch']}  {clock(entry['when'])}  {who}: {entry['kind']}: {text}{why}")
        return 0
    found = instance.fleet()
    if as_json:
        say_json(found if action == "status" else found["hosts"])
        return 0
    for line in _status_lines(found) if action == "status" else _host_lines(found):
        say(line)
    return 1 if found["etcd"] else 0


def _get(instance: Client, names: Sequence[str]) -> int:
    found = {each["name"]: each["content"] for each in instance.fleet_documents()["documents"]}
    for name in names:
        if name not in found:
            known = listed(sorted(found), SHOWN) or "none"
            raise TcpmuxError(f"the fleet has no document {name!r}; there are: {known}")
    for name in names or sorted(found):
        if len(names or found) > 1:
            say(f"# {name}")
        for line in found[name].removesuffix("\n").split("\n"):
            say(line.removesuffix("\r"))
    return 0


def _status_lines(found: FleetStatus) -> Iterator[str]:
    name, host = printable(found["name"]), printable(found["host"])
    if found["fleet_epoch"] is None:
        says = "refuses" if found["etcd"].startswith("etcd refuses") else "does not answer"
        yield f"fleet {name}: etcd {says}; this host, {host}, has change {found['epoch']}"
        yield f"  {printable(found['etcd'])}"
    else:
        yield f"fleet {name}: change {found['fleet_epoch']}; this host is {host}"
    if found["problem"]:
        since = human_seconds(time.time() - found["since"])
        yield f"  here, for {since}: {printable(found['problem'])}"
    for document in found["documents"]:
        yield f"document {document['name']}: {plural(document['bytes'], 'byte')}"
    for each in found["weights"]:
        weights = ", ".join(f"{name}={weight}" for name, weight in each["weights"].items())
        why = f" ({printable(each['why'])})" if each["why"] else ""
        who = f" by {printable(each['who'])}" if each["who"] else ""
        yield f"weights of {printable(each['route'])}: {printable(weights)}{who}{why}"
    if found["fleet_epoch"] is not None:
        yield from _host_lines(found)


def _host_lines(found: FleetStatus) -> Iterator[str]:
    epoch = found["fleet_epoch"] or 0
    # One that holds back what is there has a later change in force.
    yield _count(found["hosts"], epoch, [host for host in found["hosts"] if host["epoch"] == epoch])
    for host in found["hosts"]:
        problem = f": {printable(host['problem'])}" if host["problem"] else ""
        own = ", ".join(map(printable, host["own_weights"]))
        own = f", weights of its own for {own}" if own else ""
        yield (
            f"  {printable(host['host'])}: change {host['epoch']}, "
            f"{host['workers_done']} of {plural(host['workers'], 'worker')}, "
            f"{plural(host['connections'], 'connection')}, {printable(host['version'])}"
            f"{own}{problem}"
        )


def _has(host: FleetHost, epoch: int) -> bool:
    return host["epoch"] >= epoch and host["workers_done"] == host["workers"]


def _count(hosts: Sequence[FleetHost], epoch: int, those: Sequence[FleetHost]) -> str:
    """`5 of 5 hosts, 10 of 10 workers have change 7`. those: hosts that have it."""
    done = [host for host in those if _has(host, epoch)]
    workers = sum(host["workers_done"] for host in those)
    every = sum(host["workers"] for host in hosts)
    return f"{len(done)} of {len(hosts)} hosts, {workers} of {every} workers have change {epoch}"


def _wait(instance: Client, epoch: int, timeout: float) -> int:
    """Until every live host has it, or says that it has not."""
    deadline = time.monotonic() + timeout
    while True:
        found = instance.fleet()
        hosts = found["hosts"]
        late = [host for host in hosts if not _has(host, epoch)]
        refusing = [host for host in hosts if host["problem"] and host["epoch"] >= epoch]
        if hosts and not late and not found["etcd"]:
            break
        if time.monotonic() >= deadline:
            break
        time.sleep(LOOK)
    say(_count(hosts, epoch, [host for host in hosts if host["epoch"] >= epoch]))
    for host in late:
        say(f"  {printable(host['host'])} lags: it has change {host['epoch']}")
    for host in refusing:
        say(f"  {printable(host['host'])}: {printable(host['problem'])}")
    if found["etcd"]:
        say(f"  {printable(found['etcd'])}")
    return 1 if late or refusing or not hosts or found["etcd"] else 0
