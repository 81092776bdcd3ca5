"""The C mechanism that only recovery uses: csrc/descriptors.h and csrc/kernel_count.h."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t


cdef extern from "descriptors.h" nogil:
    cdef struct tm_descriptors:
        uint8_t *states
        int32_t size

    int tm_descriptors_list(tm_descriptors *all)
    bint tm_descriptors_claim(tm_descriptors *all, int fd)
    bint tm_descriptors_free_to_claim(const tm_descriptors *all, int fd)
    int tm_descriptors_next(const tm_descriptors *all, int start)
    uint32_t tm_descriptors_count()
    void tm_descriptors_free(tm_descriptors *all)
    bint tm_is_socket(int fd)
    int tm_stream_family(int fd)
    bint tm_is_listening(int fd)
    bint tm_is_line(int fd)
    bint tm_is_pipe(int to, int from_)


cdef extern from "kernel_count.h" nogil:
    int tm_kernel_consumed(int fd, uint64_t before, uint64_t *bytes)
    bint tm_kernel_was_reset(int fd, uint64_t received)
    bint tm_kernel_fin_sent(int fd)
    bint tm_kernel_fin_missing(int fd)
    bint tm_kernel_untouched(int fd, bint we_connected)
    int tm_kernel_piped(int fd)
