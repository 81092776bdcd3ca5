"""What dpkg is told by the package that `make deb` makes. Made of a wheel with nothing but what is
not Python here, and without libraries: to build the whole takes half a minute.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_wheel import SHARED
from tests.support import patient

ROOT = Path(__file__).parents[2]
SOURCES = {path.name: path for path in (ROOT / "configs").rglob("*") if path.is_file()}

pytestmark = pytest.mark.skipif(
    shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed"
)


def dpkg_deb(*arguments: str) -> str:
    return subprocess.run(
        ["dpkg-deb", *arguments], capture_output=True, text=True, check=True, timeout=patient(30)
    ).stdout


@pytest.fixture(scope="module")
def maker() -> Any:
    pytest.importorskip("elftools")
    spec = importlib.util.spec_from_file_location("deb", ROOT / "configs/packaging/deb.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def package(maker: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deb")
    wheel = folder / "tcpmux-1.2.3-cp311-cp311-manylinux_2_34_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tcpmux/__init__.py", "")
        for name in SHARED:
            content = SOURCES[Path(name).name].read_text()
            archive.writestr(f"tcpmux-1.2.3.data/data/share/{name}", content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maker, "copy_libraries", lambda target: None)
        patch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        made: Path = maker.pack(wheel, folder / "tree", folder, "none")
    return made


@pytest.fixture(scope="module")
def tree(package: Path) -> Path:
    """Unpacked: files in it, and DEBIAN/."""
    target = package.parent / "unpacked"
    dpkg_deb("--raw-extract", str(package), str(target))
    return target


def test_it_is_for_the_python_and_the_c_library_that_it_was_made_with(package: Path) -> None:
    minor = sys.version_info.minor
    depends = dpkg_deb("--field", str(package), "Depends").strip().split(", ")
    assert depends[:3] == [
        f"python3 (>= 3.{minor})",
        f"python3 (<< 3.{minor + 1})",
        "libc6 (>= 2.34)",
    ]
    assert dpkg_deb("--field", str(package), "Version").strip() == "1.2.3"
    assert package.name.startswith("tcpmux_1.2.3_")


def test_all_of_it_is_roots_and_nobody_elses_to_change(package: Path) -> None:
    lines = dpkg_deb("--contents", str(package)).splitlines()
    assert len(lines) > 20
    for line in lines:
        mode, owner, *_ = line.split()
        assert owner == "root/root", line
        assert mode.startswith("l") or mode[5] == mode[8] == "-", line
        assert "2023-11-14" in line or "2023-11-15" in line, "the time of the commit"


def test_files_are_where_debian_looks_for_them(tree: Path) -> None:
    for name in (
        "etc/tcpmux/routes.yaml",
        "lib/systemd/system/tcpmux.service",
        "usr/lib/sysusers.d/tcpmux.conf",
        "usr/share/bash-completion/completions/tcpmux",
        "usr/share/zsh/vendor-completions/_tcpmux",
        "usr/share/fish/vendor_completions.d/tcpmux.fish",
        "usr/share/man/man1/tcpmux.1.gz",
        "usr/share/doc/tcpmux/copyright",
        "usr/share/tcpmux/reference.yaml",
    ):
        assert (tree / name).is_file(), name
    listed = (tree / "DEBIAN/conffiles").read_text().split()
    in_etc = {f"/{path.relative_to(tree)}" for path in (tree / "etc").rglob("*") if path.is_file()}
    assert set(listed) == in_etc
    program = tree / "usr/bin/tcpmux"
    assert program.is_symlink()
    script = tree / str(program.readlink()).lstrip("/")
    assert script.stat().st_mode & 0o111
    interpreter = script.read_text().splitlines()[0].removeprefix("#!")
    assert (tree / interpreter.lstrip("/")).is_symlink()


def test_the_service_the_user_and_the_logs_go_together(tree: Path) -> None:
    """The unit's program is in the package, its user is made, its logs are rotated as that user."""
    unit = (tree / "lib/systemd/system/tcpmux.service").read_text()
    programs = set(re.findall(r"(?m)^Exec\w+=/(\S+)", unit))
    assert programs == {"usr/bin/tcpmux"}
    assert "DynamicUser" not in unit
    assert "/etc/systemd/system" not in unit
    (user,) = re.findall(r"(?m)^User=(\w+)", unit)
    assert (tree / "usr/lib/sysusers.d/tcpmux.conf").read_text().startswith(f"u {user} - ")
    (logs,) = re.findall(r"(?m)^LogsDirectory=(\w+)", unit)
    rotated = (tree / "etc/logrotate.d/tcpmux").read_text()
    assert rotated.startswith(f"/var/log/{logs}/*.log {{")
    assert f"su {user} {user}\n" in rotated
    assert "--signal=USR1" in rotated


def test_its_scripts_are_of_the_plain_shell_and_start_nothing(tree: Path) -> None:
    for name in ("postinst", "prerm", "postrm"):
        script = tree / "DEBIAN" / name
        subprocess.run(["sh", "-n", str(script)], check=True, timeout=patient(10))
        assert "set -e" in script.read_text()
    assert not re.search(
        r"(?m)^ *systemctl .*\b(start|enable)\b", (tree / "DEBIAN/postinst").read_text()
    )


def test_what_nobody_thought_of_is_refused(maker: Any) -> None:
    """A unit that has changed, and a library of an unknown package."""
    text = SOURCES["tcpmux.service"].read_text()
    with pytest.raises(SystemExit, match="has nothing like"):
        maker.unit(text.replace("DynamicUser=yes", "DynamicUser=no"))
    with pytest.raises(SystemExit, match="libmystery"):
        maker.control("1", "2.34", {"libstdc++", "libmystery"}, 1)


def test_its_maintainer_is_who_builds_it(maker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the variables of Debian's tools; else nobody's address, which `.invalid` says."""
    for name in ("DEBFULLNAME", "DEBEMAIL"):
        monkeypatch.delenv(name, raising=False)
    assert maker.maintainer() == "tcpmux maintainers <maintainers@tcpmux.invalid>"
    monkeypatch.setenv("DEBFULLNAME", "Ada Lovelace")
    monkeypatch.setenv("DEBEMAIL", "ada@example.org")
    said = maker.control("1", "2.34", set(), 1)
    assert "\nMaintainer: Ada Lovelace <ada@example.org>\n" in said
    for wrong in ("", "ada", "ada@example.org\nDepends: x", "<ada@example.org>"):
        monkeypatch.setenv("DEBEMAIL", wrong)
        with pytest.raises(SystemExit, match="DEBEMAIL"):
            maker.maintainer()
