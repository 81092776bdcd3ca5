"""What can be asked of the admin API: its paths, and what goes in and out. Runs in control.

The server has a method for each, and the OpenAPI document is made of this.
"""

from __future__ import annotations

from tcpmux.control.connections import MOST
from tcpmux.control.openapi import Operation, closed_object
from tcpmux.control.schema import (
    LOG_LEVELS,
    Applied,
    ConnectionList,
    Difference,
    EventList,
    Killed,
    LogLevel,
    Status,
    Stopping,
    Upgrading,
)
from tcpmux.shm.image import ADMIN_STATES

MOST_EVENTS = 10**15  # no event has a greater number
MOST_TARGETS = 4096  # of one request
MOST_SECONDS = 30 * 86400  # that an endpoint's state may last
MOST_RATE = 100_000  # per second
MOST_FILES = 1000  # in a diff
LONGEST_NAME = 4096  # characters, of such a file

_TEXT = {"type": "string"}
_DURATION = {"type": "string", "examples": ["10m"]}
_WEIGHT = {"type": "integer", "minimum": 0, "maximum": 1_000_000}
_STEP = {"type": "string", "pattern": "^[+-][0-9]{1,7}$"}
_ID = {"type": "string", "pattern": "^[0-9]{1,4}-[0-9]{1,9}-[0-9]{1,10}$"}
_TEXTS = {"type": "array", "items": _TEXT}
_NAME = {"type": "string", "minLength": 1, "maxLength": LONGEST_NAME}
_NOTHING = closed_object()
OPERATIONS = (
    Operation("GET", "/v1/status", "status", "State, workers, routes and their counters.", Status),
    Operation(
        "GET",
        "/v1/connections",
        "connections",
        "The live connections.",
        ConnectionList,
        query={
            "route": _TEXT,
            "destination": _TEXT,
            "endpoint": _TEXT,
            "client": _TEXT,
            "older": _DURATION,
            "idle": _DURATION,
            "sort": {"type": "string", "examples": ["-bytes_in"]},
            "limit": {"type": "integer", "minimum": 0, "maximum": MOST},
        },
    ),
    Operation(
        "POST",
        "/v1/connections/kill",
        "kill",
        "Resets connections.",
        Killed,
        body=closed_object(
            ["ids"],
            ids={"type": "array", "items": _ID, "maxItems": MOST},
            rate={"type": "number", "exclusiveMinimum": 0, "maximum": MOST_RATE},
            dry_run={"type": "boolean"},
        ),
    ),
    Operation(
        "GET",
        "/v1/events",
        "events",
        "What has happened.",
        EventList,
        query={"since": {"type": "integer", "minimum": 0, "maximum": MOST_EVENTS}},
    ),
    Operation(
        "GET",
        "/v1/stream",
        "stream",
        "Counters every second, as server-sent events.",
        "text/event-stream",
        query={"route": _TEXT},
    ),
    Operation(
        "PUT",
        "/v1/routes/{route}/weights",
        "set_weights",
        "Sets weights, until the next reload; those not named stay.",
        Applied,
        query={"force": {"type": "boolean"}},
        body={
            "type": "object",
            "additionalProperties": {"anyOf": [_WEIGHT, _STEP]},
            "minProperties": 1,
            "required": [],
        },
    ),
    Operation(
        "POST",
        "/v1/routes/{route}/undo",
        "undo",
        "Back to the weights before the last change.",
        Applied,
        query={"force": {"type": "boolean"}},
        body=_NOTHING,
    ),
    Operation(
        "PUT",
        "/v1/routes/{route}/destinations/{destination}/state",
        "set_state",
        "Takes a destination, or one of its endpoints, out of service or back into it.",
        Applied,
        body=closed_object(
            ["state"],
            state={"enum": list(ADMIN_STATES)},
            endpoint=_TEXT,
            force={"type": "boolean"},
            seconds={"type": "number", "minimum": 0, "maximum": MOST_SECONDS},
        ),
    ),
    Operation(
        "PUT",
        "/v1/states",
        "set_states",
        "The same of several at once: of all or of none.",
        Applied,
        body=closed_object(
            ["state", "targets"],
            state={"enum": list(ADMIN_STATES)},
            targets={
                "type": "array",
                "minItems": 1,
                "maxItems": MOST_TARGETS,
                "items": closed_object(
                    ["route", "destination"], route=_TEXT, destination=_TEXT, endpoint=_TEXT
                ),
            },
            force={"type": "boolean"},
            seconds={"type": "number", "minimum": 0, "maximum": MOST_SECONDS},
        ),
    ),
    Operation("POST", "/v1/reload", "reload", "Reads the files again.", Applied, body=_NOTHING),
    Operation(
        "POST",
        "/v1/diff",
        "diff",
        "What a reload would change if the files had these contents.",
        Difference,
        body=closed_object(
            ["files"],
            files={
                "type": "array",
                "items": closed_object(["name", "content"], name=_NAME, content=_TEXT),
                "minItems": 1,
                "maxItems": MOST_FILES,
            },
            variables={"type": "object", "additionalProperties": _TEXT},
            endpoints=_TEXTS,
        ),
    ),
    Operation(
        "PUT",
        "/v1/workers",
        "set_workers",
        "Sets how many workers there are, until the next reload.",
        Applied,
        body=closed_object(["count"], count={"type": "integer", "minimum": 1, "maximum": 64}),
    ),
    Operation(
        "PUT",
        "/v1/log-level",
        "set_log_level",
        "Sets how much is logged, until the next start.",
        LogLevel,
        body=closed_object(["level"], level={"enum": list(LOG_LEVELS)}),
    ),
    Operation(
        "POST",
        "/v1/upgrade",
        "upgrade",
        "The build that is installed now takes over.",
        Upgrading,
        status=202,
        body=_NOTHING,
    ),
    Operation(
        "POST",
        "/v1/stop",
        "stop",
        "Drains and ends; with now, ends at once.",
        Stopping,
        status=202,
        body=closed_object(now={"type": "boolean"}),
    ),
    Operation("GET", "/v1/openapi.json", "openapi", "This document.", "application/json"),
    Operation("GET", "/metrics", "metrics", "For Prometheus.", "text/plain"),
)
