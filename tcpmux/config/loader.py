"""From texts to a Config: read, validate, merge; every mistake of all files at once."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tcpmux.config.address import Address
from tcpmux.config.document import Document, Text, documents_of
from tcpmux.config.fleet import NO_FLEET, FleetState
from tcpmux.config.fleet_documents import is_of_fleet
from tcpmux.config.foreign import foreign_problem
from tcpmux.config.instance_schema import AdminModel
from tcpmux.config.loops import Leg, find_loops
from tcpmux.config.model import Config, Destination, Route
from tcpmux.config.problems import ConfigError, Location, Problem, describe
from tcpmux.config.resources import Given, Resource, Translation, resources_in
from tcpmux.config.route_check import check_route
from tcpmux.config.schema import (
    MAX_ALL_DESTINATIONS,
    MAX_ALL_RULES,
    MAX_ENDPOINTS,
    MAX_LISTENERS,
    MAX_ROUTES,
    DefaultsModel,
    FileModel,
    RouteModel,
)
from tcpmux.config.settings import EndpointPolicy
from tcpmux.config.settling import explain_no_route, refuse, warnings_of
from tcpmux.config.sources import Source, read_texts, sources_of
from tcpmux.config.turns import turns
from tcpmux.config.validation import Names, add_problems, warn_of_former_names


@dataclass(slots=True)
class _File:
    document: Document
    model: FileModel
    of_fleet: bool = False


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, and what it was made of. translated: its last routes, with theirs."""

    config: Config
    documents: Sequence[Document]
    resources: Sequence[Resource]
    translated: Sequence[tuple[Route, Resource]]


def load(arguments: Sequence[str | Path], given: Sequence[str] = (), admin: str = "") -> Config:
    """Reads what -c arguments name as one. Raises ConfigError with all that is wrong in it.

    A directory stands for its .yaml, .yml and .json files, in order of their names. Routes of
    all files are put together, in order. Any other top-level key may be set in one file only.
    Documents with apiVersion and kind are resources of Istio and of the Gateway API.
    given: HOST=ENDPOINT or HOST/SUBSET=ENDPOINT, for hosts whose endpoints are in no file. admin:
    path of the admin socket if no file names one; "" = the default.
    """
    return load_sources(sources_of(arguments), given, admin)


def load_sources(
    sources: Sequence[Source],
    given: Sequence[str] = (),
    admin: str = "",
    fleet: FleetState = NO_FLEET,
) -> Config:
    """As load(), of what the arguments have been found to mean. fleet: what it has said, if it is
    named there, if one is."""
    problems: list[Problem] = []
    names = [source.name for source in sources]
    texts = read_texts(sources, problems)
    return _loaded(texts, names, given, problems, admin, fleet).config


def load_texts(
    texts: Sequence[Text],
    given: Sequence[str] = (),
    fleet: FleetState = NO_FLEET,
) -> Config:
    """As load_sources(), of files that somebody else has read. No file is opened."""
    return _loaded(texts, [text.name for text in texts], given, [], "", fleet).config


def load_for_report(texts: Sequence[Text], given: Sequence[str] = ()) -> Loaded:
    """As load_texts(), for who asks what became of every value: resources that nobody would run
    unasked are taken as far as they go, and there may be no route in them."""
    return _loaded(texts, [text.name for text in texts], given, [], reports=True)


def _loaded(
    texts: Iterable[Text],
    names: Sequence[str],
    given: Sequence[str],
    problems: list[Problem],
    admin: str = "",
    fleet: FleetState = NO_FLEET,
    *,
    reports: bool = False,
) -> Loaded:
    # A large file makes hundreds of thousands of objects, all alive: looking for garbage among
    # them again and again takes a third of the time.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return _load(texts, names, given, problems, admin, fleet, reports)
    finally:
        if was_enabled:
            gc.enable()


def _load(
    texts: Iterable[Text],
    names: Sequence[str],
    given: Sequence[str],
    problems: list[Problem],
    admin: str,
    fleet: FleetState,
    reports: bool,
) -> Loaded:
    documents, files, resources = _read(texts, problems)
    documents += _read_fleet(files, fleet, problems)
    _check_together(files)
    endpoints = Given.parse(given, problems)
    translation = _translate(resources, endpoints)
    translated = translation.routes
    _check_translated(files, translated)
    has_resources = any(not document.is_native for document in documents)
    has_routes = any(file.model.model_fields_set & {"routes", "fleet"} for file in files)
    if not reports:
        refuse(documents)
    if not problems and not any(document.problems for document in documents):
        # A mistake elsewhere would explain these.
        _check_loops(files, translated)
        if translated:
            endpoints.complain(problems)
        elif not reports and (resources or (has_resources and not has_routes)):
            explain_no_route(documents, resources, problems)
    for document in documents:
        problems.extend(sorted(document.problems, key=lambda p: (p.line, p.column)))
    if not problems and not has_resources and not has_routes:
        problems.append(Problem(names[0] if names else "", 0, 0, "", "routes is missing"))
    if problems:
        raise ConfigError(problems)
    config = _merge(files, [route for route, _ in translated], warnings_of(documents), admin)
    config = replace(config, attachments=tuple(translation.attachments))
    return Loaded(config, documents, resources, translated)


def _read(
    texts: Iterable[Text], problems: list[Problem]
) -> tuple[list[Document], list[_File], list[Resource]]:
    """All documents, and what they are: files of tcpmux's own, and resources."""
    documents: list[Document] = []
    files: list[_File] = []
    resources: list[Resource] = []
    for text in texts:
        documents.extend(_documents(text, files, resources, problems))
    return documents, files, resources


def _read_fleet(files: list[_File], fleet: FleetState, problems: list[Problem]) -> list[Document]:
    """The documents of the fleet that the files name, if they do. Those in which a key of a host
    stands are said to be wrong, and are no part of it."""
    model = _setting(files, "fleet")
    found: list[Document] = []
    if model is None or model.made().keys != fleet.keys:
        return found
    for name, content in sorted(fleet.documents.items()):
        text = Text(model.made().document(name), content)
        ours: list[_File] = []
        foreign: list[Resource] = []
        found += _documents(text, ours, foreign, problems)
        files += (
            replace(file, of_fleet=True) for file in ours if is_of_fleet(file.document, file.model)
        )
    for document in found:
        if not document.is_native:
            document.problem((), "expected a mapping with routes, got a resource of Kubernetes")
    return found


def _documents(
    text: Text, files: list[_File], resources: list[Resource], problems: list[Problem]
) -> list[Document]:
    """What is in one file, sorted. One of another program is said to be that, and no more."""
    try:
        found = documents_of(text)
    except ConfigError as error:
        foreign = foreign_problem(text)
        problems.extend([foreign] if foreign else error.problems)
        return []
    for document in found:
        if not document.is_native:
            resources.extend(resources_in(document))
            continue
        files.extend(_native(document))
        if document.problems and (foreign := foreign_problem(text)):
            document.problems[:] = [foreign]
    return found


def _native(document: Document) -> list[_File]:
    """Its model, or nothing and the problems in the document."""
    if not isinstance(document.value, dict):
        document.problem(
            (), f"expected a mapping with keys such as routes, got {describe(document.value)}"
        )
        return []
    try:
        model = FileModel.model_validate(document.value)
    except ValidationError as error:
        add_problems(document, FileModel, error)
        return []
    if not document.problems and not model.model_fields_set:
        document.problem((), "expected at least one key, such as routes")
    warn_of_former_names(document)
    return [_File(document, model)]


def _check_together(files: Sequence[_File]) -> None:
    """What no single value can tell: names and addresses given twice, and totals."""
    keys, routes = Names("key"), Names("a route named")
    defaults = _setting(files, "defaults")
    listens = Names("a listener on")
    listeners = destinations = endpoints = route_count = rules = 0
    for file in files:
        document = file.document
        for key in file.model.model_fields_set - {"routes"}:
            keys.add(key, document, (key,))
        _check_admin(file.model.admin, document)
        for r, route in enumerate(file.model.routes):
            here: Location = ("routes", r)
            routes.add(route.name, document, (*here, "name"))
            for at, addresses in enumerate(route.listen):
                for address in addresses:
                    listens.add(address, document, (*here, "listen", at))
                listeners += len(addresses)
            check_route(route, defaults, document, here)
            route_count += 1
            rules += len(route.rules)
            destinations += len(route.destinations)
            endpoints += sum(len(d.endpoints) for d in route.destinations)
    for what, count, most in (
        ("routes", route_count, MAX_ROUTES),
        ("listen addresses", listeners, MAX_LISTENERS),
        ("destinations", destinations, MAX_ALL_DESTINATIONS),
        ("endpoints", endpoints, MAX_ENDPOINTS),
        ("rules", rules, MAX_ALL_RULES),
    ):
        if count > most:
            files[-1].document.problem(
                ("routes",), f"expected at most {most} {what} in all, got {count}"
            )


def _check_admin(admin: AdminModel, document: Document) -> None:
    if admin.http is None:
        return
    named = [
        key for key in ("token_file", "read_only_token_file") if getattr(admin, key) is not None
    ]
    if not named and not admin.insecure:
        document.problem(
            ("admin", "http"),
            f"anyone who can connect to {admin.http} could change everything: set token_file, or "
            "insecure: true to allow that",
        )
    elif named and admin.insecure:
        document.problem(("admin", "insecure"), f"expected either this or a {named[0]}, got both")


def _translate(resources: Sequence[Resource], given: Given) -> Translation:
    """Translates them, if there are any: the schemas that takes are as many as all others."""
    if not resources:
        return Translation()
    from tcpmux.config.translate import translate

    return translate(resources, given)


def _check_translated(files: Sequence[_File], translated: Sequence[tuple[Route, Resource]]) -> None:
    """Names and addresses that are in two resources, or in one and in a native file."""
    routes, listens = Names("a route named"), Names("a listener on")
    for file in files:
        for r, route in enumerate(file.model.routes):
            routes.first.setdefault(route.name, file.document.place(("routes", r, "name")))
            for at, addresses in enumerate(route.listen):
                for address in addresses:
                    place = file.document.place(("routes", r, "listen", at))
                    listens.first.setdefault(address, place)
    for made, resource in translated:
        routes.add(made.name, resource.document, resource.location)
        for address in made.listen:
            listens.add(address, resource.document, resource.location)


def _check_loops(files: Sequence[_File], translated: Sequence[tuple[Route, Resource]]) -> None:
    """Routes that lead back to themselves. Names have to be unique."""
    listens = {
        address: route.name
        for file in files
        for route in file.model.routes
        for addresses in route.listen
        for address in addresses
    }
    listens |= {address: made.name for made, _ in translated for address in made.listen}
    for loop in find_loops(listens, [*_native_legs(files), *_translated_legs(translated)]):
        if isinstance(loop.leg.place, Resource):
            resource = loop.leg.place
            resource.document.problem(resource.location, f"route {loop.leg.route}: {loop}")
        else:
            assert isinstance(loop.leg.place, tuple)
            document, location = loop.leg.place
            document.problem(location, str(loop))


def _native_legs(files: Iterable[_File]) -> Iterable[Leg]:
    for file in files:
        for r, route in enumerate(file.model.routes):
            for d, destination in enumerate(route.destinations):
                for e, endpoint in enumerate(destination.endpoints):
                    if isinstance(endpoint.address, Address):
                        location = ("routes", r, "destinations", d, "endpoints", e)
                        yield Leg(route.name, endpoint.address, (file.document, location))


def _translated_legs(translated: Iterable[tuple[Route, Resource]]) -> Iterable[Leg]:
    for route, resource in translated:
        for destination in route.destinations:
            for endpoint in dict.fromkeys(destination.endpoints):
                if isinstance(endpoint, Address):
                    yield Leg(route.name, endpoint, resource)


def _setting(files: Sequence[_File], key: str) -> Any:
    """From the one file that sets it, else the default."""
    models = [f.model for f in files if key in f.model.model_fields_set]
    return getattr(models[0] if models else FileModel(), key)


def _merge(
    files: Sequence[_File],
    translated: Sequence[Route],
    warnings: Sequence[Problem],
    admin: str,
) -> Config:
    def setting(key: str) -> Any:
        return _setting(files, key)

    defaults = setting("defaults")
    native = (_route(route, defaults) for file in files for route in file.model.routes)
    return Config(
        workers=setting("workers"),
        busy_poll=setting("busy_poll"),
        admin=setting("admin").made(admin),
        drain_timeout=setting("drain_timeout"),
        routes=(*native, *translated),
        dns_servers=tuple(setting("dns").servers),
        warnings=tuple(warnings),
        log=setting("log").made(),
        access_log=log.made() if (log := setting("access_log")) is not None else None,
        user=setting("user"),
        group=setting("group"),
        buffers=setting("buffers").made(),
        state_dir=setting("state_dir"),
        fleet=fleet.made() if (fleet := setting("fleet")) is not None else None,
        fleet_routes=frozenset(r.name for f in files if f.of_fleet for r in f.model.routes),
    )


def _route(model: RouteModel, defaults: DefaultsModel) -> Route:
    return Route(
        model.name,
        tuple(address for addresses in model.listen for address in addresses),
        tuple(
            Destination(
                d.name,
                d.weight,
                turns([(e.address, e.weight) for e in d.endpoints]),
                d.made((d, model, defaults)),
                tuple((e.address, e.made()) for e in d.endpoints if e.made() != EndpointPolicy()),
            )
            for d in model.destinations
        ),
        policy=model.made(defaults),
        rules=tuple(rule.made() for rule in model.rules),
        rollout=model.rollout.made() if model.rollout else None,
    )
