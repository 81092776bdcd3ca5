/* What processes tell each other in shared memory without a lock, as threads: run under a sanitizer
 * for races, which knows the memory model of C and not that of this machine alone. It takes no
 * notice of fences by themselves, so where one of them orders (a record's copy, a table's image),
 * what is copied is copied by atomic loads, and whether it belongs together is checked as well. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

#include "access_log.h"
#include "check.h"
#include "commons.h"
#include "live_copy.h"
#include "route_table.h"

enum { ROUNDS = 4000, GENERATIONS = 300, COPIES = 300, WORKERS = 2, LIMIT = 3 };

static void *fresh(size_t size)
{
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(base != MAP_FAILED);
    return base;
}

static void start(pthread_t *thread, void *(*run)(void *), void *argument)
{
    CHECK(pthread_create(thread, NULL, run, argument) == 0);
}

static void finish(pthread_t thread)
{
    CHECK(pthread_join(thread, NULL) == 0);
}

/* --- the table: route_table.h --- */

static struct tm_table *table;
static struct tm_live *lives[WORKERS];

static void *use_images(void *number)
{
    struct tm_live *live = lives[(uintptr_t)number];
    uint64_t generation = 0;
    while (generation < GENERATIONS) {
        uint64_t now = tm_table_generation(table);
        if (now != generation) {
            generation = now;
            tm_live_set_generation_seen(live, generation);
        }
        if (generation == 0) {
            sched_yield();
            continue;
        }
        const struct tm_image *image = tm_table_image(table, generation);
        CHECK_EQUAL(image->generation, generation);
        CHECK_EQUAL(image->routes[0].since_generation, generation);
        CHECK_EQUAL(image->turns[7].number, (uint32_t)generation);
        sched_yield();
    }
    return NULL;
}

static void images_change_under_nobody(void)
{
    pthread_t readers[WORKERS];
    table = fresh(sizeof(*table));
    tm_table_init(table, WORKERS, 1, 1, 1);
    for (uintptr_t i = 0; i < WORKERS; i++) {
        lives[i] = fresh(tm_live_size(0));
        start(&readers[i], use_images, (void *)i);
    }
    for (uint64_t next = 1; next <= GENERATIONS; next++) {
        for (int i = 0; i < WORKERS; i++)
            while (tm_live_generation_seen(lives[i]) != next - 1)
                sched_yield();
        struct tm_image *image = tm_table_idle_image(table);
        image->routes[0].since_generation = next;
        image->turns[7].number = (uint32_t)next;
        CHECK_EQUAL(tm_table_publish(table), next);
    }
    for (int i = 0; i < WORKERS; i++) {
        finish(readers[i]);
        CHECK(munmap(lives[i], tm_live_size(0)) == 0);
    }
    CHECK(munmap(table, sizeof(*table)) == 0);
}

/* --- records and counters: live.h --- */

static struct tm_live *live;
static _Atomic uint32_t copies;
static _Atomic bool over;

static void *live_through_connections(void *unused)
{
    struct tm_conn made = {.destination_slot = 1};
    struct tm_cold made_cold = {.route_slot = 1};
    struct tm_conn *conn = &live->records[0];
    struct tm_cold *cold = tm_live_colds(live, 1);
    (void)unused;
    for (uint32_t round = 1; atomic_load(&copies) < COPIES; round++) {
        made_cold.table_generation = made_cold.accepted_at_us = made_cold.until_ms = round;
        made_cold.source = made_cold.destination = made.half[1].queued = round;
        tm_count(&live->slots[0].opened, 1);
        tm_conn_replace(conn, cold, &made, &made_cold);
        tm_conn_enter(conn, TM_CONNECTING);
        tm_conn_enter(conn, TM_RELAYING);
        if (round % 3 == 0)
            sched_yield();
        tm_conn_enter(conn, TM_ENDING);
        tm_count(&live->slots[0].closed[TM_CLOSED_finished], 1);
        tm_conn_enter(conn, TM_DEAD);
        tm_conn_enter(conn, TM_FREE);
    }
    atomic_store(&over, true);
    return NULL;
}

static void a_copy_is_of_one_connection(void)
{
    pthread_t writer;
    struct tm_copy copy = {0};
    uint32_t last = 0;
    live = fresh(tm_live_size(1));
    tm_live_init(live, 0, 1);
    atomic_store(&over, false);
    start(&writer, live_through_connections, NULL);
    while (!atomic_load(&over)) {
        CHECK(tm_slot_active(&live->slots[0]) <= UINT32_MAX); /* and not minus one */
        if (!tm_conn_copy(live, 1, 0, &copy))
            continue;
        if (copy.conn.generation != last)
            atomic_fetch_add(&copies, 1);
        last = copy.conn.generation;
        const struct tm_cold *cold = &copy.cold;
        CHECK(cold->accepted_at_us == cold->table_generation && cold->until_ms == cold->source);
        CHECK(cold->source == cold->table_generation && cold->destination == cold->source);
        CHECK(copy.conn.half[1].queued == cold->source && copy.conn.generation == cold->source);
    }
    finish(writer);
    fprintf(stderr, "    of %u connections\n", copy.conn.generation);
    CHECK_EQUAL(tm_slot_active(&live->slots[0]), 0);
    CHECK(munmap(live, tm_live_size(1)) == 0);
}

/* Two connections take turns with one annex, as the free list would have it. */
static void *live_with_one_annex(void *unused)
{
    struct tm_annex *annex = tm_live_annexes(live, 2), made = {0};
    struct tm_cold *colds = tm_live_colds(live, 2);
    (void)unused;
    for (uint32_t round = 1; atomic_load(&copies) < COPIES; round++) {
        uint32_t index = round % 2;
        tm_conn_replace(&live->records[index], &colds[index], NULL, NULL);
        tm_annex_disown(annex);
        tm_annex_own(annex, index, live->records[index].generation);
        memset(made.bytes, (int)(round % 251 + 1), sizeof(made.bytes));
        tm_words_store(annex, &made, 4, TM_ANNEX_WORDS);
        __atomic_store_n(&colds[index].annex, 1, __ATOMIC_RELAXED);
        tm_conn_enter(&live->records[index], TM_ACCEPTED);
        if (round % 3 == 0)
            sched_yield();
        tm_conn_enter(&live->records[index], TM_ENDING);
        __atomic_store_n(&colds[index].annex, 0, __ATOMIC_RELAXED);
        tm_conn_enter(&live->records[index], TM_DEAD);
        tm_conn_enter(&live->records[index], TM_FREE);
    }
    atomic_store(&over, true);
    return NULL;
}

static void a_copied_annex_is_of_one_connection(void)
{
    pthread_t writer;
    live = fresh(tm_live_size(2));
    tm_live_init(live, 0, 2);
    atomic_store(&over, false);
    atomic_store(&copies, 0);
    start(&writer, live_with_one_annex, NULL);
    for (uint32_t turn = 0; !atomic_load(&over); turn++) {
        struct tm_copy copy;
        struct tm_annex annex;
        uint32_t index = turn % 2;
        if (!tm_conn_copy(live, 2, index, &copy) || !tm_annex_copy(live, 2, index, &copy, &annex))
            continue;
        atomic_fetch_add(&copies, 1);
        /* The record was used in every other round. */
        uint32_t round = index ? copy.conn.generation * 2 - 1 : copy.conn.generation * 2;
        for (size_t i = 4; i < sizeof(annex.bytes); i++)
            CHECK_EQUAL(annex.bytes[i], round % 251 + 1);
    }
    finish(writer);
    CHECK(munmap(live, tm_live_size(2)) == 0);
}

/* --- the log: access_log.h --- */

static struct tm_log *access_log;

static void *write_entries(void *unused)
{
    (void)unused;
    for (uint32_t number = 0; number < ROUNDS;) {
        struct tm_log_entry *entry = tm_log_free_entry(access_log, 16);
        if (!entry) {
            sched_yield();
            continue;
        }
        entry->index = number;
        entry->at_us = number * 3ull;
        tm_log_commit(access_log);
        number++;
    }
    return NULL;
}

static void every_entry_is_taken_once(void)
{
    pthread_t writer;
    access_log = fresh(sizeof(*access_log));
    start(&writer, write_entries, NULL);
    for (uint64_t taken = 0; taken < ROUNDS;) {
        uint64_t written = tm_log_written(access_log);
        CHECK(written - taken <= 16);
        for (; taken < written; taken++) {
            const struct tm_log_entry *entry = &access_log->entries[taken % TM_LOG_ENTRIES];
            CHECK(entry->index == taken && entry->at_us == taken * 3);
        }
        tm_log_take(access_log, taken);
    }
    finish(writer);
    CHECK(munmap(access_log, sizeof(*access_log)) == 0);
}

/* --- counts and buckets: commons.h --- */

static struct tm_commons *commons;
static _Atomic uint32_t inside;

static void *count_and_pay(void *number)
{
    struct tm_intent intent = {.worker = (uint32_t)(uintptr_t)number};
    struct tm_counted *at = &commons->slots[1].connections;
    unsigned char ip[16] = {10, 0, 0, 7};
    uint64_t key = tm_source_key(commons, 1, AF_INET, ip);
    for (uint32_t i = 0; i < ROUNDS; i++) {
        tm_intent_begin(&intent, TM_COUNT_UP, 1);
        bool counted = tm_count_up(commons, at, LIMIT, &intent);
        tm_intent_end(&intent);
        if (counted) {
            CHECK(atomic_fetch_add(&inside, 1) < LIMIT);
            atomic_fetch_sub(&inside, 1);
            tm_intent_begin(&intent, TM_COUNT_DOWN, 1);
            tm_count_down(commons, at, &intent);
            CHECK(tm_intent_did(commons, at, &intent));
            tm_intent_end(&intent);
        }
        tm_intent_begin(&intent, TM_COUNT_UP, 1);
        int entry = tm_source_up(commons, key, LIMIT, i, &intent);
        tm_intent_end(&intent);
        if (entry >= 0) {
            tm_intent_begin(&intent, TM_COUNT_DOWN, 1);
            tm_count_down(commons, &commons->sources[entry].connections, &intent);
            tm_intent_end(&intent);
        }
        tm_connect_allowed(&commons->slots[1], i * 1000, 1000, 10);
        tm_bytes_reserve(&commons->slots[1], i & 1, i * 1000, 50);
        tm_bytes_settle(&commons->slots[1], i & 1, -20);
        tm_retry_earn(&commons->slots[1], 20);
        tm_retry_take(&commons->slots[1], 10);
        tm_ticket_take(&commons->tickets[0]);
        tm_note_failure(&commons->slots[1], ECONNREFUSED, 5);
        tm_note_success(&commons->slots[1]);
        tm_avoid(&commons->slots[1], i);
        tm_avoided(&commons->slots[1], i);
    }
    return NULL;
}

static void counts_are_exact(void)
{
    pthread_t counters[4];
    uint32_t left = 0;
    commons = fresh(sizeof(*commons));
    for (uintptr_t i = 0; i < 4; i++)
        start(&counters[i], count_and_pay, (void *)i);
    for (int i = 0; i < 4; i++)
        finish(counters[i]);
    CHECK_EQUAL(tm_counted_now(&commons->slots[1].connections), 0);
    for (uint32_t i = 0; i < TM_MAX_SOURCES; i++)
        left += tm_counted_now(&commons->sources[i].connections);
    CHECK_EQUAL(left, 0);
    CHECK_EQUAL(tm_ticket_take(&commons->tickets[0]), 4 * ROUNDS);
}

int main(void)
{
    RUN(images_change_under_nobody);
    RUN(a_copy_is_of_one_connection);
    RUN(a_copied_annex_is_of_one_connection);
    RUN(every_entry_is_taken_once);
    RUN(counts_are_exact);
    return 0;
}
