/* The line between the master and one worker: a SOCK_SEQPACKET pair.
 *
 *   master -> worker   ADD      these descriptors are shards of listener `listener`,
 *                               the first of them shard `first`
 *                      REMOVE   serve what is queued on `listener`, then close it
 *                      WAKE     look at the table (generation, shard owners)
 *                      DRAIN    exit when the last connection ends
 *   worker -> master   SEEN     generation `value` is in use here
 *                      REMOVED  `listener` is closed here
 *
 * One packet is one message; SHARDS of descriptors at most travel with it.
 */
#ifndef TM_CHANNEL_H
#define TM_CHANNEL_H

#include <stdint.h>

#include "route_table.h"

enum tm_message_type {
    TM_MESSAGE_ADD = 1,
    TM_MESSAGE_REMOVE,
    TM_MESSAGE_WAKE,
    TM_MESSAGE_DRAIN,
    TM_MESSAGE_SEEN,
    TM_MESSAGE_REMOVED,
};

struct tm_message {
    uint32_t type; /* enum tm_message_type */
    uint32_t listener;
    uint32_t first;
    uint32_t shared; /* ADD: every worker polls it (a UNIX socket has no shards) */
    uint64_t value;
};

/* 1 a message, 0 the master is gone, -EAGAIN none now, other -errno.
 * fds holds TM_MAX_SHARDS; *count says how many came; they are the caller's.
 * Without a message *count is 0: what came with a malformed packet is closed. */
int tm_channel_receive(int channel, struct tm_message *message, int *fds, uint32_t *count)
    __attribute__((warn_unused_result));
/* 0 or -errno. */
int tm_channel_send(int channel, const struct tm_message *message);

#endif
