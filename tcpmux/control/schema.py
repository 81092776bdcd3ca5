"""What the admin API says, as types. Used by control, which writes it, and by its clients."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias, TypedDict, get_args

from tcpmux.log_style import LEVELS

LOG_LEVELS = LEVELS
# What connections can be listed by, and what groups of them can be made of and listed by. In an
# order that begins with "-" the least comes first.
SortKey = Literal["age", "idle", "bytes_in", "bytes_out", "client"]
GroupKey = Literal["route", "destination", "endpoint", "client"]
GroupSortKey = Literal["connections", "bytes_in", "bytes_out", "age"]
SORT_KEYS: tuple[SortKey, ...] = get_args(SortKey)
GROUP_KEYS: tuple[GroupKey, ...] = get_args(GroupKey)
GROUP_SORT_KEYS: tuple[GroupSortKey, ...] = get_args(GroupSortKey)
Order = SortKey | Literal["-age", "-idle", "-bytes_in", "-bytes_out", "-client"]
GroupOrder = GroupSortKey | Literal["-connections", "-bytes_in", "-bytes_out", "-age"]

ConditionWord = Literal["healthy", "degraded", "down", "drained", "disabled"]
AdminState = Literal["ready", "draining", "disabled"]
Severity = Literal["error", "warning"]
EventLevel = Literal["info", "warning", "error"]
ConvergeOrder = Literal["idle", "oldest", "random"]
ConvergeThen = Literal["keep", "reset"]
ConvergeMethod = Literal["close", "rehome"]
LogLevelWord = Literal["debug", "info", "warning", "error"]
RoleWord = Literal["operator", "viewer"]


class Conditioned(TypedDict):
    """Of a route, a destination, an endpoint or a host name."""

    condition: ConditionWord
    condition_reason: str  # "" = healthy, and nothing to add
    condition_since: float | None  # Unix time, s; None = not known


class EndpointStatus(Conditioned):
    address: str
    state: AdminState  # as an operator wants it
    health: str  # up, down (by its checks) or ejected (for what connections met with)
    health_reason: str
    health_since: float | None  # Unix time, s; None = it was never looked at
    next_try: float | None  # Unix time, s, when it is looked at again, or used, if it is not up
    check: str  # how it is checked; off = not at all
    suspected: bool  # connections there had no answer, but checks succeed: nothing follows from it
    slow_start_percent: int  # of its share that it gets now
    ramp: int  # the same; goes with the next release
    state_until: int | None  # Unix time, s, when it is ready again; None = if somebody says so
    priority: int  # it takes turns when none of a lower number can
    max_connections: int  # 0 = no limit
    turns: int  # how many it takes in a round of its destination; out of service: none
    connections_active: int
    connections_total: int  # connects started
    connect_failures_total: int


class NameStatus(Conditioned):
    """A host name among a destination's endpoints."""

    name: str
    error: str  # why it can't be looked up, or its addresses are not taken; "" = nothing
    since: float | None  # Unix time, s, of the error
    next_look: float | None  # Unix time, s, when it is looked up again after an error


class DestinationStatus(Conditioned):
    name: str
    weight: int  # as configured or, later, set at run time
    file_weight: int
    effective_weight: int  # what the pick uses
    state: AdminState  # as an operator wants it
    slow_start_percent: int  # of its share that it gets now
    ramp: int  # the same; goes with the next release
    panic: bool  # too few endpoints are healthy: all are used
    unresolved: int  # endpoints by name that have no address now
    balance: str
    max_connections: int  # 0 = no limit
    connect_timeout_ms: int  # of destinations that say nothing else
    idle_timeout_ms: int
    connections_active: int
    connections_waiting: int  # those of them that wait for a place: on_full queue
    connections_total: int
    connect_failures_total: int
    connect_timeouts_total: int  # those of the failures that timed out
    retries_total: int  # connects to another endpoint, after one that failed
    bytes_in_total: int  # from the client
    bytes_out_total: int  # to the client
    counters: dict[str, int]  # every one that is of no reason, by name: docs/reference/metrics.md
    closed: dict[str, int]  # by reason
    picked: dict[str, int]  # by reason
    names: list[NameStatus]
    endpoints: list[EndpointStatus]


class RuleShare(TypedDict):
    name: str  # of the destination
    weight: int  # as configured or, later, set at run time
    file_weight: int
    effective_weight: int  # what the pick uses


class RuleStatus(TypedDict):
    """A rule of a route: the first one that a connection meets decides where it goes."""

    name: str  # its own, or one that follows from its conditions
    conditions: str  # in the words of the file
    reject: bool  # its connections are reset
    available: bool  # False: none of its destinations can take connections
    destinations: list[RuleShare]  # that have weight in it
    connections_active: int
    connections_total: int
    closed: dict[str, int]  # by reason


class RouteStatus(Conditioned):
    name: str
    listen: list[str]
    sticky: (
        str | None
    )  # source, sni or tlv:0xEA: shares are of clients, which it tells apart by that
    connect_timeout_ms: int  # of destinations that say nothing else
    idle_timeout_ms: int
    connections_active: int
    connections_total: int
    max_connections: int  # 0 = no limit
    available: bool  # False: no destination can take connections
    connections_denied_total: int  # by allow and deny
    connections_looped_total: int  # that came back from this instance itself
    connections_rejected_total: int
    counters: dict[str, int]  # as those of a destination
    closed: dict[str, int]
    destinations: list[DestinationStatus]
    rules: list[RuleStatus]
    convergence: ConvergenceStatus | None  # None: live connections stay where they are
    mirror: MirrorStatus | None  # None: no connection gets a shadow, or ever did
    rollout: RolloutBrief | None  # None: none is under way


class FirstByte(TypedDict):
    """From the first request to the first byte of the answer, in s. None: none was counted."""

    count: int
    p50: float | None
    p95: float | None
    p99: float | None


class AnswerDifference(TypedDict):
    """Where the answer of a shadow differed from the connection's. Never what it was."""

    result: str  # content or bytes
    offset: int  # of the first byte that differs, from the start of the answer
    within: int  # 1, or: it is one of so many from there on
    time: float  # Unix time, s


class MirrorStatus(TypedDict):
    """Connections that have a shadow, which gets a copy of what their clients send. Totals are
    since the start."""

    to: str  # the destination that gets the copies
    percent: float  # of connections to others that are mirrored, now; 0 = off
    at_run_time: bool  # not as the file says
    active: int  # shadows
    mirrored_total: int
    skipped_total: int  # picked, and not mirrored: no room, or the client speaks TLS
    results: dict[str, int]  # what became of shadows: docs/how-to/mirror.md has the words
    agreement: float | None  # of the shadows that were compared, how many agreed: 0..1
    differences: list[AnswerDifference]  # of the last 8 shadows at most, the newest first
    first_byte: FirstByte  # of connections with a shadow, where both have answered
    shadow_first_byte: FirstByte  # and of their shadows


class Surplus(TypedDict):
    name: str  # of the destination
    connections: int  # more than its share, or at endpoints that are taken out of service


CONVERGED = "live connections follow the weights"  # in the event of an end that left none to go


class ConvergenceStatus(TypedDict):
    """Live connections that are closed until they follow the weights."""

    state: str  # converging, or paused: see reason
    reason: str  # why it is paused
    began_at: float  # Unix time, s
    deadline_at: float
    rate: str  # 10/s or 1%/s: closed at most
    surplus: list[Surplus]  # those with any
    method: str  # close or rehome
    closed: int  # in quiet moments, as far as control has seen since it was started
    rehomed: int  # the same, of those whose endpoint has changed under them
    reset: int  # after the deadline
    busy: int  # of the surplus: bytes have moved too lately, or something is under way
    unanswered: int  # of the surplus: the client spoke last, and waits
    in_transaction: int  # of the surplus, by converge.protocol
    subscribed: int  # the same: the endpoint may speak at any time
    unknown: int  # the same: it is not understood what is said, or not all was heard
    stateful: int  # to be rehomed, and its endpoint knows what another can't be told
    turned_away: int  # the same: another has spoken unasked, or not taken what it was told


class ConvergencePlan(TypedDict):
    """What it would do now."""

    connections: int  # live
    surplus: list[Surplus]
    closes: int  # about how many have to be closed: some come back to where they were
    seconds: float  # about how long that takes at that rate
    busy: int
    unanswered: int
    in_transaction: int
    subscribed: int
    unknown: int
    stateful: int
    turned_away: int
    method: str  # close or rehome
    started: bool


class RolloutVersion(TypedDict):
    """What one version has done in the present step."""

    name: str
    connections: int
    connects: int  # to its endpoints, that succeeded
    connect_failures: int
    resets: int  # by its endpoints


class RolloutFinding(TypedDict):
    measure: str  # connect_failures, resets, early_close, first_error, first_byte or duration
    p: float  # how probable it is to be at least so bad if both versions are equal
    text: str  # its arithmetic


class RolloutVerdict(TypedDict):
    time: float  # Unix time, s
    step: int  # in which it was, from 0; -1: before the first
    text: str


class RolloutBrief(TypedDict):
    """How far one is that is under way."""

    to: str
    state: str  # running or paused
    reason: str  # why it is paused
    step: int  # from 1; 0: it waits for the first one
    steps: list[str]  # shares


class RolloutNow(RolloutBrief):
    """One that is under way."""

    share: float  # 0..1, of the present step
    began_at: float  # Unix time, s
    step_seconds: float  # how long the present step has lasted
    waits: str  # what it waits for
    verdict: str  # good, doubtful, sick (the other version fails as well) or worse
    findings: list[RolloutFinding]
    versions: list[RolloutVersion]  # the new one, and what it is compared with
    verdicts: list[RolloutVerdict]  # the last of what has happened
    by: str  # who has started it


class RolloutEnd(TypedDict):
    """One that is over."""

    route: str
    to: str
    began: float  # Unix time, s
    ended: float
    end: str  # promoted, rolled back or aborted
    text: str  # why
    by: str  # who has ended it; "" = nobody, it has ended by itself
    verdicts: list[RolloutVerdict]


class RolloutHook(TypedDict):
    """One that has failed, and not worked since."""

    hook: str  # gate, events, exec or prometheus
    text: str  # why


class RolloutStatus(TypedDict):
    route: str
    rollout: RolloutNow | None  # None: none is under way
    history: list[RolloutEnd]  # the last 20, the oldest first
    hooks: list[RolloutHook]
    unsaved: str  # why the state of the one under way can't be saved; "" = it is


class RolloutList(TypedDict):
    rollouts: list[RolloutStatus]


class WorkerStatus(TypedDict):
    id: int
    pid: int  # 0 = not running
    guardian_pid: int
    state: str  # running, away (stopped, hanging or dead: others serve its queues) or retiring
    generation: int  # of the route table it uses
    connections: int
    connections_limit: int
    starts: int
    pipes: int  # open
    pipe_bytes: int  # their size, as the kernel counts it, not what is in them
    counters: dict[str, int]


class ProgramStatus(TypedDict):
    """A process beside the workers."""

    name: str  # control, or log: who writes the access log
    pid: int  # 0 = not running
    state: str  # running, or away (stopped, hanging or dead)
    starts: int
    hangs: int  # times that it was found stopped or hanging


class UpgradeStatus(TypedDict):
    count: int  # upgrades begun since the start
    state: str  # of the last one: idle (done, or none yet), running or failed
    error: str  # why it failed, in one line


class BuffersStatus(TypedDict):
    """What is held for peers that do not read; limits of 0 are none."""

    pinned_bytes: int  # by connections that have stalled, half a second to a second ago
    pinned_bytes_limit: int  # buffers.total; beyond it, stalled connections are reset
    pinned_bytes_limit_per_source: int  # buffers.per_source
    pipe_bytes: int  # size of all pipes
    pipe_bytes_limit: int  # with more each pipe is smaller
    pipe_fallbacks_total: int  # times bulk was copied, as no pipe was available


class Problem(TypedDict):
    """Something that is wrong now. route, destination, endpoint: None = it is not about one."""

    severity: Severity  # error: clients lose by it now; warning: redundancy is lost
    route: str | None
    destination: str | None
    endpoint: str | None  # its address, or a host name
    condition: ConditionWord
    text: str  # what is wrong and why
    since: float | None  # Unix time, s; None = not known
    action: str  # what to do about it


class LastReload(TypedDict):
    ok: bool  # False: it was refused, and what was in force before still is
    time: float | None  # Unix time, s; None = there was none since the start
    error: str  # why it was refused


class FleetOverview(TypedDict):
    """The part that this instance has in a fleet."""

    name: str
    host: str
    epoch: int  # of the fleet's last change that is in force; 0 = none
    problem: str  # "" = it follows etcd
    since: float  # Unix time, s; follows it, or does not
    kept: bool  # on the disk, for a start without etcd


class FleetDocument(TypedDict):
    name: str
    bytes: int
    sha256: str


class FleetWeights(TypedDict):
    """Of a route, or of ROUTE/RULE. when: Unix time, s."""

    route: str
    weights: dict[str, int]
    epoch: int
    who: str
    when: float
    why: str


class FleetHost(TypedDict):
    """What a host has said last; one that is gone has said nothing for 15 s, and is not here."""

    host: str
    version: str
    epoch: int  # of the last change that it has in force
    generation: int
    workers: int
    workers_done: int  # that use that generation
    connections: int  # open, 10 s ago at most
    opened: int  # since its start
    place: int  # no other host has it; -1 = none yet
    own_weights: list[str]  # ROUTE or ROUTE/RULE: set on that host alone; 10 at most
    problem: str  # why not all that is in etcd is in force there


class FleetStatus(TypedDict):
    name: str
    host: str  # this one
    epoch: int  # in force here
    problem: str
    since: float
    fleet_epoch: int | None  # the last change; None: etcd does not answer, nor say what follows
    documents: list[FleetDocument]
    weights: list[FleetWeights]
    hosts: list[FleetHost]
    etcd: str  # why it does not answer; "" = it does


class FleetText(TypedDict):
    name: str
    content: str


class FleetDocuments(TypedDict):
    epoch: int
    documents: list[FleetText]


class FleetChanged(TypedDict):
    changes: list[str]
    epoch: int  # the number of the change; 0 = it was only looked over


class FleetEntry(TypedDict):
    epoch: int
    kind: str  # put, weights, undo, restore or confirm
    who: str
    when: float
    why: str
    text: str


class FleetHistory(TypedDict):
    entries: list[FleetEntry]  # the last 100, the oldest first


class Status(TypedDict):
    """Answer of GET /v1/status."""

    pid: int  # of the master
    version: str
    build: str  # of the installed files, the same for the same ones: a hash, or unknown
    state: str  # running, draining, or orphaned: the master is gone
    generation: int
    started_at: int  # Unix time, s
    config: list[str]
    admin: str
    upgrade: UpgradeStatus
    buffers: BuffersStatus
    workers: list[WorkerStatus]
    programs: list[ProgramStatus]  # that should be running
    last_reload: LastReload
    problems: list[Problem]  # the worst first; the first 200
    problems_total: int
    fleet: FleetOverview | None  # None: it is in none
    routes: list[RouteStatus]


class AppliedWorker(TypedDict):
    id: int
    pid: int
    generation: int


class Applied(TypedDict):
    """Answer to a change: what is in force now, and in which workers."""

    generation: int
    changes: list[str]  # a line a route; empty: nothing changed
    warnings: list[str]  # what is not as it should be, as `check` says it: of a reload
    workers: list[AppliedWorker]


class Stopping(TypedDict):
    """Answer to a stop: the instance is over when this process has ended."""

    pid: int


class Upgrading(TypedDict):
    """Answer to an upgrade that has begun; the status says how it goes."""

    pid: int  # of the master, before and after
    count: int


class Connection(TypedDict):
    """One that is open. Ages in s."""

    id: str  # of this connection alone, as long as it stays with its worker
    unique_id: str  # what it was when it was accepted, wherever it is now
    route: str | None
    destination: str | None
    rule: str | None  # of the route, that it has met
    endpoint: str | None  # None: not connected to any yet
    client: str
    peer: str | None  # of the client's socket, if a PROXY header named another client
    proxy_tlvs: str | None  # of that header, as far as they are kept: 0xea=vpce-0123, 0xe4=hex:0aff
    worker: int
    state: str  # connecting, waiting (for a destination or a place in one), relaying or resetting
    age: float
    idle: float
    bytes_in: int  # from the client
    bytes_out: int  # to the client
    generation: int  # of the routes when it was given to its destination
    pick_reason: str | None
    attempts: int  # endpoints tried
    rehomed: int  # how often its endpoint has changed under it
    stays: str | None  # why it can't be closed or rehomed now: busy, in_transaction, ...
    connect_seconds: float | None
    first_byte_seconds: float | None
    sni: str | None  # server's name in its TLS ClientHello, where the route reads it
    alpn: list[str]  # protocols in it


class ConnectionList(TypedDict):
    """Answer of GET /v1/connections."""

    time: float  # Unix time, s
    total: int  # that match; the list may have fewer
    connections: list[Connection]


class ConnectionGroup(TypedDict):
    """Open connections that have something in common; what they may differ in is None."""

    route: str | None
    destination: str | None
    endpoint: str | None
    client: str | None  # without the port
    connections: int
    bytes_in: int  # from the clients
    bytes_out: int  # to the clients
    age: float  # of the oldest, s


class ConnectionGroups(TypedDict):
    """Answer of GET /v1/connections/groups."""

    time: float  # Unix time, s
    total: int  # connections that match
    groups_total: int  # that these make; the list may have fewer
    groups: list[ConnectionGroup]


class RulePassed(TypedDict):
    rule: str
    why: str  # the condition that it does not meet


class DestinationShare(TypedDict):
    name: str
    weight: int  # in the rule that is met, or in the route
    effective_weight: int
    share: float  # of such connections, 0..1
    available: bool  # False: it can take no connections
    condition: str  # healthy, degraded, down, drained or disabled


class Explanation(TypedDict):
    """Answer of GET /v1/routes/{route}/explanation."""

    route: str
    listener: str | None  # None: it was not said, and there are several
    admitted: bool  # False: allow and deny keep the client out
    rule: str | None  # the first that is met; None: the weights of the route decide
    conditions: str | None
    passed: list[RulePassed]  # the rules in front of it, or all
    sticky: str | None  # what tells clients apart; None: connections are divided exactly
    home: str | None  # the client's own destination; None: not sticky, or it is not known
    end: str  # reset or held, where no destination gets it; "" = one does
    destinations: list[DestinationShare]  # that have weight; all, if none has


class DestinationNames(TypedDict):
    name: str
    endpoints: list[str]


class RouteNames(TypedDict):
    name: str
    destinations: list[DestinationNames]
    rules: list[str]


class NameList(TypedDict):
    """Answer of GET /v1/names."""

    routes: list[RouteNames]


class Killed(TypedDict):
    """Answer to an order to reset connections."""

    killed: int
    gone: int  # were not there any more: ended, or moved to another worker
    left: int  # are still there: ask again


class Event(TypedDict):
    seq: int
    time: float  # Unix time, s
    kind: str  # start, stop, reload, refused, weights, state, workers, worker, kill, ...
    text: str
    by: str  # who asked for it; "" = nobody
    level: EventLevel  # error = clients lose by it
    route: str  # that it is about; "" = none, or several


class EventList(TypedDict):
    """Answer of GET /v1/events: the oldest first."""

    events: list[Event]


class DestinationHistory(TypedDict):
    """Points over time, the oldest first; None = not known. Rates are per second."""

    name: str
    connections: list[float | None]  # new ones
    bytes_in: list[float | None]  # from the client
    bytes_out: list[float | None]  # to the client
    connect_failures: list[float | None]
    weight: list[float | None]  # effective: what the pick uses
    connect_p50_seconds: list[float | None]
    connect_p99_seconds: list[float | None]


class Mark(TypedDict):
    """What may explain a change in a plot: an event of the last hour."""

    time: float  # Unix time, s
    kind: str  # as that of an Event
    level: EventLevel  # too
    text: str
    route: str | None  # None: it is of the instance


class History(TypedDict):
    """Answer of GET /v1/history: of one route, or only the marks of all."""

    time: float  # Unix time of the newest point, s
    step: float  # s between two points
    points: int  # how many each list has
    marks: list[Mark]  # the oldest first
    lost: list[float | None]  # connections of clients that were rejected or lost, per second
    destinations: list[DestinationHistory]


class Difference(TypedDict):
    """Answer of POST /v1/diff."""

    changes: list[str]  # a line a route


class Access(TypedDict):
    role: RoleWord


class LogLevel(TypedDict):
    level: LogLevelWord


class _Place(TypedDict):
    route: str
    destination: str


class StateTarget(_Place, total=False):
    """Of set_states(): without an endpoint, the whole destination."""

    endpoint: str  # its address


# What the stream tells. New fields and kinds may come.


class StreamTable(TypedDict):
    """The instance and its routes: at first, and after each change of them."""

    time: float  # Unix time, s
    pid: int  # of the master
    version: str
    state: str  # running or draining
    generation: int
    started_at: int  # Unix time, s
    columns: list[str]  # what the counters of a sample are
    buckets: dict[str, list[float]]  # upper bounds of its histograms, s
    # name, listen, condition, destinations; the last with endpoints and weights, without counters
    routes: list[dict[str, Any]]


class StreamConditions(TypedDict):
    """What is wrong now, and the routes whose conditions have changed: at first, those that are not
    healthy throughout."""

    problems: list[Problem]  # the worst first; the first 200
    problems_total: int
    last_reload: LastReload
    routes: list[dict[str, Any]]  # name, condition, destinations


class _Sample(TypedDict):
    time: float  # Unix time, s
    generation: int
    workers: list[dict[str, Any]]
    troubles: list[dict[str, Any]]  # endpoints and names that are not as they should be
    # By route and destination, in the order of the table with that generation: its columns.
    routes: list[list[list[int]]]
    lost: list[int]  # by route: connections of clients that were rejected or lost


class Sample(_Sample, total=False):
    """Counters, every second."""

    histograms: dict[str, Any] | None  # of the route that was asked for; None = there is none
    rules: dict[str, list[int]]  # the same: open and all connections of each of its rules
    mirror: MirrorStatus | None  # the same: None = no connection gets a shadow, or ever did
    # If asked for: by route and rule, in the order of the table, open and all connections.
    rule_counts: list[list[list[int]]]
    convergences: dict[str, ConvergenceStatus]  # by route; those that converge


class TableUpdate(NamedTuple):
    kind: Literal["table"]
    data: StreamTable


class ConditionsUpdate(NamedTuple):
    kind: Literal["conditions"]
    data: StreamConditions


class SampleUpdate(NamedTuple):
    kind: Literal["sample"]
    data: Sample


class EventsUpdate(NamedTuple):
    kind: Literal["events"]
    data: list[Event]


Update: TypeAlias = TableUpdate | ConditionsUpdate | SampleUpdate | EventsUpdate
