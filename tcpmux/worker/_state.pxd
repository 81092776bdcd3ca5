"""What the worker's loop, its listeners and its line to the master share."""

from libc.stdint cimport uint32_t, uint64_t
from posix.types cimport pid_t, uid_t

from tcpmux.shm.c_live cimport TM_MAX_LINES
from tcpmux.worker._plane cimport tm_handoffs, TM_MESSAGE_FDS, tm_waiter, tm_worker

cdef enum:
    # Tags of events that are no connection's: a connection's generation is never 0.
    TAG_CHANNEL = 0
    TAG_SIGNALS = 1
    TAG_TAKEOVER = 2
    TAG_LINES = 3
    TAG_LISTENERS = TAG_LINES + TM_MAX_LINES

    ACCEPT_RETRY_MS = 100   # after EMFILE and the like


# Of _listeners. Times are monotonic, and say when something is to be done again at the earliest.
cdef struct Accepting:
    bint paused             # at the connection limit, or out of something
    bint leaving            # listeners that are being removed have more in their queues
    bint told_full          # the master knows that this worker is full
    uint64_t retry_ms       # do not resume before
    uint64_t tell_loop_ms
    uint64_t tell_unaccepted_ms


# Of _master_line.
cdef struct MasterLine:
    # For a master that takes over: where it asks (a listening socket, -1 = none), as whom masters
    # run, and the descriptors that any worker can hand out.
    int takeover
    uid_t owner
    int offered[TM_MESSAGE_FDS]
    uint32_t offered_count
    bint taking             # the takeover socket is in epoll
    bint cramped            # a message of the master found no room here for its descriptors
    uint32_t told_connections # when the master was last told of growth, or fewer since
    uint64_t tell_growth_ms
    uint64_t tell_cramped_ms
    uint64_t tell_denied_ms
    uint64_t tell_unread_ms


cdef struct Loop:
    tm_worker worker
    Accepting accepting
    MasterLine master
    tm_handoffs handoffs
    tm_waiter waiter
    int signals
    bint unwatched          # epoll had no memory for a listener or a line: try again
    uint64_t count_fds_ms   # when to count descriptors again
    pid_t parent            # at the start: the guardian, unless this worker made its guardian
    uint64_t look_guarded_ms
    bint unguarded          # the guardian may be dead: if so, another is to be made
    pid_t guardian          # made by this worker; 0 = none
    pid_t guards            # this process is another: guard this worker, which made it
    bint to_be_replaced     # by the next build
    bint quit               # exit now
