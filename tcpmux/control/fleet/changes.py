"""Changes of a whole fleet, as operators ask for them at one of its hosts. Runs in control.

Each is looked over by the master of this host, and then written by one compare-and-swap, with an
entry of the history: of two at the same time one is first, and the other is worked out anew.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from tcpmux.config.fleet import MAX_EPOCH, NO_FLEET, document_name, is_document_name, whole
from tcpmux.control.fleet.agent import MAX_JUMP, Agent
from tcpmux.control.fleet.contents import Contents, as_value, digest, shown
from tcpmux.control.fleet.etcd import Away, EtcdError, Range
from tcpmux.control.fleet.hosts import MAX_HOSTS, host_from
from tcpmux.control.fleet.values import KeyValue, Malformed, behind, decoded
from tcpmux.control.master_link import MasterRefused
from tcpmux.control.request_values import is_text
from tcpmux.errors import listed, printable

ATTEMPTS = 10
KEPT = 100  # entries of the history
KEPT_BEFORE = 10  # of these with what was there before, which may be large
MAX_ENTRY = 400  # characters of a text in it
MAX_REQUEST = 1_400_000  # bytes; etcd takes 1.5 MiB
MAX_TOUCHED = 50  # keys of one change; etcd takes 128 acts, and some are ours
MAX_LINES = 100


@dataclass(slots=True)
class Plan:
    """What a change writes. put, delete: keys with what they are to hold. text: what it is, in a
    line. answer: what whoever asked for it is told besides."""

    kind: str
    text: str
    put: dict[str, str] = field(default_factory=dict)
    delete: list[str] = field(default_factory=list)
    answer: dict[str, Any] = field(default_factory=dict)


class Now:
    """What is there at this moment."""

    def __init__(self, contents: Contents, values: Mapping[str, str]) -> None:
        self.contents = contents
        self.values = values  # by key, as they are there


Build = Callable[[Now], Awaitable[Plan]]


class FleetChanges:
    """agent: of this host."""

    def __init__(self, agent: Agent) -> None:
        self.agent = self._agent = agent
        self._keys = agent.keys

    # --- reading ----------------------------------------------------------------------------

    async def _read(self) -> Now:
        keys = self._keys
        found = await self._asking(lambda: self._agent.etcd.range(keys.first, keys.end))
        contents = Contents(keys)
        contents.take(found.found)
        values = {}
        for each in found.found:
            with suppress(UnicodeDecodeError):
                values[each.key] = (each.value or b"").decode()
        return Now(contents, values)

    async def _asking(self, ask: Callable[[], Awaitable[Range]]) -> Range:
        """Of one member after the other. Raises MasterRefused."""
        why = ""
        for _ in range(len(self._agent.fleet.etcd.endpoints) + 1):
            try:
                return await ask()
            except Away as error:
                why = str(error)
                self._agent.etcd.leave()
            except EtcdError as error:
                raise MasterRefused("refused", f"etcd refuses: {error}") from None
        raise MasterRefused("refused", f"etcd does not answer: {why}")

    async def documents(self) -> dict[str, Any]:
        now = await self._read()
        return {
            "epoch": now.contents.epoch,
            "documents": [
                {"name": name, "content": text}
                for name, text in sorted(now.contents.documents.items())
            ],
        }

    async def status(self) -> dict[str, Any]:
        """Of the fleet, as far as it is known. Never fails for etcd's sake."""
        agent = self._agent
        made: dict[str, Any] = {
            "name": agent.fleet.name,
            "host": agent.fleet.host_name,
            "epoch": agent.epoch,
            "problem": agent.problem(),
            "since": agent.problem_since,
            "fleet_epoch": None,
            "documents": [],
            "weights": [],
            "hosts": [],
            "etcd": "",
        }
        try:
            now = await self._read()
            hosts = await self._asking(
                lambda: agent.etcd.range(self._keys.hosts, behind(self._keys.hosts), MAX_HOSTS)
            )
        except MasterRefused as error:
            return {**made, "etcd": str(error)}
        contents = now.contents
        live = [each for each in hosts.found if each.lease]  # else somebody else has put it there
        named = [(each.key.removeprefix(self._keys.hosts), each) for each in live]
        return {
            **made,
            "fleet_epoch": contents.epoch,
            "documents": [
                {"name": name, "bytes": len(text.encode()), "sha256": digest(text)}
                for name, text in sorted(contents.documents.items())
            ],
            "weights": [
                {
                    "route": path,
                    "weights": weights,
                    "epoch": contents.told[path].epoch,
                    "who": contents.told[path].who,
                    "when": contents.told[path].when,
                    "why": contents.told[path].why,
                }
                for path, weights in sorted(contents.weights.items())
            ],
            "hosts": [host_from(name, each) for name, each in named],
        }

    async def history(self) -> dict[str, Any]:
        keys = self._keys
        found = await self._asking(
            lambda: self._agent.etcd.range(keys.history, behind(keys.history))
        )
        entries: dict[int, dict[str, Any]] = {}
        for each in found.found:
            with suppress(Malformed, ValueError):
                value = decoded(each.value or b"")
                when: Any = value.get("when")
                epoch = whole(value.get("epoch"), MAX_EPOCH)
                if each.key == keys.entry(epoch):
                    entries[epoch] = {
                        "epoch": epoch,
                        "kind": shown(value.get("kind"), 20),
                        "who": shown(value.get("who")),
                        "when": when if type(when) in (int, float) and 0 <= when < 1e12 else 0,
                        "why": shown(value.get("why")),
                        "text": shown(value.get("text")),
                    }
        return {"entries": [entries[epoch] for epoch in sorted(entries)[-KEPT:]]}

    # --- changing ---------------------------------------------------------------------------

    async def weights(
        self, who: str, route: str, weights: Mapping[str, Any], *, force: bool, **more: Any
    ) -> dict[str, Any]:
        """All weights of the route as they are with these. Raises TcpmuxError."""

        async def build(now: Now) -> Plan:
            agent = self._agent
            found = await agent.master.request(
                "fleet_weights",
                route=route,
                weights=dict(weights),
                base=now.contents.weights.get(route, {}),
                force=force,
            )
            if not found["of_fleet"]:
                raise MasterRefused(
                    "refused",
                    f"route {route} is in the file of this host, not of the fleet: change it with "
                    f"`tcpmux weight`",
                )
            wanted: dict[str, int] = found["weights"]
            if not any(wanted.values()):
                raise MasterRefused(
                    "refused",
                    f"{route}: all weights would be 0, which a fleet can't have; `tcpmux weight "
                    "--force` sets them on one host",
                )
            before = now.contents.weights.get(route)
            shown_as = ", ".join(f"{name}={weight}" for name, weight in wanted.items())
            key = self._keys.weights(route)
            plan = Plan("weights", f"{route}: {shown_as}")
            plan.answer = {"changes": [] if before == wanted else [f"{route}: {shown_as}"]}
            plan.put[key] = as_value({"weights": wanted, **self._by(who, now, more)}).decode()
            return plan

        return await self._change(build, who, **more)

    async def put(
        self,
        who: str,
        files: Sequence[Mapping[str, str]],
        delete: Sequence[str] = (),
        *,
        only: bool = False,
        dry_run: bool = False,
        **more: Any,
    ) -> dict[str, Any]:
        """Documents, by name. only: there are to be no others. Raises TcpmuxError."""
        wanted = {file["name"]: file["content"] for file in files}
        for name in wanted:
            try:
                document_name(name)
            except ValueError as error:
                raise MasterRefused("invalid", f"{printable(name)[:100]!r}: {error}") from None
        if len(wanted) < len(files):
            raise MasterRefused("invalid", "two files would be the same document")

        async def build(now: Now) -> Plan:
            there = now.contents.documents
            missing = [n for n in delete if self._keys.document(n) not in now.contents.revisions]
            if missing:
                known = listed(sorted(there), 20) or "none"
                raise MasterRefused(
                    "not_found", f"the fleet has no document {missing[0]!r}; there are: {known}"
                )
            if not only:
                self._refuse_what_is_wrong(now, {*wanted, *delete})
            left = {} if only else {n: text for n, text in there.items() if n not in delete}
            return await self._documents_plan(now, {**left, **wanted}, "put")

        if dry_run:
            return {**(await build(await self._read())).answer, "epoch": 0}
        return await self._change(build, who, **more)

    async def _documents_plan(
        self,
        now: Now,
        wanted: dict[str, str],
        kind: str,
        weights: Mapping[str, Mapping[str, int]] | None = None,
    ) -> Plan:
        """weights: that will be there, if they are others than now. Raises TcpmuxError for
        documents that no host would take."""
        keys, contents = self._keys, now.contents
        state = contents.state(self._agent.state or NO_FLEET)
        state = replace(state, documents=wanted, weights=weights or state.weights)
        found = await self._agent.check(state)
        every = now.contents.revisions  # also of those that are wrong
        there = {key.removeprefix(keys.first) for key in every if key.startswith(keys.first)}
        put = {n: text for n, text in wanted.items() if contents.documents.get(n) != text}
        gone = sorted(there - wanted.keys())
        words = [*(f"{n} written" for n in sorted(put)), *(f"{n} deleted" for n in gone)]
        plan = Plan(kind, printable(listed(words, 10) or "nothing"))
        plan.put = {keys.document(name): text for name, text in put.items()}
        plan.delete = [keys.document(name) for name in gone]
        changes = found["changes"][:MAX_LINES]
        dropped = [path for path in found["reweighted"] if path in contents.weights]
        plan.delete += [keys.weights(path) for path in dropped]
        changes += [
            f"{path}: the document's weights replace those of the fleet" for path in dropped
        ]
        plan.answer = {"changes": changes}
        return plan

    async def act(self, who: str, action: str, **more: Any) -> dict[str, Any]:
        """undo: what the last change has changed is as before. restore: what is in force here is
        written. confirm: what is there is what is wanted. Raises TcpmuxError."""
        builds: dict[str, Build] = {
            "undo": self._undo,
            "restore": self._restore,
            "confirm": self._confirm,
        }
        return await self._change(builds[action], who, decides=action != "undo", **more)

    async def _undo(self, now: Now) -> Plan:
        epoch = now.contents.epoch
        found = await self._asking(lambda: self._agent.etcd.range(self._keys.before(epoch)))
        if not found.found or not epoch:
            raise MasterRefused("refused", "nothing to undo: the history has no last change")
        try:
            entry = decoded(found.found[0].value or b"")
            before, after = dict(entry["before"]), dict(entry["after"])
        except (Malformed, KeyError, TypeError, ValueError):
            before, after = dict[str, Any](), {"": ""}
        if before.keys() != after.keys() or not all(map(self._may_undo, before.items())):
            raise MasterRefused("refused", f"change {epoch} makes no sense in etcd")
        if not before:
            kind = shown(entry.get("kind"), 20)
            raise MasterRefused("refused", f"change {epoch} ({kind}) has changed nothing")
        for key, hash_ in after.items():
            there = now.values.get(key)
            if (None if there is None else digest(there)) != hash_:
                raise MasterRefused(
                    "refused",
                    f"change {epoch} can't be undone: {printable(key)} has been changed since, not "
                    "by tcpmux",
                )
        plan = Plan("undo", f"change {epoch} undone: {shown(entry.get('text'))}")
        plan.put = {key: text for key, text in before.items() if isinstance(text, str)}
        plan.delete = [key for key, text in before.items() if text is None]
        wanted = _after(now, plan)
        state = wanted.contents.state(self._agent.state or NO_FLEET)
        plan.answer = {"changes": [plan.text]}
        if state.documents != now.contents.documents:
            plan.answer["changes"] += (await self._agent.check(state))["changes"][:MAX_LINES]
        return plan

    def _may_undo(self, item: tuple[str, Any]) -> bool:
        """Whoever may write one key into etcd is not to have others written by us."""
        key, text = item
        is_ours = key.startswith((self._keys.first, self._keys.weights("")))
        return is_text(key) and is_ours and (text is None or is_text(text))

    async def _restore(self, now: Now) -> Plan:
        state = self._agent.state or NO_FLEET
        if not state.documents:
            raise MasterRefused("refused", "nothing of the fleet is in force here")
        plan = await self._documents_plan(now, dict(state.documents), "restore", state.weights)
        for path, weights in state.weights.items():
            if now.contents.weights.get(path) != weights:
                value = {"weights": dict(weights), "why": "restored", "when": round(time.time(), 3)}
                plan.put[self._keys.weights(path)] = as_value(value).decode()
                said = ", ".join(f"{name}={weight}" for name, weight in weights.items())
                plan.answer["changes"].append(f"{path}: {said}")
        there = set(now.contents.weights) - set(state.weights)
        plan.delete += [self._keys.weights(path) for path in there]
        plan.text = printable(listed([plan.text, *plan.answer["changes"]], 10))
        return plan

    def _refuse_what_is_wrong(self, now: Now, but: Collection[str]) -> None:
        """What hosts have of such documents would be taken from them. Raises MasterRefused."""
        first = self._keys.first
        for key, why in now.contents.wrong.items():
            if key.startswith(first) and key.removeprefix(first) not in but:
                raise MasterRefused("refused", f"{why}: put it anew, or delete it")

    async def _confirm(self, now: Now) -> Plan:
        self._refuse_what_is_wrong(now, ())
        plan = await self._documents_plan(now, dict(now.contents.documents), "confirm")
        plan.text = "what is there is confirmed"
        return plan

    # --- how they are written ---------------------------------------------------------------

    def _by(self, who: str, now: Now, more: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "epoch": self._next(now),
            "who": f"{who} at {self._agent.fleet.host_name}",
            "when": round(time.time(), 3),
            "why": more.get("why", ""),
        }

    def _next(self, now: Now) -> int:
        """Greater than all that this host knows of, even if etcd has forgotten it; and than what is
        there, if that makes sense."""
        here, there = self._agent.epoch, now.contents.epoch
        return (here if here and there > here + MAX_JUMP else max(here, there)) + 1

    async def _change(
        self,
        build: Build,
        who: str,
        *,
        why: str = "",
        epoch: int | None = None,
        decides: bool = False,
    ) -> dict[str, Any]:
        """epoch: the last change must be this one. decides: on what hosts hold back, which nothing
        else may: it would list what is there as what is wanted. Raises TcpmuxError."""
        ours = secrets.token_hex(8)
        unsure: list[int] = []  # epochs that may have become ours
        reason, answer = "", dict[str, Any]()
        for _ in range(ATTEMPTS):
            now = await self._read()
            for each in unsure:  # it was done, and the answer got lost
                if await self._is_by(each, ours):
                    return {**answer, "epoch": each}
            if epoch is not None and epoch != now.contents.epoch:
                raise MasterRefused(
                    "refused",
                    f"the last change of the fleet is {now.contents.epoch}, not {epoch}: look at "
                    "`tcpmux fleet history`",
                )
            held = "" if decides else await self._agent.held_back(now.contents)
            if held:
                raise MasterRefused("refused", f"not before somebody decides: {held}")
            plan = await build(now)
            answer = plan.answer
            wanted = self._next(now)
            decided = wanted if decides else now.contents.decided
            by = {**self._by(who, now, {"why": why}), "id": ours}
            put, delete = self._writes(now, plan, wanted, decided, by)
            revisions = now.contents.revisions
            touched = (self._keys.version, *plan.put, *plan.delete)
            try:
                if await self._agent.etcd.change(
                    {key: revisions.get(key, 0) for key in touched},
                    put,
                    delete,
                    ranges=self._over(wanted),
                ):
                    return {**answer, "epoch": wanted}
                reason = "others change the fleet at the same time"
            except Away as error:
                reason = f"etcd does not say that it is done: {error}"
                unsure.append(wanted)
                self._agent.etcd.leave()
            except EtcdError as error:
                raise MasterRefused("refused", f"etcd refuses: {error}") from None
        if unsure:
            raise MasterRefused("refused", f"{reason}; see `tcpmux fleet history` whether it is")
        raise MasterRefused("refused", f"{reason}: try again")

    async def _is_by(self, epoch: int, id_: str) -> bool:
        """Whether that change is the one with that id. Raises MasterRefused."""
        found = await self._asking(lambda: self._agent.etcd.range(self._keys.entry(epoch)))
        with suppress(Malformed):
            return any(decoded(each.value or b"").get("id") == id_ for each in found.found)
        return False

    def _over(self, epoch: int) -> dict[str, str]:
        """What is kept of changes that are long ago, also where their numbers have jumped."""
        keys = self._keys
        kept = {keys.entry: KEPT, keys.before: KEPT_BEFORE}
        return {of(0): of(epoch - most + 1) for of, most in kept.items() if epoch > most}

    def _writes(
        self, now: Now, plan: Plan, epoch: int, decided: int, by: Mapping[str, Any]
    ) -> tuple[dict[str, bytes], list[str]]:
        """(what is put, what is deleted), with version and history. Raises MasterRefused."""
        keys = self._keys
        touched = [*plan.put, *plan.delete]
        after = _after(now, plan)
        entry = {**by, "kind": plan.kind, "text": plan.text[:MAX_ENTRY]}
        before = {
            "kind": plan.kind,
            "text": plan.text[:MAX_ENTRY],
            "before": {key: now.values.get(key) for key in touched},
            "after": {key: digest(plan.put[key]) if key in plan.put else None for key in touched},
        }
        documents = {name: digest(text) for name, text in after.contents.documents.items()}
        for key in after.contents.wrong:  # it is there, and what hosts have of it is wanted
            name = key.removeprefix(keys.first)
            if name != key and is_document_name(name):
                documents[name] = ""
        put = {key: text.encode() for key, text in plan.put.items()}
        version = {"epoch": epoch, "id": by["id"], "decided": decided, "documents": documents}
        put[keys.version] = as_value(version)
        put[keys.entry(epoch)] = as_value(entry)
        put[keys.before(epoch)] = as_value(before)
        size = sum(map(len, put.values()))
        if len(touched) > MAX_TOUCHED or size > MAX_REQUEST:
            raise MasterRefused(
                "refused",
                f"{len(touched)} documents of {size} bytes (with those before them, which are kept "
                f"for undo) are more than etcd takes at once, {MAX_TOUCHED} and {MAX_REQUEST}: put "
                "some of them at a time",
            )
        return put, plan.delete


def _after(now: Now, plan: Plan) -> Now:
    """What is there once it is written."""
    values = {**now.values, **plan.put}
    for key in plan.delete:
        values.pop(key, None)
    contents = Contents(now.contents.keys)
    contents.take(KeyValue(key, text.encode(), 0) for key, text in values.items())
    touched = {*plan.put, *plan.delete}
    wrong = {key: why for key, why in now.contents.wrong.items() if key not in touched}
    contents.wrong.update(wrong)  # also of what is no text
    return Now(contents, values)
