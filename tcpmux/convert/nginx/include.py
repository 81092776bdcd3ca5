"""Files that a file includes."""

from __future__ import annotations

import glob
import os
import re
from dataclasses import dataclass, field

from tcpmux.config.problems import ConfigError
from tcpmux.convert.kinds import read_input
from tcpmux.convert.nginx.lexer import Node, parse
from tcpmux.convert.report import Report, Statement

MAX_FILES = 1000  # of all patterns together
MAX_BYTES = 16 << 20  # of all files together
MAX_DEPTH = 16  # files that include files
MAX_WILD = 2  # parts of a path that have wildcards: each multiplies what is looked at
_WILD = re.compile(r"[*?\[]")


@dataclass(slots=True)
class Includer:
    """main: the main file, whose directory relative paths are below."""

    main: str
    report: Report
    files: int = 0
    size: int = 0
    open: list[str] = field(default_factory=list)

    def nodes(self, at: Statement) -> list[Node]:
        """Of all files that an `include` names, in order; a problem if one can't be read."""
        if len(at.words) != 2:
            self.report.problem(at, "expected one path after include")
            return []
        if len(self.open) >= MAX_DEPTH:
            self.report.problem(at, f"files include each other more than {MAX_DEPTH} deep")
            return []
        pattern = os.path.join(
            os.path.dirname(self.main), at.words[1].text
        )  # as nginx does: ./ stays
        names = self._names(at, pattern)
        nodes: list[Node] = []
        for name in names:
            nodes += self._file(at, name)
        if names:
            at.mapped()
        return nodes

    def _names(self, at: Statement, pattern: str) -> list[str]:
        if not _WILD.search(pattern):
            return [pattern]
        if len([part for part in pattern.split("/") if _WILD.search(part)]) > MAX_WILD:
            at.changes(note=f"a pattern with wildcards in more than {MAX_WILD} parts of the path")
            return []
        names = []
        for name in glob.iglob(pattern):
            names.append(name)
            if self.files + len(names) > MAX_FILES:
                self.report.problem(at, f"more than {MAX_FILES} files are included")
                return []
        if not names:
            at.mapped(note="no file matches it on this host")
        return sorted(names, key=os.fsencode)

    def _file(self, at: Statement, name: str) -> list[Node]:
        if name in self.open:
            self.report.problem(at, f"{name} includes itself")
            return []
        self.files += 1
        try:
            content = read_input(name).content
        except ConfigError as error:
            self.report.problem(at, str(error))
            return []
        self.size += len(content)
        if self.size > MAX_BYTES or self.files > MAX_FILES:
            self.report.problem(
                at, f"more than {MAX_FILES} files or {MAX_BYTES >> 20} MiB are included"
            )
            return []
        return parse(name, content, self.report)
