"""The part of the data plane in C (csrc/, csrc/conn/) that the loop, listeners and lines use."""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from posix.signal cimport sigset_t
from posix.types cimport pid_t, uid_t

from tcpmux.shm.c_commons cimport tm_commons
from tcpmux.shm.c_live cimport tm_journal, tm_live, TM_MAX_LINES, tm_peer
from tcpmux.shm.c_table cimport tm_address, tm_image, tm_table


# --- mechanism --------------------------------------------------------------------------------

cdef extern from "sharing.h" nogil:
    pid_t tm_clone_sharing_descriptors()


cdef extern from "slice.h" nogil:
    int tm_slice_ask(uint64_t ns)
    enum: TM_SLICE_NS


cdef extern from "sock.h" nogil:
    bint tm_sock_host_paces()
    int tm_sock_accept(int listener, tm_peer *peer)
    void tm_sock_reset(int fd)
    bint tm_sock_peer_is(int fd, uid_t uid)
    void tm_sock_local(int fd, tm_peer *local)
    void tm_peer_from(tm_peer *peer, const tm_address *address)


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
    bint tm_is_listening(int fd)
    bint tm_is_line(int fd)


cdef extern from "pipe_pool.h" nogil:
    enum:
        TM_PIPE_SIZE

    cdef struct tm_pipe_pool:
        uint32_t open
        uint64_t held

    void tm_pipe_pool_init(tm_pipe_pool *pool, uint32_t limit)
    void tm_pipe_pool_bound(tm_pipe_pool *pool, uint32_t most, uint64_t all)
    void tm_pipe_pool_destroy(tm_pipe_pool *pool)


cdef extern from "wheel.h" nogil:
    cdef struct tm_wheel:
        pass

    void tm_wheel_init(tm_wheel *wheel, uint64_t now_ms)
    int tm_wheel_wait(const tm_wheel *wheel, uint64_t now_ms)


cdef extern from "waiter.h" nogil:
    enum tm_expecting:
        TM_EXPECT_ANY

    cdef struct tm_waiter:
        pass

    void tm_waiter_init(tm_waiter *waiter)
    int tm_waiter_wait(tm_waiter *waiter, int epoll, epoll_event *events, int size,
                       int timeout_ms, int busy_poll, tm_expecting expecting)


cdef extern from "channel.h" nogil:
    enum tm_message_type:
        TM_MESSAGE_ADD
        TM_MESSAGE_REMOVE
        TM_MESSAGE_WAKE
        TM_MESSAGE_DRAIN
        TM_MESSAGE_SEEN
        TM_MESSAGE_REMOVED
        TM_MESSAGE_RETIRE
        TM_MESSAGE_LINE
        TM_MESSAGE_REPLACE
        TM_MESSAGE_GUARD
        TM_MESSAGE_CLAIM
        TM_MESSAGE_STARTED
        TM_MESSAGE_FULL
        TM_MESSAGE_ROOM
        TM_MESSAGE_OFFER
        TM_MESSAGE_DIED
        TM_MESSAGE_PRESENCE
        TM_MESSAGE_GIVE
        TM_MESSAGE_GREW
        TM_MESSAGE_SYNC
        TM_MESSAGE_SYNCED
        TM_MESSAGE_UNLINED
        TM_MESSAGE_KILL
        TM_MESSAGE_CONVERGE
        TM_MESSAGE_REHOME
        TM_MESSAGE_QUIT
        TM_MESSAGE_LOOPED
        TM_MESSAGE_DENIED
        TM_MESSAGE_CRAMPED
        TM_MESSAGE_UNREAD
        TM_MESSAGE_UNACCEPTED
        TM_MESSAGE_STDERR

    enum:
        TM_MESSAGE_FDS

    const uint64_t TM_GIVE_ALL

    cdef struct tm_message:
        uint32_t type
        uint32_t listener
        uint32_t first
        uint32_t shared
        uint64_t value

    int tm_channel_receive(int channel, tm_message *message, int *fds, uint32_t *count)
    int tm_channel_send(int channel, const tm_message *message)
    bint tm_channel_tell(int channel, tm_message_type type, uint32_t listener, uint64_t value)
    int tm_channel_send_fds(int channel, const tm_message *message, const int *fds,
                            uint32_t count)


# --- connections ------------------------------------------------------------------------------

cdef extern from "conn/worker.h" nogil:
    cdef struct tm_stall:
        void *looked
        uint64_t look_ms
        uint32_t cursor
        uint32_t reset, reset_by_source

    cdef struct tm_pump:
        tm_pipe_pool pool
        tm_journal *journal
        unsigned char *buffer
        uint64_t fallbacks

    cdef struct tm_worker:
        uint32_t id
        int epoll
        uint64_t now_ms, now_us
        const tm_table *table
        const tm_image *image
        uint64_t generation
        tm_commons *commons
        tm_live *live
        uint32_t capacity
        uint32_t connections
        uint32_t ready
        tm_expecting expecting
        uint64_t random
        bint denied
        uint32_t denied_slot
        bint paced
        tm_stall stall
        tm_pump pump
        tm_wheel wheel

    # Maps the records: live's region has room for `capacity` of them.
    void tm_worker_use(tm_worker *w, tm_live *live, uint32_t capacity)


cdef extern from "conn/connection.h" nogil:
    void tm_connection_open(tm_worker *w, int fd, const tm_peer *peer, uint32_t route)
    void tm_connection_event(tm_worker *w, uint32_t index, uint32_t generation, int side,
                             uint32_t events)
    void tm_connection_deadlines(tm_worker *w)


cdef extern from "conn/admit.h" nogil:
    enum tm_admission:
        TM_ADMITTED
        TM_LOOPED

    tm_admission tm_admission_of(tm_worker *w, uint32_t listener, int fd, const tm_peer *peer,
                                 uint32_t *route)


cdef extern from "conn/record.h" nogil:
    bint tm_record_available(tm_worker *w)
    void tm_record_free_dead(tm_worker *w)


cdef extern from "conn/shadow.h" nogil:
    bint tm_shadow_make_room(tm_worker *w)


cdef extern from "conn/relay.h" nogil:
    bint tm_relay_resume(tm_worker *w)


cdef extern from "conn/outcome.h" nogil:
    void tm_outcome_kill(tm_worker *w, uint32_t index, uint32_t generation)
    void tm_outcome_end_all(tm_worker *w)


cdef extern from "conn/converge.h" nogil:
    void tm_converge(tm_worker *w, uint32_t index, uint64_t order, uint32_t quiet_ms, bint late)

cdef extern from "conn/rehome.h" nogil:
    void tm_rehome(tm_worker *w, uint32_t index, uint64_t order, uint32_t quiet_ms, uint32_t slot)


cdef extern from "conn/rate.h" nogil:
    enum:
        TM_SHAPE_MOST_POWER

    void tm_rate_allow(tm_worker *w, uint32_t power)
    void tm_rate_use_image(tm_worker *w, const tm_image *image)


cdef extern from "conn/stall.h" nogil:
    void tm_stall_look(tm_worker *w)


cdef extern from "conn/recover.h" nogil:
    void tm_recover_records(tm_worker *w, tm_descriptors *all)


cdef extern from "conn/resume.h" nogil:
    void tm_resume_all(tm_worker *w)


cdef extern from "conn/handoff.h" nogil:
    cdef struct tm_handoffs:
        uint64_t lost
        bint has_quota
        uint64_t quota[TM_MAX_LINES]

    void tm_handoff_event(tm_worker *w, tm_handoffs *handoffs, uint32_t other)
    bint tm_handoff_some(tm_worker *w, tm_handoffs *handoffs)
    bint tm_handoff_quota(tm_worker *w, tm_handoffs *handoffs)
    void tm_handoff_line(tm_worker *w, tm_handoffs *handoffs, uint32_t other, int fd)
    void tm_handoff_recover(tm_worker *w)


# --- the system -------------------------------------------------------------------------------

cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLLIN
        EPOLLEXCLUSIVE
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
        EPOLL_CLOEXEC

    ctypedef union epoll_data_t:
        uint64_t u64

    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data

    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int fd, epoll_event *event)


cdef extern from "<sys/signalfd.h>" nogil:
    enum:
        SFD_CLOEXEC
        SFD_NONBLOCK

    cdef struct signalfd_siginfo:
        uint32_t ssi_signo

    int signalfd(int fd, const sigset_t *mask, int flags)
