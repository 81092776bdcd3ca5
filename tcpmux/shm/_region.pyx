# cython: language_level=3
"""Memory that processes share, as objects: the only code that maps it.

The master makes each region; what is in one is in a module of its own.
"""

import fcntl
import os

from libc.errno cimport errno
from libc.stddef cimport size_t
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap

# No process that has it can take the memory away from under another one, nor keep a later master
# from writing it. Whoever must not write gets a descriptor that can't: Region.reader_fd.
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
MFD_NOEXEC_SEAL = 8  # Linux 6.3; sysctl vm.memfd_noexec may ask for it



def sealed_memory(str name, size_t size):
    """A memfd of its final size that only its own user can open anew. Raises OSError."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create(name, flags | MFD_NOEXEC_SEAL)
    except OSError:
        fd = os.memfd_create(name, flags)
    try:
        os.fchmod(fd, 0o600)
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd



def check_memory(int fd):
    """Raises ValueError unless it is memory that nobody can take away: whoever reads it would be
    killed by SIGBUS."""
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        raise ValueError("not a tcpmux region: no memory at all") from None
    if seals & SEALS != SEALS:
        raise ValueError("not a tcpmux region: its size is not fixed")



cdef class Region:
    """A memfd mapped into this process until unmap() or the end of the object."""

    def __cinit__(self):
        self.fd = self.reading = -1

    def __dealloc__(self):
        self.unmap()

    cdef int _map(self, int fd, size_t size, bint writable) except -1:
        cdef void *base = mmap(NULL, size, PROT_READ | PROT_WRITE if writable else PROT_READ,
                               MAP_SHARED, fd, 0)
        if base == MAP_FAILED:
            raise OSError(errno, "can't map shared memory")
        self.base = <char *>base
        self.size = size
        self.fd = fd
        return 0

    cdef int _create(self, str name, size_t size) except -1:
        fd = sealed_memory(f"tcpmux-{name}", size)
        try:
            self._map(fd, size, True)
        except BaseException:
            os.close(fd)
            raise
        return 0

    cdef int _attach(self, int fd, size_t size, bint writable) except -1:
        """Of a descriptor that another process may have made. One that can only read is opened
        anew, in the same place, for a master that takes over."""
        check_memory(fd)
        if writable and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
            try:
                os.dup2(again, fd, inheritable=os.get_inheritable(fd))
            finally:
                os.close(again)
        return self._map(fd, size, writable)

    @property
    def reader_fd(self):
        """Another descriptor of the same memory, which can't be used to write: for processes of
        which this one is not the writer. As fd where /proc is not mounted."""
        if self.reading < 0:
            try:
                self.reading = os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return self.fd
        return self.reading

    def unmap(self):
        """Takes the region out of this process's memory; the descriptor stays open."""
        if self.base != NULL:
            munmap(self.base, self.size)
            self.base = NULL

    def close(self):
        """Unmaps, and closes the descriptor."""
        self.unmap()
        for fd in (self.fd, self.reading):
            if fd >= 0:
                os.close(fd)
        self.fd = self.reading = -1
