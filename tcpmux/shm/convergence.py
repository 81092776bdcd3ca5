"""When live connections of a route are brought to the weights, and by what settings. Runs in the
master, as part of what follows from a change. Who is closed control decides, from what is in force.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tcpmux.config.converge import CONVERGE_THEN, CONVERGE_WHEN, rate_text, when_text
from tcpmux.config.duration import format_duration
from tcpmux.shm.image import HEALTHY, READY, Convergence, EndpointRow, Image, RouteRow
from tcpmux.shm.rules import RouteRules

KEEP, RESET = range(2)  # indexes of CONVERGE_THEN
CLOSE, REHOME = range(2)  # of CONVERGE_METHOD


def by_rules(rules: RouteRules, began_ms: int) -> Convergence:
    """With the settings of a route, those of `converge` in the file or the defaults."""
    return Convergence(
        began_ms,
        1,
        rules.converge_rate,
        rules.converge_rate_percent,
        rules.converge_order,
        rules.converge_quiet_ms,
        rules.converge_deadline_ms,
        rules.converge_then,
        rules.converge_tolerance,
        rules.converge_method,
        rules.converge_goodbye,
    )


def goes_on(before: RouteRow | None, rules: RouteRules) -> Convergence | None:
    """What a route that is made anew has of it. before: the row in force. What the file set off
    follows the file: it has the settings there now, and ends with the key."""
    found = before.convergence if before else None
    if found is None or not found.by_key:
        return found
    return by_rules(rules, found.began_ms) if rules.converge_when else None


def set_off(before: Image, after: Image, cause: str, now_ms: int) -> Image:
    """The image `after`, in which connections follow the weights of each route whose shares are
    others than before and whose settings name this cause. cause: of CONVERGE_WHEN; "" = none.
    now_ms: monotonic. It is no new cause that the route is new, or that its name is."""
    if not cause or before is after:
        return after
    bit = 1 << [*CONVERGE_WHEN].index(cause)
    known = {route.name: route for route in before.routes}
    routes = tuple(
        replace(route, convergence=by_rules(route.rules, now_ms))
        if route.rules.converge_when & bit
        and route.name in known
        and _shares(known[route.name]) != _shares(route)
        else route
        for route in after.routes
    )
    return replace(after, routes=routes)


def is_left(endpoint: EndpointRow, method: int) -> bool:
    """Whether nobody is to stay there. Who is closed for one that is down may still be served by
    it; who is rehomed loses nothing."""
    return endpoint.state != READY or (method == REHOME and endpoint.health != HEALTHY)


def _shares(route: RouteRow) -> object:
    """Where connections would go now: by split, and what is on its way out."""
    return (
        tuple((row.name, row.effective_weight, row.state) for row in route.destinations),
        tuple((rule.name, rule.effective_weights) for rule in route.pick_rules),
        frozenset(
            (row.name, str(endpoint.address))
            for row in route.destinations
            for endpoint in row.endpoints
            if is_left(endpoint, route.rules.converge_method)
        ),
    )


def settings_text(found: Convergence) -> str:
    """`at most 10/s, quiet for 2s, for 10m at most, then keep`."""
    rate = rate_text(found.rate, found.rate_percent)
    quiet, deadline = (format_duration(ms / 1000) for ms in (found.quiet_ms, found.deadline_ms))
    then = [*CONVERGE_THEN][found.then]
    how = "rehomed, " if found.method == REHOME else ""
    return f"{how}at most {rate}, quiet for {quiet}, for {deadline} at most, then {then}"


def convergence_changes(old: RouteRow, new: RouteRow) -> Iterator[str]:
    """What is different, in words. That it goes on with another deadline is not."""
    then, now = old.rules, new.rules
    was, is_now = (
        f"{{when: {when_text(rules.converge_when)}, "
        f"rate: {rate_text(rules.converge_rate, rules.converge_rate_percent)}}}"
        for rules in (then, now)
    )
    if was != is_now:
        yield f"converge {was}->{is_now}"
    if new.convergence is not None:
        text = settings_text(new.convergence)
        if old.convergence is None:
            yield f"live connections are brought to the weights ({text})"
        elif settings_text(old.convergence) != text:
            yield f"live connections go on being brought to the weights ({text})"
    elif old.convergence is not None:
        yield "live connections stay where they are"
