"""csrc/route_table.h, pick.h and sticky.h, as far as Cython code touches it."""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t


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


cdef extern from "<sys/un.h>" nogil:
    cdef struct sockaddr_un:
        uint16_t sun_family
        char sun_path[108]


cdef extern from "sticky.h" nogil:
    cdef struct tm_contender:
        uint64_t hash
        uint32_t weight
        uint32_t asked
        uint32_t destination
    uint64_t tm_sticky_key(uint64_t salt, const void *data, size_t size)
    uint64_t tm_sticky_address_key(uint64_t salt, uint16_t family, const unsigned char *ip,
                                   const uint32_t *prefixes)
    uint64_t tm_sticky_cost(uint64_t hash)
    uint32_t tm_sticky_pick(const tm_contender *contenders, uint32_t count, uint64_t key)


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
        TM_MAX_MAGLEV
        TM_MAX_RANGES
        TM_MAX_RULES
        TM_MAX_ALL_RULES
        TM_MAX_SEGMENTS
        TM_MAX_RULE_NAMES
        TM_MAX_RULE_VALUES
        TM_MAX_RULE_NUMBERS
        TM_MAX_RULE_TEXT
        TM_MAX_CONTESTS
        TM_MAX_CONTENDERS
        TM_MAGLEV

    cdef struct tm_route_rules:
        uint64_t max_connections

    cdef struct tm_destination_rules:
        uint64_t balance
        uint64_t max_connections

    cdef struct tm_endpoint_rules:
        uint64_t max_connections

    cdef struct tm_endpoint:
        tm_address address
        uint32_t slot
        uint32_t admin_state
        uint64_t since_generation
        uint64_t hash
        uint64_t state_until
        uint64_t state_since
        uint64_t health_since
        uint32_t weight
        uint32_t health
        uint32_t slow_start_percent
        tm_endpoint_rules rules

    cdef struct tm_turn:
        uint32_t endpoint
        uint32_t number

    cdef struct tm_destination:
        char name[64]
        uint32_t weight
        uint32_t file_weight
        uint32_t effective_weight
        uint32_t slow_start_percent
        uint32_t first_endpoint
        uint32_t endpoint_count
        uint32_t first_turn
        uint32_t turn_count
        uint32_t reserve_count
        uint32_t first_maglev
        uint32_t maglev_count
        uint32_t panic
        uint32_t unresolved
        uint32_t admin_state
        uint64_t state_since
        uint32_t route
        uint32_t ticket
        uint32_t slot
        uint64_t since_generation
        tm_destination_rules rules

    cdef struct tm_range:
        unsigned char first[16]

    cdef struct tm_ranges:
        uint32_t first
        uint32_t count

    cdef struct tm_contest:
        uint32_t first
        uint32_t count
        uint32_t skip
        uint64_t owner

    cdef struct tm_split:
        uint32_t ticket
        uint32_t period
        uint32_t stride
        uint32_t first_contest
        uint32_t contest_count
        uint32_t cumulative[64]

    cdef struct tm_list:
        uint32_t first
        uint32_t count

    cdef struct tm_segment:
        tm_list rules

    cdef struct tm_rule_name:
        tm_list rules

    cdef struct tm_rule_value:
        uint32_t at

    enum:
        TM_TLS_ANY
        TM_TLS_ONLY
        TM_TLS_NONE

    cdef struct tm_pick_rule:
        tm_ranges sources
        tm_list listeners
        tm_list protocols
        tm_list tlvs
        uint8_t tls
        uint8_t reject
        uint32_t slot
        uint64_t since_generation
        tm_split split
        tm_list said
        char name[64]
        uint32_t weights[64]
        uint32_t file_weights[64]

    cdef struct tm_route_rule_set:
        uint32_t first_rule
        uint32_t rule_count
        tm_list segments
        tm_list names
        tm_list others
        uint32_t first_number, first_value, first_text

    cdef struct tm_convergence:
        uint64_t began_ms

    cdef struct tm_route:
        char name[64]
        uint32_t first_destination
        uint32_t destination_count
        uint32_t slot
        uint64_t since_generation
        tm_split split
        tm_ranges admitted
        tm_ranges senders
        tm_route_rules rules
        tm_convergence convergence
        tm_route_rule_set rule_set

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
        uint32_t maglev_count
        uint32_t range_count
        uint32_t pick_rule_count
        uint32_t segment_count
        uint32_t name_count
        uint32_t value_count
        uint32_t number_count
        uint32_t text_count
        uint32_t contest_count
        uint32_t contender_count
        tm_turn turns[1048576]
        uint16_t maglev[16777216]
        tm_range ranges[262144]
        tm_pick_rule pick_rules[65536]
        tm_segment segments[524288]
        tm_rule_name names[262144]
        tm_rule_value values[262144]
        uint16_t numbers[4194304]
        unsigned char text[67108864]
        tm_contest contests[65536]
        tm_contender contenders[1048576]

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
        int64_t reloaded_at
        char reload_error[512]
        tm_program programs[2]
        char labels[200704][120]

    int32_t tm_table_busy_poll(const tm_table *table)
    void tm_table_set_busy_poll(tm_table *table, int32_t busy_poll)
    uint64_t tm_table_generation(const tm_table *table)
    const tm_image *tm_table_image(const tm_table *table, uint64_t generation)
    int32_t tm_table_shard_owner(const tm_table *table, uint32_t shard)
    void tm_table_set_log(tm_table *table, uint32_t kinds, uint32_t capacity)
    uint32_t tm_table_log_style(const tm_table *table)
    void tm_table_set_log_style(tm_table *table, uint32_t number)
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


cdef extern from "pick_rules.h" nogil:
    cdef struct tm_facts:
        const unsigned char *ip
        uint16_t family
        uint16_t listener
        uint8_t tls
        uint16_t sni_size
        uint16_t alpn_size
        uint16_t tlvs_size
        const char *sni
        const unsigned char *alpn
        const unsigned char *tlvs
    uint32_t tm_rule_of(const tm_image *image, const tm_route *route, const tm_facts *facts)
    uint64_t tm_name_hash(const char *name, size_t size, bint is_suffix)


cdef extern from "pick.h" nogil:
    uint32_t tm_pick(const tm_split *split, uint64_t n)
    uint32_t tm_split_weight(const tm_split *split, uint32_t i)
    void tm_pick_plan(const uint32_t *weights, uint32_t count, tm_split *split)
    uint64_t tm_turn_hash(const tm_image *image, const tm_destination *destination, uint32_t turn)
    uint32_t tm_maglev_size(uint32_t turns)
    void tm_maglev_fill(uint16_t *entries, uint32_t size, const uint64_t *hashes, uint32_t count,
                        uint32_t *next, uint64_t *steps)
