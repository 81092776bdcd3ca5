"""On a host that paces (BBR), bulk to a peer on the same host is not paced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import patient

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has network namespaces of its own")
def test_bulk_on_one_host_is_not_paced(directory: Path) -> None:
    """Each of the worker's sockets is switched once it is given bulk, and not before."""
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-m", "tests.relay.paced_host", str(directory)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=patient(60),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    if found is None:
        pytest.skip("this kernel has no congestion control that paces")
    host = found["host"]
    assert found["before"] == {"client": host, "endpoint": host}
    assert found["bulk from the client"] == {"client": host, "endpoint": "reno"}
    assert found["bulk both ways"] == {"client": "reno", "endpoint": "reno"}
