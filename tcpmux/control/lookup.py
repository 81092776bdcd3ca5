"""The program tcpmux.control.lookup: how a master that starts learns what host names mean.

A program of its own, so that nothing of it is ever in the master. In: {"names": [...],
"servers": [...], "seconds": 5}, on standard input. Out: {"name:80": {"addresses":
["192.0.2.1:80"], "notes": []}, ...} or, for a name that can't be looked up, the reason as a text.
Not for the shell.
"""

from __future__ import annotations

import asyncio
import json
import sys


def main() -> int:
    from tcpmux import programs
    from tcpmux.control.ahead import load_all
    from tcpmux.control.resolver import look_up_all, parse_name

    load_all()
    programs.drop()
    asked = json.load(sys.stdin)
    names = [parse_name(name) for name in asked["names"]]
    found = asyncio.run(look_up_all(names, asked["servers"], asked["seconds"]))
    answer = {
        str(name): result
        if isinstance(result, str)
        else {"addresses": list(map(str, result.addresses)), "notes": result.notes}
        for name, result in found.items()
    }
    print(json.dumps(answer))
    return 0
