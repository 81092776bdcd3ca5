/* Tests csrc/access_log.h and csrc/histogram.h: entries come out as they went in, between two
 * processes, and what finds no room is counted; a time is counted in its bucket. */
#include "access_log.h"
#include "histogram.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { ENTRIES = 300000, CAPACITY = 64 };

static struct tm_log *new_log(void)
{
    void *memory = mmap(NULL, sizeof(struct tm_log), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    return memory;
}

static void test_a_full_ring_counts_what_it_drops(void)
{
    struct tm_log *log = new_log();
    for (int i = 0; i < CAPACITY + 5; i++) {
        struct tm_log_entry *entry = tm_log_free_entry(log, CAPACITY);
        CHECK((entry == NULL) == (i >= CAPACITY));
        if (entry) {
            entry->index = (uint32_t)i;
            tm_log_commit(log);
        }
    }
    CHECK_EQUAL(tm_log_written(log), CAPACITY);
    CHECK_EQUAL(log->dropped, 5);
    tm_log_take(log, 10);
    CHECK(tm_log_free_entry(log, CAPACITY) != NULL);
    CHECK_EQUAL(log->dropped, 5);
    CHECK_EQUAL(munmap(log, sizeof(*log)), 0);
}

/* Every field says the number of the entry, so that a torn or a stale one shows. */
static void write_entries(struct tm_log *log)
{
    for (uint32_t i = 0; i < ENTRIES;) {
        struct tm_log_entry *entry = tm_log_free_entry(log, CAPACITY);
        if (!entry) {
            usleep(10);
            continue;
        }
        *entry = (struct tm_log_entry){.index = i, .generation = i, .at_us = i, .bytes = {i, i}};
        tm_log_commit(log);
        i++;
    }
}

static void test_a_reader_beside_the_writer_sees_whole_entries_in_order(void)
{
    struct tm_log *log = new_log();
    pid_t writer = fork();
    CHECK(writer >= 0);
    if (writer == 0) {
        write_entries(log);
        _exit(0);
    }
    uint64_t taken = 0;
    while (taken < ENTRIES) {
        uint64_t end = tm_log_written(log);
        CHECK(end - taken <= CAPACITY);
        for (; taken < end; taken++) {
            const struct tm_log_entry *entry = &log->entries[taken % TM_LOG_ENTRIES];
            CHECK_EQUAL(entry->index, taken);
            CHECK_EQUAL(entry->generation, taken);
            CHECK_EQUAL(entry->at_us, taken);
            CHECK_EQUAL(entry->bytes[1], taken);
        }
        tm_log_take(log, taken);
    }
    int status;
    CHECK_EQUAL(waitpid(writer, &status, 0), writer);
    CHECK_EQUAL(status, 0);
    CHECK_EQUAL(munmap(log, sizeof(*log)), 0);
}

/* A burst of a refusal has its entries; then it has one every TM_REFUSED_NS, and what is beyond is
 * counted until it is told. A flood of one hides no other. */
static void test_a_flood_of_refusals_is_counted(void)
{
    struct tm_log *log = new_log();
    _Atomic uint64_t next_ns[TM_REFUSALS] = {0};
    uint64_t now_ns = 1000000000000, admitted = 0;
    for (int i = 0; i < 1000; i++) /* in 1 s */
        admitted += tm_log_admits(log, TM_REFUSED_DENIED, next_ns, now_ns + (uint64_t)i * 1000000);
    CHECK(admitted >= TM_REFUSED_BURST && admitted <= TM_REFUSED_BURST + 10);
    CHECK_EQUAL(tm_log_untold(log, TM_REFUSED_DENIED), 1000 - admitted);
    CHECK(tm_log_admits(log, TM_REFUSED_ROUTE_RATE, next_ns, now_ns));
    CHECK_EQUAL(tm_log_untold(log, TM_REFUSED_ROUTE_RATE), 0);
    for (int i = 0; i < 1000; i++)
        CHECK(tm_log_admits(log, TM_NOT_REFUSED, next_ns, now_ns));
    tm_log_tell(log, TM_REFUSED_DENIED, 100);
    CHECK_EQUAL(tm_log_untold(log, TM_REFUSED_DENIED), 900 - admitted);
    log->left_out[TM_REFUSED_DENIED] = 5; /* less than was told */
    CHECK_EQUAL(tm_log_untold(log, TM_REFUSED_DENIED), 0);
    log->left_out[TM_REFUSED_DENIED] = 7;
    CHECK_EQUAL(tm_log_untold(log, TM_REFUSED_DENIED), 2);
    CHECK_EQUAL(munmap(log, sizeof(*log)), 0);
}

static void check_bounds(const uint64_t *bounds)
{
    struct tm_histogram histogram = {0};
    uint64_t sum = 0;
    for (int i = 0; i < TM_BOUNDS; i++) {
        CHECK(i == 0 || bounds[i] > bounds[i - 1]);
        tm_histogram_add(&histogram, bounds, bounds[i]); /* on the bound: in its bucket */
        CHECK_EQUAL(histogram.buckets[i], i == 0 ? 1 : 2);
        tm_histogram_add(&histogram, bounds, bounds[i] + 1); /* above it: in the next */
        CHECK_EQUAL(histogram.buckets[i + 1], 1);
        sum += 2 * bounds[i] + 1;
    }
    CHECK_EQUAL(histogram.sum_us, sum);
    tm_histogram_add(&histogram, bounds, 0);
    CHECK_EQUAL(histogram.buckets[0], 2);
}

static void test_a_time_is_counted_in_its_bucket(void)
{
    check_bounds(tm_latency_bounds_us);
    check_bounds(tm_duration_bounds_us);
}

int main(void)
{
    RUN(test_a_full_ring_counts_what_it_drops);
    RUN(test_a_reader_beside_the_writer_sees_whole_entries_in_order);
    RUN(test_a_flood_of_refusals_is_counted);
    RUN(test_a_time_is_counted_in_its_bucket);
    return 0;
}
