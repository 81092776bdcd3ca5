/* The route table: what to do with a connection, in shared memory.
 *
 * WRITER  the master alone. READERS  workers (mapped read-only), control.
 *
 * Two images and a generation. Image (generation & 1) is in force. To publish,
 * the master fills the other image and then store-releases generation + 1:
 *
 *     master                                worker, before each batch of accepts
 *     ------                                -------------------------------------
 *     wait: every generation_seen == g      g = load_acquire(generation)
 *     fill image[(g + 1) & 1]               use image[g & 1] until the next batch
 *     store_release(generation, g + 1)      generation_seen = g      (live.h)
 *
 * So an image is never written while a worker may read it. A reader may be one
 * generation behind for the length of one batch of events; that is harmless: a
 * connection picked then was accepted "before the change".
 * Control holds no image: it copies, and keeps the copy only if the generation
 * is still the same afterwards (the image it read is refilled only after the
 * next generation is out). The release fence at the start of filling goes with the
 * acquire fence in tm_table_is_still(): a reader of any word of the refilled image
 * sees the next generation.
 *
 * There are no pointers, only offsets and indexes, as each process may map the
 * region at another address.
 */
#ifndef TM_ROUTE_TABLE_H
#define TM_ROUTE_TABLE_H

#include <netinet/in.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "convergence.h"
#include "split.h"
#include "sticky.h"

#define TM_TABLE_MAGIC 0x656c626174787574ull /* "tuxtable", little endian */
#define TM_TABLE_FORMAT 8u

#define TM_CACHE_LINE 64
#define TM_LABEL_SIZE 120         /* with its NUL: a name, or an address as text */
#define TM_MAX_ROUTES 4096
#define TM_MAX_LISTENERS 4096
#define TM_MAX_ALL_DESTINATIONS 65536
#define TM_MAX_ENDPOINTS 65536
#define TM_MAX_TURNS (1u << 20)   /* of all destinations together */
#define TM_MAX_MAGLEV (1u << 24)  /* of all maglev tables together; pick.h */
#define TM_MAX_SHARDS 64          /* also the most workers there can be */
#define TM_MAX_WEIGHT 1000000u
#define TM_ANY_WORKER (-1)        /* shard owner: all workers poll it */

/* Counter slots: routes, destinations, endpoints and rules draw from one space. */
#define TM_MAX_SLOTS                                                                              \
    (TM_MAX_ROUTES + TM_MAX_ALL_DESTINATIONS + TM_MAX_ENDPOINTS + TM_MAX_ALL_RULES)
/* Tickets: one per route and per rule (the pick), and one per destination (endpoint turns). */
#define TM_MAX_TICKETS (TM_MAX_ROUTES + TM_MAX_ALL_DESTINATIONS + TM_MAX_ALL_RULES)

struct tm_address {
    socklen_t length; /* 0 = none */
    union {
        struct sockaddr any;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
        struct sockaddr_un un;
    };
};

/* What an operator wants of a destination or an endpoint. */
enum tm_admin_state {
    TM_READY = 0,
    TM_DRAINING_OUT, /* no new connections */
    TM_DISABLED,     /* the same, and it is out of service on purpose */
};

/* How an endpoint is, as far as control knows. */
enum tm_health {
    TM_HEALTHY = 0,
    TM_DOWN,    /* by its checks */
    TM_EJECTED, /* by what connections have met with there */
};

/* How a destination's endpoints are chosen. */
enum tm_balance {
#define TM_BALANCE(name, symbol, help) symbol,
#include "balances.def"
};

/* What a destination does that has max_connections already. */
enum tm_on_full { TM_FULL_REJECT = 0, TM_FULL_SPILL, TM_FULL_QUEUE };

/* What clients may ask for before TLS, and what happens to those that say nothing. */
enum tm_preread_starttls { TM_STARTTLS_NONE = 0, TM_STARTTLS_POSTGRES };
enum tm_preread_silent { TM_SILENT_DEFAULT = 0, TM_SILENT_REJECT };

/* Who gets the share of a destination with no endpoint that can take it, and what happens when
 * that is every one. */
enum tm_on_unavailable { TM_REDISTRIBUTE = 0, TM_REJECT_SHARE, TM_FALL_BACK };
enum tm_on_all_unavailable { TM_RESET_ALL = 0, TM_HOLD, TM_REFUSE };

struct tm_route_rules {
#define TM_ROUTE_RULE(name, unit, help) uint64_t name;
#include "rules.def"
};

struct tm_destination_rules {
#define TM_DESTINATION_RULE(name, unit, help) uint64_t name;
#include "rules.def"
};

struct tm_endpoint_rules {
#define TM_ENDPOINT_RULE(name, unit, help) uint64_t name;
#include "rules.def"
};

struct tm_endpoint {
    struct tm_address address;
    uint32_t slot;
    uint32_t admin_state; /* enum tm_admin_state */
    uint64_t since_generation; /* has its slot: its counters start at 0 there */
    uint64_t hash; /* of its address: the same everywhere */
    uint64_t state_until; /* seconds since the epoch: then it is ready again; 0 = for ever */
    uint64_t state_since; /* the same: admin_state is so; 0 = it has never been another */
    uint64_t health_since; /* the same of health */
    uint32_t weight;          /* turns where another takes one */
    uint32_t health;          /* enum tm_health */
    uint32_t slow_start_percent; /* of its share that it gets now; 100 = it is over */
    struct tm_endpoint_rules rules;
};

/* One of the turns that a destination's endpoints take. A tier is those of one priority. */
struct tm_turn {
    uint32_t endpoint; /* index in the destination */
    uint32_t number;   /* of its turns so far: each has a hash of its own */
};

struct tm_destination {
    char name[TM_NAME_SIZE];
    uint32_t weight;           /* asked for, now */
    uint32_t file_weight;      /* asked for by the configuration file */
    uint32_t effective_weight; /* what the pick uses; only their ratio in the route matters */
    uint32_t slow_start_percent; /* of its share that it gets now; 100 = it is over */
    uint32_t first_endpoint;   /* index into image.endpoints */
    uint32_t endpoint_count;   /* all that are configured */
    uint32_t first_turn;       /* index into image.turns */
    uint32_t turn_count;       /* of the first tier; 0 = none can take a connection */
    uint32_t reserve_count;    /* of the tiers after it, which come next in image.turns, in order */
    uint32_t first_maglev;      /* index into image.maglev: of maglev */
    uint32_t maglev_count;
    uint32_t panic;            /* too few are healthy, so health is ignored */
    uint32_t unresolved;       /* endpoints by name that have no address now */
    uint32_t admin_state;      /* enum tm_admin_state */
    uint64_t state_since;      /* as of an endpoint */
    uint32_t route;            /* index into image.routes */
    uint32_t ticket;           /* for endpoint turns */
    uint32_t slot;
    uint64_t since_generation;
    struct tm_destination_rules rules;
};

struct tm_route {
    char name[TM_NAME_SIZE];
    uint32_t first_destination; /* index into image.destinations */
    uint32_t destination_count;
    uint32_t slot;
    uint64_t since_generation;
    struct tm_split split;     /* by the weights of the destinations */
    struct tm_ranges admitted; /* clients that are let in */
    struct tm_ranges senders;  /* peers that send a header of the PROXY protocol: conn/proxy.h */
    struct tm_route_rules rules;
    struct tm_convergence convergence;
    struct tm_route_rule_set rule_set; /* by which connections are picked before the weights */
};

struct tm_listener {
    struct tm_address address;
    uint32_t id;    /* stays with the address while it is configured */
    uint32_t route; /* index into image.routes */
};

struct tm_image {
    uint64_t generation;
    uint32_t route_count;
    uint32_t destination_count;
    uint32_t endpoint_count;
    uint32_t listener_count;
    uint32_t route_of_listener[TM_MAX_LISTENERS]; /* by listener id; TM_NONE = no route */
    struct tm_listener listeners[TM_MAX_LISTENERS];
    struct tm_route routes[TM_MAX_ROUTES];
    struct tm_destination destinations[TM_MAX_ALL_DESTINATIONS];
    struct tm_endpoint endpoints[TM_MAX_ENDPOINTS];
    uint32_t turn_count;
    uint32_t maglev_count;
    uint32_t range_count;
    uint32_t pick_rule_count;
    uint32_t segment_count;
    uint32_t name_count;
    uint32_t value_count;
    uint32_t number_count;
    uint32_t text_count;
    uint32_t contest_count, contender_count;
    struct tm_turn turns[TM_MAX_TURNS];
    uint16_t maglev[TM_MAX_MAGLEV]; /* turn of each, within its destination */
    struct tm_range ranges[TM_MAX_RANGES];
    struct tm_pick_rule pick_rules[TM_MAX_ALL_RULES];
    struct tm_segment segments[TM_MAX_SEGMENTS];
    struct tm_rule_name names[TM_MAX_RULE_NAMES];
    struct tm_rule_value values[TM_MAX_RULE_VALUES];
    uint16_t numbers[TM_MAX_RULE_NUMBERS]; /* rules of the route, or ids of listeners */
    unsigned char text[TM_MAX_RULE_TEXT];
    struct tm_contest contests[TM_MAX_CONTESTS];
    struct tm_contender contenders[TM_MAX_CONTENDERS];
};

enum tm_state { TM_RUNNING = 1, TM_DRAINING = 2 };

enum tm_upgrade { TM_UPGRADE_NONE = 0, TM_UPGRADE_RUNNING, TM_UPGRADE_FAILED };
#define TM_ERROR_SIZE 512 /* with its NUL */

/* The programs that the master runs beside the workers. */
enum tm_program_id { TM_CONTROL = 0, TM_LOGGER, TM_PROGRAMS };

struct tm_program {
    int32_t pid;       /* 0 = it does not run */
    uint32_t presence; /* enum tm_presence (live.h), as the master sees it; absent = not wanted */
    uint64_t starts;   /* processes of it since the start of the instance */
    uint64_t hangs;    /* times that it was found stopped or hanging */
};

/* What the key `buffers` says, and the host. */
enum tm_buffers {
    TM_BUFFER_CLIENT = 0, /* may wait for a client that has not shown that it reads */
    TM_BUFFER_ENDPOINT,   /* the same for an endpoint: as enum tm_side */
    TM_BUFFER_PIPE,       /* size of a pipe */
    TM_BUFFER_PER_SOURCE, /* of what one client does not read; 0 = no limit */
    TM_BUFFER_TOTAL,      /* of what nobody reads; 0 = no limit */
    TM_BUFFER_PIPES,      /* size of the pipes of all workers together: pipe_pool.h; 0 = no limit */
    TM_BUFFERS,
};

struct tm_table {
    uint64_t magic;
    uint32_t format;
    uint32_t worker_count;
    uint64_t size;
    uint64_t layout;     /* of all regions, by the build that made them */
    int64_t started_at;  /* seconds since the epoch */
    int32_t master_pid;
    uint32_t shard_count;   /* fixed: of each TCP listener, and the most workers there can be */
    uint32_t slots_given;   /* slots and tickets up to these have belonged to some name, */
    uint32_t tickets_given; /* for a master that takes over */
    uint32_t upgrades;      /* begun since the start */
    uint32_t upgrade_state; /* enum tm_upgrade */
    char upgrade_error[TM_ERROR_SIZE]; /* of the last one; "" = none */
    uint64_t reloads_done, reloads_refused;
    int64_t reloaded_at; /* the last of them, seconds since the epoch; 0 = there was none */
    char reload_error[TM_ERROR_SIZE]; /* why that one was refused; "" = it was carried out */
    struct tm_program programs[TM_PROGRAMS];
    _Atomic uint32_t state; /* enum tm_state */
    _Atomic int32_t busy_poll; /* for workers: waiter.h */
    _Atomic uint32_t log_kinds;    /* for workers: enum tm_log_wanted */
    _Atomic uint32_t log_capacity; /* entries of each worker */
    _Atomic uint32_t log_style;    /* of the diagnostic log: tcpmux/log_style.py */
    /* For workers: what connections may hold whose peer does not read, in bytes. */
    _Atomic uint64_t buffers[TM_BUFFERS];
    /* Who polls which shard of every TCP listener: a worker's id. One relaxed
     * store moves a shard; a worker looks when it is woken. */
    _Atomic int32_t shard_owner[TM_MAX_SHARDS];
    _Alignas(TM_CACHE_LINE) _Atomic uint64_t generation; /* 0 = nothing published */
    _Alignas(TM_CACHE_LINE) struct tm_image images[2];
    /* Whose slot it is: route or destination name, or address. Written before the first
     * generation that uses it, and kept: for what is told of a name that a reload removed. */
    char labels[TM_MAX_SLOTS][TM_LABEL_SIZE];
};

/* Whose turn is next: taken by workers at the same time. */
struct tm_rota {
    _Atomic uint64_t next;
};

/* One with a cache line to itself. */
struct tm_ticket {
    _Alignas(TM_CACHE_LINE) struct tm_rota rota;
};

static inline uint64_t tm_table_generation(const struct tm_table *table)
{
    return atomic_load_explicit(&table->generation, memory_order_acquire);
}

/* After a copy was made of the image of that generation: whether it is whole. */
static inline bool tm_table_is_still(const struct tm_table *table, uint64_t generation)
{
    atomic_thread_fence(memory_order_acquire);
    return atomic_load_explicit(&table->generation, memory_order_relaxed) == generation;
}

static inline const struct tm_image *tm_table_image(const struct tm_table *table,
                                                    uint64_t generation)
{
    return &table->images[generation & 1];
}

static inline int32_t tm_table_shard_owner(const struct tm_table *table, uint32_t shard)
{
    return atomic_load_explicit(&table->shard_owner[shard], memory_order_relaxed);
}

static inline int32_t tm_table_busy_poll(const struct tm_table *table)
{
    return atomic_load_explicit(&table->busy_poll, memory_order_relaxed);
}

static inline void tm_table_set_busy_poll(struct tm_table *table, int32_t busy_poll)
{
    atomic_store_explicit(&table->busy_poll, busy_poll, memory_order_relaxed);
}

/* Acquire: with it comes the capacity that was set before. */
static inline uint32_t tm_table_log_kinds(const struct tm_table *table)
{
    return atomic_load_explicit(&table->log_kinds, memory_order_acquire);
}

static inline uint32_t tm_table_log_capacity(const struct tm_table *table)
{
    return atomic_load_explicit(&table->log_capacity, memory_order_relaxed);
}

static inline uint64_t tm_table_buffer(const struct tm_table *table, int which)
{
    return atomic_load_explicit(&table->buffers[which], memory_order_relaxed);
}

static inline void tm_table_set_buffer(struct tm_table *table, int which, uint64_t bytes)
{
    atomic_store_explicit(&table->buffers[which], bytes, memory_order_relaxed);
}

static inline void tm_table_set_log(struct tm_table *table, uint32_t kinds, uint32_t capacity)
{
    atomic_store_explicit(&table->log_capacity, capacity, memory_order_relaxed);
    atomic_store_explicit(&table->log_kinds, kinds, memory_order_release);
}

static inline uint32_t tm_table_log_style(const struct tm_table *table)
{
    return atomic_load_explicit(&table->log_style, memory_order_relaxed);
}

static inline void tm_table_set_log_style(struct tm_table *table, uint32_t number)
{
    atomic_store_explicit(&table->log_style, number, memory_order_relaxed);
}

static inline uint64_t tm_rota_take(struct tm_rota *rota)
{
    return atomic_fetch_add_explicit(&rota->next, 1, memory_order_relaxed);
}

static inline uint64_t tm_rota_next(const struct tm_rota *rota)
{
    return atomic_load_explicit(&rota->next, memory_order_relaxed);
}

/* Takes number *next + skipped, and with it all before, which nobody can use. False: another worker
 * was faster, and *next is what is next now. */
static inline bool tm_rota_skip(struct tm_rota *rota, uint64_t *next, uint64_t skipped)
{
    return atomic_compare_exchange_strong_explicit(
        &rota->next, next, *next + skipped + 1, memory_order_relaxed, memory_order_relaxed);
}

static inline uint64_t tm_ticket_take(struct tm_ticket *ticket)
{
    return tm_rota_take(&ticket->rota);
}

/* The master's side; route_table.c. */
void tm_table_init(struct tm_table *table, uint32_t workers, uint32_t shards, int32_t master_pid,
                   int64_t started_at);
/* True if `size` bytes at `table` are a table of this build. */
bool tm_table_valid(const struct tm_table *table, size_t size);
/* The image to fill next. Precondition: every worker has seen the generation in force. */
struct tm_image *tm_table_idle_image(struct tm_table *table);
/* Puts the idle image in force; returns its generation. */
uint64_t tm_table_publish(struct tm_table *table);
void tm_table_set_shard_owner(struct tm_table *table, uint32_t shard, int32_t worker);
void tm_table_set_state(struct tm_table *table, enum tm_state state);
uint32_t tm_table_state(const struct tm_table *table);

#endif
