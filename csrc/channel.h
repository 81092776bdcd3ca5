/* The line between the master and one worker: a SOCK_SEQPACKET pair. The worker's guardian
 * shares the worker's end.
 *
 * One packet is one message, with at most TM_MESSAGE_FDS descriptors. The meaning of each message
 * is in tcpmux/worker/messages.py.
 */
#ifndef TM_CHANNEL_H
#define TM_CHANNEL_H

#include <stdbool.h>
#include <stdint.h>

#include "rights.h"
#include "route_table.h"

enum tm_message_type {
#define TM_MESSAGE(NAME, number) TM_MESSAGE_##NAME = (number),
#include "messages.def"
};

#define TM_GIVE_ALL UINT64_MAX

#define TM_MESSAGE_FDS TM_RIGHTS_MAX

struct tm_message {
    uint32_t type; /* enum tm_message_type */
    uint32_t listener;
    uint32_t first;
    uint32_t shared; /* ADD: every worker polls it (a UNIX socket has no shards) */
    uint64_t value;
};

/* 1 a message, 0 the master is gone, -EAGAIN none now, -EMFILE a message whose descriptors found no
 * room in this process, other -errno.
 * fds holds TM_MESSAGE_FDS; *count says how many came; they are the caller's.
 * Without a message *count is 0: what came with a malformed packet is closed. */
int tm_channel_receive(int channel, struct tm_message *message, int *fds, uint32_t *count)
    __attribute__((warn_unused_result));
/* 0 or -errno. */
int tm_channel_send(int channel, const struct tm_message *message)
    __attribute__((warn_unused_result));
/* A message without more than these. False: the line is full or gone, and the other end finds what
 * matters in the live region. */
bool tm_channel_tell(int channel, enum tm_message_type type, uint32_t listener, uint64_t value);
/* With descriptors, which stay the caller's too. */
int tm_channel_send_fds(int channel, const struct tm_message *message, const int *fds,
                        uint32_t count) __attribute__((warn_unused_result));

#endif
