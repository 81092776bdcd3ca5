"""The mapped commons, for the Cython code of a worker."""

from libc.stdint cimport uint32_t

from tcpmux.shm.c_commons cimport tm_common, tm_commons
from tcpmux.shm._region cimport Region


cdef class Commons(Region):
    cdef tm_commons *commons(self)
    cdef tm_common *of(self, uint32_t slot) except NULL
