"""What the log of a start says of the routes."""

from __future__ import annotations

import logging

import pytest

from tcpmux.config import Text, load_texts
from tcpmux.levels import Where
from tcpmux.master.announcement import MAX_SHOWN, routes_shown
from tcpmux.shm.image import Image

ROUTE = """\
- name: r{0}
  listen: [127.0.0.1:{1}, 127.0.0.1:{2}]
  destinations:
  - {{name: v1, weight: 90, endpoints: [192.0.2.1:1, 192.0.2.2:1]}}
  - {{name: v2, weight: 10, endpoints: [192.0.2.3:1]}}
"""


@pytest.mark.parametrize("count", [1, MAX_SHOWN, MAX_SHOWN + 1, 1000])
def test_few_routes_are_shown_and_many_are_counted(count: int) -> None:
    text = "routes:\n" + "".join(ROUTE.format(n, 1000 + n, 3000 + n) for n in range(count))
    lines = list(routes_shown(load_texts([Text("routes.yaml", text, {})]), Image((), ())))
    shown = [str(line) for line in lines if line.level > logging.DEBUG]
    first = "r0: listening on 127.0.0.1:1000, 127.0.0.1:3000, v1 90, v2 10"
    assert str(lines[0]) == first
    assert lines[0].where == Where("r0")
    if count <= MAX_SHOWN:
        assert len(shown) == len(lines) == count
    else:
        counts = f"{count} routes, {2 * count} listeners, {2 * count} destinations"
        assert shown == [f"{counts}, {3 * count} endpoints: each route at log level debug"]
        assert len(lines) == count + 1
