"""How models of resources are read, and what fields of several of them are. Names of fields are
those of their APIs: istio_specs.py, gateway_specs.py, kubernetes_specs.py.

A field that tcpmux does not honour carries a Changes or a Harmless, with what is to be said when it
is used. All other fields of a Strict model are mapped; what is not a field is an unknown key.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from tcpmux.config.keys import parser
from tcpmux.config.model import MAX_WEIGHT
from tcpmux.config.problems import Location, describe
from tcpmux.config.remarks import Changes, Harmless, remark_of
from tcpmux.config.resources import Resource
from tcpmux.config.rows import rows_of
from tcpmux.config.settings import Timeouts
from tcpmux.config.validation import add_problems, model_in
from tcpmux.config.values import duration, unlike_number

M = TypeVar("M", bound=BaseModel)
_TIMEOUTS = rows_of(Timeouts)
# Of a Strict model it is a mistake anyway.
_NOT_A_FIELD = Harmless("does not affect where connections go")


class Strict(BaseModel):
    """Unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Loose(BaseModel):
    """Kubernetes' own: much of it says nothing about traffic."""

    model_config = ConfigDict(extra="ignore", frozen=True)


def read(resource: Resource, model: type[M], *inside: str) -> M | None:
    """The part of a resource (spec, if not named) as a model, or None and the problems noted."""
    inside = inside or ("spec",)
    value: Any = resource.value
    for step in inside:
        value = value.get(step) if isinstance(value, dict) else None
    if value is None and inside == ("spec",):
        resource.problem("spec is missing")
        return None
    return read_value(resource, model, value, inside)


def read_whole(resource: Resource, model: type[M]) -> M | None:
    """As read(), for resources without a spec, whose fields stand beside metadata."""
    return read_value(resource, model, resource.value, ())


def read_value(resource: Resource, model: type[M], value: Any, inside: Location) -> M | None:
    """As read(), of a value that stands there."""
    root = (*resource.location, *inside)
    try:
        found = model.model_validate({} if value is None else value)
    except ValidationError as error:
        add_problems(resource.document, model, error, root)
        return None
    for place, mark in marks_in(model, value):
        resource.document.remarks.add(remark_of(mark, (*root, *place), resource.location))
    return found


Said = tuple[Location, Changes | Harmless]


def marks_in(model: type[BaseModel], value: Any, here: Location = ()) -> Iterator[Said]:
    """What is said of the fields of a value of this model, as it stands in the file."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from marks_in(model, item, (*here, index))
    if not isinstance(value, dict):
        return
    for key, inside in value.items():
        name = _by_key(model).get(key)
        mark = _mark_of(model, name) if name else _NOT_A_FIELD
        place = (*here, key)
        if isinstance(mark, Changes):
            yield place, mark.of(inside)
        elif mark is not None:
            yield place, mark
        elif name is not None and (of_field := model_in(model, name)) is not None:
            yield from marks_in(of_field, inside, place)


@cache
def _by_key(model: type[BaseModel]) -> dict[str, str]:
    return {field.alias or name: name for name, field in model.model_fields.items()}


def _mark_of(model: type[BaseModel], name: str) -> Changes | Harmless | None:
    marks = (m for m in model.model_fields[name].metadata if isinstance(m, (Changes, Harmless)))
    return next(marks, None)


def _port(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= 65535:
        raise ValueError(f"expected a port, 1..65535, got {unlike_number(value)}")
    return value


def _weight(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAX_WEIGHT:
        raise ValueError(f"expected 0..{MAX_WEIGHT}, got {unlike_number(value)}")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 31:
        raise ValueError(f"expected a number of at least 0, got {unlike_number(value)}")
    return value


def _probes(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= 127:
        raise ValueError(f"expected 0..127, got {unlike_number(value)}")
    return value


def _share(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= 100:
        raise ValueError(f"expected 0..100, got {unlike_number(value)}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"expected a string, got {describe(value)}")
    return value


def _labels(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError(f"expected a mapping of labels, got {describe(value)}")
    return {str(key): str(label) for key, label in value.items()}


def _target_port(value: Any) -> int | str | None:
    """A number, or the name of a container's port."""
    return value if value is None or isinstance(value, str) else _port(value)


Port = Annotated[int, BeforeValidator(_port)]
TargetPort = Annotated[int | str | None, BeforeValidator(_target_port)]
Weight = Annotated[int, BeforeValidator(_weight)]
Text = Annotated[str, BeforeValidator(_text)]
Labels = Annotated[dict[str, str], BeforeValidator(_labels)]
ConnectTimeout = Annotated[float, BeforeValidator(parser(_TIMEOUTS["connect_timeout"]))]
IdleTimeout = Annotated[float, BeforeValidator(parser(_TIMEOUTS["idle_timeout"]))]
Count = Annotated[int, BeforeValidator(_count)]
Share = Annotated[int, BeforeValidator(_share)]
Moment = Annotated[float, BeforeValidator(lambda value: duration(value, 0.001, 86400.0))]
# As in a routes file: what Linux takes.
KeepaliveTime = Annotated[float, BeforeValidator(lambda value: duration(value, 0.001, 32767.0))]
Probes = Annotated[int, BeforeValidator(_probes)]
