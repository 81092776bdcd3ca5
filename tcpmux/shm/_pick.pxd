from tcpmux.shm.c_table cimport tm_split

cdef int plan_split(tm_split *split, weights) except -1
