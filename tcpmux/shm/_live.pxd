"""The mapped region of a worker, for its Cython code and for readers."""

from libc.stdint cimport uint32_t

from tcpmux.shm.c_live cimport tm_live
from tcpmux.shm._region cimport Region


cdef class Live(Region):
    cdef readonly uint32_t worker
    cdef readonly uint32_t capacity
    cdef tm_live *live(self)
    cdef void _keep_from_dumps(self)
    cdef void _keep_out(self, char *start, size_t size)
