"""Makes the tables that C shares with Python: rules.def and balances.def, of
tcpmux/config/settings.py, and messages.def, of tcpmux/worker/messages.py. setup.py runs this before
compiling; they are not in git."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SETTINGS = HERE.parent / "tcpmux/config/settings.py"
MESSAGES = HERE.parent / "tcpmux/worker/messages.py"
HEAD = "/* Made of tcpmux/config/settings.py by csrc/tables.py. Edit that. {} */\n"
MACROS = {"TM_ROUTE_RULE": "RoutePolicy", "TM_DESTINATION_RULE": "DestinationPolicy"}


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def guarded(macro: str, arguments: str, rows: list[str]) -> str:
    """The rows of one macro, which whoever includes them defines or not."""
    parts = [f"#ifndef {macro}", f"#define {macro}({arguments})", "#endif", *rows]
    return "\n".join([*parts, f"#undef {macro}"]) + "\n"


def rules(settings: dict[str, Any]) -> str:
    """One row for each number of the route table: TM_..._RULE(name, unit, help)."""
    text = HEAD.format("Each is a 64-bit number.")
    for macro, table in MACROS.items():
        rows = [
            f"{macro}({rule.name}, {quoted(rule.unit)}, "
            f"{quoted('.'.join(rule.path) + ': ' + rule.row.help)})"
            for rule in settings["rules_of"](settings[table])
        ]
        text += guarded(macro, "name, unit, help", rows)
    return text


def balances(settings: dict[str, Any]) -> str:
    """One row for each algorithm: TM_BALANCE(name, number's name, help)."""
    rows = [
        f"TM_BALANCE({name}, TM_{name.upper()}, {quoted(text)})"
        for name, text in settings["BALANCES"].items()
    ]
    return HEAD.format("How endpoints are chosen.") + guarded(
        "TM_BALANCE", "name, symbol, help", rows
    )


def messages(found: dict[str, Any]) -> str:
    """One row for each kind of message: TM_MESSAGE(NAME, number)."""
    numbers = {name: value for name, value in found.items() if isinstance(value, int)}
    rows = [
        f"TM_MESSAGE({name}, {number})"
        for name, number in sorted(numbers.items(), key=lambda row: row[1])
        if name.isupper() and name != "GIVE_ALL"
    ]
    if len({*numbers.values()}) != len(numbers):
        raise SystemExit(f"{MESSAGES}: two messages have one number")
    head = "/* Made of tcpmux/worker/messages.py by csrc/tables.py. Edit that. */\n"
    return head + guarded("TM_MESSAGE", "NAME, number", rows)


def made(settings: Path = SETTINGS) -> dict[str, str]:
    """The text of each file, by its name."""
    found = runpy.run_path(str(settings))
    return {
        "rules.def": rules(found),
        "balances.def": balances(found),
        "messages.def": messages(runpy.run_path(str(MESSAGES))),
    }


def write(settings: Path = SETTINGS, directory: Path = HERE) -> None:
    """Writes them, where they are not as they should be."""
    for name, text in made(settings).items():
        target = directory / name
        if not target.exists() or target.read_text() != text:
            target.write_text(text)


if __name__ == "__main__":
    write()
