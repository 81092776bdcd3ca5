"""The shared-memory layout of csrc/, as far as Cython code touches it."""

from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "<netinet/in.h>" nogil:
    ctypedef uint32_t socklen_t
    cdef struct sockaddr:
        uint16_t sa_family
    cdef struct in_addr:
        pass
    cdef struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    cdef struct in6_addr:
        uint8_t s6_addr[16]
    cdef struct sockaddr_in6:
        uint16_t sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr
    int AF_INET, AF_INET6, AF_UNIX
    uint16_t htons(uint16_t value)
    uint16_t ntohs(uint16_t value)


cdef extern from "<sys/un.h>" nogil:
    cdef struct sockaddr_un:
        uint16_t sun_family
        char sun_path[108]


cdef extern from "route_table.h" nogil:
    const uint32_t TM_NONE
    enum:
        TM_NAME_SIZE
        TM_LABEL_SIZE
        TM_MAX_DESTINATIONS
        TM_MAX_ROUTES
        TM_MAX_LISTENERS
        TM_MAX_ALL_DESTINATIONS
        TM_MAX_ENDPOINTS
        TM_MAX_SHARDS
        TM_MAX_SLOTS
        TM_MAX_TICKETS
        TM_ANY_WORKER

    cdef struct tm_address:
        socklen_t length
        sockaddr any
        sockaddr_in in_ "in"
        sockaddr_in6 in6
        sockaddr_un un

    enum:
        TM_MAX_TURNS
        TM_MAX_PLACES
        TM_MAX_RANGES
        TM_MAGLEV

    cdef struct tm_route_rules:
        uint64_t max_connections

    cdef struct tm_destination_rules:
        uint64_t balance
        uint64_t max_connections

    cdef struct tm_endpoint:
        tm_address address
        uint32_t slot
        uint32_t admin_state
        uint64_t born
        uint64_t hash
        uint64_t state_until
        uint32_t weight
        uint32_t health
        uint32_t ramp
        uint32_t priority
        uint32_t max_connections

    cdef struct tm_turn:
        uint32_t endpoint
        uint32_t number

    cdef struct tm_destination:
        char name[64]
        uint32_t weight
        uint32_t file_weight
        uint32_t effective_weight
        uint32_t ramp
        uint32_t first_endpoint
        uint32_t endpoint_count
        uint32_t first_turn
        uint32_t turn_count
        uint32_t reserve_count
        uint32_t first_place
        uint32_t place_count
        uint32_t panic
        uint32_t unresolved
        uint32_t admin_state
        uint32_t route
        uint32_t ticket
        uint32_t slot
        uint32_t connect_timeout_ms
        uint32_t idle_timeout_ms
        uint64_t born
        tm_destination_rules rules

    cdef struct tm_route:
        char name[64]
        uint32_t first_destination
        uint32_t destination_count
        uint32_t ticket
        uint32_t slot
        uint64_t born
        uint32_t connect_timeout_ms
        uint32_t idle_timeout_ms
        uint32_t period
        uint32_t stride
        uint32_t cumulative[64]
        uint32_t first_range
        uint32_t range_count
        tm_route_rules rules

    cdef struct tm_range:
        unsigned char first[16]

    cdef struct tm_listener:
        tm_address address
        uint32_t id
        uint32_t route

    cdef struct tm_image:
        uint64_t generation
        uint32_t route_count
        uint32_t destination_count
        uint32_t endpoint_count
        uint32_t listener_count
        uint32_t route_of_listener[4096]
        tm_listener listeners[4096]
        tm_route routes[4096]
        tm_destination destinations[65536]
        tm_endpoint endpoints[65536]
        uint32_t turn_count
        uint32_t place_count
        uint32_t range_count
        tm_turn turns[1048576]
        uint16_t places[16777216]
        tm_range ranges[262144]

    enum:
        TM_TABLE_FORMAT
        TM_ERROR_SIZE

    enum tm_state:
        TM_RUNNING

    enum tm_program_id:
        TM_CONTROL
        TM_LOGGER
        TM_PROGRAMS

    cdef struct tm_program:
        int32_t pid
        uint32_t presence
        uint64_t starts
        uint64_t hangs

    cdef struct tm_table:
        uint32_t worker_count
        int64_t started_at
        int32_t master_pid
        uint32_t shard_count
        uint32_t slots_given
        uint32_t tickets_given
        uint32_t upgrades
        uint32_t upgrade_state
        char upgrade_error[512]
        uint64_t layout
        uint64_t reloads_done, reloads_refused
        tm_program programs[2]
        char labels[135168][120]

    cdef struct tm_rota:
        pass

    cdef struct tm_ticket:
        pass

    int32_t tm_table_busy_poll(const tm_table *table)
    void tm_table_set_busy_poll(tm_table *table, int32_t busy_poll)
    uint64_t tm_table_generation(const tm_table *table)
    const tm_image *tm_table_image(const tm_table *table, uint64_t generation)
    int32_t tm_table_shard_owner(const tm_table *table, uint32_t shard)
    void tm_table_set_log(tm_table *table, uint32_t kinds, uint32_t capacity)
    enum:
        TM_BUFFER_PIPE
        TM_BUFFER_PIPES
        TM_BUFFERS
    uint64_t tm_table_buffer(const tm_table *table, int which)
    void tm_table_set_buffer(tm_table *table, int which, uint64_t bytes)
    void tm_table_init(tm_table *table, uint32_t workers, uint32_t shards, int32_t master_pid,
                       int64_t started_at)
    bint tm_table_valid(const tm_table *table, size_t size)
    bint tm_table_is_still(const tm_table *table, uint64_t generation)
    tm_image *tm_table_idle_image(tm_table *table)
    uint64_t tm_table_publish(tm_table *table)
    void tm_table_set_shard_owner(tm_table *table, uint32_t shard, int32_t worker)
    void tm_table_set_state(tm_table *table, tm_state state)
    uint32_t tm_table_state(const tm_table *table)


cdef extern from "pick.h" nogil:
    uint32_t tm_pick(const tm_route *route, uint64_t n)
    void tm_pick_plan(const uint32_t *weights, uint32_t count, uint32_t *period,
                      uint32_t *stride, uint32_t *cumulative)
    uint64_t tm_turn_hash(const tm_image *image, const tm_destination *destination, uint32_t turn)
    uint32_t tm_maglev_size(uint32_t turns)
    void tm_maglev_fill(uint16_t *places, uint32_t size, const uint64_t *hashes, uint32_t count,
                        uint32_t *next, uint64_t *steps)


cdef extern from "commons.h" nogil:
    enum:
        TM_MAX_SOURCES

    cdef struct tm_counted:
        pass

    cdef struct tm_common:
        tm_counted connections
        tm_counted waiting

    cdef struct tm_source:
        tm_counted connections

    cdef struct tm_author:
        uint32_t worker

    cdef struct tm_traces:
        pass

    cdef struct tm_pinned:
        uint64_t account  # an atomic: for the functions below alone

    uint64_t tm_pinned_epoch(uint64_t now_ms)
    # Accounts, which are atomics.
    uint64_t tm_pinned_sum(const void *account, uint64_t epoch)

    cdef struct tm_commons:
        uint64_t secret[2]
        tm_common slots[135168]
        tm_counted listeners[4096]
        tm_source sources[131072]
        tm_pinned pinned

    uint32_t tm_counted_now(const tm_counted *at)
    uint64_t tm_avoided_until(const tm_common *endpoint)
    void tm_note_failure(tm_common *endpoint)
    void tm_note_success(tm_common *endpoint)
    void tm_note_suspicion(tm_common *endpoint, uint64_t source_key)
    void tm_note_answer(tm_common *endpoint)
    uint32_t tm_suspicions(const tm_common *endpoint)
    uint32_t tm_suspicions_all(const tm_common *endpoint)
    uint32_t tm_suspecting(const tm_common *endpoint)
    uint32_t tm_failures(const tm_common *endpoint)
    uint32_t tm_failures_all(const tm_common *endpoint)
    void tm_common_forget(tm_common *slot)


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


cdef extern from "access_log.h" nogil:
    enum:
        TM_LOG_ENTRIES
        TM_LOG_START
        TM_LOG_ENDS
        TM_LOG_STARTS

    cdef struct tm_peer:
        uint16_t family
        uint16_t port
        uint8_t ip[16]

    cdef struct tm_log_entry:
        uint8_t kind
        uint8_t close_reason
        uint8_t pick_reason
        uint8_t attempts
        uint32_t route_slot
        uint32_t destination_slot
        uint32_t endpoint_slot
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
        tm_peer endpoint_local

    cdef struct tm_log:
        uint64_t dropped
        tm_log_entry entries[16384]

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

    cdef struct tm_cold:
        uint8_t pick_reason
        uint8_t attempts
        uint32_t route_slot
        uint32_t endpoint_slot
        uint32_t connect_us
        uint64_t accepted_at_us
        uint64_t table_generation
        tm_peer client
        tm_peer endpoint

    # A record as somebody else reads it.
    cdef struct tm_copy:
        tm_conn conn
        tm_cold cold

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
        tm_conn records[1]

    tm_cold *tm_live_colds(const tm_live *live, uint32_t capacity)
    size_t tm_live_size(uint32_t capacity)
    int64_t tm_live_capacity(size_t size)
    void tm_live_order(tm_live *live, uint32_t orders)
    bint tm_conn_copy(const tm_live *live, uint32_t capacity, uint32_t index, tm_copy *copy)
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


cdef extern from "trust.h" nogil:
    uint8_t tm_close_reason_checked(uint8_t reason)
    uint8_t tm_pick_reason_checked(uint8_t reason)
    uint32_t tm_records_checked(const tm_live *live, uint32_t capacity)
    uint32_t tm_listening_checked(const tm_live *live)
    uint32_t tm_orders_checked(const tm_live *live)
    bint tm_listening_possible(const tm_listening *listening)
    void tm_live_mend(tm_live *live, tm_commons *commons, uint32_t worker, uint32_t capacity)
    uint32_t tm_live_renew(tm_live *live, tm_commons *commons, uint32_t worker,
                           uint32_t capacity, uint32_t slots)
