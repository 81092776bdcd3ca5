"""What it costs to find the rule that a connection meets: ns of CPU, with so many rules of sources
or of names. `python -m bench.rules`; needs gcc and a release build.

Of each, the median of several runs. Without rules, nothing is looked for.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from ipaddress import ip_network

from bench.build import CSRC, build_with_worker
from tcpmux.config import Address, Admin, Config, Destination, Route, Rule
from tcpmux.shm._image import publish_image
from tcpmux.shm._table import Table
from tcpmux.shm.build import build_image
from tcpmux.shm.slots import Names

PICKS = 5_000_000
RUNS = 5


def table_of(rules: tuple[Rule, ...]) -> Table:
    destinations = (Destination("v1", 1, (Address("127.0.0.1", 1, ""),)),)
    route = Route("r", (), destinations, rules=rules)
    config = Config(None, None, Admin("/x"), 45.0, (route,))
    table = Table.create(1, 1, 1, 0)
    publish_image(table, build_image(config, {}, Names.new(lambda _: True), {}, 1, {}))
    return table


def sources(count: int) -> tuple[Rule, ...]:
    """Networks of /24, one a rule."""
    networks = (ip_network((10 << 24 | n << 8, 24)) for n in range(count))
    return tuple(Rule(sources=(network,), weights=(("v1", 1),)) for network in networks)


def names(count: int) -> tuple[Rule, ...]:
    """Half of them ends of names."""
    patterns = (f"{'*' if n % 2 else 'www'}.host{n}.example" for n in range(count))
    return tuple(Rule(sni=(pattern,), weights=(("v1", 1),)) for pattern in patterns)


def main() -> int:
    files = [CSRC / f"{name}.c" for name in ("pick_rules", "route_table")]
    found = build_with_worker("rule_match", files)
    for what, made, by in (
        *((f"{n} rules of sources", sources(n), (n, 0)) for n in (1, 10, 100, 1000)),
        *((f"{n} rules of names", names(n), (0, n)) for n in (1, 10, 100, 1000)),
    ):
        table = table_of(made)
        fd = os.dup(table.reader_fd)
        command = [str(found), str(fd), *map(str, by), str(PICKS)]
        times = [
            float(subprocess.run(command, check=True, capture_output=True, pass_fds=(fd,)).stdout)
            for _ in range(RUNS)
        ]
        os.close(fd)
        print(f"{what:24} {statistics.median(times):6.1f} ns ({min(times):.1f}..{max(times):.1f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
