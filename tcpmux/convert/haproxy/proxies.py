"""The proxies of haproxy.cfg with what they inherit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tcpmux.convert.haproxy.lookups import lookup_of
from tcpmux.convert.haproxy.options import mark_unused
from tcpmux.convert.haproxy.reading import OTHERS, PROXIES, RawSection
from tcpmux.convert.haproxy.tables import BACK, DIRECTIVES, FRONT, GONE
from tcpmux.convert.haproxy.values import Refused
from tcpmux.convert.report import Effect, Report, Statement, Word

MAX_BASES = 100  # of a chain of `from`


@dataclass(slots=True, eq=False)
class Setting:
    """A directive. words: with the keyword, without no or default. key: in DIRECTIVES; "" = it is
    unknown. undoes: it has the prefix no or default."""

    at: Statement
    words: list[Word]
    key: str
    undoes: bool = False
    order: int = 0  # in the files

    @property
    def args(self) -> list[Word]:
        """What is after the keyword."""
        return self.words[len(self.key.split()) :]

    def arg(self, index: int = 0) -> Word:
        """Raises Refused if there is none."""
        if index >= len(self.args):
            raise Refused(f"expected a value after {' '.join(w.text for w in self.words)}")
        return self.args[index]


@dataclass(slots=True, eq=False)
class Section:
    """base: the defaults that it inherits. file: index of what is read first of equal names."""

    kind: str
    name: str
    raw: RawSection
    base: Section | None = None
    head: Statement | None = None
    settings: list[Setting] = field(default_factory=list)
    marked: set[str] = field(default_factory=set)  # sides whose proxies have used the tables
    _index: dict[str, list[Setting]] = field(default_factory=dict)
    acls: dict[str, list[Setting]] | None = None  # by name, its own and those of `from`
    terms: dict[tuple[str, bool], Any] = field(default_factory=dict)  # of acls.py
    _lasts: dict[str, list[str]] | None = None

    @property
    def label(self) -> str:
        return str(self.raw)

    @property
    def at(self) -> Statement:
        assert self.head is not None
        return self.head

    @property
    def sides(self) -> set[str]:
        return {"frontend": {FRONT}, "backend": {BACK}}.get(self.kind, {FRONT, BACK})

    @property
    def chain(self) -> list[Section]:
        """What it inherits, the farthest first, and itself."""
        found: list[Section] = [self]
        while found[-1].base is not None and len(found) < MAX_BASES:
            found.append(found[-1].base)
        return found[::-1]

    def raw_last(self, keyword: str) -> list[str]:
        """The last line with this keyword, before there are settings; none = []."""
        for section in reversed(self.chain):
            found = section.raw_lasts().get(keyword)
            if found:
                return found
        return []

    def raw_lasts(self) -> dict[str, list[str]]:
        """Of its own lines, the last with each keyword."""
        if self._lasts is None:
            self._lasts = {}
            for line in self.raw.lines[1:]:
                texts = [word.text for word in line.words]
                if line.fate is None:
                    name = "disabled" if texts[0] == "enabled" else texts[0]
                    self._lasts[name] = texts
        return self._lasts

    @property
    def mode(self) -> str:
        return (self.raw_last("mode")[1:2] or ["tcp"])[0]

    @property
    def is_disabled(self) -> bool:
        return self.raw_last("disabled")[:1] == ["disabled"]

    def all(self, *keys: str) -> list[Setting]:
        """In order, the inherited ones first."""
        found = [s for section in self.chain for key in keys for s in section.own(key)]
        return sorted(found, key=lambda s: s.order) if len(keys) > 1 else found

    def own(self, key: str) -> list[Setting]:
        """Once all statements are made."""
        if not self._index:
            for setting in self.settings:
                self._index.setdefault(setting.key, []).append(setting)
        return self._index.get(key, [])

    def last(self, *keys: str) -> Setting | None:
        """The one that counts, unless it undoes others."""
        found = self.all(*keys)
        return found[-1] if found and not found[-1].undoes else None

    def is_on(self, key: str) -> bool:
        """Of an option; it is marked."""
        found = self.all(key)
        if not found:
            return False
        found[-1].at.mapped(*found[-1].at.words)
        return not found[-1].undoes


def setting_of(at: Statement) -> Setting:
    words = at.words
    undoes = words[0].text in ("no", "default") and len(words) > 1
    words = words[1:] if undoes else words
    texts = [word.text for word in words]
    key = " ".join(texts[:2])
    if key not in DIRECTIVES:
        key = texts[0] if texts[0] in DIRECTIVES else ""
    return Setting(at, words, key, undoes)


def guarded(
    report: Report, at: Statement, work: Callable[[], object], word: Word | None = None
) -> None:
    """Makes a problem of what HAProxy would refuse."""
    try:
        work()
    except Refused as error:
        report.problem(at, str(error), word)


def sections_of(raws: Sequence[RawSection], report: Report) -> list[Section]:
    """With what they inherit. Problems: a name twice, defaults that are not there."""
    found: list[Section] = []
    latest: Section | None = None
    named: dict[str, Section] = {}
    taken: dict[tuple[str, str], Section] = {}
    for raw in raws:
        made = Section(raw.kind, raw.name, raw)
        found.append(made)
        if raw.kind not in (*PROXIES, "defaults"):
            continue
        made.base = latest if raw.kind in PROXIES else None
        if raw.base is not None:
            made.base = named.get(raw.base)
            if made.base is None:
                _problem(made, report, f"there is no earlier defaults section {raw.base}")
        if raw.kind == "defaults":
            latest = made
            if raw.name:
                named[raw.name] = made
            continue
        for side in made.sides:
            if taken.setdefault((side, raw.name), made) is not made:
                _problem(made, report, f"another {side} is already named {raw.name}")
    return found


def _problem(section: Section, report: Report, message: str) -> None:
    report.problem(report.statement(section.raw.file, section.raw.lines[0].words), message)


def backends_of(sections: Sequence[Section]) -> dict[str, Section]:
    return {s.name: s for s in sections if s.kind in ("backend", "listen")}


def used_backends(sections: Sequence[Section]) -> set[str]:
    """Names that TCP proxies that are read have in their lines."""
    found: set[str] = set()
    for section in sections:
        if section.kind not in ("frontend", "listen") or section.mode != "tcp":
            continue
        if section.is_disabled:
            continue
        found.update(_names(section))
    return found


def _names(section: Section) -> Iterator[str]:
    if section.kind == "listen":
        yield section.name
    for part in section.chain:
        for line in part.raw.lines[1:]:
            texts = [word.text for word in line.words]
            if line.fate is None and texts[0] in ("use_backend", "default_backend"):
                yield from texts[1:2]
                with suppress(Refused):  # it is said where the line is read
                    found = lookup_of(" ".join(texts[1:2]), part.raw.file)
                    yield from found.names if found else ()


def make_statements(sections: Sequence[Section], report: Report) -> None:
    """Of every line, in order; of a section that is not read, a single one."""
    count = 0
    used, resolvers = used_backends(sections), _used_resolvers(sections)
    for section in sections:
        for line in section.raw.lines:
            _hide(line.words)
        skipped = _why_skipped(section, used, resolvers)
        if skipped is not None:
            _skip(section, report, *skipped)
            continue
        for index, line in enumerate(section.raw.lines):
            at = report.statement(section.raw.file, line.words, section.label)
            if line.fate is not None:
                _fate(at, *line.fate)
            elif index == 0 and section.kind:
                section.head = at
            elif section.kind in (*PROXIES, "defaults"):
                count += 1
                section.settings.append(setting_of(at))
                section.settings[-1].order = count
            else:
                section.settings.append(Setting(at, at.words, ""))


_SECRET = ("cluster-secret", "setenv", "presetenv")  # what they end in
_BEFORE_SECRET = {"user": ("password", "insecure-password"), "http-check": ("authorization",),
                  "server": ("tcp-md5sig",), "default-server": ("tcp-md5sig",)}  # fmt: skip


def _hide(words: Sequence[Word]) -> None:
    """Passwords, of users and in what checks send."""
    texts = [word.text.lower() for word in words]
    if len(texts) > 1 and (texts[:2] == ["stats", "auth"] or texts[0] in _SECRET):
        words[-1].is_secret = True
    before = _BEFORE_SECRET.get(texts[0], ())
    for (previous, text), word in zip(pairwise(texts), words[1:], strict=True):
        if previous in before or (texts[0] == "tcp-check" and text.startswith("auth ")):
            word.is_secret = True


def _fate(at: Statement, effect: Effect, note: str) -> None:
    for word in at.words:
        word.mark(effect, note)


def _skip(section: Section, report: Report, note: str, effect: Effect, needs: str) -> None:
    words = [word for line in section.raw.lines for word in line.words]
    at = report.statement(section.raw.file, words, section.label)
    if effect is Effect.CHANGES:
        at.changes(note=note, needs=needs)
    elif effect is Effect.MAPPED:
        at.mapped(note=note)
    else:
        at.harmless(note=note)


Skipped = tuple[str, Effect, str]  # note, what becomes of it, what it needs


def _why_skipped(section: Section, used: set[str], resolvers: set[str]) -> Skipped | None:
    """None: it is read."""
    kind = section.kind
    if kind in PROXIES:
        return _why_not_converted(section, used)
    if kind in ("", "global", "defaults") or (kind == "resolvers" and section.name in resolvers):
        return None
    if kind in OTHERS:
        return f"{kind}: {OTHERS[kind]}", Effect.HARMLESS, ""
    if kind == "log-forward":
        return "log-forward: its ports are not opened", Effect.CHANGES, "UDP"
    return f"tcpmux convert does not know sections called {kind}", Effect.CHANGES, ""


def _why_not_converted(section: Section, used: set[str]) -> Skipped | None:
    is_backend, mode = section.kind == "backend", section.mode
    if section.is_disabled and not is_backend:
        return "it is disabled in HAProxy too", Effect.HARMLESS, ""
    if mode != "tcp" and is_backend:
        return f"mode {mode}: used only by proxies that are not converted", Effect.HARMLESS, ""
    if mode != "tcp" and _is_page(section):
        return "tcpmux does not serve HAProxy's page; see its own, `admin.http`", Effect.MAPPED, ""
    if mode != "tcp":
        return f"mode {mode}: its port is not opened", Effect.CHANGES, f"mode {mode}"
    if is_backend and section.name not in used:
        return "no frontend uses it", Effect.HARMLESS, ""
    return None


_OF_PAGES = {
    "mode", "bind", "log", "option", "no", "timeout", "maxconn", "stats", "acl", "description",
}  # fmt: skip


def _is_page(section: Section) -> bool:
    """Whether it serves HAProxy's own statistics alone, and relays nothing."""
    own = [[word.text for word in line.words] for line in section.raw.lines[1:]]
    serves = [words[0] == "stats" or _is_exporter(words) for words in own]
    plain = all(words[0] in _OF_PAGES or _is_exporter(words) for words in own)
    return plain and any(serves) and not section.raw_last("default_backend")


def _is_exporter(words: Sequence[str]) -> bool:
    return list(words[:3]) == ["http-request", "use-service", "prometheus-exporter"]


def _used_resolvers(sections: Sequence[Section]) -> set[str]:
    """Names that follow the word `resolvers` in lines of proxies."""
    return {
        name.text
        for section in sections
        if section.kind in (*PROXIES, "defaults")
        for line in section.raw.lines
        for word, name in pairwise(line.words)
        if word.text == "resolvers"
    }


def finish(sections: Sequence[Section]) -> None:
    """Marks directives that are known and that nothing has used."""
    for section in sections:
        if section.kind not in (*PROXIES, "defaults"):
            continue
        if section.head is not None and section.head.words[0].effect is None:
            section.head.harmless(note="no converted proxy uses it")
        for setting in section.settings:
            if setting.key == "default-server":
                with suppress(Refused):
                    mark_unused(setting.at, setting.args)
            if setting.key and all(word.effect is None for word in setting.at.words):
                directive = DIRECTIVES[setting.key]
                if section.kind in PROXIES and not section.sides & set(directive.sides.split()):
                    note = f"HAProxy ignores it in a {section.kind}"
                elif directive.harmless:
                    note = directive.harmless
                elif section.kind == "defaults":
                    note = "no converted proxy uses it, or all override it"
                else:
                    note = "has no effect here, or a later line overrides it"
                setting.at.harmless(note=note)


def mark_known(section: Section, report: Report) -> None:
    """Of a proxy that is converted: what needs no more than the tables."""
    mode = section.last("mode")
    if mode is not None:
        mode.at.mapped()
    for part in section.chain:
        if not section.sides <= part.marked:
            part.marked |= section.sides
            for setting in part.settings:
                _mark(setting, section, report)


def _mark(setting: Setting, section: Section, report: Report) -> None:
    if not setting.key:
        if setting.words[0].text in GONE:
            report.problem(setting.at, f"HAProxy no longer has {setting.words[0].text}")
        return
    directive = DIRECTIVES[setting.key]
    if not section.sides & set(directive.sides.split()):
        return
    if directive.harmless:
        setting.at.harmless(note=directive.harmless)
    elif directive.changes and not setting.undoes:
        if setting.key.startswith("option ") and section.last(setting.key) is not setting:
            return  # a later line says otherwise
        setting.at.changes(note=directive.changes, needs=directive.needs)
