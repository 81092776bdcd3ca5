"""How models of resources are read, and what fields of several of them are. Names of fields are
those of their APIs: istio_specs.py, gateway_specs.py, kubernetes_specs.py.

Fields that Istio and the Gateway API know and tcpmux does not are there too, with what is to be
said when they are used: Later is a warning, Refused a mistake. All others are unknown keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from tcpmux.config.keys import parser
from tcpmux.config.model import MAX_WEIGHT
from tcpmux.config.problems import Location, describe
from tcpmux.config.resources import Resource
from tcpmux.config.rows import rows_of
from tcpmux.config.settings import Timeouts
from tcpmux.config.validation import add_problems
from tcpmux.config.values import duration, unlike_number

M = TypeVar("M", bound=BaseModel)
_TIMEOUTS = rows_of(Timeouts)


@dataclass(frozen=True, slots=True)
class Later:
    """Not honoured yet; message says what happens instead."""

    message: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Ignoring it would send traffic elsewhere or otherwise than asked for."""

    message: str


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
    return _read(resource, model, value, inside)


def read_whole(resource: Resource, model: type[M]) -> M | None:
    """As read(), for resources without a spec, whose fields stand beside metadata."""
    return _read(resource, model, resource.value, ())


def _read(resource: Resource, model: type[M], value: Any, inside: Location) -> M | None:
    root = (*resource.location, *inside)
    try:
        found = model.model_validate({} if value is None else value)
    except ValidationError as error:
        add_problems(resource.document, model, error, root)
        return None
    _say(resource, found, root)
    return found


def _say(resource: Resource, model: BaseModel, location: Location) -> None:
    for name in sorted(model.model_fields_set & type(model).model_fields.keys()):
        here = (*location, name)
        for mark in type(model).model_fields[name].metadata:
            if isinstance(mark, Later):
                resource.document.warn(here, mark.message)
            elif isinstance(mark, Refused):
                resource.document.problem(here, mark.message)
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            _say(resource, value, here)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, BaseModel):
                    _say(resource, item, (*here, index))


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
        raise ValueError(f"expected a number from 0 on, got {unlike_number(value)}")
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
KeepaliveTime = Annotated[float, BeforeValidator(lambda value: duration(value, 0.001, 86400.0))]
Ignored = Any  # says nothing about traffic here
