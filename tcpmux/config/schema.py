"""The schema of routes.yaml: every key, its type, its bounds and its default.

Private to the package: what others see are the frozen types in model.py.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Field,
    WithJsonSchema,
)

from tcpmux.config.address import (
    ENDPOINT_FORMS,
    Endpoint,
    parse_endpoint,
)
from tcpmux.config.fleet_key import FleetModel
from tcpmux.config.instance_schema import (
    AccessLogModel,
    AdminModel,
    BuffersModel,
    DnsModel,
    LogModel,
    absolute_path,
    access_log_entry,
)
from tcpmux.config.model import STATE_DIR
from tcpmux.config.policy import (
    DestinationPolicyModel,
    EndpointLimits,
    RoutePolicyModel,
    SharedModel,
    TimeoutsModel,
)
from tcpmux.config.problems import describe
from tcpmux.config.rollout_key import RolloutModel
from tcpmux.config.rows import DAY
from tcpmux.config.rule import MAX_RULES
from tcpmux.config.rule_schema import Listen, RuleModel, Weight
from tcpmux.config.turns import MAX_ENDPOINT_WEIGHT
from tcpmux.config.values import (
    DURATION_SCHEMA,
    Name,
    OrText,
    Strict,
    duration,
    number,
    unlike_number,
    whole,
)

MAX_WORKERS = 64
MAX_ID = (1 << 32) - 2  # of a user or a group; the one beyond means none
MAX_BUSY_POLL = 10_000  # us
MAX_DESTINATIONS = 64  # of a route
MAX_ROUTES = 4096
MAX_LISTENERS = 4096
MAX_ALL_DESTINATIONS = 65536
MAX_ENDPOINTS = 65536
MAX_ALL_RULES = 65536


def _workers(value: Any) -> int | None:
    value = number(value)
    if value == "auto":
        return None
    if type(value) is not int or not 1 <= value <= MAX_WORKERS:
        raise ValueError(f"expected auto or 1..{MAX_WORKERS}, got {unlike_number(value)}")
    return value


def _busy_poll(value: Any) -> int | None:
    value = number(value)
    if value == "auto":
        return None
    if value == "off" or value is False:  # YAML 1.1 reads off as false
        return 0
    if type(value) is not int or not 1 <= value <= MAX_BUSY_POLL:
        raise ValueError(
            f"expected auto, off or 1..{MAX_BUSY_POLL} (microseconds), got {unlike_number(value)}"
        )
    return value


def _account(value: Any) -> str:
    """The name or the number of a user or a group."""
    if type(value) is int and 0 <= value <= MAX_ID:
        return str(value)
    is_name = isinstance(value, str) and re.fullmatch(
        r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,254}[$]?", value, re.ASCII
    )
    if is_name and (not value.isdecimal() or int(value) <= MAX_ID):
        return str(value)
    raise ValueError(f"expected a name or 0..{MAX_ID}, got {describe(value)}")


def _endpoint(value: Any) -> Endpoint:
    if not isinstance(value, str):
        raise ValueError(f"expected {ENDPOINT_FORMS}, got {describe(value)}")
    try:
        return parse_endpoint(value)
    except ValueError as error:
        raise ValueError(f"{error}, got {describe(value)}") from None


def _endpoint_entry(value: Any) -> Any:
    return value if isinstance(value, dict) else {"address": value}


def _endpoint_weight(value: Any) -> int:
    return whole(value, 1, MAX_ENDPOINT_WEIGHT)


def _drain_timeout(value: Any) -> float:
    return duration(value, 0.0, 7 * DAY)


def _listen(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


EndpointAddress = Annotated[
    Endpoint, BeforeValidator(_endpoint), WithJsonSchema({"type": "string"})
]


class EndpointModel(EndpointLimits):
    address: EndpointAddress = Field(
        description=(
            f"{ENDPOINT_FORMS}. A name stands for all its addresses and is resolved again when its "
            "TTL expires; srv:NAME takes hosts, ports and weights from DNS."
        )
    )
    weight: Annotated[
        int,
        BeforeValidator(_endpoint_weight),
        WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MAX_ENDPOINT_WEIGHT}),
    ] = Field(default=1, description="Weight among the destination's endpoints.")


class DestinationModel(DestinationPolicyModel, SharedModel):
    name: Name = Field(description="A version of the service. Counters stay with the name.")
    weight: Weight = Field(
        default=1,
        description="Its share is weight / sum of weights, exactly. 0 = no connections; all 0 = "
        "every connection is reset.",
    )
    endpoints: list[Annotated[EndpointModel, BeforeValidator(_endpoint_entry), OrText()]] = Field(
        description="The destination's endpoints. With none, its share of connections is reset."
    )


class RouteModel(SharedModel, RoutePolicyModel):  # a key of both: unsaid, as `defaults` say
    name: Name = Field(description="Counters stay with the name across reloads.")
    listen: Annotated[
        list[Listen],
        BeforeValidator(_listen),
        Field(min_length=1),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string"},
                    {"type": "array", "items": {"type": "string"}, "minItems": 1},
                ]
            }
        ),
    ] = Field(
        description="IP:port, [IPv6]:port, :port (every address, IPv4 and IPv6), unix:/path, or a "
        "range of ports such as :9000-9010; one or a list."
    )
    destinations: list[DestinationModel] = Field(min_length=1, max_length=MAX_DESTINATIONS)
    rules: list[RuleModel] = Field(
        default=[],
        max_length=MAX_RULES,
        description="Before the weights: the first whose conditions a connection meets decides.",
    )
    rollout: RolloutModel | None = Field(
        default=None,
        description="How `tcpmux rollout start` gives a new version more and more of the "
        "connections, and takes them back if it is worse.",
    )


class DefaultsModel(TimeoutsModel, SharedModel):  # a key of both: with its default
    pass


ACCOUNT_SCHEMA: dict[str, Any] = {
    "anyOf": [{"type": "string"}, {"type": "integer", "minimum": 0, "maximum": MAX_ID}]
}


class FileModel(Strict):
    workers: Annotated[
        int | None,
        BeforeValidator(_workers),
        WithJsonSchema(
            {
                "anyOf": [
                    {"const": "auto"},
                    {"type": "integer", "minimum": 1, "maximum": MAX_WORKERS},
                ]
            }
        ),
    ] = Field(
        default=None,
        description=(
            "Number of worker processes: auto = one for each CPU that tcpmux may use, limited "
            "by its CPU quota; or 1..64."
        ),
    )
    busy_poll: Annotated[
        int | None,
        BeforeValidator(_busy_poll),
        WithJsonSchema(
            {
                "anyOf": [
                    {"enum": ["auto", "off", False]},
                    {"type": "integer", "minimum": 1, "maximum": MAX_BUSY_POLL},
                ]
            }
        ),
    ] = Field(
        default=None,
        description=(
            "Microseconds that an idle worker polls before it sleeps; auto = up to 100, if "
            "polling has recently paid off."
        ),
    )
    drain_timeout: Annotated[
        float, BeforeValidator(_drain_timeout), WithJsonSchema(DURATION_SCHEMA)
    ] = Field(
        default=45.0,
        description=(
            "How long a stop waits for open connections, 0s..7d; those still open then are reset."
        ),
    )
    user: Annotated[str, BeforeValidator(_account), WithJsonSchema(ACCOUNT_SCHEMA)] = Field(
        default="",
        description=(
            "User of all processes except the master; default: nobody if tcpmux is started as "
            "root, else the user that started it."
        ),
    )
    group: Annotated[str, BeforeValidator(_account), WithJsonSchema(ACCOUNT_SCHEMA)] = Field(
        default="", description="Group of these processes; default: the user's primary group."
    )
    state_dir: Annotated[
        str, BeforeValidator(absolute_path), WithJsonSchema({"type": "string", "pattern": "^/"})
    ] = Field(
        default=STATE_DIR,
        description="Directory for what outlives the instance: the state of rollouts, and what "
        "the fleet has said last. It has to exist, or neither is kept. A change takes effect at "
        "the next start.",
    )
    admin: AdminModel = AdminModel()
    log: LogModel = Field(default=LogModel(), description="What tcpmux says of itself.")
    access_log: Annotated[
        AccessLogModel | None,
        BeforeValidator(access_log_entry),
        OrText(),
    ] = Field(
        default=None,
        description="Access log, one line for each connection: off, a path, or a mapping.",
    )
    buffers: BuffersModel = Field(
        default=BuffersModel(), description="Kernel memory of connections whose peer does not read."
    )
    dns: DnsModel = DnsModel()
    fleet: FleetModel | None = Field(
        default=None,
        description="Hosts that take routes and weights from one etcd, besides those of the file.",
    )
    defaults: DefaultsModel = Field(
        default=DefaultsModel(), description="Defaults of every route in all files."
    )
    routes: list[RouteModel] = Field(default=[], max_length=MAX_ROUTES)


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a routes.yaml, for editors.

    It does not accept values written as ${NAME}.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **FileModel.model_json_schema(),
        "title": "tcpmux routes.yaml",
    }
