"""What two builds have to agree on to share memory: every field of every struct that they share."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from tcpmux.shm._declared import LAYOUT, field_rows, fields_of, layout_of
from tcpmux.shm._table import Table

FIELDS = runpy.run_path(str(Path(__file__).parents[2] / "csrc/fields.py"))
HEADER = (
    "struct tm_a { uint32_t x, *y[3]; _Alignas(64) _Atomic uint64_t z;"
    " union { struct sockaddr any; struct sockaddr_in in; }; struct tm_b many[]; };"
    " enum tm_c { TM_ONE = 1, TM_TWO, };"
)


def layout(header: str) -> str:
    return layout_of(list(FIELDS["rows"](header)), 1)


def test_every_declaration_is_a_field() -> None:
    named = [row.split('"')[5] for row in FIELDS["rows"](HEADER)]
    assert named == ["x", "y", "z", "any", "in", "many", "tm_c"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("uint32_t x, *y[3]", "uint32_t *y[3], x", id="two fields change places"),
        pytest.param("uint32_t x", "int32_t x", id="another type of the same size"),
        pytest.param(" x,", " xx,", id="another name"),
        pytest.param("[3]", "[4]", id="another length"),
        pytest.param("TM_TWO", "TM_THREE, TM_TWO", id="another number"),
        pytest.param("_Alignas(64)", "", id="another place"),
        pytest.param("sockaddr_in in", "sockaddr_in6 in", id="in a union"),
    ],
)
def test_what_changes_the_layout(old: str, new: str) -> None:
    assert old in HEADER
    assert layout(HEADER.replace(old, new)) != layout(HEADER)


def test_all_shared_structs_are_in_it() -> None:
    structs = {owner for owner, *_ in field_rows()}
    assert {"tm_table", "tm_image", "tm_commons", "tm_live", "tm_conn", "tm_cold", "tm_annex",
            "tm_half", "tm_journal", "tm_handoff", "tm_log_entry", "tm_message", "tm_counted",
            "enum"} <= structs  # fmt: skip
    assert {name for owner, _, name, _, _ in field_rows() if owner == "enum"} >= {
        "tm_conn_state", "tm_close_reason", "tm_message_type", "tm_operation",
    }  # fmt: skip
    assert layout_of(field_rows(), 1) != layout_of(field_rows()[1:], 1)
    records = fields_of("tm_live")["records"]
    assert records[0] >= max(offset + size for offset, size in fields_of("tm_live").values())


def test_a_table_of_another_layout_is_refused() -> None:
    table = Table.create(1, 1, 1, 1)
    offset, size = fields_of("tm_table")["layout"]
    with open(f"/proc/self/fd/{table.fd}", "r+b") as memory:
        memory.seek(offset)
        assert memory.read(size) == int(LAYOUT, 16).to_bytes(8, "little")
        memory.seek(offset)
        memory.write(b"another ")
    with pytest.raises(ValueError, match="not a tcpmux route table"):
        Table.attach(table.fd)
    table.close()
