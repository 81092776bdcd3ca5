"""The operations of the admin API: one row and one method for each.

Those that change nothing are in reading.py. The server has a handler of the same name. Both clients
have these methods; the OpenAPI document and the list of commands are made of the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tcpmux.connection_id import PATTERN
from tcpmux.control.limits import (
    ADMIN_STATES,
    CONVERGE_METHODS,
    CONVERGE_ORDERS,
    CONVERGE_THENS,
    FLEET_ACTIONS,
    MAX_CONNECTIONS,
    MAX_FILES,
    MAX_RATE,
    MAX_SECONDS,
    MAX_TARGETS,
    MAX_WEIGHT,
    MAX_WORKERS,
    ROLLOUT_ACTIONS,
)
from tcpmux.control.operation import (
    Call,
    Command,
    Method,
    Role,
    Row,
    another_method_of,
    closed_object,
    operation,
)
from tcpmux.control.reading import Reading
from tcpmux.control.schema import (
    LOG_LEVELS,
    AdminState,
    Applied,
    ConvergeMethod,
    ConvergencePlan,
    ConvergeOrder,
    ConvergeThen,
    FleetChanged,
    Killed,
    LogLevel,
    LogLevelWord,
    RolloutStatus,
    StateTarget,
    Stopping,
    Upgrading,
)

_TEXT = {"type": "string"}
_BOOLEAN = {"type": "boolean"}
_DURATION = {"type": "string", "examples": ["10m"]}
_WEIGHT = {"type": "integer", "minimum": 0, "maximum": MAX_WEIGHT}
_STEP = {"type": "string", "pattern": "^[+-][0-9]{1,7}$"}
_ID = {
    "type": "string",
    "pattern": f"^{PATTERN}$",
    "description": "the id of a connection",
}
_SECONDS = {"type": "number", "minimum": 0, "maximum": MAX_SECONDS}
_STATE = {"enum": list(ADMIN_STATES)}
_NOTHING = closed_object()
_EPOCH = {"type": "integer", "minimum": 0, "maximum": 1 << 53}


def _for_each(value: dict[str, Any]) -> dict[str, Any]:
    """By destination, of which some are named."""
    return {
        "type": "object",
        "additionalProperties": value,
        "minProperties": 1,
        "required": [],
    }


def _given(**values: Any) -> dict[str, Any]:
    """Those that say something: no False, 0 or None."""
    return {name: value for name, value in values.items() if value}


def _state_of(
    route: str, destination: str, endpoint: str | None, state: AdminState, **more: Any
) -> Call[Applied]:
    given = _given(**more) if endpoint is None else {"endpoint": endpoint, **_given(**more)}
    path = {"route": route, "destination": destination}
    return Call(path=path, body={"state": state, **given})


def _level(answer: LogLevel) -> LogLevelWord:
    return answer["level"]


class Operations(Reading):
    """Those of a client, in the order in which help and document list them. Times are in seconds.
    Every method raises NotRunning, PermissionDenied (TokenMissing), Refused, Unanswered or
    Interrupted, or for an answer that makes no sense AdminError, which is what all of these are.
    After Unanswered and Interrupted a change may have been made."""

    @operation(
        Row(
            "PUT",
            "/v1/routes/{route}/weights",
            Role.OPERATOR,
            Applied,
            query={"force": _BOOLEAN},
            body=_for_each({"anyOf": [_WEIGHT, _STEP]}),
            checked_by_master=True,
            commands=(Command("weight", "Shift the traffic of a route, at once."),),
        )
    )
    def set_weights(
        self, route: str, weights: Mapping[str, int | str], *, force: bool = False
    ) -> Call[Applied]:
        """Sets weights until the next reload; destinations not named keep theirs. A weight is
        0..1000000 or a string with a step, such as "+5". Unless forced, refused if no destination
        would be left to take connections."""
        return Call({"route": route}, {"force": "true" if force else None}, dict(weights))

    @operation(
        Row(
            "POST",
            "/v1/routes/{route}/undo",
            Role.OPERATOR,
            Applied,
            query={"force": _BOOLEAN},
            body=_NOTHING,
            commands=(
                Command(
                    "undo",
                    "Go back to the weights ROUTE had before they were last changed.",
                    "small.undo",
                ),
            ),
        )
    )
    def undo(self, route: str, *, force: bool = False) -> Call[Applied]:
        """Restores the weights from before their last change. Unless forced, refused if no
        destination would be left to take connections."""
        return Call({"route": route}, {"force": "true" if force else None}, {})

    @operation(
        Row(
            "PUT",
            "/v1/routes/{route}/saved-weights",
            Role.OPERATOR,
            Applied,
            body=_for_each(_WEIGHT),
            checked_by_master=True,
        )
    )
    def note_saved_weights(self, route: str, weights: Mapping[str, int]) -> Call[Applied]:
        """Tells that the configuration file has these weights now, so that file_weight is true
        without a reload. The weights in force stay; the next reload takes what the file has."""
        return Call({"route": route}, {}, dict(weights))

    @operation(
        Row(
            "PUT",
            "/v1/routes/{route}/rules/{rule}/weights",
            Role.OPERATOR,
            Applied,
            query={"force": _BOOLEAN},
            body=_for_each({"anyOf": [_WEIGHT, _STEP]}),
            checked_by_master=True,
        )
    )
    def set_rule_weights(
        self, route: str, rule: str, weights: Mapping[str, int | str], *, force: bool = False
    ) -> Call[Applied]:
        """Sets the weights of a rule, as set_weights() sets those of its route."""
        path = {"route": route, "rule": rule}
        return Call(path, {"force": "true" if force else None}, dict(weights))

    @operation(
        Row(
            "POST",
            "/v1/routes/{route}/rules/{rule}/undo",
            Role.OPERATOR,
            Applied,
            query={"force": _BOOLEAN},
            body=_NOTHING,
        )
    )
    def undo_rule(self, route: str, rule: str, *, force: bool = False) -> Call[Applied]:
        """Restores the weights of a rule from before their last change, as undo() those of its
        route."""
        return Call({"route": route, "rule": rule}, {"force": "true" if force else None}, {})

    @operation(
        Row(
            "PUT",
            "/v1/routes/{route}/rules/{rule}/saved-weights",
            Role.OPERATOR,
            Applied,
            body=_for_each(_WEIGHT),
            checked_by_master=True,
        )
    )
    def note_saved_rule_weights(
        self, route: str, rule: str, weights: Mapping[str, int]
    ) -> Call[Applied]:
        """Tells that the configuration file has these weights of a rule now, as
        note_saved_weights() of its route."""
        return Call({"route": route, "rule": rule}, {}, dict(weights))

    @operation(
        Row(
            "PUT",
            "/v1/routes/{route}/mirror",
            Role.OPERATOR,
            Applied,
            body=closed_object(
                ["percent"],
                percent={"type": "number", "minimum": 0, "maximum": 100},
                to=_TEXT,
            ),
            example='{"percent": 10, "to": "v2"}',
            commands=(
                Command("mirror", "Copy what some clients of ROUTE send to another destination."),
            ),
        )
    )
    def set_mirror(self, route: str, percent: float, to: str | None = None) -> Call[Applied]:
        """Mirrors so many percent of a route's connections, exactly, until the next reload: 0 ends
        it, and the shadows that there are. to: the destination that gets the copies; None = as
        before, or as the file says."""
        return Call({"route": route}, body={"percent": percent, **_given(to=to)})

    @operation(
        Row(
            "PUT",
            "/v1/routes/{route}/destinations/{destination}/state",
            Role.OPERATOR,
            Applied,
            body=closed_object(
                ["state"], state=_STATE, endpoint=_TEXT, force=_BOOLEAN, seconds=_SECONDS
            ),
            example='{"state": "draining", "endpoint": "...", "force": false}',
        )
    )
    def set_state(
        self,
        route: str,
        destination: str,
        state: AdminState,
        endpoint: str | None = None,
        *,
        force: bool = False,
        seconds: float = 0.0,
    ) -> Call[Applied]:
        """As drain(), disable() or enable(). state: draining, disabled or ready."""
        return _state_of(route, destination, endpoint, state, force=force, seconds=seconds)

    @another_method_of(set_state)
    def drain(
        self,
        route: str,
        destination: str,
        endpoint: str | None = None,
        *,
        force: bool = False,
        seconds: float = 0.0,
    ) -> Call[Applied]:
        """No new connections for a destination, or one of its endpoints; others get its share.
        Open ones stay. Unless forced, refused if none would be left to take connections.
        seconds: an endpoint is ready again after them; 0 = not by itself."""
        return _state_of(route, destination, endpoint, "draining", force=force, seconds=seconds)

    @another_method_of(set_state)
    def disable(
        self,
        route: str,
        destination: str,
        endpoint: str | None = None,
        *,
        force: bool = False,
        seconds: float = 0.0,
    ) -> Call[Applied]:
        """As drain(), to say that it is out of service on purpose."""
        return _state_of(route, destination, endpoint, "disabled", force=force, seconds=seconds)

    @another_method_of(set_state)
    def enable(self, route: str, destination: str, endpoint: str | None = None) -> Call[Applied]:
        """Has it take connections again."""
        return _state_of(route, destination, endpoint, "ready")

    @operation(
        Row(
            "PUT",
            "/v1/states",
            Role.OPERATOR,
            Applied,
            body=closed_object(
                ["state", "targets"],
                state=_STATE,
                targets={
                    "type": "array",
                    "minItems": 1,
                    "maxItems": MAX_TARGETS,
                    "items": closed_object(
                        ["route", "destination"], route=_TEXT, destination=_TEXT, endpoint=_TEXT
                    ),
                },
                force=_BOOLEAN,
                seconds=_SECONDS,
            ),
            example='{"state": "draining", "targets": [{"route": "...", "destination": "..."}]}',
            largest_body=8 << 20,
            commands=(
                Command(
                    "drain",
                    "Send no new connections to TARGET, and let the open ones end.",
                ),
                Command(
                    "disable",
                    "Take TARGET out of service: no new connections; open ones stay.",
                    "drain.disable",
                ),
                Command("enable", "Send new connections to TARGET again.", "drain.enable"),
                Command(
                    "endpoint", "Show endpoints and their condition, or take one out of service."
                ),
            ),
        )
    )
    def set_states(
        self,
        targets: Sequence[StateTarget],
        state: AdminState,
        *,
        force: bool = False,
        seconds: float = 0.0,
    ) -> Call[Applied]:
        """As drain(), disable() and enable(), of several at once: of all or of none. state:
        draining, disabled or ready; a target has a route, a destination, perhaps an endpoint."""
        named = [dict(target) for target in targets]
        more = _given(force=force, seconds=seconds)
        return Call(body={"state": state, "targets": named, **more})

    @operation(
        Row(
            "POST",
            "/v1/connections/kill",
            Role.OPERATOR,
            Killed,
            body=closed_object(
                ["ids"],
                ids={"type": "array", "items": _ID, "maxItems": MAX_CONNECTIONS},
                rate={"type": "number", "exclusiveMinimum": 0, "maximum": MAX_RATE},
                dry_run=_BOOLEAN,
            ),
            example='{"ids": ["0-17-4"], "rate": 10}',
            largest_body=1 << 20,
            commands=(Command("kill", "Reset live connections, on both sides."),),
        )
    )
    def kill(
        self, ids: Sequence[str], rate: float | None = None, *, dry_run: bool = False
    ) -> Call[Killed]:
        """Resets these connections (`id` of connections()), on both sides. rate: at most so
        many per second. dry_run: resets none, and counts those `left` and `gone`."""
        paced = {} if rate is None else {"rate": rate}
        return Call(body={"ids": list(ids), **paced, **_given(dry_run=dry_run)})

    @operation(
        Row(
            "POST",
            "/v1/routes/{route}/convergence",
            Role.OPERATOR,
            ConvergencePlan,
            body=closed_object(
                [],
                rate={"type": "string", "minLength": 1, "maxLength": 32},
                order={"enum": list(CONVERGE_ORDERS)},
                quiet=_SECONDS,
                deadline=_SECONDS,
                then={"enum": list(CONVERGE_THENS)},
                method={"enum": list(CONVERGE_METHODS)},
                tolerance={"type": "integer", "minimum": 0, "maximum": MAX_WEIGHT},
                dry_run=_BOOLEAN,
            ),
            example='{"rate": "20/s", "quiet": 0.3, "deadline": 60, "then": "keep"}',
            commands=(
                Command(
                    "converge", "Close live connections of ROUTE until they follow its weights."
                ),
            ),
        )
    )
    def converge(
        self,
        route: str,
        *,
        rate: str | None = None,
        order: ConvergeOrder | None = None,
        quiet: float | None = None,
        deadline: float | None = None,
        then: ConvergeThen | None = None,
        method: ConvergeMethod | None = None,
        tolerance: int | None = None,
        dry_run: bool = False,
    ) -> Call[ConvergencePlan]:
        """Closes surplus connections of a route in quiet moments until they follow the weights,
        and does not wait: status() has its state. What is not given is as the route's `converge`
        says. rate: 10/s or 1%/s. method: close, or rehome (their endpoint changes, and their
        clients stay). dry_run: changes nothing; the answer is the plan."""
        given = {
            "rate": rate,
            "order": order,
            "quiet": quiet,
            "deadline": deadline,
            "then": then,
            "method": method,
            "tolerance": tolerance,
        }
        said = {name: value for name, value in given.items() if value is not None}
        return Call({"route": route}, body={**said, **_given(dry_run=dry_run)})

    @operation(
        Row(
            "POST",
            "/v1/routes/{route}/convergence/stop",
            Role.OPERATOR,
            Applied,
            body=_NOTHING,
        )
    )
    def stop_converging(self, route: str) -> Call[Applied]:
        """Live connections of a route stay where they are from now on."""
        return Call({"route": route}, body={})

    @operation(
        Row(
            "POST",
            "/v1/routes/{route}/rollout",
            Role.OPERATOR,
            RolloutStatus,
            body={"type": "object", "additionalProperties": True},
            checked_by_master=True,
            example='{"to": "v2", "steps": ["1%", "10%", "100%"], "bake": 120}',
            commands=(
                Command(
                    "rollout",
                    "Have a new version of ROUTE take over step by step, and take it back if it is "
                    "worse.",
                ),
            ),
        )
    )
    def start_rollout(self, route: str, plan: Mapping[str, Any]) -> Call[RolloutStatus]:
        """Begins a rollout, and does not wait: rollouts() has its state. plan: to, steps (texts
        such as 5%, or shares 0..1), shadow, bake and max_wait in seconds, min_connections, then,
        existing, and judge: connect_failures, resets, early_close and first_error (shares; null =
        off), early_within, first_byte_p95 (a factor), duration_p50 (two), confidence. What is not
        given is as the route's `rollout` says."""
        return Call({"route": route}, body=dict(plan))

    @operation(
        Row(
            "POST",
            "/v1/routes/{route}/rollout/change",
            Role.OPERATOR,
            RolloutStatus,
            body=closed_object(["action"], action={"enum": list(ROLLOUT_ACTIONS)}, full=_BOOLEAN),
            example='{"action": "pause"}',
        )
    )
    def change_rollout(self, route: str, action: str, *, full: bool = False) -> Call[RolloutStatus]:
        """Changes a rollout that is under way. action: pause (the weights stay), resume (its step
        begins anew), promote (to the next step, or past the last one; full: past all) or abort (the
        others get what they had before)."""
        return Call({"route": route}, body={"action": action, **_given(full=full)})

    @operation(
        Row(
            "PUT",
            "/v1/fleet/documents",
            Role.OPERATOR,
            FleetChanged,
            body=closed_object(
                ["files"],
                files={
                    "type": "array",
                    "items": closed_object(["name", "content"], name=_TEXT, content=_TEXT),
                    "maxItems": MAX_FILES,
                },
                delete={"type": "array", "items": _TEXT, "maxItems": MAX_FILES},
                only=_BOOLEAN,
                dry_run=_BOOLEAN,
                why=_TEXT,
                epoch=_EPOCH,
            ),
            example='{"files": [{"name": "shop", "content": "routes: ..."}], "why": "..."}',
            largest_body=8 << 20,
        )
    )
    def put_fleet_documents(
        self,
        files: Sequence[tuple[str, str]],
        delete: Sequence[str] = (),
        *,
        only: bool = False,
        dry_run: bool = False,
        why: str = "",
        epoch: int | None = None,
    ) -> Call[FleetChanged]:
        """Gives all hosts of the fleet these documents, (name, content) each, and takes away those
        named in `delete`; only: there are to be no others. What this instance would refuse is
        refused. dry_run: changes nothing, and tells what would change here. epoch: refused unless
        this is the last change of the fleet."""
        named = [{"name": name, "content": content} for name, content in files]
        more = _given(delete=list(delete), only=only, dry_run=dry_run, why=why)
        return Call(body={"files": named, **more, **({} if epoch is None else {"epoch": epoch})})

    @operation(
        Row(
            "PUT",
            "/v1/fleet/weights",
            Role.OPERATOR,
            FleetChanged,
            body=closed_object(
                ["route", "weights"],
                route=_TEXT,
                weights=_for_each({"anyOf": [_WEIGHT, _STEP]}),
                force=_BOOLEAN,
                why=_TEXT,
                epoch=_EPOCH,
            ),
            checked_by_master=True,
            example='{"route": "shop", "weights": {"v1": 0, "v2": 100}}',
        )
    )
    def set_fleet_weights(
        self,
        route: str,
        weights: Mapping[str, int | str],
        *,
        force: bool = False,
        why: str = "",
        epoch: int | None = None,
    ) -> Call[FleetChanged]:
        """Sets weights of a route, or of ROUTE/RULE, on all hosts of the fleet; destinations not
        named keep theirs. They last until a document that is put has other weights for it. epoch:
        as of put_fleet_documents()."""
        body = {"route": route, "weights": dict(weights), **_given(force=force, why=why)}
        return Call(body={**body, **({} if epoch is None else {"epoch": epoch})})

    @operation(
        Row(
            "POST",
            "/v1/fleet/change",
            Role.OPERATOR,
            FleetChanged,
            body=closed_object(
                ["action"], action={"enum": list(FLEET_ACTIONS)}, why=_TEXT, epoch=_EPOCH
            ),
            example='{"action": "undo"}',
        )
    )
    def change_fleet(
        self, action: str, *, why: str = "", epoch: int | None = None
    ) -> Call[FleetChanged]:
        """action: undo (what the last change has changed is as before), restore (what is in force
        on this host is written into etcd) or confirm (what is in etcd is what is wanted, although
        it is older, or has lost routes)."""
        body = {"action": action, **_given(why=why)}
        return Call(body={**body, **({} if epoch is None else {"epoch": epoch})})

    @operation(
        Row(
            "POST",
            "/v1/reload",
            Role.OPERATOR,
            Applied,
            body=_NOTHING,
            commands=(Command("reload", "Reload the configuration files.", "reload.reload_"),),
        )
    )
    def reload(self) -> Call[Applied]:
        """Reloads the configuration; returns when the workers use it."""
        return Call(body={})

    @operation(
        Row(
            "PUT",
            "/v1/workers",
            Role.OPERATOR,
            Applied,
            body=closed_object(
                ["count"], count={"type": "integer", "minimum": 1, "maximum": MAX_WORKERS}
            ),
            example='{"count": 4}',
            commands=(Command("workers", "Show the workers, or change their number to COUNT."),),
        )
    )
    def set_workers(self, count: int) -> Call[Applied]:
        """Sets the number of workers, 1 or more, until the next reload."""
        return Call(body={"count": count})

    @operation(
        Row(
            "PUT",
            "/v1/log-level",
            Role.OPERATOR,
            LogLevel,
            body=closed_object(["level"], level={"enum": list(LOG_LEVELS)}),
            example='{"level": "debug"}',
            commands=(
                Command("log-level", "Set the log level until the next start.", "small.log_level"),
            ),
        )
    )
    def set_log_level(self, level: LogLevelWord) -> Call[LogLevelWord]:
        """Sets the log level until the next start: debug, info, warning or error."""
        return Call(body={"level": level}, unpack=_level)

    @operation(
        Row(
            "POST",
            "/v1/upgrade",
            Role.OPERATOR,
            Upgrading,
            status=202,
            body=_NOTHING,
            commands=(
                Command(
                    "upgrade",
                    "Change to the build of tcpmux that is installed now, without dropping a "
                    "connection.",
                ),
            ),
        )
    )
    def upgrade(self) -> Call[Upgrading]:
        """Starts an upgrade to the installed build, and does not wait: status() has its state."""
        return Call(body={})

    @operation(
        Row(
            "POST",
            "/v1/stop",
            Role.OPERATOR,
            Stopping,
            status=202,
            body=closed_object(now=_BOOLEAN),
            example='{} or {"now": true}',
            commands=(Command("stop", "Stop the instance, and wait until it has ended."),),
        )
    )
    def stop(self, *, now: bool = False) -> Call[Stopping]:
        """Drains and stops the instance, with `now` at once. Does not wait for its end."""
        return Call(body=_given(now=now))


OPERATIONS: tuple[Row, ...] = tuple(
    {
        row.name: row
        for row in (
            found.row if isinstance(found, Method) else found
            for kind in (Reading, Operations)
            for found in vars(kind).values()
            if isinstance(found, (Method, Row))
        )
    }.values()
)
