"""What who runs a file is told of the remarks on its resources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tcpmux.config.document import Document
from tcpmux.config.problems import Problem
from tcpmux.config.remarks import Remark
from tcpmux.config.resources import Resource
from tcpmux.errors import plural

SAME = 4  # remarks of the same words are told one by one up to so many, else the first for all


def refuse(documents: Sequence[Document]) -> None:
    """What would send traffic elsewhere is a mistake of the file."""
    for document, remark in _counting(documents):
        if remark.refused:
            document.problem(remark.location, remark.note)


def warnings_of(documents: Sequence[Document]) -> list[Problem]:
    """Those of the documents, and what is told of resources: first what changes traffic."""
    changes, rest = _told(documents)
    return [*changes, *(w for document in documents for w in document.warnings), *rest]


def explain_no_route(
    documents: Sequence[Document], resources: Sequence[Resource], problems: list[Problem]
) -> None:
    """Adds why none came of them: what was told of those that could have made one."""
    changes, rest = _told(documents)
    read = {(r.document.file, r.document.mark(r.location)) for r in resources}
    starts = {(file, line) for file, (line, _) in read}
    why = [*changes, *(p for p in rest if (p.file, p.line) in starts or "spec" in p.where)]
    problems.extend(why)
    of = next(document for document in documents if not document.is_native)
    if why:
        problems.append(Problem(of.file, 0, 0, "", "no route for TCP remains"))
    else:
        message = "it defines no route: expected a VirtualService or a TCPRoute"
        problems.append(of.as_problem((), message))


def _told(documents: Sequence[Document]) -> tuple[list[Problem], list[Problem]]:
    """What changes traffic or is not served at all, and the rest."""
    told: tuple[list[Problem], list[Problem]] = ([], [])
    for document, remark in _counting(documents):
        if remark.told and not remark.refused:
            problem = document.as_problem(remark.location, remark.note)
            told[not remark.is_weighty].append(problem)
    return _shortened(told[0]), _shortened(told[1])


def _counting(documents: Sequence[Document]) -> Iterator[tuple[Document, Remark]]:
    for document in documents:
        found = [r for r in document.remarks if r.owner is None or r.owner in document.used]
        for remark in sorted(found, key=lambda remark: document.mark(remark.location)):
            first = document.remarks.of_leaf(remark.location[:-1]) if remark.location else None
            # Inside what is not in force at all, nothing else is worth telling.
            if remark.refused or first is None or not first.is_weighty:
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
