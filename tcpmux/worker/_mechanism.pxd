"""The C mechanism that only a worker uses: sockets, timers, its line to the master."""

from libc.stdint cimport uint32_t, uint64_t
from posix.signal cimport sigset_t
from posix.types cimport uid_t

from tcpmux.shm._layout cimport tm_address, tm_conn, tm_peer, tm_traces


cdef extern from "trace.h" nogil:
    bint tm_trace_is_loop(tm_traces *traces, int fd, const tm_peer *client, uint32_t route)
    void tm_trace_connect(tm_traces *traces, int client_fd, const tm_peer *client, int fd,
                          const tm_peer *endpoint, uint32_t route, uint32_t connects)


cdef extern from "sock.h" nogil:
    bint tm_sock_host_paces()
    void tm_sock_bound_unsent(int fd, uint32_t unsent)
    bint tm_sock_bound_unread(int fd)
    void tm_sock_unbind_unread(int fd)
    uint32_t tm_sock_outstanding(int fd)
    uint32_t tm_sock_unread(int fd)
    uint64_t tm_sock_held(int fd)
    bint tm_sock_acknowledged(int fd, uint32_t *count)
    uint32_t tm_sock_sent_ago(int fd)
    void tm_sock_do_not_pace(int fd, const tm_peer *peer)
    int tm_sock_accept(int listener, tm_peer *peer)
    int tm_sock_connect(const tm_address *address)
    void tm_sock_acknowledge(int fd)
    int tm_sock_established(int fd)
    bint tm_sock_has_answered(int fd)
    bint tm_sock_connect_failed(int fd)
    int tm_sock_error(int fd)
    int tm_sock_shut_write(int fd)
    bint tm_sock_closed_by_peer(int fd)
    bint tm_sock_not_shut(int fd)
    uint32_t tm_sock_unacknowledged(int fd)
    void tm_sock_keep_alive(int fd, int idle_s, int interval_s, int count, int user_timeout_ms)
    void tm_sock_will_reset(int fd)
    void tm_sock_reset(int fd)
    bint tm_sock_peer_is(int fd, uid_t uid)
    bint tm_sock_is_connection(int fd, tm_peer *peer)
    bint tm_sock_local_failure(int error)
    void tm_peer_from(tm_peer *peer, const tm_address *address)
    void tm_sock_local(int fd, tm_peer *peer)


cdef extern from "wheel.h" nogil:
    cdef struct tm_wheel:
        pass

    void tm_wheel_init(tm_wheel *wheel, uint64_t now_ms)
    void tm_wheel_arm(tm_wheel *wheel, tm_conn *records, uint32_t index, uint64_t deadline_ms)
    void tm_wheel_disarm(tm_wheel *wheel, tm_conn *records, uint32_t index)
    uint32_t tm_wheel_pop(tm_wheel *wheel, tm_conn *records, uint64_t now_ms)
    int tm_wheel_wait(const tm_wheel *wheel, uint64_t now_ms)


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
        TM_MESSAGE_GIVE
        TM_MESSAGE_GREW
        TM_MESSAGE_SYNC
        TM_MESSAGE_SYNCED
        TM_MESSAGE_UNLINED
        TM_MESSAGE_KILL
        TM_MESSAGE_QUIT
        TM_MESSAGE_LOOPED
        TM_MESSAGE_DENIED
        TM_MESSAGE_CRAMPED
        TM_MESSAGE_UNREAD
        TM_GIVE_ALL
        TM_MESSAGE_REPLACE
        TM_MESSAGE_GUARD
        TM_MESSAGE_CLAIM
        TM_MESSAGE_STARTED
        TM_MESSAGE_FULL
        TM_MESSAGE_ROOM
        TM_MESSAGE_OFFER
        TM_MESSAGE_DIED
        TM_MESSAGE_PRESENCE

    enum:
        TM_MESSAGE_FDS

    cdef struct tm_message:
        uint32_t type
        uint32_t listener
        uint32_t first
        uint32_t shared
        uint64_t value

    int tm_channel_receive(int channel, tm_message *message, int *fds, uint32_t *count)
    int tm_channel_send(int channel, const tm_message *message)
    int tm_channel_send_fds(int channel, const tm_message *message, const int *fds,
                            uint32_t count)


cdef extern from "handover.h" nogil:
    enum:
        TM_GIVE
        TM_TAKEN
        TM_REFUSED
        TM_AGAIN
        TM_GONE

    cdef struct tm_gift:
        uint32_t type
        uint32_t again
        uint32_t index
        uint32_t generation
        uint32_t taken
        tm_conn conn

    int tm_gift_send(int line, const tm_gift *gift)
    int tm_gift_receive(int line, tm_gift *gift)
    void tm_gift_close(tm_gift *gift)


cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLLIN
        EPOLLOUT
        EPOLLPRI
        EPOLLRDHUP
        EPOLLERR
        EPOLLHUP
        EPOLLET
        EPOLLEXCLUSIVE
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
        EPOLL_CTL_MOD
        EPOLL_CLOEXEC

    ctypedef union epoll_data_t:
        uint64_t u64

    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data

    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int fd, epoll_event *event)
    int epoll_wait(int epoll, epoll_event *events, int most, int timeout)


cdef extern from "<sys/signalfd.h>" nogil:
    enum:
        SFD_CLOEXEC
        SFD_NONBLOCK

    cdef struct signalfd_siginfo:
        uint32_t ssi_signo

    int signalfd(int fd, const sigset_t *mask, int flags)


cdef extern from "waiter.h" nogil:
    enum tm_expecting:
        TM_EXPECT_ANSWER
        TM_EXPECT_CLIENT
        TM_EXPECT_ANY
        TM_EXPECT_BULK

    cdef struct tm_waiter:
        pass

    void tm_waiter_init(tm_waiter *waiter)
    int tm_waiter_wait(tm_waiter *waiter, int epoll, epoll_event *events, int size,
                       int timeout_ms, int busy_poll, tm_expecting expecting)
