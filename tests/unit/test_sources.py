"""Which source a -c argument names, and what is said when it can't be read, or delivers nothing."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import new_class

import pytest

from tcpmux.config import ConfigError, Problem, Source, Text, load, sources
from tcpmux.config.edit import save_weights
from tcpmux.config.sources import Files, source_of
from tcpmux.errors import TcpmuxError
from tcpmux.files import LARGEST
from tcpmux.master.reload import Sources
from tests.support import patient
from tests.unit.calling import tcpmux

GOOD = """routes:
  - name: r
    listen: 127.0.0.1:1
    destinations:
      - {name: v1, weight: 80, endpoints: [127.0.0.1:2]}
"""
Read = Callable[[Source], Iterable[Text]]


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def kind() -> Iterator[Callable[[Read], None]]:
    """kind(read): test://... is read by that, until the test ends."""

    def add(read: Read) -> None:
        class Told(Source, scheme="test"):
            def read(self, problems: list[Problem]) -> Iterable[Text]:
                return read(self)

    yield add
    sources._BY_SCHEME.pop("test", None)


def mistakes(*arguments: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(arguments)
    return [str(problem) for problem in caught.value.problems]


def good(source: Source) -> Iterable[Text]:
    return [Text(source.name, GOOD)]


# --- which it is ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "r.yaml",
        "./x://y",
        "/x://y",
        "d/x://y",
        "x:/y",
        "://y",
        "1x://y",
        "x y://z",
        "\u00fcx://y",
        "x\n://y",
        "",
    ],
)
def test_what_has_no_scheme_is_a_path(path: str) -> None:
    source = source_of(path)
    assert isinstance(source, Files)
    assert source.name == path
    assert source.absolute().name == str(Path(path).absolute())


def test_a_file_that_looks_like_a_source_is_read_with_a_dot_in_front() -> None:
    Path("test:").mkdir()
    Path("test:/r.yaml").write_text(GOOD)
    (said,) = mistakes("test://r.yaml")
    assert said == (
        "test://r.yaml: unknown configuration source test: expected a file or a directory "
        "(put ./ before a path that contains ://)"
    )
    assert [route.name for route in load(["./test://r.yaml"]).routes] == ["r"]


def test_a_scheme_has_its_class_in_any_case(kind: Callable[[Read], None]) -> None:
    kind(good)
    for name in ("test://a b://c", "TEST://a b://c", "test://"):
        source = source_of(name)
        assert type(source).__name__ == "Told"
        assert source.rest == name[len("test://") :]
        assert source.name == source.title == source.absolute().name == name


@pytest.mark.parametrize("command", ["check", "convert", "fmt", "diff"])
def test_an_unknown_source_is_one_line_that_says_what_is_known(
    kind: Callable[[Read], None], command: str
) -> None:
    kind(good)
    result = tcpmux(command, "-c", "tets://a\nb")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.removeprefix("tcpmux: error: ") == (
        "tets://a\\nb: unknown configuration source tets: expected test://..., a file or a "
        "directory (put ./ before a path that contains ://)"
    )


def test_two_classes_never_have_one_scheme(kind: Callable[[Read], None]) -> None:
    kind(good)
    for scheme in ("test", "Other", "a b", "1"):
        with pytest.raises(AssertionError):
            new_class("Other", (Files,), {"scheme": scheme})


# --- what is read -----------------------------------------------------------------------------


def test_sources_are_read_as_one(kind: Callable[[Read], None]) -> None:
    """In the order of their arguments, with what is wrong in any of them told at once."""
    Path("r.yaml").write_text(GOOD.replace("name: r", "name: file").replace("0.1:1", "0.1:9"))
    kind(lambda source: [Text(f"{source.name}/a", "workers: 3"), Text(f"{source.name}/b", GOOD)])
    found = load(["test://x", "r.yaml"])
    assert [route.name for route in found.routes] == ["r", "file"]
    assert found.workers == 3
    Path("r.yaml").write_text(GOOD.replace("80", "-80"))
    unknown, gone, wrong = mistakes("nobody://x", "r.yaml", "test://x", "gone.yaml")
    assert unknown.startswith("nobody://x: unknown configuration source nobody: expected ")
    assert gone == "gone.yaml: can't be read: No such file or directory"
    assert wrong.startswith("r.yaml:5:28: routes[0].destinations[0].weight: ")


def broken(error: Exception) -> Read:
    def read(source: Source) -> Iterator[Text]:
        yield Text(source.name, GOOD)
        raise error

    return read


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (lambda _: (), "test://x: it is empty"),
        (lambda s: [Text(s.name, "")], "test://x: the file is empty"),
        (lambda s: [Text(s.name, "# nothing")], "test://x: the file is empty"),
        (lambda s: [Text(f"{s.name}/k", "workers: 1")], "test://x: routes is missing"),
        (
            lambda s: [s.text("k", b"a:\n - \xff")],
            "test://x/k:2:4: not UTF-8: byte 0xff",
        ),
        (
            lambda s: [Text(s.name, GOOD), Text(f"{s.name}/k", "#" * (LARGEST + 1))],
            "test://x/k: larger than 16 MiB, the most that is read",
        ),
        (
            broken(ConnectionRefusedError(111, "Connection refused")),
            "test://x: can't be read: Connection refused",
        ),
        (broken(TimeoutError("timed out")), "test://x: can't be read: timed out"),
        (broken(OSError()), "test://x: can't be read: OSError"),
        (broken(OSError("an\nanswer\x1b[2J")), "test://x: can't be read: an\\nanswer\\x1b[2J"),
        (
            broken(ConfigError([Problem("test://x", 0, 0, "", "no such key")])),
            "test://x: no such key",
        ),
    ],
)
def test_a_source_that_fails_is_one_line(
    kind: Callable[[Read], None], read: Read, said: str
) -> None:
    """As a file that can't be read: with its name, and nothing of what it has delivered is used."""
    kind(read)
    assert mistakes("test://x") == [said]
    result = tcpmux("check", "-c", "test://x")
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"{said}\n")
    result = tcpmux("check", "--json", "-c", "test://x")
    assert result.exit_code == 2
    assert len(json.loads(result.stdout)["problems"]) == 1


def test_a_fault_in_a_source_is_an_error_to_the_master(kind: Callable[[Read], None]) -> None:
    """It goes on with what is in force, whatever a class raises."""
    kind(broken(ZeroDivisionError("half")))
    with pytest.raises(TcpmuxError, match="internal error while reading the files: ZeroDiv"):
        Sources((source_of("test://x"),)).read()


def test_commands_read_sources(kind: Callable[[Read], None]) -> None:
    kind(good)
    result = tcpmux("check", "-c", "test://x.cfg")
    assert result.stdout.startswith("test://x.cfg: ok: 1 route, 1 destination, 1 endpoint\n")
    assert result.exit_code == 0
    result = tcpmux("convert", "-c", "test://x.cfg")
    assert "name: r" in result.stdout
    assert result.exit_code == 0


# --- what changes files -----------------------------------------------------------------------


def test_what_is_in_no_file_is_changed_nowhere(kind: Callable[[Read], None]) -> None:
    """Nor are the files beside it formatted before that is said."""
    kind(good)
    Path("r.yaml").write_text(GOOD)
    result = tcpmux("fmt", "-c", "r.yaml", "-c", "test://x")
    said = "test://x: it does not come from files: change it at its source"
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"tcpmux: error: {said}\n"
    with pytest.raises(ConfigError) as caught:
        save_weights(["test://x"], "r", {"v1": 1})
    assert str(caught.value) == said
    assert save_weights(["test://x", "r.yaml"], "r", {"v1": 7}) == Path("r.yaml")
    assert Path("r.yaml").read_text() == GOOD.replace("80", "7")


def test_what_can_not_be_formatted_is_said() -> None:
    Path("d").mkdir()
    result = tcpmux("fmt", "-c", "d")
    assert result.exit_code == 2
    assert result.stderr == (
        "tcpmux: error: d: no file in this directory ends in .yaml, .yml, .json\n"
    )


SHOWN = """
from tcpmux.cli.output import show_place
from tcpmux.config import Problem
show_place(Problem("{name}", 2, 1, "", ""))
"""


@pytest.mark.parametrize(("name", "lines"), [("./t://r.yaml", 2), ("t://r.yaml", 0)])
def test_a_place_in_a_source_is_shown_from_no_file(name: str, lines: int) -> None:
    """On a terminal, where the line of a file is shown."""
    Path("t:").mkdir()
    Path("t:/r.yaml").write_text(GOOD)
    master, slave = pty.openpty()
    with open(master, "rb", buffering=0) as terminal:
        command = [sys.executable, "-c", SHOWN.format(name=name) + "print('end')"]
        subprocess.run(command, stdout=slave, stderr=slave, timeout=patient(60), check=True)
        os.close(slave)
        shown = terminal.read(4096).decode().splitlines()
    assert len(shown) == lines + 1
