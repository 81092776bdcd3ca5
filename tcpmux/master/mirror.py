"""Which connections of a route get a shadow, at run time, until the next reload. Runs in the
master."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tcpmux.config import Config
from tcpmux.config.mirror import share_of
from tcpmux.master.answers import Refusal
from tcpmux.master.change import Change, InForce, route_of, unknown
from tcpmux.shm.image import Image, RouteRow
from tcpmux.shm.mirror import Mirroring, mirroring_of, set_at_run_time, with_mirroring


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMirror(Change):
    """A copy of so many percent of a route's connections. to: the destination that gets them; "" =
    as before."""

    kind = "mirror"

    route: str
    percent: float
    to: str = ""

    def plan(self, now: InForce) -> InForce:
        route = route_of(now.image, self.route)
        found = Mirroring(self._destination(now.config, route), self._share())
        names = [row.name for row in route.destinations]
        rules = with_mirroring(route.rules, names, found)
        return replace(
            now,
            image=_with_route(now.image, replace(route, rules=rules)),
            mirrors={**now.mirrors, route.name: found},
        )

    def _destination(self, config: Config, route: RouteRow) -> str:
        names = [row.name for row in route.destinations]
        if self.to and self.to not in names:
            raise unknown(f"destination of route {route.name}", self.to, names)
        in_file = next((r.policy.mirror.to for r in config.routes if r.name == route.name), "")
        found = self.to or mirroring_of(route).to or in_file
        if not found:
            raise Refusal(
                "invalid",
                f"{route.name} has no mirror in the file: say which destination gets the copies",
            )
        if names == [found]:
            raise Refusal(
                "refused",
                f"{route.name} has no destination but {found}: there is nothing to mirror",
            )
        return found

    def _share(self) -> int:
        try:
            return share_of(self.percent)
        except (TypeError, ValueError, OverflowError):
            raise Refusal(
                "invalid",
                f"percent: expected 0..100 with at most two decimals, got {self.percent!r}",
            ) from None


def mirrors_that_last(config: Config, image: Image) -> dict[str, Mirroring]:
    """Those set at run time, of the routes that the file still has."""
    names = {route.name: {d.name for d in route.destinations} for route in config.routes}
    found = {route.name: set_at_run_time(route) for route in image.routes}
    return {
        name: each
        for name, each in found.items()
        if each is not None and each.to in names.get(name, ())
    }


def mirrors_that_end(before: Image, after: Image) -> Iterator[str]:
    """What the file says now where something else was set."""
    now = {route.name: mirroring_of(route) for route in after.routes}
    for route in before.routes:
        was = set_at_run_time(route)
        if was is not None and was.share and route.name in now and now[route.name] != was:
            yield f"{route.name}: the file's mirror replaces the one set at run time ({was})"


def _with_route(image: Image, route: RouteRow) -> Image:
    routes = tuple(route if row.name == route.name else row for row in image.routes)
    return replace(image, routes=routes)
