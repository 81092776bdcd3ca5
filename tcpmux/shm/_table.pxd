"""The mapped table, for the Cython code of a worker."""

from tcpmux.shm.c_table cimport tm_table
from tcpmux.shm._region cimport Region


cdef class Table(Region):
    cdef tm_table *table(self)
