"""`tcpmux weight`: shifts the traffic of a route, at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tcpmux.cli.instance import admin_option, client
from tcpmux.cli.output import print_applied
from tcpmux.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_WEIGHT = 1_000_000


def parse_weights(pairs: Sequence[str]) -> dict[str, int]:
    """`v1=80 v2=20` as a dict. Raises UsageError."""
    weights: dict[str, int] = {}
    for pair in pairs:
        name, equals, number = pair.partition("=")
        if not name or not equals:
            raise UsageError(f"expected DESTINATION=WEIGHT, as in v1=80, got {pair!r}")
        # isdecimal would take digits of every script, and int() signs, blanks and underscores.
        if (
            not (number.isascii() and number.isdecimal())
            or len(number) > 7
            or int(number) > MAX_WEIGHT
        ):
            raise UsageError(f"{name}: a weight is a whole number 0..{MAX_WEIGHT}, got {number!r}")
        if name in weights:
            raise UsageError(f"{name} is given twice")
        weights[name] = int(number)
    return weights


@click.command("weight")
@click.argument("route")
@click.argument("weights", metavar="DESTINATION=WEIGHT...", nargs=-1, required=True)
@click.option("--save", is_flag=True, help="Write the weights into the file as well.")
@admin_option
def weight(admin: str | None, route: str, weights: tuple[str, ...], save: bool) -> int:
    """Shift the traffic of a route, at once.

    Sets weights of its destinations, for new connections; open ones stay where they are. A
    destination gets weight / sum of weights of the connections, exactly; 0 is none.
    Destinations not named keep their weight. Without --save the file stays as it is, and the
    next reload goes back to what it says; with it only these numbers change in it.

    \b
    Examples:
        tcpmux weight tcp-echo v1=80 v2=20     every fifth connection to v2
        tcpmux weight tcp-echo v1=0 v2=1       all of them to v2
    """
    wanted = parse_weights(weights)
    instance = client(admin)
    applied = instance.set_weights(route, wanted)
    print_applied(applied, f"{route}: the weights were so already")
    if save:
        from tcpmux.config.edit import save_weights

        click.echo(f"saved in {save_weights(instance.status()['config'], route, wanted)}")
    return 0
