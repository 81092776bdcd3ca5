/* The kernel's byte counts of a TCP socket. Used only after the death of a worker, to find out what
 * its last system call did.
 *
 * Only one process may use the socket meanwhile. Return 0 or -errno: -ECONNRESET when the
 * connection is gone, -EUCLEAN when the counts contradict each other.
 */
#ifndef TM_KERNEL_COUNT_H
#define TM_KERNEL_COUNT_H

#include <stdbool.h>
#include <stdint.h>

/* Bytes taken from the receive queue since the `before`th; the FIN, which the kernel counts as
 * one, not among them. */
int tm_kernel_consumed(int fd, uint64_t before, uint64_t *bytes)
    __attribute__((warn_unused_result));

/* Bytes put into the send queue since the `before`th, before FIN. we_connected: connect() was
 * called on it, so that the kernel counts our SYN as one. */
int tm_kernel_written(int fd, bool we_connected, uint64_t before, uint64_t *bytes)
    __attribute__((warn_unused_result));

/* The connection was reset, or timed out, and did not end by two FINs. Its pending error
 * has been taken; `received` bytes of it had been read by the application. */
bool tm_kernel_was_reset(int fd, uint64_t received);

/* A FIN of ours is on its way or has arrived. */
bool tm_kernel_fin_sent(int fd);

/* It is certain that there has been no FIN of ours; false of a UNIX socket. */
bool tm_kernel_fin_missing(int fd);

/* Nothing has been read from it or written to it yet. Always true of a UNIX socket, of which that
 * can't be told. */
bool tm_kernel_untouched(int fd, bool we_connected);

/* Bytes in a pipe; -errno if it is none. */
int tm_kernel_piped(int fd) __attribute__((warn_unused_result));

#endif
