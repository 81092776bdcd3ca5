/* The writing side of the route table. Runs in the master. */
#include "route_table.h"

#include <string.h>

void tm_table_init(struct tm_table *table, uint32_t workers, uint32_t shards, int32_t master_pid,
                   int64_t started_at)
{
    /* The region is fresh from memfd_create: every other byte is zero. */
    table->magic = TM_TABLE_MAGIC;
    table->format = TM_TABLE_FORMAT;
    table->worker_count = workers;
    table->size = sizeof(*table);
    table->started_at = started_at;
    table->master_pid = master_pid;
    table->shard_count = shards;
    for (uint32_t shard = 0; shard < TM_MAX_SHARDS; shard++)
        tm_table_set_shard_owner(table, shard, (int32_t)(shard % workers));
    tm_table_set_state(table, TM_RUNNING);
}

bool tm_table_valid(const struct tm_table *table, size_t size)
{
    return size >= sizeof(*table) && table->magic == TM_TABLE_MAGIC &&
           table->format == TM_TABLE_FORMAT && table->size == sizeof(*table) &&
           table->worker_count >= 1 && table->worker_count <= TM_MAX_SHARDS;
}

struct tm_image *tm_table_idle_image(struct tm_table *table)
{
    uint64_t next = atomic_load_explicit(&table->generation, memory_order_relaxed) + 1;
    struct tm_image *image = &table->images[next & 1];
    /* The generation in force is visible before the first change of what was in force before it. */
    atomic_thread_fence(memory_order_release);
    image->generation = next;
    image->route_count = 0;
    image->destination_count = 0;
    image->endpoint_count = 0;
    image->listener_count = 0;
    image->turn_count = 0;
    image->maglev_count = 0;
    image->range_count = 0;
    image->pick_rule_count = 0;
    image->segment_count = 0;
    image->name_count = 0;
    image->value_count = 0;
    image->number_count = 0;
    image->text_count = 0;
    image->contest_count = 0;
    image->contender_count = 0;
    memset(image->route_of_listener, 0xff, sizeof(image->route_of_listener));
    return image;
}

uint64_t tm_table_publish(struct tm_table *table)
{
    uint64_t next = atomic_load_explicit(&table->generation, memory_order_relaxed) + 1;
    atomic_store_explicit(&table->generation, next, memory_order_release);
    return next;
}

void tm_table_set_shard_owner(struct tm_table *table, uint32_t shard, int32_t worker)
{
    atomic_store_explicit(&table->shard_owner[shard], worker, memory_order_relaxed);
}

void tm_table_set_state(struct tm_table *table, enum tm_state state)
{
    atomic_store_explicit(&table->state, (uint32_t)state, memory_order_relaxed);
}

uint32_t tm_table_state(const struct tm_table *table)
{
    return atomic_load_explicit(&table->state, memory_order_relaxed);
}
