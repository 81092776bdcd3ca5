/* csrc/trust.c: a region with any bytes in it is in bounds afterwards, and what was right is as it
 * was. Runs alone, under sanitizers. */
#include "trust.h"

#include <sys/mman.h>

#include "check.h"

enum { CAPACITY = 32, WORKER = 3, SLOTS = 64, ROUNDS = 3000 };
static const uint64_t NOW_US = 5000000000;

static struct tm_commons *commons;

static void *fresh(size_t size)
{
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(base != MAP_FAILED);
    return base;
}

static struct tm_live *new_live(void)
{
    struct tm_live *live = fresh(tm_live_size(CAPACITY));
    tm_live_init(live, WORKER, CAPACITY);
    return live;
}

static struct tm_cold *cold_of(struct tm_live *live, const struct tm_conn *conn)
{
    return &tm_live_colds(live, CAPACITY)[conn - live->records];
}

/* A connection that is open, and counted. */
static struct tm_conn *add_connection(struct tm_live *live, uint32_t endpoint)
{
    struct tm_conn *conn = &live->records[tm_live_next_record(live)];
    struct tm_cold *cold = cold_of(live, conn);
    conn->generation = 1;
    cold->route_slot = 0, conn->destination_slot = 1, cold->endpoint_slot = endpoint;
    cold->accepted_at_us = conn->last_activity_ms = 1000;
    cold->client.family = cold->client_family = cold->endpoint.family = AF_INET;
    for (int side = 0; side < 2; side++) {
        tm_conn_set_fd(conn, cold, side, (int32_t)(10 + 2 * live->records_used + side));
        conn->half[side].pipe.in = conn->half[side].pipe.out = -1;
        conn->half[side].base = tm_base_make(0, 0);
    }
    conn->timer_place = TM_UNARMED;
    for (int what = TM_HOLDS_LISTENER; what <= TM_HOLDS_ENDPOINT; what <<= 1) {
        if (what == TM_HOLDS_SOURCE)
            continue;
        tm_intent_begin(&live->intent, TM_COUNT_UP, (uint8_t)what);
        CHECK(tm_count_up(commons, tm_counted_of(commons, conn, cold, what), TM_NO_LIMIT,
                          &live->intent));
        cold->holds |= (uint8_t)what;
        tm_intent_end(&live->intent);
    }
    conn->state = TM_RELAYING;
    tm_count(&live->slots[0].opened, 1);
    return conn;
}

static void a_true_record_is_possible_and_unchanged(void)
{
    struct tm_live *live = new_live();
    struct tm_conn *conn = add_connection(live, 2), before = *conn;
    struct tm_cold *cold = cold_of(live, conn), cold_before = *cold;
    CHECK(tm_conn_possible(conn, cold, NOW_US));
    CHECK(memcmp(conn, &before, sizeof(before)) == 0);
    CHECK(memcmp(cold, &cold_before, sizeof(cold_before)) == 0);
    CHECK(munmap(live, tm_live_size(CAPACITY)) == 0);
}

static void what_would_lead_out_of_an_array_is_not(void)
{
    struct tm_live *live = new_live();
    struct tm_conn *conn = add_connection(live, 2), whole = *conn;
    struct tm_cold *cold = cold_of(live, conn), cold_whole = *cold;
#define IMPOSSIBLE(...)                                                                           \
    do {                                                                                          \
        *conn = whole, *cold = cold_whole;                                                        \
        __VA_ARGS__;                                                                              \
        CHECK(!tm_conn_possible(conn, cold, NOW_US));                                             \
    } while (0)
    IMPOSSIBLE(conn->state = 99);
    IMPOSSIBLE(conn->state = TM_FREE);
    IMPOSSIBLE(cold->route_slot = TM_MAX_SLOTS);
    IMPOSSIBLE(conn->destination_slot = TM_NONE); /* relaying to nobody */
    IMPOSSIBLE(cold->endpoint_slot = TM_NONE);
    IMPOSSIBLE(conn->half[1].state = 3);
    IMPOSSIBLE(conn->half[0].base = 0);
    IMPOSSIBLE(conn->half[0].base ^= 1);
    IMPOSSIBLE(conn->half[1].base += UINT64_C(1) << 22);
    IMPOSSIBLE(conn->half[0].base += UINT64_C(1) << 35);
    IMPOSSIBLE(conn->half[1].base = tm_base_seal(0, 0, 7)); /* endpoints send no header */
    IMPOSSIBLE(conn->half[0].base = tm_base_seal(0, 0, 7), conn->half[0].bytes = 1);
    IMPOSSIBLE(conn->state = TM_SCOUTING, conn->destination_slot = cold->endpoint_slot = TM_NONE);
    IMPOSSIBLE(conn->half[0].state = TM_HALF_ABORTED); /* and neither side was reset */
    IMPOSSIBLE(conn->half[1].bytes = 1, conn->state = TM_CONNECTING); /* after bytes passed */
    IMPOSSIBLE(conn->half[1].bytes = 1, conn->state = TM_WAITING);
    IMPOSSIBLE(conn->state = TM_WAITING, cold->stage = TM_STAGES);
    IMPOSSIBLE(conn->state = TM_READING, cold->preface = TM_PREFACES + 1);
    IMPOSSIBLE(conn->state = TM_WAITING, cold->stage = TM_STAGE_PLACE, cold->endpoint_slot = TM_NONE,
               conn->destination_slot = TM_NONE); /* after the pick */
    IMPOSSIBLE(conn->state = TM_WAITING, cold->stage = TM_STAGE_RELAY); /* to be relayed to nobody */
    IMPOSSIBLE(conn->state = TM_CONNECTING, cold->stage = TM_STAGE_RELAY,
               cold->endpoint_slot = TM_NONE);
    IMPOSSIBLE(conn->state = TM_CONNECTING, cold->stage = TM_STAGE_RELAY,
               conn->fd[TM_ENDPOINT] = -1);
    *conn = whole, *cold = cold_whole;
    cold->marks = 255;
    cold->close_reason = cold->pick_reason = cold->failure = 200;
    cold->until_ms = conn->last_activity_ms = UINT64_MAX;
    cold->rule_slot = TM_MAX_SLOTS;
    CHECK(tm_conn_possible(conn, cold, NOW_US));
    CHECK(cold->close_reason < TM_CLOSE_REASONS && cold->pick_reason < TM_PICK_REASONS);
    CHECK(cold->failure < TM_CLOSE_REASONS && cold->rule_slot == TM_NONE);
    CHECK(conn->last_activity_ms <= NOW_US / 1000);
    CHECK_EQUAL(cold->marks, TM_AWAITS_GONE | TM_HAS_MOVES);
    CHECK(munmap(live, tm_live_size(CAPACITY)) == 0);
}

static void what_other_endpoints_have_had_is_a_part_and_sealed(void)
{
    struct tm_conn conn = {0};
    struct tm_moves moves = {.stays_until_s = UINT32_MAX, .origin = {.worker = UINT32_MAX}};
    CHECK(tm_moves_possible(&moves, &conn, NOW_US));
    CHECK_EQUAL(moves.stays_until_s, 0);
    CHECK_EQUAL(moves.origin.worker, 0);
    conn.half[0].bytes = conn.half[1].bytes = 9;
    for (int side = 0; side < 2; side++) {
        moves.elsewhere[side] = tm_elsewhere_seal(9);
        CHECK(tm_moves_possible(&moves, &conn, NOW_US));
        moves.elsewhere[side] = 5; /* without its seal */
        CHECK(!tm_moves_possible(&moves, &conn, NOW_US));
        moves.elsewhere[side] = tm_elsewhere_seal(10);
        CHECK(!tm_moves_possible(&moves, &conn, NOW_US));
        moves.elsewhere[side] = 0;
    }
}

static void a_seal_tells_another_number(void)
{
    struct tm_conn conn = {0};
    struct tm_cold cold = {0};
    for (int32_t fd = 0; fd < 5000; fd++) {
        tm_conn_set_fd(&conn, &cold, TM_CLIENT, fd);
        CHECK(tm_conn_fd_sealed(&conn, &cold, TM_CLIENT));
        for (int32_t other = fd - 2; other <= fd + 2; other++) {
            conn.fd[TM_CLIENT] = other;
            CHECK(tm_conn_fd_sealed(&conn, &cold, TM_CLIENT) == (other == fd));
        }
    }
}

static void records_and_orders_are_known_twice(void)
{
    struct tm_live *live = new_live();
    for (uint32_t i = 0; i < 5; i++)
        add_connection(live, 2);
    CHECK_EQUAL(tm_records_checked(live, CAPACITY), 5);
    live->records_used = 0;
    CHECK_EQUAL(tm_records_checked(live, CAPACITY), 5);
    live->records_used = 5, live->records_again = UINT32_MAX;
    CHECK_EQUAL(tm_records_checked(live, CAPACITY), 5);
    tm_live_order(live, TM_ORDER_RETIRE);
    CHECK_EQUAL(tm_orders_checked(live), TM_ORDER_RETIRE);
    live->orders = TM_ORDER_DRAIN;
    CHECK_EQUAL(tm_orders_checked(live), 0);
    CHECK(munmap(live, tm_live_size(CAPACITY)) == 0);
}

static void a_garbled_journal_finds_its_record(void)
{
    struct tm_live *live = new_live();
    for (uint32_t i = 0; i < 5; i++)
        add_connection(live, 2);
    tm_journal_note(&live->journal, TM_QUEUE);
    live->records[3].half[1].blocked = TM_PUMPING;
    live->journal.current = 1; /* corrupt */
    live->journal.side = 0;
    tm_journal_mend(live, 5);
    CHECK(live->journal.current == 3 && live->journal.side == 1);
    live->journal.sealed ^= 1;
    CHECK(tm_journal_operation(&live->journal) == TM_GARBLED);
    live->journal.current = TM_NONE;
    tm_journal_mend(live, 5);
    CHECK_EQUAL(live->journal.current, 3);
    live->journal.sealed = 0;
    CHECK(tm_journal_operation(&live->journal) == TM_GARBLED);
    CHECK(munmap(live, tm_live_size(CAPACITY)) == 0);
}

static uint64_t odd_value(uint64_t was)
{
    switch (random_below(6)) {
    case 0: return 0;
    case 1: return UINT64_MAX;
    case 2: return was + 1;
    case 3: return was - 1;
    case 4: return random_below(300);
    default: return random_below(UINT64_MAX);
    }
}

/* What an incarnation does with a region, without sockets. */
static void take_up(struct tm_live *live)
{
    tm_live_mend(live, commons, WORKER, CAPACITY);
    CHECK(live->worker == WORKER && live->capacity == CAPACITY);
    CHECK(live->records_used <= CAPACITY && live->listening_count <= TM_MAX_LISTENING);
    tm_journal_mend(live, live->records_used);
    CHECK(live->journal.current == TM_NONE || live->journal.current < live->records_used);
    for (uint32_t i = 0; i < live->listening_count; i++)
        if (tm_listening_possible(&live->listening[i]))
            CHECK(live->listening[i].id < TM_MAX_LISTENERS && live->listening[i].shard < TM_MAX_SHARDS);
    for (uint32_t i = 0; i < live->records_used; i++) {
        struct tm_conn *conn = &live->records[i];
        struct tm_cold *cold = cold_of(live, conn);
        if (!tm_conn_possible(conn, cold, NOW_US))
            continue;
        tm_source_mend(commons, cold);
        tm_count(&live->slots[cold->route_slot].closed[cold->close_reason], 1);
        for (int what = 1; what < 64; what <<= 1) {
            struct tm_counted *at = tm_counted_of(commons, conn, cold, what);
            if (at && cold->holds & what)
                CHECK(tm_counted_now(at) <= TM_NO_LIMIT);
        }
    }
}

/* Every word in its turn, and many of them at random; then all words at once. */
static void any_bytes_can_be_taken_up(void)
{
    struct tm_live *live = new_live(), *whole = fresh(tm_live_size(CAPACITY));
    size_t head = offsetof(struct tm_live, slots), records = offsetof(struct tm_live, records);
    size_t records_size = CAPACITY * (sizeof(struct tm_conn) + sizeof(struct tm_cold));
    for (uint32_t i = 0; i < 20; i++)
        add_connection(live, 2 + i % 3);
    memcpy(whole, live, head);
    memcpy((char *)whole + records, (char *)live + records, records_size);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        size_t end = random_below(2) ? head : records_size;
        size_t words = round < ROUNDS - 100 ? 1 : end / 8;
        while (words--) {
            size_t offset = random_below(end / 4) * 4;
            char *at = (char *)live + (end == head ? 0 : records) + offset;
            uint64_t value;
            size_t size = offset + 8 <= end && random_below(2) ? 8 : 4;
            memcpy(&value, at, size);
            value = odd_value(value);
            memcpy(at, &value, size);
        }
        take_up(live);
        if (random_below(4) == 0)
            CHECK(tm_live_renew(live, commons, WORKER, CAPACITY, SLOTS) <= CAPACITY);
        memcpy(live, whole, head);
        memcpy((char *)live + records, (char *)whole + records, records_size);
    }
    CHECK(munmap(live, tm_live_size(CAPACITY)) == 0 && munmap(whole, tm_live_size(CAPACITY)) == 0);
}

static void a_renewed_region_gives_back_what_it_counted(void)
{
    struct tm_live *live = new_live();
    memset(commons->slots, 0, SLOTS * sizeof(commons->slots[0]));
    memset(commons->listeners, 0, 16 * sizeof(commons->listeners[0]));
    for (uint32_t i = 0; i < 20; i++)
        add_connection(live, 2);
    CHECK_EQUAL(tm_counted_now(&commons->slots[0].connections), 20);
    atomic_store(&live->log.taken, 7);
    atomic_store(&live->log.written, UINT64_MAX / 2);
    CHECK_EQUAL(tm_live_renew(live, commons, WORKER, CAPACITY, SLOTS), 20);
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        CHECK_EQUAL(tm_counted_now(&commons->slots[slot].connections), 0);
        CHECK_EQUAL(tm_slot_active(&live->slots[slot]), 0);
    }
    CHECK_EQUAL(tm_counted_now(&commons->listeners[0]), 0);
    CHECK_EQUAL(live->slots[0].closed[TM_CLOSED_worker_lost], 20);
    CHECK_EQUAL(tm_log_written(&live->log), 7);
    CHECK(live->records_used == 0 && live->records[0].state == TM_FREE);
    CHECK_EQUAL(live->records[0].generation, 1);
    CHECK(munmap(live, tm_live_size(CAPACITY)) == 0);
}

int main(void)
{
    random_seed();
    commons = fresh(sizeof(*commons));
    RUN(a_true_record_is_possible_and_unchanged);
    RUN(what_would_lead_out_of_an_array_is_not);
    RUN(what_other_endpoints_have_had_is_a_part_and_sealed);
    RUN(a_seal_tells_another_number);
    RUN(records_and_orders_are_known_twice);
    RUN(a_garbled_journal_finds_its_record);
    RUN(any_bytes_can_be_taken_up);
    RUN(a_renewed_region_gives_back_what_it_counted);
    return 0;
}
