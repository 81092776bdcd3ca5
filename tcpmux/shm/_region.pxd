"""Mapped regions, for those that have a layout."""


cdef class Region:
    cdef char *base
    cdef readonly size_t size
    cdef readonly int fd
    cdef int reading  # reader_fd, once it was asked for
    cdef int _map(self, int fd, size_t size, bint writable) except -1
    cdef int _attach(self, int fd, size_t size, bint writable) except -1
    cdef int _create(self, str name, size_t size) except -1
