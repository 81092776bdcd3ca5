"""The stream that the page and `top` read, over shared memory without processes."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import replace
from typing import Any

from tcpmux.config import Address, Config, Route
from tcpmux.config.model import Admin, Destination
from tcpmux.control.convergences import Convergences
from tcpmux.control.event_log import EventLog
from tcpmux.control.fitting import fitted
from tcpmux.control.health import Health
from tcpmux.control.names import HostNames
from tcpmux.control.schema import Sample
from tcpmux.control.slices import Slices
from tcpmux.control.stream import Stream
from tcpmux.shm._image import publish_image
from tcpmux.shm._live import Live
from tcpmux.shm._table import Table
from tcpmux.shm.build import build_image
from tcpmux.shm.convergence import by_rules
from tcpmux.shm.slots import Names
from tcpmux.shm.view import View
from tests.unit.watching import conditions_of

ENDPOINT = Address("127.0.0.1", 9001, "")
DESTINATIONS = (Destination("v1", 80, (ENDPOINT,)), Destination("v2", 20, (ENDPOINT,)))


def first_sample(*converging: str) -> Any:
    """Of an instance with the routes `shop` and `pay`, of which these converge."""
    listens = [Address("127.0.0.1", port, "") for port in (31400, 31401)]
    routes = tuple(
        Route(name, (listen,), DESTINATIONS)
        for name, listen in zip(("shop", "pay"), listens, strict=True)
    )
    config = Config(None, None, Admin("/x"), 45.0, routes)
    names = Names.new(lambda _: True)
    image = build_image(config, {}, names, {each: i for i, each in enumerate(listens)}, 1, {})
    began_ms = int(time.monotonic() * 1000)
    rows = tuple(
        replace(row, convergence=by_rules(row.rules, began_ms)) if row.name in converging else row
        for row in image.routes
    )
    table, live = Table.create(1, 1, os.getpid(), 5), Live.create(0, 16)
    publish_image(table, replace(image, routes=rows))
    view, slices = View(table.fd, [live.fd]), Slices()
    stream = Stream(
        view,
        EventLog(),
        {"version": "9.9"},
        Health(view),
        HostNames(),
        slices,
        conditions_of(view),
        Convergences(view, slices),
    )
    told: list[Any] = []

    async def write(event: bytes) -> None:
        kind, data = event.decode().rstrip("\n").split("\n")
        if kind == "event: sample":
            told.append(json.loads(data.removeprefix("data: ")))
            stream.end()

    asyncio.run(stream.send(write, None))
    return told[0]


def test_a_sample_has_the_routes_that_converge_and_how_far_they_are() -> None:
    sample = first_sample("pay")
    assert fitted(sample, Sample) is sample
    assert list(sample["convergences"]) == ["pay"]
    state = sample["convergences"]["pay"]
    assert (state["state"], state["reason"], state["rate"]) == ("converging", "", "10/s")
    assert (state["surplus"], state["closed"], state["reset"]) == ([], 0, 0)
    assert state["deadline_at"] - state["began_at"] == 600
    assert abs(state["began_at"] - time.time()) < 60


def test_a_sample_of_an_instance_at_rest_has_none() -> None:
    assert first_sample()["convergences"] == {}
