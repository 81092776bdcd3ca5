"""Makes the tables that C shares with Python: rules.def and balances.def, of
tcpmux/config/settings.py, and messages.def, of tcpmux/worker/messages.py. setup.py runs this before
compiling; they are not in git."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MESSAGES = HERE.parent / "tcpmux/worker/messages.py"
HEAD = "/* Made of tcpmux/config/settings.py by csrc/tables.py. Edit that. {} */\n"
sys.path.insert(0, str(HERE.parent))
from tcpmux.config import rows, settings  # noqa: E402  (of this tree)

MACROS = {
    "TM_ROUTE_RULE": settings.RoutePolicy,
    "TM_DESTINATION_RULE": settings.DestinationPolicy,
    "TM_ENDPOINT_RULE": settings.EndpointPolicy,
}


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def guarded(macro: str, arguments: str, lines: list[str]) -> str:
    """The rows of one macro, which whoever includes them defines or not."""
    parts = [f"#ifndef {macro}", f"#define {macro}({arguments})", "#endif", *lines]
    return "\n".join([*parts, f"#undef {macro}"]) + "\n"


def rules() -> str:
    """One row for each number of the route table: TM_..._RULE(name, unit, help)."""
    text = HEAD.format("Each is a 64-bit number.")
    for macro, table in MACROS.items():
        lines = [
            f"{macro}({rule.name}, {quoted(rule.unit)}, "
            f"{quoted('.'.join(rule.path) + ': ' + rule.row.help)})"
            for rule in rows.rules_of(table)
        ]
        text += guarded(macro, "name, unit, help", lines)
    return text


def balances() -> str:
    """One row for each algorithm: TM_BALANCE(name, number's name, help)."""
    lines = [
        f"TM_BALANCE({name}, TM_{name.upper()}, {quoted(text)})"
        for name, text in settings.BALANCES.items()
    ]
    return HEAD.format("How endpoints are chosen.") + guarded(
        "TM_BALANCE", "name, symbol, help", lines
    )


def messages(found: dict[str, Any]) -> str:
    """One row for each kind of message: TM_MESSAGE(NAME, number)."""
    numbers = {name: value for name, value in found.items() if isinstance(value, int)}
    lines = [
        f"TM_MESSAGE({name}, {number})"
        for name, number in sorted(numbers.items(), key=lambda row: row[1])
        if name.isupper() and name != "GIVE_ALL"
    ]
    if len({*numbers.values()}) != len(numbers):
        raise SystemExit(f"{MESSAGES}: two messages have one number")
    head = "/* Made of tcpmux/worker/messages.py by csrc/tables.py. Edit that. */\n"
    return head + guarded("TM_MESSAGE", "NAME, number", lines)


def made() -> dict[str, str]:
    """The text of each file, by its name."""
    return {
        "rules.def": rules(),
        "balances.def": balances(),
        "messages.def": messages(runpy.run_path(str(MESSAGES))),
    }


def write() -> None:
    """Writes them, where they are not as they should be."""
    for name, text in made().items():
        target = HERE / name
        if not target.exists() or target.read_text() != text:
            target.write_text(text)


if __name__ == "__main__":
    write()
