"""What who runs a file is told of the remarks on its resources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tcpmux.config.document import Document
from tcpmux.config.problems import Problem
from tcpmux.config.remarks import CHANGES, Remark
from tcpmux.errors import plural

SAME = 4  # remarks of the same words are told one by one up to so many, else the first for all


def refuse(documents: Sequence[Document]) -> None:
    """What would send traffic elsewhere is a mistake of the file."""
    for document, remark in _counting(documents):
        if remark.refused:
            document.problem(remark.location, remark.note)


def warnings_of(documents: Sequence[Document]) -> list[Problem]:
    """Those of the documents, and what is told of resources: first what changes traffic."""
    told = [
        (remark.effect != CHANGES, document.as_problem(remark.location, remark.note))
        for document, remark in _counting(documents)
        if remark.told and not remark.refused
    ]
    first = _shortened([problem for is_harmless, problem in told if not is_harmless])
    rest = _shortened([problem for is_harmless, problem in told if is_harmless])
    return [*first, *(w for document in documents for w in document.warnings), *rest]


def explain_no_route(documents: Sequence[Document], problems: list[Problem]) -> None:
    """Adds why none came of them: what was told of any of them."""
    why = warnings_of(documents)
    problems.extend(why)
    of = next(document for document in documents if not document.is_native)
    message = "it defines no route: expected a VirtualService or a TCPRoute"
    if why:
        problems.append(Problem(of.file, 0, 0, "", "no route for TCP remains"))
    else:
        problems.append(of.as_problem((), message))


def _counting(documents: Sequence[Document]) -> Iterator[tuple[Document, Remark]]:
    for document in documents:
        found = [r for r in document.remarks if r.owner is None or r.owner in document.used]
        for remark in sorted(found, key=lambda remark: document.mark(remark.location)):
            outer = document.remarks.of_leaf(remark.location)
            is_hidden = outer is not None and outer.effect == CHANGES and outer != remark
            if not (is_hidden and outer is not None and outer.location != remark.location):
                yield document, remark


def _shortened(problems: Sequence[Problem]) -> list[Problem]:
    of: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        of.setdefault((problem.file, problem.message), []).append(problem)
    found = []
    for same in of.values():
        first = same[0]
        if len(same) > SAME:
            more = plural(len(same) - 1, "time")
            message = f"{first.message} (and {more} more)"
            found.append(Problem(first.file, first.line, first.column, first.where, message))
        else:
            found += same
    return sorted(found, key=lambda problem: (problem.file, problem.line, problem.column))
