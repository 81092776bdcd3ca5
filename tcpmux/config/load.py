"""From files to a Config: read, validate, merge; every mistake of all files at once."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tcpmux.config.document import Document, read_document
from tcpmux.config.model import Admin, Config, Destination, Route
from tcpmux.config.problems import ConfigError, Location, Problem, describe, one_line
from tcpmux.config.schema import (
    MAX_ALL_DESTINATIONS,
    MAX_ENDPOINTS,
    MAX_LISTENERS,
    MAX_ROUTES,
    FileModel,
    RouteModel,
    known_keys,
)


@dataclass(slots=True)
class _File:
    document: Document
    model: FileModel


@dataclass(slots=True)
class _Names:
    """Names that must be unique, and where each was first seen."""

    what: str
    first: dict[Any, str] = field(default_factory=dict)

    def add(self, name: Any, document: Document, location: Location) -> None:
        if name in self.first:
            document.problem(
                location, f"{self.what} {describe(name)} is already at {self.first[name]}"
            )
        else:
            self.first[name] = document.place(location)


def load(paths: Sequence[str | Path]) -> Config:
    """Reads configuration files as one. Raises ConfigError with all that is wrong in them.

    Routes of all files are put together, in order. Any other top-level key may be set in
    one file only.
    """
    problems: list[Problem] = []
    files: list[_File] = []
    for path in paths:
        try:
            files.append(_read(path))
        except ConfigError as error:
            problems.extend(error.problems)
    for file in files:
        if not file.document.problems and not file.model.model_fields_set:
            file.document.problem((), "expected at least one key, such as routes")
    _check_together(files)
    for file in files:
        problems.extend(sorted(file.document.problems, key=lambda p: (p.line, p.column)))
    if not problems and not any("routes" in file.model.model_fields_set for file in files):
        problems.append(Problem(str(paths[0]) if paths else "", 0, 0, "", "routes is missing"))
    if problems:
        raise ConfigError(problems)
    return _merge(files, paths)


def _read(path: str | Path) -> _File:
    """One file; problems of its contents are in its document, and the model then is empty."""
    document = read_document(path)
    if not isinstance(document.value, dict):
        document.problem(
            (), f"expected a mapping with keys such as routes, got {describe(document.value)}"
        )
        raise ConfigError(document.problems)
    try:
        model = FileModel.model_validate(document.value)
    except ValidationError as error:
        for details in error.errors(include_url=False):
            _add_problem(document, details)
        raise ConfigError(sorted(document.problems, key=lambda p: (p.line, p.column))) from None
    return _File(document, model)


def _add_problem(document: Document, details: Any) -> None:
    location: Location = tuple(details["loc"])
    kind, got = details["type"], describe(details["input"])
    context = details.get("ctx", {})
    if kind == "missing":
        document.problem(location[:-1], f"{location[-1]} is missing")
    elif kind == "extra_forbidden":
        key = str(location[-1])
        known = known_keys(location[:-1])
        near = difflib.get_close_matches(key, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
        document.problem(
            location[:-1], f"unknown key {one_line(key)}: {hint}", document.keys.get(location)
        )
    elif kind == "value_error":
        document.problem(location, str(context["error"]))
    elif kind in ("model_type", "dict_type", "model_attributes_type"):
        document.problem(location, f"expected a mapping, got {got}")
    elif kind == "list_type":
        document.problem(location, f"expected a list, got {got}")
    elif kind == "too_short":
        document.problem(location, "expected at least one entry, got none")
    elif kind == "too_long":
        document.problem(
            location,
            f"expected at most {context['max_length']} entries, got {context['actual_length']}",
        )
    else:
        document.problem(location, f"{details['msg']}, got {got}")


def _check_together(files: Sequence[_File]) -> None:
    """What no single value can tell: names and addresses given twice, and totals."""
    keys, routes = _Names("key"), _Names("a route named")
    listens = _Names("a listener on")
    listeners = destinations = endpoints = route_count = 0
    for file in files:
        document = file.document
        for key in file.model.model_fields_set - {"routes"}:
            keys.add(key, document, (key,))
        for r, route in enumerate(file.model.routes):
            here: Location = ("routes", r)
            routes.add(route.name, document, (*here, "name"))
            for at, address in enumerate(route.listen):
                listens.add(address, document, (*here, "listen", at))
            _check_destinations(route, document, here)
            route_count += 1
            listeners += len(route.listen)
            destinations += len(route.destinations)
            endpoints += sum(len(d.endpoints) for d in route.destinations)
    for what, count, most in (
        ("routes", route_count, MAX_ROUTES),
        ("listen addresses", listeners, MAX_LISTENERS),
        ("destinations", destinations, MAX_ALL_DESTINATIONS),
        ("endpoints", endpoints, MAX_ENDPOINTS),
    ):
        if count > most:
            files[-1].document.problem(
                ("routes",), f"expected at most {most} {what} in all, got {count}"
            )


def _check_destinations(route: RouteModel, document: Document, here: Location) -> None:
    names = _Names("a destination named")
    for d, destination in enumerate(route.destinations):
        names.add(destination.name, document, (*here, "destinations", d, "name"))
        endpoints = _Names("the endpoint")
        for e, endpoint in enumerate(destination.endpoints):
            endpoints.add(endpoint, document, (*here, "destinations", d, "endpoints", e))


def _merge(files: Sequence[_File], paths: Sequence[str | Path]) -> Config:
    def setting(key: str) -> Any:
        """From the one file that sets it, else the default."""
        models = [f.model for f in files if key in f.model.model_fields_set]
        return getattr(models[0] if models else FileModel(), key)

    return Config(
        workers=setting("workers"),
        busy_poll=setting("busy_poll"),
        admin=Admin(setting("admin").socket),
        drain_timeout=setting("drain_timeout"),
        routes=tuple(_route(route) for file in files for route in file.model.routes),
        files=tuple(Path(path) for path in paths),
    )


def _route(model: RouteModel) -> Route:
    return Route(
        model.name,
        tuple(model.listen),
        model.connect_timeout,
        model.idle_timeout,
        tuple(Destination(d.name, d.weight, tuple(d.endpoints)) for d in model.destinations),
    )
