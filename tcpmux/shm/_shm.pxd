"""Mapped regions, for the Cython code of a worker."""

from libc.stdint cimport uint32_t

from tcpmux.shm._layout cimport tm_common, tm_commons, tm_live, tm_peer, tm_table

cdef str peer_text(const tm_peer *peer)


cdef class Region:
    cdef char *base
    cdef readonly size_t size
    cdef readonly int fd
    cdef int reading  # reader_fd, once it was asked for
    cdef int _map(self, int fd, size_t size, bint writable) except -1
    cdef int _attach(self, int fd, size_t size, bint writable) except -1
    cdef int _create(self, str name, size_t size) except -1


cdef class Beat(Region):
    cdef bint can_write


cdef class Table(Region):
    cdef tm_table *table(self)


cdef class Commons(Region):
    cdef tm_commons *commons(self)
    cdef tm_common *of(self, uint32_t slot) except NULL


cdef class Live(Region):
    cdef readonly uint32_t worker
    cdef readonly uint32_t capacity
    cdef tm_live *live(self)
    cdef void _keep_from_dumps(self)
