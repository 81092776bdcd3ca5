"""What commands have in common that bring live connections to the weights, and how it is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tcpmux.control.converge_text import waiting_text
from tcpmux.control.limits import CONVERGE_THENS
from tcpmux.errors import clock, plural, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tcpmux.control.schema import ConvergencePlan, ConvergenceStatus, Surplus


def seconds(_ctx: click.Context, _option: click.Parameter, text: str | None) -> float | None:
    if text is None:
        return None
    from tcpmux.config.duration import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}, got {text!r}") from None


deadline_option = click.option(
    "--deadline", callback=seconds, metavar="DURATION", help="End after this time: 90s, 10m."
)
then_option = click.option(
    "--then",
    type=click.Choice(CONVERGE_THENS),
    help="What happens at the deadline to those left: they stay, or are reset at the rate.",
)


def listed(found: Sequence[Surplus]) -> str:
    """`v1 12, v2 3`."""
    return ", ".join(f"{printable(each['name'])} {each['connections']}" for each in found)


def left_over(state: ConvergenceStatus) -> str:
    """What is left to do, and what keeps it."""
    text = f"too many at {listed(state['surplus'])}" if state["surplus"] else "counting"
    kept = waiting_text(state)
    text += f" ({kept})" if kept else ""
    return f"{text}; paused: {printable(state['reason'])}" if state["reason"] else text


def done_so_far(state: ConvergenceStatus) -> str:
    """`3 connections closed`."""
    if state["method"] == "rehome":
        return f"{plural(state['rehomed'], 'connection')} rehomed"
    return f"{plural(state['closed'] + state['reset'], 'connection')} closed"


def converging(state: ConvergenceStatus, now: float) -> str:
    """One line of a status."""
    until = clock(state["deadline_at"], now)
    done = done_so_far(state)
    return f"converging at {state['rate']} until {until}: {done}, {left_over(state)}"


def briefly(state: ConvergenceStatus) -> str:
    """The same where there is little room: what matters most comes first."""
    why = f" ({printable(state['reason'])})" if state["reason"] else ""
    left = f"too many at {listed(state['surplus'])}" if state["surplus"] else "counting"
    return f"{printable(state['state'])}{why}: {left}; {state['closed'] + state['reset']} closed"


def plan_text(plan: ConvergencePlan) -> str:
    """What a start of it would do."""
    every = plural(plan["connections"], "live connection")
    if not plan["surplus"]:
        return f"{every}, which follow the weights: nothing to do"
    done = "rehomed" if plan["method"] == "rehome" else "closed"
    text = (
        f"{every}; too many: {listed(plan['surplus'])}; about {plan['closes']} to be {done}, in "
        f"{plan['seconds']:.0f} s or more"
    )
    waiting = waiting_text(plan)
    return f"{text}; now {waiting}" if waiting else text
