from libc.stdint cimport uint32_t

from tcpmux.shm.c_table cimport tm_image, tm_ranges

cdef int put_name(char *field, str name) except -1
cdef str name_text(const char *field)
cdef int put_ranges(tm_image *out, tm_ranges *ranges, bytes found) except -1
cdef object slice_of(uint32_t first, uint32_t count, uint32_t most)
cdef object read_ranges(const tm_image *image, const tm_ranges *ranges)
