"""The pages of the reference that are written by hand name all there is, and nothing else."""

from __future__ import annotations

import json
import logging
import re
import signal

from tcpmux.config.log_format import KEYS
from tcpmux.control.asking import DEFAULT_SOCKET, VARIABLE
from tcpmux.log_formats import FORMATTERS
from tcpmux.log_style import TARGETS
from tcpmux.logger.refusals import REFUSAL_FLAGS
from tcpmux.master.events import Event
from tcpmux.master.signals import HANDLED
from tcpmux.shm.counters import FLAGS
from tests.docs.pages import DOCS, Page


def rows(name: str, heading: str = "") -> list[str]:
    """The first cells of the tables below a heading of a page, without their heads."""
    text = Page(DOCS / "reference" / name).prose
    if heading:
        text = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| (.+?) \|.*$", text, re.MULTILINE)
    assert lines
    return lines[1:]


def words(cells: list[str]) -> set[str]:
    return {word for cell in cells for word in cell.replace("`", "").split(", ")}


def test_the_fields_of_the_access_log() -> None:
    assert [cell.strip("`") for cell in rows("access-log.md", "Fields")] == list(KEYS)


def test_the_response_flags() -> None:
    assert words(rows("access-log.md", "Response flags")) == {*FLAGS.values(), *REFUSAL_FLAGS}


def test_the_signals_of_the_master() -> None:
    """But that of a child's death, which nobody sends."""
    known = {number.name.removeprefix("SIG") for number in HANDLED} - {"CHLD"}
    assert words(rows("signals.md")) == known
    assert signal.SIGKILL not in HANDLED


def test_the_fields_of_a_line_of_json() -> None:
    record = logging.LogRecord("tcpmux.master", logging.INFO, "", 0, "m", (), None)
    written = json.loads(FORMATTERS["json"][0].format(record))
    assert words(rows("log.md", "Fields")) == {*written, "traceback"}
    assert words(rows("log.md", "Targets")) == set(TARGETS)


def test_the_kinds_of_events() -> None:
    assert Event.__doc__
    listed = Event.__doc__.partition("kind:")[2].partition("warning, warning")[0]
    kinds = set(re.findall(r"\b[a-z_]+\b", listed)) - {"or", "for", "any", "other"}
    assert words(rows("log.md", "Events")) == kinds | {"warning"}


def test_names_that_scripts_rely_on() -> None:
    assert VARIABLE in words(rows("environment.md"))
    assert DEFAULT_SOCKET in words(rows("files.md"))


def test_exit_codes() -> None:
    assert rows("exit-codes.md") == ["0", "1", "2", "3"]
