/* Tests csrc/route_table: what init sets, what is refused as foreign, and which image is in
 * force when. Runs alone, under sanitizers. */
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "route_table.h"

enum { WORKERS = 3, SHARDS = 8, MASTER = 4711 };
static const int64_t STARTED = 1700000000;

/* Fresh, zeroed and shared, as memfd gives it. */
static struct tm_table *map_table(void)
{
    struct tm_table *table = mmap(NULL, sizeof(*table), PROT_READ | PROT_WRITE,
                                  MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(table != MAP_FAILED);
    tm_table_init(table, WORKERS, SHARDS, MASTER, STARTED);
    return table;
}

static void unmap_table(struct tm_table *table)
{
    CHECK(munmap(table, sizeof(*table)) == 0);
}

static void init_fills_the_head_and_publishes_nothing(void)
{
    struct tm_table *table = map_table();
    CHECK_EQUAL(table->magic, TM_TABLE_MAGIC);
    CHECK_EQUAL(table->format, TM_TABLE_FORMAT);
    CHECK_EQUAL(table->size, sizeof(*table));
    CHECK_EQUAL(table->worker_count, WORKERS);
    CHECK_EQUAL(table->shard_count, SHARDS);
    CHECK(table->master_pid == MASTER && table->started_at == STARTED);
    CHECK_EQUAL(tm_table_state(table), TM_RUNNING);
    CHECK_EQUAL(tm_table_generation(table), 0);
    for (uint32_t shard = 0; shard < TM_MAX_SHARDS; shard++)
        CHECK(tm_table_shard_owner(table, shard) == (int32_t)(shard % WORKERS));
    unmap_table(table);
}

static void only_a_table_of_this_build_is_valid(void)
{
    struct tm_table *table = map_table();
    size_t size = sizeof(*table);
    CHECK(tm_table_valid(table, size));
    CHECK(tm_table_valid(table, size + 1)); /* a mapping is rounded up to pages */
    CHECK(!tm_table_valid(table, size - 1));
    CHECK(!tm_table_valid(table, 0));

    table->magic ^= 1;
    CHECK(!tm_table_valid(table, size));
    table->magic ^= 1;
    table->format++;
    CHECK(!tm_table_valid(table, size));
    table->format--;
    table->size++;
    CHECK(!tm_table_valid(table, size));
    table->size--;
    table->worker_count = 0;
    CHECK(!tm_table_valid(table, size));
    table->worker_count = TM_MAX_SHARDS + 1;
    CHECK(!tm_table_valid(table, size));
    table->worker_count = TM_MAX_SHARDS;
    CHECK(tm_table_valid(table, size));
    unmap_table(table);
}

static void too_short_a_region_is_refused_without_reading_it(void)
{
    /* Exactly as long as told, so that the sanitizer sees a read past it. */
    void *short_region = calloc(1, 8);
    CHECK(short_region);
    CHECK(!tm_table_valid(short_region, 8));
    free(short_region);
}

static void images_take_turns(void)
{
    struct tm_table *table = map_table();
    for (uint64_t generation = 1; generation <= 9; generation++) {
        const struct tm_image *in_force = tm_table_image(table, generation - 1);
        struct tm_image *idle = tm_table_idle_image(table);
        CHECK((const struct tm_image *)idle != in_force);
        CHECK(idle == &table->images[generation & 1]);
        CHECK_EQUAL(idle->generation, generation);
        /* Filling it changes nothing for readers: the one in force stays what it was. */
        CHECK_EQUAL(tm_table_generation(table), generation - 1);
        if (generation > 1)
            CHECK_EQUAL(in_force->route_count, (generation - 1) * 10);
        idle->route_count = (uint32_t)generation * 10;
        CHECK_EQUAL(tm_table_publish(table), generation);
        CHECK_EQUAL(tm_table_generation(table), generation);
        CHECK(tm_table_image(table, generation) == idle);
        CHECK_EQUAL(tm_table_image(table, generation)->route_count, generation * 10);
    }
    unmap_table(table);
}

static void an_idle_image_starts_empty(void)
{
    struct tm_table *table = map_table();
    for (int turn = 0; turn < 3; turn++) {
        struct tm_image *image = tm_table_idle_image(table);
        CHECK(image->route_count == 0 && image->destination_count == 0);
        CHECK(image->endpoint_count == 0 && image->listener_count == 0);
        for (uint32_t id = 0; id < TM_MAX_LISTENERS; id++)
            CHECK_EQUAL(image->route_of_listener[id], TM_NONE);
        image->route_count = image->destination_count = 5;
        image->endpoint_count = image->listener_count = 5;
        image->route_of_listener[turn] = 1;
        image->route_of_listener[TM_MAX_LISTENERS - 1] = 2;
        tm_table_publish(table);
    }
    unmap_table(table);
}

static void asking_twice_for_the_idle_image_gives_the_same(void)
{
    struct tm_table *table = map_table();
    struct tm_image *first = tm_table_idle_image(table);
    first->route_count = 3; /* a plan that was given up half-way */
    CHECK(tm_table_idle_image(table) == first);
    CHECK_EQUAL(first->route_count, 0);
    CHECK_EQUAL(tm_table_generation(table), 0);
    unmap_table(table);
}

static void state_and_owners_are_seen_by_another_process(void)
{
    struct tm_table *table = map_table();
    tm_table_set_state(table, TM_DRAINING);
    tm_table_set_shard_owner(table, 5, TM_ANY_WORKER);
    tm_table_set_shard_owner(table, TM_MAX_SHARDS - 1, 63);
    tm_table_idle_image(table)->endpoint_count = 77;
    tm_table_publish(table);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(tm_table_valid(table, sizeof(*table)));
        CHECK_EQUAL(tm_table_state(table), TM_DRAINING);
        CHECK(tm_table_shard_owner(table, 5) == TM_ANY_WORKER);
        CHECK(tm_table_shard_owner(table, TM_MAX_SHARDS - 1) == 63);
        CHECK(tm_table_shard_owner(table, 4) == 4 % WORKERS);
        CHECK_EQUAL(tm_table_image(table, tm_table_generation(table))->endpoint_count, 77);
        tm_table_set_shard_owner(table, 6, 2);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(tm_table_shard_owner(table, 6) == 2);
    unmap_table(table);
}

static void tickets_count_from_zero_and_share_no_cache_line(void)
{
    static struct tm_ticket tickets[2];
    CHECK_EQUAL(sizeof(tickets[0]), TM_CACHE_LINE);
    CHECK_EQUAL((uintptr_t)&tickets[0] % TM_CACHE_LINE, 0);
    for (uint64_t n = 0; n < 5; n++)
        CHECK_EQUAL(tm_ticket_take(&tickets[0]), n);
    CHECK_EQUAL(tm_ticket_take(&tickets[1]), 0);
}

int main(void)
{
    RUN(init_fills_the_head_and_publishes_nothing);
    RUN(only_a_table_of_this_build_is_valid);
    RUN(too_short_a_region_is_refused_without_reading_it);
    RUN(images_take_turns);
    RUN(an_idle_image_starts_empty);
    RUN(asking_twice_for_the_idle_image_gives_the_same);
    RUN(state_and_owners_are_seen_by_another_process);
    RUN(tickets_count_from_zero_and_share_no_cache_line);
    return 0;
}
