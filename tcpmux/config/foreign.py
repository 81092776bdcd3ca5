"""Files of other programs: which program's, by their names or by what is in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath

from tcpmux.config.document import Text, documents_of
from tcpmux.config.problems import ConfigError, Problem

_TREES = (".yaml", ".yml", ".json")  # suffixes
_OWN_KEYS = {"routes", "apiversion", "kind"}


@dataclass(frozen=True, slots=True)
class Foreign:
    """A program. suffixes: of files that are its. look: a pattern that finds something in its
    files, if they are no trees. keys: of which one is at the top of its files, if they are trees,
    in lower case and without '_'."""

    program: str
    suffixes: tuple[str, ...] = ()
    look: str = ""
    keys: frozenset[str] = frozenset()


KINDS = {
    "haproxy": Foreign(
        "HAProxy", (".cfg",), look=r"^\s*(global|defaults|frontend|backend|listen)\b[^;{}\n]*$"
    ),
    "nginx": Foreign(
        "nginx", (".conf",), look=r"^\s*(stream|http|events|upstream|server)\b[^{}\n]*\{"
    ),
    "envoy": Foreign("Envoy", keys=frozenset({"staticresources", "dynamicresources"})),
    "traefik": Foreign(
        "Traefik", (".toml",), keys=frozenset({"entrypoints", "tcp", "http", "udp", "providers"})
    ),
}


def kind_of_text(name: str, content: str) -> str:
    """A key of KINDS; "" = none of them."""
    suffix, found = PurePath(name).suffix, _top_keys(content)
    if found & _OWN_KEYS:
        return ""
    named = [kind for kind, foreign in KINDS.items() if suffix in foreign.suffixes]
    looks = [
        kind
        for kind, foreign in KINDS.items()
        if foreign.look and suffix not in _TREES
        if re.search(foreign.look, content, re.MULTILINE)
    ]
    if named and (named[0] in looks or not KINDS[named[0]].look):
        return named[0]
    if looks or named:  # such as haproxy.conf
        return (looks or named)[0]
    return next((kind for kind, foreign in KINDS.items() if found & foreign.keys), "")


def _top_keys(content: str) -> set[str]:
    if content.lstrip().startswith("{"):  # JSON may be indented by tabs, which YAML has not
        content = content.replace("\t", " ")
    try:
        documents = documents_of(Text("", content, is_foreign=True))
    except ConfigError:
        return set()
    return {
        str(key).lower().replace("_", "")
        for document in documents
        if isinstance(document.value, dict)
        for key in document.value
    }


def foreign_problem(text: Text) -> Problem | None:
    """For a file that is another program's: what to do with it."""
    kind = kind_of_text(text.name, text.content)
    if not kind:
        return None
    told = f"this is a file of {KINDS[kind].program}: see tcpmux convert -c {text.name}"
    return Problem(text.name, 0, 0, "", told)
