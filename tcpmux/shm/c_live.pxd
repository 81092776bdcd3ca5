"""csrc/live.h, what is in a region of it, and trust.h, as far as Cython code touches it."""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from tcpmux.shm.c_commons cimport tm_commons


cdef extern from "journal.h" nogil:
    enum tm_operation:
        TM_NOTHING
        TM_ACCEPT

    cdef struct tm_journal:
        uint32_t current
        uint32_t listener

    void tm_journal_note(tm_journal *journal, tm_operation operation)


cdef extern from "pump.h" nogil:
    cdef struct tm_half:
        uint64_t bytes


cdef extern from "histogram.h" nogil:
    enum:
        TM_BOUNDS

    cdef struct tm_histogram:
        uint64_t sum_us
        uint64_t buckets[17]

    const uint64_t *tm_latency_bounds_us
    const uint64_t *tm_duration_bounds_us


cdef extern from "client_hello.h" nogil:
    enum:
        TM_ALPN_MAX


cdef extern from "access_log.h" nogil:
    enum:
        TM_LOG_ENTRIES
        TM_LOG_START
        TM_LOG_REFUSED
        TM_REFUSALS
        TM_LOG_ENDS
        TM_LOG_STARTS
        TM_TLVS_MAX

    cdef struct tm_peer:
        uint16_t family
        uint16_t port
        uint8_t ip[16]

    cdef struct tm_log_entry:
        uint8_t kind
        uint8_t close_reason
        uint8_t pick_reason
        uint8_t attempts
        uint8_t refusal
        uint8_t sni_size
        uint8_t alpn_size
        uint8_t tlvs_size
        uint32_t route_slot
        uint32_t destination_slot
        uint32_t endpoint_slot
        uint32_t rule_slot
        uint32_t index
        uint32_t generation
        uint32_t connect_us
        uint32_t first_byte_us
        uint64_t table_generation
        uint64_t accepted_at_us
        uint64_t at_us
        uint64_t bytes[2]
        tm_peer client
        tm_peer endpoint
        tm_peer client_local
        tm_peer direct
        tm_peer endpoint_local
        uint32_t born_worker
        uint32_t born_index
        uint32_t born_generation
        uint32_t rehomed

    cdef struct tm_log_known:
        char sni[256]
        unsigned char alpn[64]
        unsigned char tlvs[112]

    cdef struct tm_log:
        uint64_t dropped
        tm_log_entry entries[16384]
        tm_log_known known[16384]

    ctypedef int tm_refusal "enum tm_refusal"
    uint64_t tm_log_untold(tm_log *log, tm_refusal refusal)
    void tm_log_tell(tm_log *log, tm_refusal refusal, uint64_t count)
    uint64_t tm_log_written(const tm_log *log)
    uint64_t tm_log_taken(const tm_log *log)
    void tm_log_take(tm_log *log, uint64_t taken)


cdef extern from "live.h" nogil:
    enum:
        TM_PICK_REASONS

    enum:
        TM_CLOSE_REASONS

    enum:
        TM_CLIENT
        TM_ENDPOINT

    enum tm_conn_state:
        TM_ACCEPTED
        TM_READING
        TM_HOLDING
        TM_WAITING
        TM_CONNECTING
        TM_RELAYING
        TM_RESETTING

    enum tm_spoke:
        TM_SPOKE_ENDPOINT

    enum:
        TM_ABSENT
        TM_PRESENT
        TM_STOPPED
        TM_HANGING

    enum:
        TM_UNENDED
        TM_OVER
        TM_REPLACED

    enum:
        TM_ORDER_DRAIN
        TM_ORDER_RETIRE

    enum:
        TM_LIVE_FORMAT
        TM_BUFFER_SIZE
        TM_MAX_LISTENING
        TM_MAX_LINES

    cdef struct tm_listening:
        int32_t fd
        uint32_t id
        uint32_t shard
        uint8_t shared
        uint8_t leaving
        uint8_t polled

    cdef struct tm_conn:
        uint32_t generation
        uint8_t state
        uint8_t moving
        tm_half half[2]
        uint64_t last_activity_ms
        uint32_t destination_slot
        uint32_t first_byte_us
        uint8_t spoke

    cdef struct tm_cold:
        uint8_t pick_reason
        uint16_t listener
        uint8_t attempts
        uint32_t route_slot
        uint32_t endpoint_slot
        uint32_t connect_us
        uint32_t annex
        uint32_t rule_slot
        uint64_t accepted_at_us
        uint64_t table_generation
        tm_peer client
        tm_peer endpoint
        uint16_t born_worker
        uint32_t born_index
        uint32_t born_generation

    cdef struct tm_moves:
        uint32_t stays_until_s
        uint32_t rehomed
        uint32_t stays_for

    cdef struct tm_annex:
        pass

    enum: TM_STAYS_UNWANTED

    cdef struct tm_known:
        tm_peer peer
        tm_peer to
        uint8_t first_bytes
        uint8_t sni_size
        uint8_t alpn_size
        uint8_t tlvs_size
        uint8_t starttls
        char sni[256]
        unsigned char alpn[64]
        unsigned char tlvs[112]

    # A record as somebody else reads it.
    cdef struct tm_copy:
        tm_conn conn
        tm_cold cold
        tm_moves moves

    cdef struct tm_slot:
        uint64_t opened
        uint64_t connect_failures
        uint64_t connect_timeouts
        uint64_t retries
        uint64_t denied
        uint64_t looped
        uint64_t moved_in
        uint64_t moved_out
        uint64_t bytes_in
        uint64_t bytes_out
        uint64_t closed[16]
        uint64_t picked[5]

    cdef struct tm_times:
        tm_histogram connect
        tm_histogram first_byte
        tm_histogram duration

    cdef struct tm_worker_counters:
        uint64_t accepted
        uint64_t accept_errors
        uint64_t accept_pauses
        uint64_t pipe_fallbacks
        uint64_t wakeups

    enum:
        TM_FAILED

    cdef struct tm_failed_connect:
        tm_peer client
        uint32_t endpoint_slot
        uint32_t error
        uint32_t attempt

    cdef struct tm_failed_connects:
        pass

    uint64_t tm_failed_count(const tm_failed_connects *all)
    uint32_t tm_failed_read(const tm_failed_connects *all, uint64_t *seen, tm_failed_connect *into)

    enum:
        TM_DIFFERENCES

    cdef struct tm_difference:
        uint32_t route_slot
        uint32_t fate
        uint32_t at
        uint32_t within
        uint64_t when_ms

    cdef struct tm_differences:
        pass

    uint32_t tm_differences_read(const tm_differences *all, tm_difference *into)

    cdef struct tm_live:
        uint32_t worker
        uint32_t capacity
        uint32_t orders
        int32_t channel
        int32_t lines[64]
        uint64_t gives_to
        uint32_t builds
        uint32_t listening_count
        tm_journal journal
        tm_worker_counters counters
        uint32_t pipes
        uint64_t pipe_bytes
        tm_slot slots[135168]
        unsigned char buffer[65536]
        tm_listening listening[262144]
        tm_times times[135168]
        tm_log log
        tm_failed_connects failed
        tm_differences differences
        tm_conn records[1]

    tm_cold *tm_live_colds(const tm_live *live, uint32_t capacity)
    tm_annex *tm_live_annexes(const tm_live *live, uint32_t capacity)
    size_t tm_live_size(uint32_t capacity)
    int64_t tm_live_capacity(size_t size)
    void tm_live_order(tm_live *live, uint32_t orders)
    void tm_live_init(tm_live *live, uint32_t worker, uint32_t capacity)
    void tm_count(uint64_t *counter, uint64_t n)
    uint64_t tm_counter_read(const uint64_t *counter)
    uint64_t tm_live_generation_seen(const tm_live *live)
    void tm_live_set_generation_seen(tm_live *live, uint64_t generation)
    int32_t tm_live_pid(const tm_live *live)
    uint32_t tm_live_starts(const tm_live *live)
    void tm_live_begin(tm_live *live, int32_t pid)
    uint32_t tm_live_connections(const tm_live *live)
    uint64_t tm_slot_active(const tm_slot *slot)
    uint32_t tm_live_ending(const tm_live *live)
    void tm_live_set_ending(tm_live *live, int ending)
    void tm_live_set_pid(tm_live *live, int32_t pid)
    void tm_live_rest(tm_live *live)
    bint tm_live_awake(const tm_live *live)
    uint64_t tm_live_progress(const tm_live *live)
    void tm_live_advance(tm_live *live)
    uint32_t tm_live_presence(const tm_live *live)
    void tm_live_set_presence(tm_live *live, int presence)
    int32_t tm_live_guardian_pid(const tm_live *live)
    void tm_live_set_guardian_pid(tm_live *live, int32_t pid)
    uint32_t tm_live_masters(const tm_live *live)
    uint32_t tm_live_descriptors(const tm_live *live)
    void tm_live_set_descriptors(tm_live *live, uint32_t count)
    void tm_live_add_master(tm_live *live)
    bint tm_live_at_fault(const tm_live *live)
    void tm_live_set_at_fault(tm_live *live, bint at_fault)
    uint64_t tm_live_heartbeat(const tm_live *live)
    void tm_live_set_heartbeat(tm_live *live, uint64_t now_ms)


cdef extern from "live_copy.h" nogil:
    bint tm_conn_copy(const tm_live *live, uint32_t capacity, uint32_t index, tm_copy *copy)
    bint tm_conn_has_scout(const tm_live *live, uint32_t capacity, const tm_copy *of)

cdef extern from "trust.h" nogil:
    uint8_t tm_close_reason_checked(uint8_t reason)
    uint8_t tm_pick_reason_checked(uint8_t reason)
    bint tm_known_copy(const tm_live *live, uint32_t capacity, uint32_t index, const tm_copy *of,
                       tm_known *known)
    enum:
        TM_MOMENT_UNKNOWN
        TM_MOMENT_SAFE
        TM_MOMENT_BUSY
        TM_MOMENT_TRANSACTION
        TM_MOMENT_SUBSCRIBED
        TM_MOMENT_STATEFUL
    int tm_moment_copy(const tm_live *live, uint32_t capacity, uint32_t index,
                       const tm_copy *of, uint64_t protocol, bint moves)
    uint32_t tm_records_checked(const tm_live *live, uint32_t capacity)
    uint32_t tm_listening_checked(const tm_live *live)
    uint32_t tm_orders_checked(const tm_live *live)
    bint tm_listening_possible(const tm_listening *listening)
    void tm_live_mend(tm_live *live, tm_commons *commons, uint32_t worker, uint32_t capacity)
    uint32_t tm_live_renew(tm_live *live, tm_commons *commons, uint32_t worker,
                           uint32_t capacity, uint32_t slots)
