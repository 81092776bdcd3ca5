"""Where a configuration comes from: the source that a -c argument names, and the texts in it.

`SCHEME://REST` is read by the class that has that scheme, anything else is a path. A new source is
one class here, derived from Source; it has its scheme beside its bases, by which it is found:

    class Etcd(Source, scheme="etcd"):
        def read(self, problems):
            from tcpmux.config.etcd import get  # how it is asked; loaded if somebody names one

            for key, data in get(self.rest, READ_TIME):
                yield self.text(key, data)
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tcpmux.config.document import Text, read_text, text_of
from tcpmux.config.problems import ConfigError, Problem, one_line
from tcpmux.errors import printable
from tcpmux.files import LARGEST, too_large

READ_TIME = 5.0  # s that read() may take: the master does nothing else meanwhile
SUFFIXES = (".yaml", ".yml", ".json")  # of the files of a directory

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.ASCII | re.IGNORECASE)
_BY_SCHEME: dict[str, type[Source]] = {}


class Source(ABC):
    """Delivers the texts of a configuration. name: for messages, the status and the process title,
    so there is no secret in it; the -c argument, unless the class sets another one. rest: what
    follows the scheme.

    To make one touches nothing and does not fail: read() says what is wrong with `rest`.
    """

    def __init_subclass__(cls, *, scheme: str = "") -> None:
        if scheme:
            assert _SCHEME.fullmatch(f"{scheme}://"), scheme
            assert scheme == scheme.lower(), scheme
            assert scheme not in _BY_SCHEME, scheme
            _BY_SCHEME[scheme] = cls

    def __init__(self, name: str) -> None:
        self.name = name
        self.rest = name.partition("://")[2]

    @abstractmethod
    def read(self, problems: list[Problem]) -> Iterable[Text]:
        """All texts as they are now. What can't be had is added to problems, or raised as
        ConfigError or OSError; then nothing of what came before it is used.

        The master calls it at a start and at each reload, as root perhaps, and starts processes
        later: it takes READ_TIME at most and leaves no thread and no descriptor behind. What
        comes from others is bounded here, before it is held in memory. A text that may not use the
        environment of the master has one of its own (Text.environment).
        """

    def files(self, problems: list[Problem]) -> Iterable[Path]:
        """What of it is in files, for those who change them."""
        problems.append(self.problem("it does not come from files: change it at its source"))
        return ()

    @property
    def title(self) -> str:
        """In the list of processes."""
        return self.name

    def absolute(self) -> Source:
        """The same one, whatever the working directory."""
        return self

    def text(self, key: str, data: bytes) -> Text:
        """One of its texts; key: which of them, "" = the only one. Raises ConfigError."""
        return text_of(printable(f"{self.name}/{key}" if key else self.name), data)

    def problem(self, message: str) -> Problem:
        """With it as a whole."""
        return Problem(printable(self.name), 0, 0, "", message)


class Files(Source):
    """A file, or a directory, which stands for its .yaml, .yml and .json files by name."""

    def read(self, problems: list[Problem]) -> Iterator[Text]:
        for path in self.files(problems):
            try:
                yield read_text(path)
            except ConfigError as error:
                problems.extend(error.problems)

    def files(self, problems: list[Problem]) -> Iterator[Path]:
        path = Path(self.name)
        if not _is_directory(path):
            yield path
            return
        try:
            inside = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
        except OSError as error:
            problems.append(Problem(str(path), 0, 0, "", f"can't be read: {error.strerror}"))
            return
        inside = [p for p in inside if not p.name.startswith(".")]
        if not inside:
            message = f"no file in this directory ends in {', '.join(SUFFIXES)}"
            problems.append(Problem(str(path), 0, 0, "", message))
        yield from inside

    @property
    def title(self) -> str:
        return Path(self.name).name

    def absolute(self) -> Source:
        return Files(str(Path(self.name).absolute()))


class _Unknown(Source):
    """What nobody reads. A problem like any other, so that it is told with the others."""

    def read(self, problems: list[Problem]) -> Iterable[Text]:
        known = "".join(f"{scheme}://..., " for scheme in sorted(_BY_SCHEME))
        scheme = one_line(self.name.partition("://")[0])
        problems.append(
            self.problem(
                f"unknown configuration source {scheme}: expected {known}a file or a directory "
                f"(put ./ before a path that contains ://)"
            )
        )
        return ()

    def files(self, problems: list[Problem]) -> Iterable[Path]:
        self.read(problems)
        return ()


def source_of(argument: str | Path) -> Source:
    """What a -c argument names. Whether that is there is seen when it is read."""
    name = str(argument)
    found = _SCHEME.match(name)
    return _BY_SCHEME.get(found[1].lower(), _Unknown)(name) if found else Files(name)


def sources_of(arguments: Iterable[str | Path]) -> tuple[Source, ...]:
    return tuple(map(source_of, arguments))


def read_texts(sources: Sequence[Source], problems: list[Problem]) -> Iterator[Text]:
    """What is in the sources, one by one; what can't be read becomes problems."""
    for source in sources:
        before, count = len(problems), 0
        try:
            for text in source.read(problems):
                count += 1
                if len(text.content) > LARGEST:
                    problems.append(Problem(text.name, 0, 0, "", str(too_large(LARGEST))))
                else:
                    yield text
        except ConfigError as error:
            problems.extend(error.problems)
        except OSError as error:
            reason = one_line(error.strerror or str(error) or type(error).__name__)
            problems.append(source.problem(f"can't be read: {reason}"))
        if not count and len(problems) == before:
            problems.append(source.problem("it is empty"))


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that can't be: reading it says so
        return False
