from tcpmux.shm.c_table cimport tm_image, tm_split

cdef int put_contests(tm_image *out, tm_split *split, tuple contests) except -1
cdef tuple read_contests(const tm_image *image, const tm_split *split)
