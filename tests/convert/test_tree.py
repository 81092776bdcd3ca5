"""Files that are trees: every value is a statement with its place, in exactly one class."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcpmux.config import ConfigError
from tcpmux.convert.kinds import Input
from tcpmux.convert.report import Effect, Report
from tcpmux.convert.toml_places import read_toml
from tcpmux.convert.tree import Node, read_tree

TOML = """\
# a comment with "quotes" and [brackets]
title = "x = 1" # y
[a.b]
  c.d = [1, 2,
    {e = "}, ]", 'f g' = 3}] # ]
[[list]]
text = \"\"\"
[no.table]
key = "no"
\"\"\"
[[list]]
[list.inner]
"dotted.key" = 1979-05-27T07:32:00Z
[[list.deep]]
x = '''it's'''
"""


def tree(text: str, name: str = "file.yaml") -> tuple[Node, Report]:
    report = Report()
    (root,) = read_tree(Input(name, text), report, str.lower)
    return root, report


def places(report: Report) -> list[tuple[int, int, str]]:
    return [(s.line, s.words[0].column, str(s)) for s in report.statements]


def test_toml_values_have_the_place_of_their_key() -> None:
    _, report = tree(TOML, "file.toml")
    assert places(report) == [
        (2, 1, "title: x = 1"),
        (4, 10, "c.d[0]: 1"),
        (4, 13, "c.d[1]: 2"),
        (5, 6, "d[2].e: }, ]"),
        (5, 18, "d[2].f g: 3"),
        (7, 1, 'list[0].text: [no.table]\\nkey = "no"\\n'),
        (13, 1, "inner.dotted.key: 1979-05-27 07:32:00+00:00"),
        (15, 1, "deep[0].x: it's"),
    ]


def test_yaml_and_json_values_have_the_place_of_their_key() -> None:
    _, report = tree("a:\n  - b: yes\n    c: [1, {d: x}]\ne: {}\nf:\n")
    assert places(report) == [
        (2, 5, "a[0].b: yes"),
        (3, 9, "a[0].c[0]: 1"),
        (3, 13, "c[1].d: x"),
        (4, 1, "e: {}"),
        (5, 1, "f: null"),
    ]
    _, report = tree('{\n\t"a": {\n\t\t"b": 1\n\t}\n}\n', "file.json")
    assert places(report) == [(3, 3, "a.b: 1")]


keys = st.text("ab.\"' =[]#\\\n", min_size=1, max_size=4)
leaves = st.integers(-9, 9) | st.booleans() | st.text("x\"'\\[]{}#=,\n ", max_size=6)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3)
)


def as_toml(value: object) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(k)} = {as_toml(v)}' for k, v in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(as_toml, value))}]"
    return json.dumps(value)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(keys, values, min_size=1, max_size=3))
def test_every_value_of_toml_has_a_place(value: dict[str, object]) -> None:
    text = "".join(f"{json.dumps(key)} = {as_toml(inner)}\n" for key, inner in value.items())
    found, marks = read_toml("file.toml", text)
    assert found == value

    def expect(inner: object, path: tuple[str | int, ...]) -> None:
        assert path in marks
        children = inner.items() if isinstance(inner, dict) else ()
        for key, child in children if not isinstance(inner, list) else enumerate(inner):
            expect(child, (*path, key))

    for line, (key, inner) in enumerate(value.items(), 1):
        assert marks[(key,)] == (line, 1)
        expect(inner, (key,))


@pytest.mark.parametrize(
    "text",
    [
        "a = ",
        "a = 1\na = 2",
        "[a\n",
        "a = " + "9" * 5000,
        "a = " + "[" * 5000 + "]" * 5000,
        "a" + ".a" * 5000 + " = 1",
        "[a" + ".a" * 5000 + "]\nb = 1",
        'a = "\\ud800"',
    ],
)
def test_what_is_no_toml_or_too_deep_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        tree(text, "file.toml")
    assert str(error.value).isprintable()


def test_a_key_in_two_spellings_is_refused() -> None:
    _, report = tree("ab: 1\nAB: 2\n")
    assert [str(problem) for problem in report.problems] == [
        "file.yaml:2:1: AB: 2: AB is given twice"
    ]


def test_what_is_read_is_mapped_and_the_rest_changes_traffic() -> None:
    root, report = tree("read: 1\nunread: 2\nharmless: {a: 1, b: 2}\nrefused: {a: 1, b: 2}\n")
    assert root["read"].integer() == 1
    root["harmless"].harmless("logs")
    root["refused"].changes("it is not done", "TLS")
    found = [(str(f).split(": ", 2)[1], f.text, f.needs) for f in report.findings()]
    assert found == [
        ("mapped", "read: 1", ""),
        ("changes traffic", "unread: 2", ""),
        ("harmless", "harmless.a: 1", ""),
        ("harmless", "harmless.b: 2", ""),
        ("changes traffic", "refused.a: 1", "TLS"),
        ("harmless", "refused.b: 2", ""),
    ]


def test_what_only_was_read_can_still_be_harmless_or_change_traffic() -> None:
    root, report = tree("a: 1\nb: 2\n")
    root["a"].integer()
    root["a"].harmless("logs")
    root["b"].integer()
    root["b"].changes("it is too large")
    assert [found.effect for found in report.findings()] == [Effect.HARMLESS, Effect.CHANGES]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [1]", "expected a value, got a list"),
        ("a: {b: 1}", "expected a value, got a mapping"),
        ("a: x", "expected a whole number, got x"),
        ("a: true", "expected a whole number, got true"),
        ("a: 1.5", "expected a whole number, got 1.5"),
        ("a: 11", "expected a number from 0 to 10, got 11"),
        ("a: -1", "expected a number from 0 to 10, got -1"),
        ("a: '\u0661'", "expected a whole number, got \u0661"),
    ],
)
def test_a_number_that_is_none(text: str, told: str) -> None:
    root, report = tree(text)
    assert root["a"].integer(7, 0, 10) == 7
    assert report.problems[0].message == told


def test_a_mapping_or_a_list_that_is_none() -> None:
    root, report = tree("a: 1\nb: {c: 1}\nd: [1]\ne:\nf: {}\n")
    assert not root["a"]["b"]
    assert list(root["a"]) == []
    assert list(root["b"]) == []
    assert not root["d"]["x"]
    assert list(root["e"]) == list(root["f"]) == []
    assert [problem.message for problem in report.problems] == [
        "expected a mapping, got 1",
        "expected a list, got 1",
        "expected a list, got a mapping",
        "expected a mapping, got a list",
    ]


def test_another_program_s_dollars_are_no_variables() -> None:
    root, _ = tree("a: '^x${y}$'\n")
    assert root["a"].text() == "^x${y}$"


def test_what_is_empty_and_is_looked_into_is_read() -> None:
    root, report = tree("a: {}\nb:\nc: []\nunknown: {}\n")
    assert not root["a"]["x"]
    assert not root["b"]["x"]["y"]
    assert list(root["c"]) == []
    assert [found.effect for found in report.findings()] == [*[Effect.MAPPED] * 3, Effect.CHANGES]


def test_to_go_through_a_list_reads_nothing_of_its_entries() -> None:
    root, report = tree("a: [{b: 1}, {c: 2}]\n")
    assert len(list(root["a"])) == 2
    assert {found.effect for found in report.findings()} == {Effect.CHANGES}
