"""`tcpmux workers`: shows the workers, or changes their number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tcpmux.cli.instance import client
from tcpmux.cli.output import console, print_applied, say_json, table
from tcpmux.cli.where import Where, admin_option
from tcpmux.control.limits import MAX_WORKERS
from tcpmux.errors import UsageError, plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tcpmux.control.client import WorkerStatus


def print_workers(workers: Sequence[WorkerStatus]) -> None:
    shown = table(
        "workers",
        "id",
        "pid",
        "guardian",
        "state",
        "generation",
        "connections",
        "limit",
        "starts",
        "recovered",
    )
    for worker in workers:
        shown.add_row(
            str(worker["id"]),
            str(worker["pid"]) if worker["pid"] else "none",
            str(worker["guardian_pid"]),
            worker["state"],
            str(worker["generation"]),
            str(worker["connections"]),
            str(worker["connections_limit"]),
            str(worker["starts"]),
            str(worker["counters"]["recovered"]),
        )
    console().print(shown)


@click.command("workers")
@click.argument("count", type=int, required=False)
@admin_option
@click.option("--json", "as_json", is_flag=True, help="Print the workers as JSON.")
def workers(admin: Where, count: int | None, as_json: bool) -> int:
    """Show the workers, or change their number to COUNT.

    The open connections of a worker that is removed are handed over to the others; no listening
    socket is opened or closed. The file is not changed: the next reload restores its number.
    "recovered": connections resumed from an earlier process of the worker.

    \b
    Examples:
        tcpmux workers
        tcpmux workers 4
    """
    if count is None:
        found = client(admin, reads=True).status()["workers"]
        if as_json:
            say_json(found)
        else:
            print_workers(found)
        return 0
    if as_json:
        raise UsageError("--json can't be combined with COUNT")
    if not 1 <= count <= MAX_WORKERS:
        raise UsageError(f"expected a number of workers from 1 to {MAX_WORKERS}, got {count}")
    print_applied(
        client(admin).set_workers(count), f"nothing changed: {plural(count, 'worker')} already"
    )
    return 0
