"""Messages on the line between the master and one worker, whose end the worker's guardian shares:
one row each. csrc/tables.py makes C's enum of it (messages.def); csrc/channel.h has the struct.

Used by master, guardians and workers.
"""

from __future__ import annotations

import struct

MESSAGE = struct.Struct("=IIIIQ")  # struct tm_message: type, listener, first, shared, value
GIVE_ALL = (1 << 64) - 1

# Master to worker.
ADD = 1  # these descriptors are shards of listener `listener`, the first of them shard `first`
REMOVE = 2  # serve what is queued on `listener`, then close it
WAKE = 3  # look at the table (generation, shard owners)
DRAIN = 4  # exit when the last connection ends
RETIRE = 7  # accept no more, hand every connection over, then exit
LINE = 8  # this descriptor leads to worker `listener`
# GIVE: hand `value` of your older connections over to worker `listener`, to which you have a
# line; GIVE_ALL: all, when you retire
GIVE = 19
REPLACE = 9  # exit, to be followed by the next build
SYNC = 21  # answer with SYNCED when all before this has been done
KILL = 24  # reset the connection in record `listener`, if that is still of generation `value`
# CONVERGE: close the connection in record `listener`, if it is still of the generation in the low
# half of `value`, nothing is under way, and nobody has said anything for `first` ms; `shared` 1:
# reset it, whatever it does. The high half: when it was decided, low 32 bits of monotonic ms
CONVERGE = 33
# REHOME: have the connection in record `listener` go on with the destination in counter slot
# `shared`, under the same conditions, with `first` and `value` as in CONVERGE
REHOME = 34
STDERR = 31  # this descriptor is standard error from now on, for your guardian as well
QUIT = 25  # reset what is open, and exit now
CLAIM = 11  # by a new master: hand out what you hold, from position `value`

# Master to worker: your guardian is dead, make another. Guardian to master: the sender guards the
# worker now; to each new master, too.
GUARD = 10

# Worker to master.
SEEN = 5  # generation `value` is in use here
REMOVED = 6  # `listener` is closed here
STARTED = 12  # an incarnation has begun, with `value` connections of earlier ones
FULL = 13  # at the connection limit: its shards need another worker
ROOM = 14  # no longer
SYNCED = 22  # see SYNC
UNLINED = 23  # there is no line to worker `listener` any more
GREW = 20  # it has many more connections than when it last said so
LOOPED = 26  # on `listener` came a connection that had been in its route
DENIED = 28  # this user may not connect to the UNIX socket with counter slot `listener`
CRAMPED = 29  # there was no room for descriptors of a message: it missed them
# UNREAD: `value` connections were reset: `listener` of them as their client had used up
# buffers.per_source, the others as buffers.total was
UNREAD = 30
UNACCEPTED = 32  # accept failed with errno `value`; what waits in the queues goes on waiting
OFFER = 15  # the answer to CLAIM; `value` = the next position, 0 = that was all

# Guardian to master.
DIED = 16  # the worker, with wait status `value`
PRESENCE = 17  # of the worker is `value` now (enum tm_presence)
RENEWED = 27  # its region was corrupt and begins anew; `value` connections lost

# Master to another master.
BUSY = 18  # the answer to CLAIM while the master `value` lives
