"""The image of Containerfile, with its own command, user and health check, and a root file system
that is read-only, under a CPU quota. `make image-test` builds it, and runs this.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.routes import route, routes
from tests.integration.test_container import USER, container, status_of
from tests.others import needs_root
from tests.support import EchoServer, ask, patient, wait_for

IMAGE = Path(__file__).parents[2] / "build/image"
SAID = IMAGE / "image.json"

pytestmark = [
    needs_root,
    pytest.mark.skipif(not SAID.exists(), reason="make image-test builds the image, and runs it"),
]


@pytest.fixture(scope="module")
def said() -> dict[str, Any]:
    """What the image says of itself."""
    found: dict[str, Any] = json.loads(SAID.read_text())
    return found


def test_it_brings_no_tool_of_its_build(said: dict[str, Any]) -> None:
    """No compiler, no pip and no source; nothing that anybody may change."""
    files = Path(said["files"])
    ours = files / "opt/tcpmux"
    names = {path.name for path in ours.rglob("*")}
    assert not {"pip", "Cython", "setuptools"} & names
    (package,) = ours.glob("lib/python*/site-packages/tcpmux")
    assert not {".pyx", ".pxd", ".c", ".h"} & {path.suffix for path in package.rglob("*")}
    assert not (files / "usr/bin/gcc").exists()
    assert not (files / "build").exists()
    assert said["User"] == f"{USER}:{USER}"
    writable = [
        path for path in ours.rglob("*") if not path.is_symlink() and path.stat().st_mode & 2
    ]
    assert not writable


def test_it_runs_as_the_image_says(
    said: dict[str, Any], open_path: Path, one: EchoServer, port: int, one_cpu: Path
) -> None:
    """It serves, is healthy, answers the command line, takes one CPU for what the quota is, and
    drains at SIGTERM: the open connection ends by itself and is not reset."""
    config = routes(route("r", port, v1=(1, one.address)), drain_timeout="30s")
    with container(open_path, config, str(one_cpu), said) as inside:
        assert len(inside.client.status()["workers"]) == 1
        assert ask(("127.0.0.1", port)) == "one hello\n"
        found = status_of(inside.master)
        assert found["Uid"].split() == [str(USER)] * 4
        assert {found[name].strip("0") for name in ("CapPrm", "CapEff", "CapBnd")} == {""}

        def execute(*command: str) -> subprocess.CompletedProcess[str]:
            """As `podman exec` does."""
            enter = ["nsenter", "--pid", "--mount", "--root", "--target", str(inside.master.pid)]
            become = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
            return subprocess.run(
                [*enter, *become, *command],
                env=dict(line.split("=", 1) for line in said["Env"]),
                capture_output=True, text=True, timeout=patient(30), check=False,
            )  # fmt: skip

        kind, *health = said["Healthcheck"]["Test"]
        assert kind == "CMD"
        healthy = execute(*health)
        assert healthy.returncode == 0, healthy.stderr
        status = execute("tcpmux", "status")
        assert status.returncode == 0, status.stderr
        assert "v1" in status.stdout
        assert "Read-only" in execute("touch", "/tmp/x").stderr, "where anybody may write otherwise"

        with socket.create_connection(("127.0.0.1", port), patient(20)) as client:
            client.sendall(b"before\n")
            assert client.recv(100) == b"one before\n"
            inside.master.send_signal(signal.SIGTERM)
            wait_for(lambda: "SIGTERM" in inside.log.read_text(), "the drain to begin")
            client.sendall(b"still\n")
            assert client.recv(100) == b"one still\n"
            assert inside.process.poll() is None
        assert inside.process.wait(patient(40)) == 0, inside.log.read_text()
