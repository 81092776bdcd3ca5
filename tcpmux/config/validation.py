"""Errors of pydantic as messages of ours, with the location in the file; and names given twice."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from tcpmux.config.document import Document
from tcpmux.config.keys import FORMER_NAMES
from tcpmux.config.problems import Location, describe, one_line, path_text
from tcpmux.errors import plural
from tcpmux.nearest import nearest


@dataclass(slots=True)
class Names:
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


def add_problems(
    document: Document,
    model: type[BaseModel],
    error: ValidationError,
    root: Location = (),
) -> None:
    """Adds each mistake to the document. root: where in it the model's value stands."""
    known = {problem.where for problem in document.problems}
    every = error.errors(include_url=False)
    meant = {
        (*details["loc"][:-1], near)
        for details in every
        if details["type"] == "extra_forbidden" and (near := _near(model, details["loc"]))
    }
    for details in every:
        # A key that is there with a typo is not missing as well.
        if details["type"] != "missing" or tuple(details["loc"]) not in meant:
            _add_problem(document, model, details, root, known)


def warn_of_former_names(document: Document) -> None:
    """Adds one warning for each former name that a valid file uses, where it does so first."""
    uses: dict[str, list[Location]] = {}
    for location in document.keys:
        if location[-1] in FORMER_NAMES:
            uses.setdefault(str(location[-1]), []).append(location)
    for key, (first, *others) in uses.items():
        more = f" (and {plural(len(others), 'time')} more)" if others else ""
        document.warn(
            first,
            f"{key} is called {FORMER_NAMES[key]} now{more}; the old name is valid for one release",
        )


def _near(model: type[BaseModel], location: Location) -> str | None:
    """The known key that an unknown one is a former name of, or is most like."""
    known = known_keys(model, location[:-1])
    name = FORMER_NAMES.get(str(location[-1]))
    return name if name in known else nearest(location[-1], known)


def _add_problem(
    document: Document, model: type[BaseModel], details: Any, root: Location, known: set[str]
) -> None:
    inside: Location = tuple(details["loc"])
    location = (*root, *inside)
    kind, got = details["type"], describe(details["input"])
    here = _in_file(document, location)
    written = document.written.get(here)
    if kind == "string_type" and isinstance(details["input"], dict):
        return  # a word or a mapping: what is wrong in the mapping is told
    context = details.get("ctx", {})
    if path_text(document.nearest(location)) in known and kind not in (
        "missing",
        "extra_forbidden",
    ):
        return  # it has been told what is wrong there
    if kind == "missing":
        document.problem(location[:-1], f"{location[-1]} is missing")
    elif kind == "extra_forbidden":
        key = str(inside[-1])
        near = _near(model, inside)
        there = ", ".join(known_keys(model, inside[:-1]))
        hint = f"did you mean {near}?" if near else f"there are: {there}"
        document.problem(
            location[:-1], f"unknown key {one_line(key)}: {hint}", document.keys.get(location)
        )
    elif kind == "value_error":
        shown = got if written is None else one_line(written)
        document.problem(here, str(context["error"]).replace(f"got {got}", f"got {shown}", 1))
    elif kind in ("model_type", "dict_type", "model_attributes_type"):
        document.problem(here, f"expected a mapping, got {got}")
    elif kind == "list_type":
        document.problem(here, f"expected a list, got {got}")
    elif kind == "too_short":
        document.problem(here, "expected at least one entry, got none")
    elif kind == "too_long":
        most = context["max_length"]
        entries = "entry" if most == 1 else "entries"
        document.problem(here, f"expected at most {most} {entries}, got {context['actual_length']}")
    else:
        document.problem(here, _said(details, got if written is None else one_line(written)))


def _said(details: Any, got: str) -> str:
    """Of the kinds that pydantic has words of its own for."""
    kind = details["type"]
    expected = EXPECTED.get(kind, "expected another value").format(**details.get("ctx", {}))
    is_scalar = isinstance(details["input"], (int, float))
    hint = " (put it in quotes)" if kind == "string_type" and is_scalar else ""
    return f"{expected}, got {got}{hint}"


# By pydantic's kinds of mistakes.
EXPECTED = {
    "string_type": "expected a string",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "literal_error": "expected {expected}",
}


def _in_file(document: Document, location: Location) -> Location:
    """Without the steps that a union of models adds."""
    found: Location = ()
    for step in location:
        if (*found, step) in document.marks:
            found = (*found, step)
    return found


def known_keys(model: type[BaseModel], location: Location) -> list[str]:
    """The keys of the mapping at `location` of a value of this model."""
    for step in location:
        name = FORMER_NAMES.get(step, step) if isinstance(step, str) else ""
        if name in model.model_fields:
            model = model_in(model, name) or model
    return [
        field.validation_alias if isinstance(field.validation_alias, str) else name
        for name, field in model.model_fields.items()
    ]


@cache
def model_in(model: type[BaseModel], field: str) -> type[BaseModel] | None:
    """The model of a field's value or, if that is a list, of its entries."""
    pending: list[Any] = [model.model_fields[field].annotation]
    while pending:
        annotation = pending.pop()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return annotation
        pending.extend(get_args(annotation))
    return None
