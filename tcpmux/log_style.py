"""How the processes of an instance log: what `log` of routes.yaml says, as one number in the route
table, which every process reads."""

from __future__ import annotations

from typing import NamedTuple

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")
TARGETS = ("stderr", "journal", "syslog", "file")


class LogStyle(NamedTuple):
    """level: what is shown, from LEVELS; format: of FORMATS; target: of TARGETS."""

    level: str = "info"
    format: str = "text"
    target: str = "stderr"

    @property
    def number(self) -> int:
        return (
            LEVELS.index(self.level)
            + 16 * FORMATS.index(self.format)
            + 256 * TARGETS.index(self.target)
        )

    @classmethod
    def from_number(cls, number: int) -> LogStyle:
        """What is no style is the default in that part."""
        parts = ((LEVELS, number & 15), (FORMATS, number >> 4 & 15), (TARGETS, number >> 8))
        known = (words[at] if at < len(words) else "" for words, at in parts)
        return cls(*(word or default for word, default in zip(known, DEFAULT, strict=True)))


DEFAULT = LogStyle()
