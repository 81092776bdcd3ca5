"""Makes the image of Containerfile from bases that Debian's packages make, with buildah, and tests
it: `make image-test`. For root on Debian; no registry of images and no service is needed.

build/image/image.json has what the image says of itself (user, command, environment, health check)
and where its files are; tests/integration/test_image.py runs them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build/image"
WHEELS = WORK / "wheels"
SUITE, PYTHON = "bookworm", "3.11"
BASES = {
    "base": "python3,libstdc++6",
    "build": "python3,gcc,libc6-dev,python3-dev,python3-venv",
}
UNWANTED = ("man", "doc", "locale")
TAG = "localhost/tcpmux"
TOOLS = ("buildah", "mmdebstrap")


def run(*command: str) -> str:
    """Ends this program if it fails, with what it said."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{done.stdout}{done.stderr}make image-test: {command[0]} failed")
    return done.stdout.strip()


def buildah(*arguments: str) -> str:
    """With a store of its own, that needs no file system of a special kind."""
    store = [f"--root={WORK}/store", f"--runroot={WORK}/run", "--storage-driver=vfs"]
    return run("buildah", *store, *arguments)


def make_base(name: str) -> None:
    """A Debian with Python and no more than what is needed besides."""
    archive = WORK / f"{name}.tar"
    if not archive.exists():
        print(f"make image-test: {archive.relative_to(ROOT)}, of Debian's packages", flush=True)
        skipped = [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in UNWANTED]
        part = WORK / f"{name}.part.tar"
        run(
            *("mmdebstrap", "--quiet", "--variant=essential", f"--include={BASES[name]}"),
            *skipped, SUITE, str(part),
        )  # fmt: skip
        part.rename(archive)
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, str(archive), "/")
    buildah("commit", "--quiet", "--rm", container, f"localhost/{name}")


def download() -> None:
    """What tcpmux depends on and is built with, as requirements.lock has it."""
    lock = re.sub(r" *\\\n *--hash=\S+", "", (ROOT / "requirements.lock").read_text())
    (WORK / "constraints.txt").write_text(lock)
    text = (ROOT / "pyproject.toml").read_text()
    listed = re.search(r"^dependencies = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert listed
    needed = re.findall(r'^ *"(.*?)"', listed.group(1), re.MULTILINE)
    run(
        *(sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(WHEELS)),
        *("--only-binary", ":all:", "--python-version", PYTHON),
        *("--constraint", str(WORK / "constraints.txt"), *needed, "setuptools", "cython"),
    )


def build() -> None:
    buildah(
        *("build", "--quiet", "--isolation=chroot", "--format=docker", f"--tag={TAG}"),
        *("--build-arg=BASE=localhost/base", "--build-arg=BUILD_BASE=localhost/build"),
        *("--build-arg=PIP_NO_INDEX=1", "--build-arg=PIP_FIND_LINKS=/wheels"),
        *(f"--volume={WHEELS}:/wheels:ro", "--file=Containerfile"),
        *("--ignorefile=.containerignore", "."),
    )


def size(tree: str) -> int:
    """In bytes, without what is no file."""
    return int(run("du", "--summarize", "--bytes", "--one-file-system", tree).split()[0])


def look() -> None:
    """Writes down where its files are, and what it says of itself."""
    files = buildah("mount", buildah("from", TAG))
    found = json.loads(buildah("inspect", "--type=image", TAG))
    said = {**found["Docker"]["config"], "files": files}
    (WORK / "image.json").write_text(json.dumps(said, indent=1))
    whole, ours = size(files) / 1e6, size(f"{files}/opt/tcpmux") / 1e6
    print(f"{TAG}: {whole:.0f} MB, of which tcpmux and its libraries {ours:.0f} MB")


def main() -> None:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if os.geteuid() != 0 or missing:
        raise SystemExit(f"make image-test: needs root and {' and '.join(missing or TOOLS)}")
    for folder in (WORK / "store", WORK / "run"):
        shutil.rmtree(folder, ignore_errors=True)
    WHEELS.mkdir(parents=True, exist_ok=True)
    for name in BASES:
        make_base(name)
    download()
    build()
    look()


if __name__ == "__main__":
    main()
