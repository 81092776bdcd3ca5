"""Whatever a file contains, it is refused in words, or each word of it is in one class."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tcpmux.config import ConfigError
from tcpmux.convert.conversion import convert
from tcpmux.convert.kinds import KINDS, Input
from tcpmux.convert.report import Effect

FILES = Path(__file__).with_name("files")
SEEDS = {
    kind: [
        (path.name, path.read_bytes())
        for path in sorted((FILES / kind).glob("*"))
        if path.is_file() and path.suffix != ".out"
    ]
    for kind in KINDS
}
BITS = [
    *(b"9" * 5001, b"-1", b"0x10", b"1e999", "\u00b2".encode(), "\u0661".encode(), b"%", b"{"),
    *(b"}", b";", b" ", b"\n", b'"', b"'", b"\\", b"#", b"\0", b"\xff", b"server ", b"weight "),
    *(b"*", b"$", b"${", b"upstream ", b"backend ", b"listen ", b"frontend ", b"timeout ", b"["),
    *(b":", b"-", b"unix:/", b"]", b"if ", b"use_backend ", b"include *;", b"/0 ", b"- ", b": "),
]

fuzz = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def try_it(kind: str, data: bytes, name: str = "file") -> None:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    refused: ConfigError | None = None
    try:
        found = convert(kind, [Input(name, text)])
    except ConfigError as error:
        refused = error
    if refused is not None:
        assert refused.problems
        assert all(str(problem).isprintable() for problem in refused.problems)
        return
    assert all(str(finding).isprintable() for finding in found.findings)
    assert all(isinstance(finding.effect, Effect) for finding in found.findings)


@pytest.mark.parametrize("kind", KINDS)
@fuzz
@given(data=st.data())
def test_good_files_with_something_wrong(kind: str, data: st.DataObject) -> None:
    name, text = data.draw(st.sampled_from(SEEDS[kind]))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 12))
        text = text[:at] + data.draw(st.sampled_from([b"", *BITS])) + text[at + cut :]
    try_it(kind, text, name)


@pytest.mark.parametrize("kind", KINDS)
@fuzz
@given(parts=st.lists(st.sampled_from(BITS) | st.text(max_size=8).map(str.encode), max_size=30))
def test_pieces_of_files(kind: str, parts: list[bytes]) -> None:
    try_it(kind, b"".join(parts))
    try_it(kind, b"".join(parts), "file.toml")
