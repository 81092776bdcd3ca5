"""Numbers of an array.array as C has them. A typed memoryview would do, for which Cython generates
twenty thousand lines in each module that has one."""

from cpython.array cimport array
from libc.stdint cimport uint32_t, uint64_t


cdef inline uint32_t *words(array numbers) except? NULL:
    """Of type I. Good for as long as nobody changes how many there are. NULL of none."""
    if numbers.ob_descr.typecode != c"I":
        raise ValueError("not an array of type I")
    return <uint32_t *>numbers.data.as_uints


cdef inline uint64_t *long_words(array numbers) except? NULL:
    """The same of type Q."""
    if numbers.ob_descr.typecode != c"Q":
        raise ValueError("not an array of type Q")
    return <uint64_t *>numbers.data.as_ulonglongs
