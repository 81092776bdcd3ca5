# cython: language_level=3
"""Parts of several kinds of rows of an image: names, ranges of addresses, slices of a pool."""

from libc.stdint cimport uint32_t
from libc.string cimport memcpy, memset

from tcpmux.shm.c_table cimport (
    tm_image, TM_MAX_RANGES, TM_NAME_SIZE, TM_NONE, tm_range, tm_ranges,
)

cdef int put_name(char *field, str name) except -1:
    cdef bytes encoded = name.encode("ascii")
    assert 0 < len(encoded) < TM_NAME_SIZE
    memset(field, 0, TM_NAME_SIZE)
    memcpy(field, <char *>encoded, len(encoded))



cdef str name_text(const char *field):
    return (<bytes>field[:TM_NAME_SIZE]).split(b"\0", 1)[0].decode("ascii")



cdef int put_ranges(tm_image *out, tm_ranges *ranges, bytes found) except -1:
    """None: everybody."""
    cdef uint32_t count = 0 if found is None else len(found) // sizeof(tm_range)
    assert out.range_count + count <= TM_MAX_RANGES
    ranges.first = out.range_count
    ranges.count = TM_NONE if found is None else count
    if count:
        memcpy(&out.ranges[out.range_count], <const char *>found, count * sizeof(tm_range))
    out.range_count += count
    return 0



cdef object slice_of(uint32_t first, uint32_t count, uint32_t most):
    if count > most or first > most - count:
        raise ValueError("image index out of bounds")
    return range(first, first + count)



cdef object read_ranges(const tm_image *image, const tm_ranges *ranges):
    """As put_ranges() has them."""
    if ranges.count == TM_NONE:
        return None
    slice_of(ranges.first, ranges.count, TM_MAX_RANGES)
    return (<const char *>&image.ranges[ranges.first])[:ranges.count * sizeof(tm_range)]
