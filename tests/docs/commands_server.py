"""Runs commands of tcpmux, each in a fork of a process that has loaded them already, as that takes
most of their time.

    python -m tests.docs.commands_server PATH      listens there, until its standard input ends
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading

# What a page runs as `tcpmux`. Small, as it is started for each command.
CLIENT = """\
import json, os, socket, sys
line = socket.socket(socket.AF_UNIX)
line.connect({path!r})
asked = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(line, [len(asked).to_bytes(4, "big")], [0, 1, 2])
line.sendall(asked)
sys.exit((line.recv(1) or b"\\1")[0])
"""


def serve(path: str) -> None:
    from tcpmux.cli.commands import COMMANDS, named

    for row in COMMANDS:
        named(row.name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps them
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(16)
    print("ready", flush=True)
    threading.Thread(target=end_with_input, daemon=True).start()
    while True:
        line, _ = listener.accept()
        if not os.fork():
            listener.close()
            line.sendall(bytes([carry_out(line)]))
            os._exit(0)
        line.close()


def end_with_input() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def carry_out(line: socket.socket) -> int:
    """One command, as the process that asked for it would. Returns its exit code."""
    from tcpmux.cli import main

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, fds, _, _ = socket.recv_fds(line, 4, 3)
    body = line.makefile("rb").read(int.from_bytes(head, "big"))
    arguments, directory, environment = json.loads(body)
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["tcpmux", *arguments]
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
