/* Counts over all workers: exact in a race, and whole after a death at any instruction. */
#include "commons.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { RACERS = 8, ATTEMPTS = 1000000 / RACERS, PLACES = 5, HOLD = 4, PATIENCE = 10000000,
       YIELD_MS = 3000 };

static struct tm_commons *commons;

static struct tm_commons *shared_commons(void)
{
    void *base = mmap(NULL, sizeof(struct tm_commons), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(base != MAP_FAILED);
    return base;
}

static void renew(void)
{
    if (commons)
        munmap(commons, sizeof(struct tm_commons));
    commons = shared_commons();
    commons->secret[0] = 1, commons->secret[1] = 2;
}

/* --- races --- */

static _Atomic uint32_t inside, most_inside, taken_in_all, over;
static uint64_t yield_until_ms;

/* On one CPU they would never meet. Where others keep the CPUs busy each of these takes long, and
 * they meet without it: they are interrupted anyway. */
static void yield_at_times(int i)
{
    if (i % 512 == 0 && now_ms() < yield_until_ms)
        sched_yield();
}

/* Whoever is in first stays until somebody else is in as well, however few CPUs there are and however
 * busy: a race in which nobody meets anybody shows nothing. */
static void enter(uint32_t limit)
{
    uint32_t patience = PATIENCE;
    uint32_t now = atomic_fetch_add(&inside, 1) + 1, most = atomic_load(&most_inside);
    while (now > most && !atomic_compare_exchange_weak(&most_inside, &most, now))
        ;
    if (now > limit)
        atomic_fetch_add(&over, 1);
    atomic_fetch_add(&taken_in_all, 1);
    while (atomic_load(&most_inside) < 2 && patience--)
        sched_yield();
}

static void *race_for_slot(void *number)
{
    struct tm_intent intent = {.worker = (uint32_t)(uintptr_t)number};
    struct tm_counted *at = &commons->slots[7].connections;
    for (int i = 0; i < ATTEMPTS; i++) {
        tm_intent_begin(&intent, TM_COUNT_UP, 1);
        bool taken = tm_count_up(commons, at, PLACES, &intent);
        tm_intent_end(&intent);
        if (!taken)
            continue;
        enter(PLACES);
        for (volatile int wait = 0; wait < i % HOLD; wait++)
            ;
        yield_at_times(i);
        atomic_fetch_sub(&inside, 1);
        tm_intent_begin(&intent, TM_COUNT_DOWN, 1);
        tm_count_down(commons, at, &intent);
        tm_intent_end(&intent);
    }
    return NULL;
}

static void *race_for_source(void *number)
{
    struct tm_intent intent = {.worker = (uint32_t)(uintptr_t)number};
    unsigned char ip[16] = {10, 0, 0, 1};
    uint64_t key = tm_source_key(commons, 3, AF_INET, ip);
    for (int i = 0; i < ATTEMPTS; i++) {
        tm_intent_begin(&intent, TM_COUNT_UP, 1);
        int entry = tm_source_up(commons, key, PLACES, (uint64_t)i, &intent);
        tm_intent_end(&intent);
        CHECK(entry >= 0 || entry == TM_SOURCE_FULL);
        if (entry < 0)
            continue;
        enter(PLACES);
        yield_at_times(i);
        atomic_fetch_sub(&inside, 1);
        tm_intent_begin(&intent, TM_COUNT_DOWN, 1);
        tm_count_down(commons, &commons->sources[entry].connections, &intent);
        tm_intent_end(&intent);
    }
    return NULL;
}

static void race(void *(*racer)(void *))
{
    pthread_t threads[RACERS];
    inside = most_inside = taken_in_all = over = 0;
    yield_until_ms = now_ms() + YIELD_MS;
    renew();
    for (uintptr_t i = 0; i < RACERS; i++)
        CHECK(pthread_create(&threads[i], NULL, racer, (void *)i) == 0);
    for (int i = 0; i < RACERS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK_EQUAL(over, 0);
    CHECK(most_inside > 1);
    CHECK(taken_in_all > RACERS);
}

static void nobody_is_over_the_limit(void)
{
    race(race_for_slot);
    CHECK_EQUAL(tm_counted_now(&commons->slots[7].connections), 0);
}

static void no_client_is_over_the_limit(void)
{
    race(race_for_source);
    uint32_t left = 0;
    for (uint32_t i = 0; i < TM_MAX_SOURCES; i++)
        left += tm_counted_now(&commons->sources[i].connections);
    CHECK_EQUAL(left, 0);
}

/* --- signatures --- */

static bool count(struct tm_intent *intent, struct tm_counted *at, enum tm_counting step)
{
    bool counted = true;
    tm_intent_begin(intent, step, 1);
    if (step == TM_COUNT_UP)
        counted = tm_count_up(commons, at, TM_NO_LIMIT, intent);
    else
        tm_count_down(commons, at, intent);
    tm_intent_end(intent);
    return counted;
}

/* A count may keep a signature for as long as nobody counts there, however many others its worker
 * has made meanwhile. */
static void an_old_signature_is_not_taken_for_a_newer_one(void)
{
    static const uint64_t AGES[] = {1, 1ull << 31, 1ull << 32, (1ull << 32) + 5, 1ull << 40};
    for (size_t i = 0; i < sizeof(AGES) / sizeof(AGES[0]); i++) {
        struct tm_intent old = {.worker = 3}, other = {.worker = 4};
        struct tm_counted *rare = &commons->slots[1].connections;
        struct tm_counted *often = &commons->slots[2].connections;
        renew();
        rare = &commons->slots[1].connections, often = &commons->slots[2].connections;
        CHECK(count(&old, rare, TM_COUNT_UP));
        old.change += AGES[i] << 8; /* so many changes elsewhere */
        CHECK(count(&old, often, TM_COUNT_UP));
        CHECK(count(&other, often, TM_COUNT_UP)); /* acknowledges the new one */
        CHECK(tm_intent_did(commons, often, &old));
        CHECK(count(&other, rare, TM_COUNT_UP)); /* and then the old one */
        CHECK(tm_intent_did(commons, often, &old));
        /* What the worker is about to do next has not happened yet. */
        tm_intent_begin(&old, TM_COUNT_UP, 1);
        CHECK(!tm_intent_did(commons, rare, &old));
        tm_intent_end(&old);
    }
}

/* Whatever a word of it is, nobody writes outside, and no count without a limit turns anybody away. */
static void any_word_can_be_counted_on(void)
{
    struct tm_intent intent = {.worker = TM_MAX_SHARDS - 1};
    struct tm_counted *at;
    renew();
    at = &commons->slots[5].connections;
    for (uint32_t round = 0; round < 100000; round++) {
        at->key = random_below(3) ? random_below(UINT64_MAX) : UINT64_MAX;
        at->cell = random_below(3) ? random_below(UINT64_MAX) : UINT64_MAX;
        CHECK(count(&intent, at, TM_COUNT_UP));
        CHECK_EQUAL(tm_counted_by(*at), TM_MAX_SHARDS);
        count(&intent, at, TM_COUNT_DOWN);
    }
}

static void an_author_goes_on_whatever_it_was(void)
{
    static const uint64_t CHANGES[] = {0, 1, UINT64_MAX, 77ull << 8 | 99, 1ull << 60};
    renew();
    for (size_t i = 0; i < sizeof(CHANGES) / sizeof(CHANGES[0]); i++) {
        struct tm_intent intent = {.worker = 200, .change = CHANGES[i]};
        struct tm_counted *at = &commons->slots[5].connections;
        struct tm_counted before = *at;
        tm_intent_mend(&intent, commons, 7);
        CHECK(intent.worker == 7 && tm_intent_step(&intent) <= TM_COUNT_DOWN);
        CHECK(count(&intent, at, TM_COUNT_UP));
        CHECK(tm_counted_now(at) == tm_counted_now(&before) + 1);
        CHECK(tm_intent_change(&intent) >= atomic_load(&commons->acknowledged[7].change));
        CHECK(tm_intent_did(commons, at, &intent));
    }
    atomic_store(&commons->acknowledged[7].change, UINT64_MAX); /* not one that can be */
    struct tm_intent intent = {.worker = 7, .change = 5 << 8};
    tm_intent_mend(&intent, commons, 7);
    tm_intent_begin(&intent, TM_COUNT_UP, 1);
    CHECK(!tm_intent_did(commons, &commons->slots[6].connections, &intent));
}

/* An account, a bucket, a time to avoid that can't be true do not last. */
static void what_can_not_be_is_forgotten(void)
{
    uint64_t now = 1000000000;
    _Atomic uint64_t bucket = UINT64_MAX;
    _Atomic int64_t used = INT64_MAX;
    CHECK(tm_bucket_take(&bucket, now, 1000, 10));
    atomic_store(&bucket, UINT64_MAX);
    CHECK(tm_shape_reserve(&bucket, now, 5) == now);
    for (int i = 0; i < 10; i++)
        CHECK(!tm_retries_take(&used, 10));
    tm_retries_earn(&used, 100);
    CHECK(tm_retries_take(&used, 10));
    atomic_store(&used, INT64_MIN);
    for (int i = 0; i < 10; i++)
        CHECK(tm_retries_take(&used, 10));
    CHECK(!tm_retries_take(&used, 10));
    renew();
    tm_avoid(&commons->slots[1], UINT64_MAX);
    CHECK(!tm_avoided(&commons->slots[1], 1000));
    tm_avoid(&commons->slots[1], 2000);
    CHECK(tm_avoided(&commons->slots[1], 1000) && !tm_avoided(&commons->slots[1], 2000));
}

/* --- deaths --- */

/* What a worker keeps: as many bits in `holds` as it has counted. */
struct incarnation {
    struct tm_intent intent;
    uint32_t holds;
    uint32_t source;
    uint64_t rounds;
};

static struct tm_counted *counted_of(struct incarnation *incarnation, struct tm_commons *all, uint32_t bit)
{
    return bit == 1 ? &all->slots[1].connections : &all->sources[incarnation->source].connections;
}

static void keep_counting(struct incarnation *incarnation, struct tm_commons *all, uint64_t key)
{
    for (;;) {
        for (uint32_t bit = 1; bit <= 2; bit *= 2) {
            if (!(incarnation->holds & bit))
                continue;
            tm_intent_begin(&incarnation->intent, TM_COUNT_DOWN, (uint8_t)bit);
            tm_count_down(all, counted_of(incarnation, all, bit), &incarnation->intent);
            incarnation->holds &= ~bit;
            tm_intent_end(&incarnation->intent);
        }
        incarnation->rounds++;
        for (uint32_t bit = 1; bit <= 2; bit *= 2) {
            tm_intent_begin(&incarnation->intent, TM_COUNT_UP, (uint8_t)bit);
            if (bit == 1 ? tm_count_up(all, counted_of(incarnation, all, 1), TM_NO_LIMIT, &incarnation->intent)
                         : tm_source_up(all, key, TM_NO_LIMIT, incarnation->rounds, &incarnation->intent) >= 0) {
                if (bit == 2)
                    incarnation->source = incarnation->intent.source;
                incarnation->holds |= bit;
            }
            tm_intent_end(&incarnation->intent);
        }
    }
}

/* As a worker's next incarnation does it: tm_occupy_recover(). */
static void recover(struct incarnation *incarnation, struct tm_commons *all)
{
    struct tm_intent *intent = &incarnation->intent;
    if (tm_intent_step(intent) == TM_COUNT_NOTHING)
        return;
    bool is_up = tm_intent_step(intent) == TM_COUNT_UP;
    if (intent->what == 2 && is_up)
        incarnation->source = intent->source;
    if (tm_intent_did(all, counted_of(incarnation, all, intent->what), intent) == is_up) {
        incarnation->holds |= intent->what;
    } else {
        incarnation->holds &= ~(uint32_t)intent->what;
    }
    tm_intent_end(intent);
}

/* While others count in the same entries. Each death is a few waits for a CPU: where those are long,
 * fewer deaths have to do. */
static void a_death_anywhere_loses_nothing(void)
{
    enum { DEATHS = 1500, MIN_DEATHS = 20, ENOUGH_MS = 10000, OTHERS = 2 };
    struct tm_commons *all = shared_commons();
    struct incarnation *incarnations = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    unsigned char ip[16] = {10, 9, 8, 7};
    uint64_t seed = 0, key = tm_source_key(all, 1, AF_INET, ip), enough = now_ms() + ENOUGH_MS;
    int death = 0;
    pid_t others[OTHERS], child = 0;
    CHECK(incarnations != MAP_FAILED);
    for (uint32_t i = 0; i <= OTHERS; i++)
        incarnations[i].intent.worker = i;
    for (uint32_t i = 0; i < OTHERS; i++) {
        others[i] = fork();
        CHECK(others[i] >= 0);
        if (others[i] == 0) {
            alarm((unsigned)patient(50000) / 1000);
            keep_counting(&incarnations[i + 1], all, key);
        }
    }
    for (; death < DEATHS && (death < MIN_DEATHS || now_ms() < enough); death++) {
        struct timespec wait = {0, (long)(seed >> 48) & 0x3ffff};
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        child = fork();
        CHECK(child >= 0);
        if (child == 0)
            keep_counting(&incarnations[0], all, key);
        nanosleep(&wait, NULL);
        CHECK(kill(child, SIGKILL) == 0);
        CHECK(waitpid(child, NULL, 0) == child);
        recover(&incarnations[0], all);
    }
    CHECK(incarnations[0].rounds > 0);
    for (uint32_t i = 0; i < OTHERS; i++) {
        CHECK(kill(others[i], SIGKILL) == 0);
        CHECK(waitpid(others[i], NULL, 0) == others[i]);
        recover(&incarnations[i + 1], all);
    }
    uint32_t slots = 0, sources = 0, counted = 0;
    for (uint32_t i = 0; i <= OTHERS; i++) {
        slots += incarnations[i].holds & 1;
        sources += incarnations[i].holds >> 1 & 1;
    }
    for (uint32_t i = 0; i < TM_MAX_SOURCES; i++)
        counted += tm_counted_now(&all->sources[i].connections);
    fprintf(stderr, "    %llu rounds between %d deaths\n", (unsigned long long)incarnations[0].rounds,
            death);
    CHECK_EQUAL(tm_counted_now(&all->slots[1].connections), slots);
    CHECK_EQUAL(counted, sources);
}

/* --- the rest --- */

static void a_bucket_gives_what_it_gets(void)
{
    _Atomic uint64_t bucket = 0;
    uint64_t now = 1000000000, given = 0;
    for (int i = 0; i < 50; i++)
        given += tm_bucket_take(&bucket, now, 1000000, 10);
    CHECK_EQUAL(given, 10); /* the burst */
    for (int i = 0; i < 100000; i++) {
        now += 10000; /* in a second a thousand */
        given += tm_bucket_take(&bucket, now, 1000000, 10);
    }
    CHECK_EQUAL(given, 1010);
}

static void retries_have_a_budget(void)
{
    _Atomic int64_t used = 0;
    uint32_t retries = 0;
    for (int i = 0; i < 1000; i++) {
        tm_retries_earn(&used, 20);
        retries += tm_retries_take(&used, 10);
    }
    CHECK(retries >= 200 + 9 && retries <= 200 + 10);
}

static void clients_are_told_apart(void)
{
    unsigned char four[16] = {192, 0, 2, 1}, other[16] = {192, 0, 2, 2};
    unsigned char mapped[16] = {[10] = 0xff, [11] = 0xff, 192, 0, 2, 1};
    unsigned char six[16] = {0x20, 1, 0xd, 0xb8, 0, 0, 0, 1, 1}, same[16], next[16];
    memcpy(same, six, 16), memcpy(next, six, 16);
    same[15] = 9, next[7] = 2;
    renew();
    CHECK(tm_source_key(commons, 1, AF_INET, four) != tm_source_key(commons, 1, AF_INET, other));
    CHECK(tm_source_key(commons, 1, AF_INET, four) != tm_source_key(commons, 2, AF_INET, four));
    CHECK(tm_source_key(commons, 1, AF_INET, four) == tm_source_key(commons, 1, AF_INET6, mapped));
    CHECK(tm_source_key(commons, 1, AF_INET6, six) == tm_source_key(commons, 1, AF_INET6, same));
    CHECK(tm_source_key(commons, 1, AF_INET6, six) != tm_source_key(commons, 1, AF_INET6, next));
}

/* From SipHash's reference implementation: the key 00..0f, the input 00..0e. */
static void the_hash_is_keyed(void)
{
    uint64_t secret[2] = {0x0706050403020100ull, 0x0f0e0d0c0b0a0908ull}, other[2] = {1, 2};
    unsigned char input[15];
    for (unsigned char i = 0; i < sizeof(input); i++)
        input[i] = i;
    CHECK(tm_keyed_hash(secret, input, 15) == tm_keyed_hash(secret, input, 15));
    CHECK(tm_keyed_hash(secret, input, 15) != tm_keyed_hash(other, input, 15));
    CHECK(tm_keyed_hash(secret, input, 15) != tm_keyed_hash(secret, input, 14));
    CHECK(tm_keyed_hash(secret, input, 8) != tm_keyed_hash(secret, input, 7));
}

static void many_clients_have_room(void)
{
    struct tm_intent intent = {.worker = 0};
    uint32_t taken = 0;
    renew();
    for (uint32_t i = 0; i < TM_MAX_SOURCES / 2; i++) {
        unsigned char ip[16] = {10, (unsigned char)(i >> 16), (unsigned char)(i >> 8), (unsigned char)i};
        tm_intent_begin(&intent, TM_COUNT_UP, 1);
        taken += tm_source_up(commons, tm_source_key(commons, 1, AF_INET, ip), 1, 1, &intent) >= 0;
        tm_intent_end(&intent);
    }
    /* Half full: a set of eight overflows now and then. */
    CHECK(taken > TM_MAX_SOURCES / 2 - TM_MAX_SOURCES / 100);
}

int main(void)
{
    RUN(nobody_is_over_the_limit);
    RUN(no_client_is_over_the_limit);
    random_seed();
    RUN(an_old_signature_is_not_taken_for_a_newer_one);
    RUN(any_word_can_be_counted_on);
    RUN(an_author_goes_on_whatever_it_was);
    RUN(what_can_not_be_is_forgotten);
    RUN(a_death_anywhere_loses_nothing);
    RUN(a_bucket_gives_what_it_gets);
    RUN(retries_have_a_budget);
    RUN(clients_are_told_apart);
    RUN(the_hash_is_keyed);
    RUN(many_clients_have_room);
    return 0;
}
