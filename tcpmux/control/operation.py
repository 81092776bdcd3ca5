"""The declaration of one operation of the admin API: a row, and a method with its parameters.

The server's routes, the OpenAPI document, the methods of both clients and the list of commands are
made of the rows in operations.py. Loaded by every command, so it imports little.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from enum import IntEnum
from functools import wraps
from types import MappingProxyType
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeVar, overload

P = ParamSpec("P")
T = TypeVar("T")
Schema = dict[str, Any]

SMALL_BODY = 64 << 10  # bytes
_NONE: Mapping[str, Any] = MappingProxyType({})
_PARAMETER = re.compile(r"\{(\w+)\}")


def closed_object(required: Sequence[str] = (), **properties: Schema) -> Schema:
    """The schema of an object with these and no others."""
    made: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**made, "required": list(required)} if required else made


def _unchanged(answer: Any) -> Any:
    return answer


class Call(Generic[T]):
    """What one call of a client sends. path, query: values of parameters; of the query's, a list is
    sent as that many, and None not at all. unpack: makes what the method returns of the answer's
    JSON."""

    __slots__ = ("body", "path", "query", "unpack")

    def __init__(
        self,
        path: Mapping[str, str] = _NONE,
        query: Mapping[str, Any] = _NONE,
        body: Mapping[str, Any] | None = None,
        unpack: Callable[[Any], T] = _unchanged,
    ) -> None:
        self.path = path
        self.query = query
        self.body = body
        self.unpack = unpack


class Command(NamedTuple):
    """A command line for it. where: module in tcpmux.cli and name there, by default the name
    twice. summary: the first sentence of its help."""

    name: str
    summary: str
    where: str = ""


class Role(IntEnum):
    """What somebody who asks may do, each with all before it. ANYONE: over TCP and without a
    token. OPERATOR: everything that changes something or has the master work."""

    ANYONE = 0
    VIEWER = 1
    OPERATOR = 2

    @property
    def word(self) -> str:
        """For JSON."""
        return self.name.lower()


class Row(NamedTuple):
    """One operation.

    role: the least that it takes. Without a default, so that each row says whether it may change
    something; only OPERATOR's may, and no GET is.
    name: of the server's handler, of the clients' method and in the document. help: its first
    sentence is the summary there. answer: a TypedDict, or a plain type. body: JSON schema of the
    request's, which the server holds it to; None: the method has none. checked_by_master: only that
    the body is an object; the rest is the master's to say. example: a body, for a refusal. query:
    schemas of parameters. largest_body: bytes.
    """

    method: str
    path: str
    role: Role
    answer: Any = None
    media: str = "application/json"
    status: int = 200
    body: Schema | None = None
    checked_by_master: bool = False
    example: str = "{}, or none"
    query: Mapping[str, Schema] = _NONE
    largest_body: int = SMALL_BODY
    commands: tuple[Command, ...] = ()
    name: str = ""
    help: str = ""

    @property
    def parameters(self) -> list[str]:
        """Those in the path."""
        return _PARAMETER.findall(self.path)

    @property
    def summary(self) -> str:
        return " ".join(self.help.split()).partition(". ")[0].rstrip(".") + "."

    def target(self, call: Call[Any]) -> str:
        """Path and query of a request."""
        from urllib.parse import quote, urlencode

        path = _PARAMETER.sub(lambda found: quote(call.path[found[1]], safe=""), self.path)
        query = {name: value for name, value in call.query.items() if value is not None}
        return f"{path}?{urlencode(query, doseq=True)}" if query else path


class Blocking:
    """A client whose methods return when the answer is there."""

    def ask(self, row: Row, call: Call[T]) -> T:
        """Has one call answered. Raises AdminError."""
        raise NotImplementedError


class Awaiting:
    """A client whose methods are to be awaited."""

    async def ask(self, row: Row, call: Call[T]) -> T:
        """Has one call answered. Raises AdminError."""
        raise NotImplementedError


class Method(Generic[P, T]):
    """A method of every client: with the same parameters, it returns or awaits the answer."""

    def __init__(self, build: Callable[Concatenate[Any, P], Call[T]], row: Row) -> None:
        self.build = build
        self.row = row
        self.__doc__ = build.__doc__

    @overload
    def __get__(self, asker: None, owner: type) -> Method[P, T]: ...
    @overload
    def __get__(self, asker: Blocking, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, asker: Awaiting, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, asker: Any, owner: type) -> Any:
        if asker is None:
            return self

        @wraps(self.build)
        def ask(*values: P.args, **named: P.kwargs) -> Any:
            return asker.ask(self.row, self.build(asker, *values, **named))

        ask.__signature__ = self.signature  # type: ignore[attr-defined]
        return ask

    @property
    def signature(self) -> inspect.Signature:
        """Of the bound method, but that what it returns is a Call."""
        found = inspect.signature(self.build)
        return found.replace(parameters=list(found.parameters.values())[1:])


def operation(row: Row) -> Callable[[Callable[Concatenate[Any, P], Call[T]]], Method[P, T]]:
    """Declares an operation, by the method that a client has for it."""

    def declare(build: Callable[Concatenate[Any, P], Call[T]]) -> Method[P, T]:
        return Method(build, row._replace(name=build.__name__, help=build.__doc__ or ""))

    return declare


def another_method_of(
    method: Method[Any, Any],
) -> Callable[[Callable[Concatenate[Any, P], Call[T]]], Method[P, T]]:
    """Another method of a client for the same operation."""
    return lambda build: Method(build, method.row)
