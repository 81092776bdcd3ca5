/* The line between the master and one worker: a SOCK_SEQPACKET pair. The worker's guardian
 * shares its end of it.
 *
 *   master -> worker   ADD      these descriptors are shards of listener `listener`,
 *                               the first of them shard `first`
 *                      REMOVE   serve what is queued on `listener`, then close it
 *                      WAKE     look at the table (generation, shard owners)
 *                      DRAIN    exit when the last connection ends
 *                      RETIRE   accept no more, hand every connection over, then exit
 *                      LINE     this descriptor leads to worker `listener`
 *                      GIVE     hand `value` of your older connections over to worker
 *                               `listener`, to which you have a line; TM_GIVE_ALL: all, when
 *                               you retire
 *                      REPLACE  exit, to be followed by the next build
 *                      GUARD    your guardian is dead: make another
 *                      SYNC     answer with SYNCED when all before this has been done
 *                      KILL     reset the connection in record `listener`, if that is still of
 *                               generation `value`
 *                      QUIT     reset what is open, and exit now
 *                      CLAIM    by a new master: hand out what you hold, from place `value`
 *   worker -> master   SEEN     generation `value` is in use here
 *                      REMOVED  `listener` is closed here
 *                      STARTED  an incarnation has begun, with `value` connections of earlier ones
 *                      FULL     at the connection limit: its shards need another worker
 *                      ROOM     no longer
 *                      SYNCED   see SYNC
 *                      UNLINED  there is no line to worker `listener` any more
 *                      GREW     it has many more connections than when it last said so
 *                      LOOPED   on `listener` came a connection that had been in its route
 *                      DENIED   this user may not connect to the UNIX socket that is the endpoint
 *                               with counter slot `listener`
 *                      CRAMPED  there was no room for descriptors of a message: it missed them
 *                      UNREAD   `value` connections were reset: `listener` of them as their client had
 *                               used up buffers.per_source, the others as buffers.total was
 *                      OFFER    the answer to CLAIM; `value` = the next place, 0 = that was all
 *   guardian -> master DIED     the worker, with wait status `value`
 *                      PRESENCE of the worker is `value` now (enum tm_presence)
 *                      RENEWED  its region was corrupt and begins anew; `value` connections lost
 *                      GUARD    the sender guards the worker now; to each new master, too
 *   master -> another  BUSY     the answer to CLAIM while the master `value` lives
 *
 * One packet is one message; TM_MESSAGE_FDS descriptors at most travel with it.
 */
#ifndef TM_CHANNEL_H
#define TM_CHANNEL_H

#include <stdbool.h>
#include <stdint.h>

#include "rights.h"
#include "route_table.h"

enum tm_message_type {
    TM_MESSAGE_ADD = 1,
    TM_MESSAGE_REMOVE,
    TM_MESSAGE_WAKE,
    TM_MESSAGE_DRAIN,
    TM_MESSAGE_SEEN,
    TM_MESSAGE_REMOVED,
    TM_MESSAGE_RETIRE,
    TM_MESSAGE_LINE,
    TM_MESSAGE_REPLACE,
    TM_MESSAGE_GUARD,
    TM_MESSAGE_CLAIM,
    TM_MESSAGE_STARTED,
    TM_MESSAGE_FULL,
    TM_MESSAGE_ROOM,
    TM_MESSAGE_OFFER,
    TM_MESSAGE_DIED,
    TM_MESSAGE_PRESENCE,
    TM_MESSAGE_BUSY,
    TM_MESSAGE_GIVE,
    TM_MESSAGE_GREW,
    TM_MESSAGE_SYNC,
    TM_MESSAGE_SYNCED,
    TM_MESSAGE_UNLINED,
    TM_MESSAGE_KILL,
    TM_MESSAGE_QUIT,
    TM_MESSAGE_LOOPED,
    TM_MESSAGE_RENEWED,
    TM_MESSAGE_DENIED,
    TM_MESSAGE_CRAMPED,
    TM_MESSAGE_UNREAD,
};

#define TM_GIVE_ALL UINT64_MAX

#define TM_MESSAGE_FDS TM_RIGHTS_MOST

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
