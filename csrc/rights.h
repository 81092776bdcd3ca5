/* Messages with descriptors, over a SOCK_SEQPACKET line between two processes of this instance.
 * Neither call ever waits. */
#ifndef TM_RIGHTS_H
#define TM_RIGHTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TM_RIGHTS_MAX 128u /* descriptors of one message; the kernel's limit is 253 */

/* 0 or -errno. The descriptors stay the caller's too. */
int tm_rights_send(int line, const void *data, size_t size, const int *fds, uint32_t count)
    __attribute__((warn_unused_result));

struct tm_received {
    size_t size;    /* bytes of the message */
    uint32_t count; /* descriptors that came, the caller's now */
    bool cut;       /* the message was longer than there was room for */
    bool fds_lost;  /* some of its descriptors found no room, here or in this process */
};

/* 0, also at the end of the line (size 0), or -errno. fds: room for TM_RIGHTS_MAX. */
int tm_rights_receive(int line, void *data, size_t size, int *fds, struct tm_received *received)
    __attribute__((warn_unused_result));

#endif
