"""Resources of Istio, the Gateway API and Kubernetes, and files of tcpmux's own: every value of
them in its class, and the routes.yaml that they mean."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tcpmux.config.document import Document, Text
from tcpmux.config.loader import Loaded, load_for_report
from tcpmux.config.native import to_text
from tcpmux.config.problems import ConfigError, Location, Problem, describe, one_line
from tcpmux.config.remarks import CHANGES, HARMLESS, MAPPED, Remark
from tcpmux.config.resources import Resource
from tcpmux.config.settling import SAME
from tcpmux.convert.conversion import Conversion, read_back
from tcpmux.convert.report import UNKNOWN, Effect, Report, Word

Class = tuple[str, str, str]  # effect, note, needs
Leaf = tuple[Location, Any]

HIDDEN = "..."  # instead of a value that nobody should see
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"  # the whole resource as JSON
_DATA = ("Secret", "ConfigMap")
METADATA = "has no effect on connections"
# By these labels others choose them.
LABELLED = {"Pod", "EndpointSlice", "Namespace", "WorkloadEntry"}
# Annotations that change what Istio, or a load balancer in front, does with connections.
_TELLING = re.compile(
    r"networking\.istio\.io/(exportTo|traffic-distribution)|proxy\.istio\.io/config"
    r"|traffic\.sidecar\.istio\.io/.*|.*proxy-protocol.*"
)


def convert_own(texts: Sequence[Text], given: Sequence[str] = ()) -> Conversion:
    """given: as of load(). Raises ConfigError for mistakes in the files."""
    loaded = load_for_report(texts, given)
    report = Report()
    for document in loaded.documents:
        _tell(document, loaded, report)
    config = replace(loaded.config, warnings=(), attachments=())
    text = ""
    if config.routes or not loaded.resources:
        text = to_text(config, _remarks(loaded, report))
        read_back(text, config)
    elif not report.changes():
        names = ", ".join(text.name for text in texts)
        why = [
            Problem(found.file, found.line, found.column, one_line(found.text), found.note)
            for found in report.findings()
            if found.needs
        ]
        raise ConfigError([*why, Problem(names, 0, 0, "", "found no TCP route")])
    return Conversion(text, tuple(report.findings()), report.totals())


def _remarks(loaded: Loaded, report: Report) -> dict[str, list[str]]:
    """What is not in the result, by the route that it was for; "" = by none."""
    remarks: dict[str, list[str]] = {}
    owners = {str(resource): route.name for route, resource in loaded.translated}
    for found in report.findings():
        if found.is_left_out:
            remarks.setdefault(owners.get(found.section, ""), []).append(found.remark)
    return remarks


@dataclass(frozen=True, slots=True)
class _Part:
    """Of a document: a resource, whether tcpmux reads it or not; what is around resources in a
    List; or a part of a file of tcpmux's own."""

    section: str
    leaves: list[tuple[Leaf, Class]]

    def by_class(self) -> dict[Class, list[Leaf]]:
        found: dict[Class, list[Leaf]] = {}
        for leaf, of in self.leaves:
            found.setdefault(of, []).append(leaf)
        return found


def _tell(document: Document, loaded: Loaded, report: Report) -> None:
    """One statement for each class that a resource's values have; what has no effect in many
    resources, and for the same reason, is one for all of them."""
    resources = {r.location: r for r in loaded.resources if r.document is document}
    found: dict[Class, list[tuple[str, list[Leaf]]]] = {}
    for part in _parts(document, document.value, (), resources):
        for of, leaves in part.by_class().items():
            found.setdefault(of, []).append((part.section, leaves))
    told: list[tuple[Class, str, list[Leaf]]] = []
    for (effect, note, needs), parts in found.items():
        if effect == HARMLESS and len(parts) > SAME:
            all_ = [leaf for _, leaves in parts for leaf in leaves]
            told.append(((effect, f"{note} (of {len(parts)} resources)", needs), "", all_))
        else:
            told += [((effect, note, needs), section, leaves) for section, leaves in parts]
    for (effect, note, needs), section, leaves in sorted(
        told, key=lambda one: _place(document, one[2][0])
    ):
        words = [_word(document, leaf, _is_secret(document, leaf[0])) for leaf in leaves]
        for word in words:
            word.mark(Effect(effect), note, needs)
        report.statement(document.file, words, section)


def _place(document: Document, leaf: Leaf) -> tuple[int, int]:
    """Of its key, if it has one."""
    location = leaf[0]
    return document.keys.get(location) or document.mark(location)


def _word(document: Document, leaf: Leaf, is_secret: bool) -> Word:
    """An entry of a list has the list's key in front, too."""
    location, value = leaf
    text = {"{}": "{}", "[]": "[]"}.get(str(value)) or describe(value)
    key = next((step for step in reversed(location) if isinstance(step, str)), "")
    line, column = _place(document, leaf)
    return Word(f"{one_line(key)}: {HIDDEN if is_secret else text}", line, column)


def _is_secret(document: Document, location: Location) -> bool:
    """It may be a password: inside the data of a Secret, or of a ConfigMap, in a container's
    environment, or in a copy of all of that."""
    value: Any = document.value
    if LAST_APPLIED in location or ("env" in location and location[-1] == "value"):
        return True
    for step in location:
        if isinstance(value, dict) and value.get("kind") in _DATA and step != "metadata":
            return step not in ("kind", "apiVersion")
        value = value[step]
    return False


# --- classes --------------------------------------------------------------------------------------


def _parts(
    document: Document, value: Any, location: Location, resources: dict[Location, Resource]
) -> Iterator[_Part]:
    if document.is_native:
        mapped = (MAPPED, "", "")
        for key, inside in value.items():
            yield _Part(key, [(leaf, mapped) for leaf in _leaves(inside, (key,))])
        return
    if value["kind"] == "List" and "/" not in value["apiVersion"]:
        around = {key: inside for key, inside in value.items() if key != "items"}
        list_ = (HARMLESS, "only a list of resources", "")
        yield _Part("", [(leaf, list_) for leaf in _leaves(around, location)])
        for index, item in enumerate(value["items"]):
            yield from _parts(document, item, (*location, "items", index), resources)
        return
    resource = resources.get(location)
    named = _names_first(_leaves(value, location), location)
    if resource is None:
        remark = document.remarks.of_leaf(location)
        of = _class_of(remark) if remark else (CHANGES, UNKNOWN, "")
        yield _Part("", [(leaf, of) for leaf in named])
    else:
        yield _Part(str(resource), [(leaf, _class(resource, leaf)) for leaf in named])


def _leaves(value: Any, location: Location) -> Iterator[Leaf]:
    """Values that are not collections, and collections with nothing in them."""
    if isinstance(value, dict) and value:
        for key, inside in value.items():
            yield from _leaves(inside, (*location, key))
    elif isinstance(value, list) and value:
        for index, inside in enumerate(value):
            yield from _leaves(inside, (*location, index))
    else:
        yield location, value


def _names_first(leaves: Iterable[Leaf], location: Location) -> list[Leaf]:
    """What a reader knows a resource by comes first."""
    order = [("kind",), ("metadata", "name"), ("metadata", "namespace"), ("apiVersion",)]
    first = {(*location, *key): place for place, key in enumerate(order)}
    return sorted(leaves, key=lambda leaf: first.get(leaf[0], len(order)))


def _class_of(remark: Remark) -> Class:
    return remark.effect, remark.note, remark.needs


def _class(resource: Resource, leaf: Leaf) -> Class:
    """Of a value of a resource that tcpmux reads."""
    location = leaf[0]
    remarks = resource.document.remarks
    remark = remarks.of_leaf(location)
    whole = remarks.of_all(resource.location)
    if whole is not None and whole.effect == CHANGES:
        return _class_of(whole)
    if (
        whole is not None
        and whole.effect == HARMLESS
        and (remark is None or remark.location == resource.location)
    ):
        return _class_of(whole)
    if not resource.is_used:
        return HARMLESS, f"no route uses this {resource.kind}", ""
    inside = location[len(resource.location) :]
    is_around = inside[0] in ("apiVersion", "kind", "metadata")
    if remark is not None and (remark.effect == CHANGES or not is_around):
        return _class_of(remark)
    return _class_of_plain(resource, inside)


# Kinds without a spec.
_WHOLE = {"EndpointSlice": ("endpoints", "ports"), "Endpoints": ("subsets",)}


def _class_of_plain(resource: Resource, inside: Location) -> Class:
    """Of what nothing is said about."""
    if inside[0] == "metadata":
        return _class_of_metadata(resource, inside[1:])
    if inside[0] == "status" and resource.kind != "Pod":
        return HARMLESS, "reports the state in a cluster", ""
    if inside[0] in ("apiVersion", "kind", "spec", "status", *_WHOLE.get(resource.kind, ())):
        return MAPPED, "", ""
    return CHANGES, UNKNOWN, ""


def _class_of_metadata(resource: Resource, inside: Location) -> Class:
    key = inside[0] if inside else ""
    if key in ("name", "namespace") or (key == "labels" and resource.kind in LABELLED):
        return MAPPED, "", ""
    if key == "annotations" and len(inside) > 1 and _TELLING.fullmatch(str(inside[1])):
        return CHANGES, "tcpmux ignores this annotation", "annotations"
    return HARMLESS, METADATA, ""
