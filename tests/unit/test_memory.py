"""Shared memory: who can open it, who can write it, who can take it away, what a core file has."""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Callable, Iterator

import pytest

from tcpmux.shm._commons import Commons
from tcpmux.shm._declared import fields_of
from tcpmux.shm._live import Live
from tcpmux.shm._table import Table

NOBODY = 65534


@pytest.fixture
def live() -> Iterator[Live]:
    live = Live.create(0, 8)
    yield live
    live.close()


def in_child(action: Callable[[], None]) -> int:
    """Exit code of a child that does that: 0, or the errno of an OSError."""
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            action()
            code = 0
        except OSError as error:
            code = error.errno or 254
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize(
    "create", [lambda: Table.create(1, 1, 1, 1), Commons.create, lambda: Live.create(0, 8)]
)
def test_it_is_its_users_own_and_of_a_fixed_size(
    create: Callable[[], Table | Commons | Live],
) -> None:
    region = create()
    assert os.fstat(region.fd).st_mode & 0o777 == 0o600
    seals = fcntl.fcntl(region.fd, fcntl.F_GET_SEALS)
    wanted = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    assert seals & wanted == wanted
    assert not seals & fcntl.F_SEAL_WRITE
    for size in (0, region.size + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(region.fd, size)
    with pytest.raises(PermissionError):  # else nobody could write it any more
        fcntl.fcntl(region.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    region.close()


def test_who_gets_a_reader_can_not_write(live: Live) -> None:
    reader = live.reader_fd
    assert reader == live.reader_fd
    with pytest.raises(PermissionError):
        mmap.mmap(reader, live.size)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(reader, b"x", 0)
    live.orders = 1
    assert Live.attach(os.dup(reader), worker=0).orders == 1


def test_the_next_master_makes_a_reader_a_writer(live: Live) -> None:
    """In the same place: other processes know it by its number."""
    reader = os.dup(live.reader_fd)
    again = Live.attach(reader, writable=True, worker=0)
    assert again.fd == reader
    assert not os.get_inheritable(reader)
    again.orders = 2
    assert live.orders == 2
    again.close()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_can_not_open_it_anew(live: Live) -> None:
    reader = live.reader_fd

    def open_as_nobody() -> None:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        os.open(f"/proc/self/fd/{reader}", os.O_RDWR)

    # EACCES; ENOENT and the like if /proc is closed to other users
    assert in_child(open_as_nobody) != 0
    assert in_child(lambda: os.close(os.open(f"/proc/self/fd/{reader}", os.O_RDWR))) == 0


def test_memory_that_can_be_cut_short_is_refused(live: Live) -> None:
    fd = os.memfd_create("other", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.ftruncate(fd, live.size)
    with pytest.raises(ValueError, match="not a tcpmux region: its size is not fixed"):
        Live.attach(fd)
    os.close(fd)


def test_a_file_is_refused(live: Live) -> None:
    """Whoever hands it over can't have it opened for writing by the next master."""
    fd = os.open(__file__, os.O_RDONLY | os.O_CLOEXEC)
    with pytest.raises(ValueError, match="not a tcpmux"):
        Table.attach(fd, writable=True)
    os.close(fd)


def kept_from_dumps(live: Live, start: int, end: int) -> bool:
    """Whether the pages of these places of the region are in no core file (proc(5): smaps)."""
    inside, inode = False, str(os.fstat(live.fd).st_ino)
    found = set()
    with open("/proc/self/smaps") as maps:
        for line in maps:
            fields = line.split()
            if "-" in fields[0] and not fields[0].endswith(":"):
                low, high = (int(part, 16) for part in fields[0].split("-"))
                offset = int(fields[2], 16)
                length = high - low
                inside = fields[4] == inode and offset < end and start < offset + length
            elif inside and fields[0] == "VmFlags:":
                found.add("dd" in fields)
    return found == {True}


def test_no_core_file_has_the_bytes_of_clients(live: Live) -> None:
    offset, size = fields_of("tm_live")["buffer"]
    assert kept_from_dumps(live, offset, offset + size)
    annexes = 8 * sum(fields_of("tm_annex")["talk"])  # at the end: passwords are in there
    assert kept_from_dumps(live, live.size - annexes, live.size)
    assert not kept_from_dumps(live, 0, 1)
