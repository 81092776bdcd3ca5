/* Tests csrc/wheel against a model that keeps a plain list of deadlines: nothing pops early,
 * nothing is lost, nothing is late by more than its tick. Runs alone, under sanitizers. */
#include "wheel.h"

#include "check.h"

enum {
    RECORDS = 300,
    STEPS = 20000,
    /* What the two wheels reach, with one tick to spare. */
    FINE_REACH_MS = (TM_FINE_SLOTS - 2) * TM_FINE_TICK_MS,
    COARSE_REACH_MS = (TM_COARSE_SLOTS - 2) * TM_COARSE_TICK_MS,
};

/* What the test knows of each record. */
struct model {
    uint8_t armed;
    uint64_t deadline_ms;
    uint64_t earliest_ms; /* must not pop before */
    uint64_t latest_ms;   /* must have popped once everything due at this time is out */
};

struct bench {
    struct tm_wheel wheel;
    struct tm_conn records[RECORDS];
    struct model models[RECORDS];
    uint32_t armed;
    uint64_t now_ms;
    uint64_t drained_ms; /* everything due then is out */
};

static struct bench *new_bench(uint64_t now_ms)
{
    struct bench *bench = calloc(1, sizeof(*bench));
    CHECK(bench);
    for (uint32_t i = 0; i < RECORDS; i++)
        bench->records[i].timer_place = TM_UNARMED;
    tm_wheel_init(&bench->wheel, now_ms);
    bench->now_ms = bench->drained_ms = now_ms;
    return bench;
}

static void arm(struct bench *bench, uint32_t index, uint64_t deadline_ms)
{
    struct model *model = &bench->models[index];
    bool beyond = deadline_ms > bench->drained_ms + COARSE_REACH_MS;
    bool fine = deadline_ms < bench->drained_ms + FINE_REACH_MS;
    uint64_t from = deadline_ms > bench->now_ms ? deadline_ms : bench->now_ms;
    if (beyond)
        from = bench->now_ms + COARSE_REACH_MS;
    bench->armed += !model->armed;
    *model = (struct model){
        .armed = 1,
        .deadline_ms = deadline_ms,
        /* Past the horizon: any time, but not at once, or the caller would spin. */
        .earliest_ms = beyond ? bench->drained_ms + COARSE_REACH_MS / 2 : deadline_ms,
        .latest_ms = from + (fine ? TM_FINE_TICK_MS : TM_COARSE_TICK_MS) * (beyond ? 2 : 1),
    };
    tm_wheel_arm(&bench->wheel, bench->records, index, deadline_ms);
    CHECK(bench->records[index].timer_place != TM_UNARMED);
    CHECK_EQUAL(bench->wheel.armed, bench->armed);
}

static void disarm(struct bench *bench, uint32_t index)
{
    bench->armed -= bench->models[index].armed;
    bench->models[index].armed = 0;
    tm_wheel_disarm(&bench->wheel, bench->records, index);
    CHECK(bench->records[index].timer_place == TM_UNARMED);
    CHECK_EQUAL(bench->wheel.armed, bench->armed);
}

static uint32_t pop(struct bench *bench)
{
    uint32_t index = tm_wheel_pop(&bench->wheel, bench->records, bench->now_ms);
    if (index == TM_NONE)
        return index;
    CHECK(index < RECORDS && bench->models[index].armed);
    CHECK(bench->now_ms >= bench->models[index].earliest_ms);
    CHECK(bench->records[index].timer_place == TM_UNARMED);
    bench->models[index].armed = 0;
    bench->armed--;
    CHECK_EQUAL(bench->wheel.armed, bench->armed);
    return index;
}

/* Nothing that is still armed should have popped. */
static void check_drained(struct bench *bench)
{
    for (uint32_t i = 0; i < RECORDS; i++)
        CHECK(!bench->models[i].armed || bench->now_ms < bench->models[i].latest_ms);
    bench->drained_ms = bench->now_ms;
}

/* The wait must end when the first one is due at the latest, and must not be for nothing. */
static int check_wait(struct bench *bench)
{
    int wait = tm_wheel_wait(&bench->wheel, bench->now_ms);
    if (bench->armed == 0) {
        CHECK(wait == -1);
        return wait;
    }
    CHECK(wait > 0); /* all that is due has been popped */
    for (uint32_t i = 0; i < RECORDS; i++)
        if (bench->models[i].armed)
            CHECK(bench->now_ms + (uint64_t)wait <= bench->models[i].latest_ms);
    return wait;
}

static uint64_t random_delay(void)
{
    switch (random_below(6)) {
    case 0:
        return random_below(2 * TM_FINE_TICK_MS + 1);
    case 1:
        return random_below(1000);
    case 2:
        return random_below(30000);
    case 3: /* about where the fine wheel ends */
        return FINE_REACH_MS - 30 + random_below(80);
    case 4: /* about where the coarse one ends */
        return COARSE_REACH_MS - 5000 + random_below(15000);
    default:
        return random_below(3ull * 3600 * 1000);
    }
}

static void arm_or_disarm_some(struct bench *bench)
{
    for (uint64_t k = random_below(12); k; k--) {
        uint32_t index = (uint32_t)random_below(RECORDS);
        if (random_below(4) == 0)
            disarm(bench, index); /* one that is not armed, too */
        else if (random_below(20) == 0) /* already over */
            arm(bench, index, bench->now_ms - random_below(1 + bench->now_ms % 5000));
        else
            arm(bench, index, bench->now_ms + random_delay());
    }
}

static void run_random(uint64_t start_ms)
{
    struct bench *bench = new_bench(start_ms);
    uint64_t popped = 0, rearmed = 0;
    for (int step = 0; step < STEPS; step++) {
        uint32_t index;
        arm_or_disarm_some(bench);
        int wait = check_wait(bench);
        bool to_the_point = wait > 0 && random_below(3) == 0;
        if (to_the_point)
            bench->now_ms += (uint64_t)wait;
        else if (wait > 1 && random_below(2))
            bench->now_ms += random_below((uint64_t)wait); /* woken by something else */
        else
            bench->now_ms += random_delay(); /* held up: late for many */
        uint64_t before = popped;
        while ((index = pop(bench)) != TM_NONE) {
            popped++;
            if (bench->now_ms < bench->models[index].deadline_ms || random_below(4) == 0) {
                /* The caller finds that its time has not come, as with idle timeouts. */
                arm(bench, index, bench->now_ms + 1 + random_delay());
                rearmed++;
            } else if (random_below(8) == 0) {
                disarm(bench, (uint32_t)random_below(RECORDS));
            }
        }
        if (to_the_point)
            CHECK(popped > before);
        check_drained(bench);
    }
    fprintf(stderr, "    from %llu: %llu popped, %llu armed again\n",
            (unsigned long long)start_ms, (unsigned long long)popped, (unsigned long long)rearmed);
    CHECK(popped > STEPS && rearmed > 0);
    while (bench->armed) { /* nothing is lost: all come out in the end */
        bench->now_ms += (uint64_t)check_wait(bench);
        CHECK(pop(bench) != TM_NONE);
        while (pop(bench) != TM_NONE)
            ;
        check_drained(bench);
    }
    CHECK(tm_wheel_wait(&bench->wheel, bench->now_ms) == -1);
    for (size_t word = 0; word < TM_WHEEL_SLOTS / 64; word++)
        CHECK_EQUAL(bench->wheel.used[word], 0);
    free(bench);
}

static void agrees_with_a_plain_list(void)
{
    run_random(0);
    run_random(random_below(1ull << 45));
    run_random((1ull << 32) - 7000); /* across 32 bits of milliseconds */
}

static void a_deadline_pops_at_its_tick_and_not_before(void)
{
    static const uint64_t delays[] = {1, 9, 10, 11, 500, 9999, 10229, 10230, 10231, 60000, 4000000};
    for (size_t k = 0; k < sizeof(delays) / sizeof(delays[0]); k++) {
        struct bench *bench = new_bench(123457);
        uint64_t deadline = bench->now_ms + delays[k];
        arm(bench, 7, deadline);
        bench->now_ms = deadline - 1;
        if (delays[k] > 1) {
            CHECK(pop(bench) == TM_NONE);
            int wait = tm_wheel_wait(&bench->wheel, bench->now_ms);
            CHECK(wait >= 1 && bench->now_ms + (uint64_t)wait <= bench->models[7].latest_ms);
        }
        bench->now_ms = bench->models[7].latest_ms;
        CHECK(pop(bench) == 7 && pop(bench) == TM_NONE);
        free(bench);
    }
}

static void one_that_is_over_pops_with_the_next_tick(void)
{
    struct bench *bench = new_bench(5000);
    arm(bench, 0, 1);
    arm(bench, 1, 5000);
    CHECK(pop(bench) == TM_NONE);
    int wait = check_wait(bench);
    CHECK(wait <= TM_FINE_TICK_MS);
    bench->now_ms += (uint64_t)wait;
    CHECK(pop(bench) != TM_NONE && pop(bench) != TM_NONE && pop(bench) == TM_NONE);
    free(bench);
}

static void a_day_takes_a_few_stops_at_the_horizon(void)
{
    enum { DAY_MS = 24 * 3600 * 1000 };
    struct bench *bench = new_bench(99);
    uint64_t deadline = bench->now_ms + DAY_MS;
    int stops = 0;
    arm(bench, 3, deadline);
    for (;; stops++) {
        CHECK(stops < 30);
        bench->now_ms += (uint64_t)check_wait(bench);
        CHECK(pop(bench) == 3 && pop(bench) == TM_NONE);
        check_drained(bench);
        if (bench->now_ms >= deadline)
            break;
        arm(bench, 3, deadline);
    }
    CHECK(stops > 10);
    CHECK(bench->now_ms < deadline + TM_COARSE_TICK_MS);
    free(bench);
}

static void arming_again_replaces_the_deadline(void)
{
    struct bench *bench = new_bench(1000);
    arm(bench, 5, 1100);
    arm(bench, 5, 9000);
    arm(bench, 5, 60000);
    CHECK_EQUAL(bench->wheel.armed, 1);
    bench->now_ms = 59999;
    CHECK(pop(bench) == TM_NONE);
    arm(bench, 5, 60010);
    bench->now_ms = 60010;
    CHECK(pop(bench) == 5 && pop(bench) == TM_NONE);
    free(bench);
}

static void one_slot_gives_up_any_of_its_members(void)
{
    /* First, middle and last of a chain, in each order of removal. */
    for (uint32_t gone = 0; gone < 5; gone++) {
        struct bench *bench = new_bench(0);
        uint32_t seen = 0, index;
        for (uint32_t i = 0; i < 5; i++)
            arm(bench, i, 55);
        disarm(bench, gone);
        disarm(bench, (gone + 2) % 5);
        bench->now_ms = 60;
        while ((index = pop(bench)) != TM_NONE)
            seen |= 1u << index;
        CHECK_EQUAL(seen, 0x1f & ~(1u << gone) & ~(1u << (gone + 2) % 5));
        CHECK(tm_wheel_wait(&bench->wheel, bench->now_ms) == -1);
        free(bench);
    }
}

static void a_wheel_with_nothing_armed_waits_for_ever(void)
{
    struct bench *bench = new_bench(77);
    CHECK(check_wait(bench) == -1);
    disarm(bench, 0); /* never armed */
    CHECK(pop(bench) == TM_NONE);
    bench->now_ms += 30ull * 24 * 3600 * 1000; /* a month without a connection */
    CHECK(pop(bench) == TM_NONE);
    check_drained(bench);
    arm(bench, 0, bench->now_ms + 50);
    bench->now_ms += 60;
    CHECK(pop(bench) == 0);
    free(bench);
}

int main(void)
{
    random_seed();
    RUN(agrees_with_a_plain_list);
    RUN(a_deadline_pops_at_its_tick_and_not_before);
    RUN(one_that_is_over_pops_with_the_next_tick);
    RUN(a_day_takes_a_few_stops_at_the_horizon);
    RUN(arming_again_replaces_the_deadline);
    RUN(one_slot_gives_up_any_of_its_members);
    RUN(a_wheel_with_nothing_armed_waits_for_ever);
    return 0;
}
