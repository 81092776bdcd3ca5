"""The schema of routes.yaml: every key, its type, its bounds and its default.

Private to the package: what others see are the frozen types in model.py.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from tcpmux.config.address import UNIX_PATH_MAX, Address
from tcpmux.config.duration import format_duration, parse_duration
from tcpmux.config.problems import describe

MAX_WEIGHT = 1_000_000
MAX_WORKERS = 64
MAX_BUSY_POLL = 10_000  # us
MAX_DESTINATIONS = 64  # of a route
MAX_ROUTES = 4096
MAX_LISTENERS = 4096
MAX_ALL_DESTINATIONS = 65536
MAX_ENDPOINTS = 65536
HOUR, DAY = 3600.0, 86400.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)


def _name(value: Any) -> str:
    if not isinstance(value, str):
        hint = "" if value is None or isinstance(value, (dict, list)) else " (put it in quotes)"
        raise ValueError(f"expected a name, got {describe(value)}{hint}")
    if not _NAME.fullmatch(value):
        raise ValueError(
            "expected 1 to 63 letters, digits, '.', '_' or '-', beginning with a "
            f"letter or digit, got {describe(value)}"
        )
    return value


def _whole(value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"expected {low}..{high}, got {describe(value)}")
    return value


def _weight(value: Any) -> int:
    return _whole(value, 0, MAX_WEIGHT)


def _workers(value: Any) -> int | None:
    if value == "auto":
        return None
    if type(value) is not int or not 1 <= value <= MAX_WORKERS:
        raise ValueError(f"expected auto or 1..{MAX_WORKERS}, got {describe(value)}")
    return value


def _busy_poll(value: Any) -> int | None:
    if value == "auto":
        return None
    if value == "off" or value is False:  # YAML 1.1 reads off as false
        return 0
    if type(value) is not int or not 1 <= value <= MAX_BUSY_POLL:
        raise ValueError(
            f"expected auto, off or 1..{MAX_BUSY_POLL} (microseconds), got {describe(value)}"
        )
    return value


def _address(value: Any) -> Address:
    if not isinstance(value, str):
        raise ValueError(f"expected IP:port, [IPv6]:port or unix:/path, got {describe(value)}")
    try:
        return Address.parse(value)
    except ValueError as error:
        raise ValueError(f"{error}, got {describe(value)}") from None


def _endpoint(value: Any) -> Address:
    address = _address(value)
    if address.host in ("::", "0.0.0.0"):  # noqa: S104
        raise ValueError(f"expected the address of one endpoint, got {describe(value)}")
    return address


def _duration(value: Any, low: float, high: float) -> float:
    text = str(value) if type(value) is int else value
    if not isinstance(text, str):
        raise ValueError(f"expected a duration such as 10s, 250ms or 1h30m, got {describe(value)}")
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise ValueError(f"{error}, got {describe(value)}") from None
    if not low <= seconds <= high:
        raise ValueError(
            f"expected {format_duration(low)}..{format_duration(high)}, got {describe(value)}"
        )
    return seconds


def _connect_timeout(value: Any) -> float:
    return _duration(value, 0.001, HOUR)


def _idle_timeout(value: Any) -> float:
    return _duration(value, 0.0, 30 * DAY)


def _drain_timeout(value: Any) -> float:
    return _duration(value, 0.0, 7 * DAY)


def _listen(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _socket_path(value: Any) -> str:
    if (
        not isinstance(value, str)
        or not value.startswith("/")
        or "\0" in value
        or len(value.encode()) > UNIX_PATH_MAX
    ):
        raise ValueError(
            f"expected an absolute path of at most {UNIX_PATH_MAX} bytes, got {describe(value)}"
        )
    return value


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class DestinationModel(_Strict):
    name: Annotated[str, BeforeValidator(_name)]
    weight: Annotated[int, BeforeValidator(_weight)] = 1
    endpoints: list[Annotated[Address, BeforeValidator(_endpoint)]]


class RouteModel(_Strict):
    name: Annotated[str, BeforeValidator(_name)]
    listen: Annotated[
        list[Annotated[Address, BeforeValidator(_address)]],
        BeforeValidator(_listen),
        Field(min_length=1),
    ]
    connect_timeout: Annotated[float, BeforeValidator(_connect_timeout)] = 10.0
    idle_timeout: Annotated[float, BeforeValidator(_idle_timeout)] = 3600.0
    destinations: list[DestinationModel] = Field(min_length=1, max_length=MAX_DESTINATIONS)


class AdminModel(_Strict):
    socket: Annotated[str, BeforeValidator(_socket_path)] = "/run/tcpmux.sock"


class FileModel(_Strict):
    workers: Annotated[int | None, BeforeValidator(_workers)] = None
    busy_poll: Annotated[int | None, BeforeValidator(_busy_poll)] = None
    drain_timeout: Annotated[float, BeforeValidator(_drain_timeout)] = 45.0
    admin: AdminModel = AdminModel()
    routes: list[RouteModel] = Field(default=[], max_length=MAX_ROUTES)


def known_keys(location: tuple[str | int, ...]) -> list[str]:
    """The keys of the mapping at `location`; for the hint at an unknown one."""
    model: type[BaseModel] = FileModel
    for step in location:
        if step == "routes":
            model = RouteModel
        elif step == "destinations":
            model = DestinationModel
        elif step == "admin":
            model = AdminModel
    return list(model.model_fields)
