"""Whatever is in a file, it is taken or refused with words: never another exception, never a
long time."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

import tcpmux.config
from tcpmux.config import ConfigError, load
from tcpmux.config.validation import EXPECTED

ROOT = Path(__file__).resolve().parents[2]
SEEDS = [
    (ROOT / "configs" / name).read_bytes()
    for name in (
        "reference.yaml",
        "istio/tcp-echo-all-v1.yaml",
        "istio/tcp-echo-20-v2.yaml",
        "istio/gateway-api/tcp-echo-all-v1.yaml",
        "istio/tcp-echo-services.yaml",
    )
]
BITS = [
    *(b"- ", b": ", b"{", b"}", b"[", b"]", b"&a ", b"*a", b"<<: ", b"!!python/object:os ", b"'"),
    *(b'"', b"\0", b"\xef\xbb\xbf", b"\xff\xfe", b"\r\n", b"\t", b"---\n", b"...\n", b"|\n", b"?"),
    *(
        b"9" * 400,
        b"1e999",
        b"0x",
        b"~",
        b"${",
        b"$$",
        b"apiVersion: v1\nkind: List\n",
        b"\xed\xa0",
    ),
    *(b"\xe2\x80\xa8", b"%YAML 9\n", b"spec: []\n", b"metadata: 5\n", b"items: {}\n", b"#"),
]


def try_it(data: bytes, directory: Path) -> None:
    file = directory / "f.yaml"
    file.write_bytes(data)
    refused: ConfigError | None = None
    try:
        load([file], ["tcp-echo/v1=127.0.0.1:1", "tcp-echo/v2=127.0.0.1:2"])
    except ConfigError as error:
        refused = error
    if refused is not None:
        assert refused.problems
        for problem in refused.problems:
            assert problem.message
            assert str(problem).isprintable()


fuzz = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@fuzz
@given(data=st.binary(max_size=400))
def test_random_bytes(data: bytes, tmp_path: Path) -> None:
    try_it(data, tmp_path)


@fuzz
@given(parts=st.lists(st.sampled_from(BITS) | st.text(max_size=8).map(str.encode), max_size=30))
def test_bits_of_yaml(parts: list[bytes], tmp_path: Path) -> None:
    try_it(b"".join(parts), tmp_path)


@fuzz
@given(data=st.data())
def test_good_files_with_something_wrong(data: st.DataObject, tmp_path: Path) -> None:
    seed = data.draw(st.sampled_from(SEEDS))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(seed)))
        cut = data.draw(st.integers(0, 12))
        seed = seed[:at] + data.draw(st.sampled_from([b"", *BITS])) + seed[at + cut :]
    try_it(seed, tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "{a: " * 50_000,
        "- " * 100_000,
        "a: &a [x, x]\n"
        + "".join(f"b{n}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(24)),
        "apiVersion: v1\nkind: List\nitems:\n" * 2000,
        "x" * 1_000_000,
        "routes: !!python/object/apply:os.system ['touch pwned']\n",
        "routes: [" + "{}, " * 20_000 + "]",
    ],
    ids=["brackets", "braces", "dashes", "aliases", "lists", "long", "python", "many mistakes"],
)
def test_the_malicious(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    try_it(text.encode(), tmp_path)
    assert not (tmp_path / "pwned").exists()


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    with file.open("wb") as stream:
        stream.truncate(100 << 20)
    with pytest.raises(ConfigError, match="larger than 16 MiB"):
        load([file])


WRONG: list[object] = [
    None,
    True,
    -5,
    7,
    10**30,
    1.5,
    1e999,
    "",
    "x",
    "5",
    [],
    [None],
    [[]],
    [{}],
    {},
    {"x": 1},
]
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in Python, it takes ten times as long
KEY_THAT_IS_A_NUMBER = re.compile(r'"(\d+)":')
OF_PYDANTIC = re.compile(
    "Input should|Field required|Value error|valid (string|integer|number|dictionary|list)|"
    "Extra inputs|unable to|at most .* after validation|expected another value"
)


def leaves_as(node: object, value: object) -> object:
    """The same, with each scalar replaced."""
    if isinstance(node, dict):
        return {key: leaves_as(inside, value) for key, inside in node.items()}
    if isinstance(node, list):
        return [leaves_as(inside, value) for inside in node]
    return value


def each_as(node: object, value: object) -> Iterator[object]:
    """The same, with one mapping or list in it replaced."""
    if isinstance(node, (dict, list)):
        yield value
    if isinstance(node, dict):
        for key, inside in node.items():
            for changed in each_as(inside, value):
                yield {**node, key: changed}
    elif isinstance(node, list):
        for at, inside in enumerate(node):
            for changed in each_as(inside, value):
                yield [*node[:at], changed, *node[at + 1 :]]


def as_yaml(document: object) -> str:
    """In JSON, which is YAML but for one number and for keys that are numbers: to have it written
    as YAML takes as long as a third of what is tested."""
    text = json.dumps(document).replace("Infinity", ".inf")
    return "---\n" + KEY_THAT_IS_A_NUMBER.sub(r"\1:", text) + "\n"


@pytest.mark.parametrize("value", WRONG, ids=repr)
@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"{len(seed)} bytes")
def test_no_words_of_the_validator_reach_a_user(seed: bytes, value: object, tmp_path: Path) -> None:
    """Whatever is wrong, and wherever, is said in words of our own."""
    documents = list(yaml.load_all(seed, LOADER))
    file = tmp_path / "f.yaml"
    for changed in (leaves_as(documents, value), *each_as(documents, value)):
        if not isinstance(changed, list):
            continue
        file.write_text("".join(map(as_yaml, changed)))
        try:
            load([file], ["tcp-echo/v1=127.0.0.1:1", "tcp-echo/v2=127.0.0.1:2"])
        except ConfigError as error:
            for problem in error.problems:
                assert not OF_PYDANTIC.search(problem.message), problem


def models() -> Iterator[type[BaseModel]]:
    for module in pkgutil.iter_modules(tcpmux.config.__path__):
        inside = vars(importlib.import_module(f"tcpmux.config.{module.name}")).values()
        yield from (m for m in inside if isinstance(m, type) and issubclass(m, BaseModel))


def test_each_kind_of_mistake_that_the_validator_can_find_has_words() -> None:
    """In each key of each kind of file, also of those that no example has."""
    in_words = {
        *("missing", "extra_forbidden", "value_error", "model_type", "dict_type", "list_type"),
        *("too_short", "too_long"),
        *EXPECTED,
    }
    found = set()
    for model in set(models()) - {BaseModel}:
        for name, field in model.model_fields.items():
            for value in [*WRONG, ["a"] * 100]:
                try:
                    model.model_validate({field.alias or name: value})
                except ValidationError as error:
                    for details in error.errors(include_url=False):
                        found.add(details["type"])
                        text = str(details.get("ctx", {}).get("error", ""))
                        assert not OF_PYDANTIC.search(text), (model, name, value)
    assert found == in_words
