"""Makes a Debian package of the wheel in dist/ and of what it depends on: `make deb`.

For the Python that makes it, which has to be Debian's. tcpmux and the libraries that it needs,
which are those of requirements.lock in this environment, are in a virtual environment of their own
in /usr/lib/tcpmux, apart from everything else that is installed. No network is needed.
"""

from __future__ import annotations

import compileall
import gzip
import hashlib
import os
import platform
import py_compile
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from elftools.elf.elffile import ELFFile
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PARTS = ROOT / "configs/packaging/deb"
DIST = ROOT / "dist"
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
HOME = "usr/lib/tcpmux"
PACKAGES = f"{HOME}/lib/{PYTHON}/site-packages"
SCRIPT = f"#!/{HOME}/bin/python\nimport sys\nfrom tcpmux.cli import main\nsys.exit(main())\n"
SCRIPTS = ("postinst", "prerm", "postrm")
CONFFILES = ("etc/tcpmux/routes.yaml", "etc/logrotate.d/tcpmux")
# By the shared library: the package that has it. The C library's version is the wheel's.
LIBRARIES = {"libstdc++": "libstdc++6", "libgcc_s": "libgcc-s1"}
C_LIBRARY = {"libc", "libm", "libpthread", "libdl", "librt", "ld-linux-x86-64", "ld-linux-aarch64"}
UNIT_CHANGES = (
    (r"# Copy it to /etc/systemd/system/, then:\n#     systemctl daemon-reload && ", "#     "),
    (r"(?m)^(Exec\w+=)/usr/local/bin/", r"\1/usr/bin/"),
    (
        r"# No root, so the master(?s:.*?)DynamicUser=yes",
        "# Ports below 1024 need this one capability.\nUser=tcpmux\nLogsDirectory=tcpmux",
    ),
)


def closure(name: str) -> dict[str, metadata.Distribution]:
    """What a distribution needs to run here, by name, without itself."""
    found: dict[str, metadata.Distribution] = {}
    left = [name]
    while left:
        for line in metadata.distribution(left.pop()).requires or []:
            needed = Requirement(line)
            applies = needed.marker is None or needed.marker.evaluate({"extra": ""})
            key = needed.name.lower().replace("_", "-")
            if applies and key not in found:
                found[key] = metadata.distribution(needed.name)
                left.append(needed.name)
    return found


def copy_libraries(target: Path) -> None:
    """Without their programs, and what this Python has compiled."""
    for distribution in closure("tcpmux").values():
        for file in distribution.files or []:
            if ".." in file.parts or "__pycache__" in file.parts:
                continue
            copied = target / file
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file.locate(), copied)


def unpack(wheel: Path, tree: Path) -> None:
    """What it has for the prefix goes below /usr."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            _, is_shared, below = name.partition(".data/data/")
            target = tree / ("usr" if is_shared else PACKAGES) / (below or name)
            if not name.endswith("/"):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(name))


def unit(text: str) -> str:
    """The service as the package has it: its program, and a user that stays."""
    for pattern, replacement in UNIT_CHANGES:
        text, count = re.subn(pattern, replacement, text)
        if not count:
            raise SystemExit(f"make deb: configs/tcpmux.service has nothing like {pattern}")
    return text


def put(tree: Path, name: str, content: str | bytes, mode: int = 0o644) -> None:
    path = tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)


def libraries(tree: Path) -> set[str]:
    """The shared libraries that modules need, without the C library's."""
    found: set[str] = set()
    for path in tree.rglob("*"):
        if not re.search(r"\.so(\.\d+)*$", path.name):
            continue
        with path.open("rb") as file:
            dynamic = ELFFile(file).get_section_by_name(".dynamic")
            tags = dynamic.iter_tags("DT_NEEDED") if dynamic else ()
            found |= {tag.needed.partition(".so")[0] for tag in tags}
    return found - C_LIBRARY


def maintainer() -> str:
    """Who builds it, by the variables that Debian's tools read. Raises SystemExit if they don't fit
    a line."""
    name = os.environ.get("DEBFULLNAME", "tcpmux maintainers")
    address = os.environ.get("DEBEMAIL", "maintainers@tcpmux.invalid")
    if not re.fullmatch(r"[^<>\n]+ <[^<>@\s]+@[^<>@\s]+>", said := f"{name} <{address}>"):
        raise SystemExit(f"make deb: DEBFULLNAME and DEBEMAIL make no name and address: {said!r}")
    return said


def control(version: str, c_library: str, needed: set[str], size: int) -> str:
    """size: KiB. Raises SystemExit for a library of no package that is known."""
    if unknown := needed - LIBRARIES.keys():
        raise SystemExit(f"make deb: nobody knows which package has {', '.join(unknown)}")
    after = f"{sys.version_info.major}.{sys.version_info.minor + 1}"
    depends = [
        f"python3 (>= {PYTHON.removeprefix('python')})",
        f"python3 (<< {after})",
        f"libc6 (>= {c_library})",
        *sorted(LIBRARIES[name] for name in needed),
        "passwd",
    ]
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    return f"""\
Package: tcpmux
Version: {version}
Section: net
Priority: optional
Architecture: {architecture}
Maintainer: {maintainer()}
Installed-Size: {size}
Depends: {", ".join(depends)}
Recommends: logrotate
Description: TCP traffic shifting between versions of a service
 Splits the connections of a TCP service between its versions by weight, for
 canary and blue/green releases, without dropping a connection: not when
 weights change, not in a reload or an upgrade, not when a process dies.
"""


def compile_all(tree: Path) -> None:
    """Compiled where it is installed: the service may not write there. Python does not compare
    times, so that they may be any."""
    compileall.compile_dir(
        tree / PACKAGES, quiet=2, stripdir=str(tree), prependdir="/", workers=0,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )  # fmt: skip


def files_of(tree: Path) -> Iterator[Path]:
    for path in sorted(tree.rglob("*")):
        if path.is_file() and not path.is_symlink() and "DEBIAN" not in path.parts:
            yield path


def fill(tree: Path, wheel: Path) -> None:
    """The files of the package, but for those that tell dpkg of it."""
    copy_libraries(tree / PACKAGES)
    unpack(wheel, tree)
    put(tree, f"{HOME}/pyvenv.cfg", "home = /usr/bin\ninclude-system-site-packages = false\n")
    put(tree, f"{HOME}/bin/tcpmux", SCRIPT, 0o755)
    (tree / HOME / "bin/python").symlink_to(f"/usr/bin/{PYTHON}")
    (tree / "usr/bin").mkdir()
    (tree / "usr/bin/tcpmux").symlink_to(f"/{HOME}/bin/tcpmux")

    share = tree / "usr/share"
    page = share / "man/man1/tcpmux.1"
    put(tree, "usr/share/man/man1/tcpmux.1.gz", gzip.compress(page.read_bytes(), 9, mtime=0))
    page.unlink()
    zsh = share / "zsh/vendor-completions"  # where Debian's zsh looks
    (share / "zsh/site-functions").rename(zsh)
    service = share / "tcpmux/systemd/tcpmux.service"
    put(tree, "lib/systemd/system/tcpmux.service", unit(service.read_text()))
    service.unlink()
    put(tree, "usr/lib/sysusers.d/tcpmux.conf", (PARTS / "sysusers").read_text())
    put(tree, "etc/logrotate.d/tcpmux", (PARTS / "logrotate").read_text())
    put(tree, "etc/tcpmux/routes.yaml", (ROOT / "configs/minimal.yaml").read_text())
    put(tree, "usr/share/doc/tcpmux/copyright", (ROOT / "LICENSE").read_text())


def describe(tree: Path, wheel: Path) -> str:
    """Writes what tells dpkg of it; returns the name of the package's file."""
    _, version, _, _, tags = wheel.stem.split("-")
    glibc = re.search(r"manylinux_(\d+)_(\d+)", tags)
    if glibc is None:
        raise SystemExit(f"make deb: {wheel.name} names no C library: `make wheel` first")
    files = list(files_of(tree))
    size = sum(path.stat().st_size for path in files) // 1024
    text = control(version, ".".join(glibc.groups()), libraries(tree), size)
    sums = [f"{hashlib.md5(p.read_bytes()).hexdigest()}  {p.relative_to(tree)}" for p in files]  # noqa: S324
    put(tree, "DEBIAN/control", text)
    put(tree, "DEBIAN/md5sums", "".join(f"{line}\n" for line in sums))
    put(tree, "DEBIAN/conffiles", "".join(f"/{name}\n" for name in CONFFILES))
    for name in SCRIPTS:
        put(tree, f"DEBIAN/{name}", (PARTS / name).read_text(), 0o755)
    (architecture,) = re.findall(r"^Architecture: (\w+)$", text, re.MULTILINE)
    return f"tcpmux_{version}_{architecture}.deb"


def pack(wheel: Path, work: Path, target: Path, compression: str = "xz") -> Path:
    """The package of a wheel; work: a folder that is made anew."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    umask = os.umask(0o022)
    try:
        fill(work, wheel)
        compile_all(work)
        name = describe(work, wheel)
    finally:
        os.umask(umask)
    made = target / name
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", f"-Z{compression}", "--build", str(work), str(made)],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return made


def newest_wheel() -> Path:
    """In dist/, for this Python. Raises SystemExit if there is none."""
    found = DIST.glob(f"*-cp{PYTHON[6:].replace('.', '')}-*manylinux*.whl")
    if not (wheels := sorted(found, key=os.path.getmtime)):
        raise SystemExit("make deb: no wheel in dist/: `make wheel` first")
    return wheels[-1]


def set_time_of_the_commit() -> None:
    """For all that writes a time into what it makes."""
    committed = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    os.environ["SOURCE_DATE_EPOCH"] = committed.stdout.strip()


def main() -> None:
    if sys.base_prefix != "/usr" or shutil.which("dpkg-deb") is None:
        raise SystemExit(
            "make deb: needs Debian, and its own Python: make deb PYTHON=/usr/bin/python3"
        )
    wheel = newest_wheel()
    set_time_of_the_commit()
    made = pack(wheel, ROOT / "build/deb", DIST)
    print(f"{made.relative_to(ROOT)}: {made.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
