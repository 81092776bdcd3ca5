"""Whether the JSON of an answer has the types that its operation promises: for both clients, which
may ask a server that is broken, hostile or no tcpmux at all.

What a newer build adds is taken, and what an older one does not know may be missing until somebody
asks for it: then Answer raises.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints
from typing import is_typeddict as is_object

MOST_INTEGER = 1 << 64  # counters are unsigned, of 64 bits
MOST_NUMBER = 2.5e11  # seconds: no later than the year 9999
MAX_SHOWN = 60  # characters


class Unfit(Exception):
    """The text says what is not as it should be, and where."""


def answers(fail: Callable[[str], Exception]) -> type[dict[str, Any]]:
    """The class of the objects in an answer. fail: makes what is raised where one has not got what
    it is asked for, of what is wrong."""

    class Answer(dict[str, Any]):
        __slots__ = ()

        def __missing__(self, key: str) -> NoReturn:
            raise fail(f"it has no {key!r}")

        def __or__(self, more: Any) -> Answer:  # type: ignore[override]
            return Answer({**self, **more})

        def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
            return dict, (dict(self),)  # to others it is one like any

    return Answer


def fitted(value: object, kind: Any) -> Any:
    """The value, which is of this type of schema.py. Raises Unfit."""
    _check_of(kind)(value, "")
    return value


Check = Callable[[Any, str], None]


def _wrong(value: object, at: str, expected: str) -> NoReturn:
    is_plain = value is None or isinstance(value, (str, int, float))
    shown = f"{value!r:.{MAX_SHOWN}}" if is_plain else f"a {type(value).__name__}"
    raise Unfit(f"{at.lstrip('.') or 'it'} is {shown}, and not {expected}")


def _text(value: Any, at: str) -> None:
    if type(value) is not str:
        _wrong(value, at, "text")


def _integer(value: Any, at: str) -> None:
    if type(value) is not int or not -MOST_INTEGER < value < MOST_INTEGER:
        _wrong(value, at, "an integer of 64 bits")


def _number(value: Any, at: str) -> None:
    if type(value) not in (int, float) or not -MOST_NUMBER < value < MOST_NUMBER:  # NaN as well
        _wrong(value, at, "a number of that size")


def _truth(value: Any, at: str) -> None:
    if type(value) is not bool:
        _wrong(value, at, "true or false")


def _null(value: Any, at: str) -> None:
    if value is not None:
        _wrong(value, at, "null")


def _anything(value: Any, at: str) -> None:
    pass


_PLAIN: dict[Any, Check] = {
    str: _text,
    int: _integer,
    float: _number,
    bool: _truth,
    type(None): _null,
    Any: _anything,
}


@cache
def _check_of(kind: Any) -> Check:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in _PLAIN:
        return _PLAIN[kind]
    if origin is Literal:
        return _text  # a newer build may have more words
    if origin is list:
        return _list_of(_check_of(arguments[0]))
    if origin in (Union, types.UnionType):
        return _null_or(*(_check_of(each) for each in arguments if each is not type(None)))
    if is_object(kind):
        return _object_of({name: _check_of(of) for name, of in get_type_hints(kind).items()})
    return _map_of(_check_of(arguments[1])) if origin is dict else _map_of(_anything)


def _list_of(check: Check) -> Check:
    def check_list(value: Any, at: str) -> None:
        if type(value) is not list:
            _wrong(value, at, "a list")
        for number, each in enumerate(value):
            check(each, f"{at}[{number}]")

    return check_list


def _null_or(check: Check) -> Check:
    def check_optional(value: Any, at: str) -> None:
        if value is not None:
            check(value, at)

    return check_optional


def _object_of(checks: dict[str, Check]) -> Check:
    def check_object(value: Any, at: str) -> None:
        if not isinstance(value, dict):
            _wrong(value, at, "an object")
        for name, each in value.items():
            check = checks.get(name)
            if check is not None:
                check(each, f"{at}.{name}")

    return check_object


def _map_of(check: Check) -> Check:
    def check_map(value: Any, at: str) -> None:
        if not isinstance(value, dict):
            _wrong(value, at, "an object")
        for name, each in value.items():
            check(each, f"{at}.{name}")

    return check_map
