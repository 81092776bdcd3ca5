"""Mapped regions, for the Cython code of a worker."""

from tcpmux.shm._layout cimport tm_live, tm_table, tm_ticket


cdef class Region:
    cdef char *base
    cdef readonly size_t size
    cdef readonly int fd
    cdef int _map(self, int fd, size_t size, bint writable) except -1
    cdef int _create(self, str name, size_t size) except -1


cdef class Table(Region):
    cdef tm_table *table(self)


cdef class Tickets(Region):
    cdef tm_ticket *tickets(self)


cdef class Live(Region):
    cdef tm_live *live(self)
