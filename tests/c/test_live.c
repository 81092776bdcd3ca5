/* Tests csrc/live.h: the worker region's size, its head and the counters. Runs alone, under
 * sanitizers. */
#include "check.h"
#include "trust.h"

static struct tm_live *new_live(uint32_t worker, uint32_t capacity)
{
    /* Exactly tm_live_size() bytes, so that the sanitizer sees a record too far. */
    void *region = NULL;
    CHECK(posix_memalign(&region, TM_CACHE_LINE, tm_live_size(capacity)) == 0);
    struct tm_live *live = region;
    memset(live, 0, tm_live_size(capacity));
    tm_live_init(live, worker, capacity);
    return live;
}

static void size_holds_every_record(void)
{
    enum { CAPACITY = 8 };
    struct tm_live *live = new_live(3, CAPACITY);
    CHECK_EQUAL(tm_live_size(0), sizeof(struct tm_live));
    CHECK_EQUAL(tm_live_size(CAPACITY) - tm_live_size(CAPACITY - 1), TM_RECORD_SIZE);
    /* No wrap for more connections than there can be descriptors. */
    CHECK(tm_live_size(UINT32_MAX) > (uint64_t)UINT32_MAX * 200);
    struct tm_cold *colds = tm_live_colds(live, CAPACITY);
    struct tm_annex *annexes = tm_live_annexes(live, CAPACITY);
    struct tm_moves *moves = tm_live_moves(live, CAPACITY);
    memset(&live->records[CAPACITY - 1], 0x5a, sizeof(struct tm_conn));
    memset(&colds[CAPACITY - 1], 0x5a, sizeof(struct tm_cold));
    memset(&annexes[CAPACITY - 1], 0x5a, sizeof(struct tm_annex));
    memset(&moves[CAPACITY - 1], 0x5a, sizeof(struct tm_moves));
    CHECK((char *)&live->records[CAPACITY] == (char *)colds);
    CHECK((char *)&colds[CAPACITY] == (char *)annexes);
    CHECK((char *)&annexes[CAPACITY] == (char *)moves);
    CHECK_EQUAL((size_t)((char *)&moves[CAPACITY] - (char *)live), live->size);
    free(live);
}

static void init_makes_an_empty_region(void)
{
    struct tm_live *live = new_live(7, 4);
    CHECK_EQUAL(live->worker, 7);
    CHECK_EQUAL(live->capacity, 4);
    CHECK_EQUAL(live->records_used, 0);
    CHECK(tm_live_pid(live) == 0 && tm_live_starts(live) == 0);
    CHECK(tm_live_connections(live) == 0 && tm_live_generation_seen(live) == 0);
    free(live);
}

/* Not what the region says of itself, which its worker writes. */
static void the_size_says_how_many_records_there_are(void)
{
    size_t size = tm_live_size(4);
    CHECK(tm_live_capacity(size) == 4 && tm_live_capacity(tm_live_size(0)) == 0);
    CHECK(tm_live_capacity(size - 1) < 0 && tm_live_capacity(size + 1) < 0);
    CHECK(tm_live_capacity(0) < 0 && tm_live_capacity(SIZE_MAX) < 0);
    CHECK(tm_live_capacity(tm_live_size(TM_MAX_RECORDS)) == TM_MAX_RECORDS);
    CHECK(tm_live_capacity(tm_live_size(TM_MAX_RECORDS + 1)) < 0);
}

static void each_life_of_a_worker_is_counted(void)
{
    struct tm_live *live = new_live(0, 1);
    tm_live_begin(live, 100);
    CHECK(tm_live_pid(live) == 100 && tm_live_starts(live) == 1);
    tm_live_begin(live, 200);
    CHECK(tm_live_pid(live) == 200 && tm_live_starts(live) == 2);
    free(live);
}

static void accessors_keep_their_own_words(void)
{
    struct tm_live *live = new_live(0, 1);
    tm_live_set_generation_seen(live, UINT64_MAX - 1);
    tm_live_set_heartbeat(live, 1ull << 40);
    tm_live_set_connections(live, 12345);
    CHECK_EQUAL(tm_live_generation_seen(live), UINT64_MAX - 1);
    CHECK_EQUAL(tm_live_heartbeat(live), 1ull << 40);
    CHECK_EQUAL(tm_live_connections(live), 12345);
    CHECK_EQUAL(live->size, tm_live_size(1));
    free(live);
}

static void counters_grow_past_32_bits(void)
{
    uint64_t counter = 0;
    tm_count(&counter, 1);
    tm_count(&counter, UINT32_MAX);
    tm_count(&counter, UINT32_MAX);
    CHECK_EQUAL(tm_counter_read(&counter), 1 + 2ull * UINT32_MAX);
    tm_count(&counter, 0);
    CHECK_EQUAL(tm_counter_read(&counter), 1 + 2ull * UINT32_MAX);
}

static void closed_total_is_over_every_reason(void)
{
    struct tm_slot slot = {0};
    uint64_t expected = 0;
    CHECK_EQUAL(tm_slot_closed_total(&slot), 0);
    for (int reason = 1; reason < TM_CLOSE_REASONS; reason++) {
        tm_count(&slot.closed[reason], 1ull << reason);
        expected += 1ull << reason;
        CHECK_EQUAL(tm_slot_closed_total(&slot), expected);
    }
    CHECK_EQUAL(slot.closed[TM_OPEN], 0);
    slot.opened = slot.bytes_in = 99; /* no other counter gets in */
    CHECK_EQUAL(tm_slot_closed_total(&slot), expected);
}

static struct tm_failed_connect failed_of(uint32_t slot)
{
    return (struct tm_failed_connect){.endpoint_slot = slot};
}

static void the_last_differences_can_be_read(void)
{
    static struct tm_differences all;
    struct tm_difference read[TM_DIFFERENCES];
    CHECK_EQUAL(tm_differences_read(&all, read), 0);
    for (uint32_t at = 1; at <= TM_DIFFERENCES + 3; at++) {
        tm_difference_note(&all, &(struct tm_difference){.at = at, .within = 1});
        /* The oldest of a full ring may be the one that is being written. */
        uint32_t there = at < TM_DIFFERENCES ? at : TM_DIFFERENCES - 1;
        CHECK_EQUAL(tm_differences_read(&all, read), there);
        CHECK_EQUAL(read[0].at, at - there + 1);
        CHECK_EQUAL(read[there - 1].at, at);
    }
    all.count = UINT64_MAX; /* corrupt */
    CHECK_EQUAL(tm_differences_read(&all, read), TM_DIFFERENCES - 1);
}

static void the_last_failed_connects_can_be_read(void)
{
    static struct tm_failed_connects all;
    struct tm_failed_connect read[TM_FAILED], one;
    uint64_t seen = 0;
    CHECK_EQUAL(tm_failed_read(&all, &seen, read), 0);
    for (uint32_t i = 0; i < 3; i++) {
        one = failed_of(i);
        tm_failed_note(&all, &one);
    }
    CHECK_EQUAL(tm_failed_read(&all, &seen, read), 3);
    for (uint32_t i = 0; i < 3; i++)
        CHECK_EQUAL(read[i].endpoint_slot, i);
    CHECK_EQUAL(tm_failed_read(&all, &seen, read), 0);
    for (uint32_t i = 0; i < 3 * TM_FAILED; i++) {
        one = failed_of(i);
        tm_failed_note(&all, &one);
    }
    /* Another may be on its way, into the place of the oldest. */
    CHECK_EQUAL(tm_failed_read(&all, &seen, read), TM_FAILED - 1);
    CHECK_EQUAL(read[0].endpoint_slot, 2 * TM_FAILED + 1);
    CHECK_EQUAL(read[TM_FAILED - 2].endpoint_slot, 3 * TM_FAILED - 1);
    seen = UINT64_MAX; /* a worker that is not to be trusted has said so before */
    CHECK_EQUAL(tm_failed_read(&all, &seen, read), 0);
    atomic_store(&all.count, UINT64_MAX);
    CHECK_EQUAL(tm_failed_read(&all, &seen, read), TM_FAILED - 1);
}

/* Whoever knows the names of the states can read this as the drawing of ARCHITECTURE.md. */
static void only_these_moves_are_legal(void)
{
    static const struct {
        enum tm_conn_state from, to;
    } LEGAL[] = {
        {TM_ACCEPTED, TM_READING}, {TM_ACCEPTED, TM_HOLDING}, {TM_ACCEPTED, TM_WAITING},
        {TM_ACCEPTED, TM_CONNECTING}, {TM_ACCEPTED, TM_ENDING}, {TM_READING, TM_CONNECTING},
        {TM_HOLDING, TM_WAITING}, {TM_WAITING, TM_HOLDING}, {TM_WAITING, TM_CONNECTING},
        {TM_CONNECTING, TM_HOLDING}, {TM_CONNECTING, TM_WAITING}, {TM_CONNECTING, TM_RELAYING},
        {TM_CONNECTING, TM_ENDING}, {TM_RELAYING, TM_RESETTING}, {TM_RELAYING, TM_ENDING},
        {TM_RESETTING, TM_ENDING},
        {TM_ENDING, TM_DEAD},
    };
    static const struct {
        enum tm_conn_state from, to;
    } ILLEGAL[] = {
        {TM_FREE, TM_ENDING}, {TM_FREE, TM_DEAD}, {TM_ACCEPTED, TM_RELAYING},
        {TM_WAITING, TM_RELAYING}, {TM_CONNECTING, TM_READING}, {TM_CONNECTING, TM_RESETTING},
        {TM_RELAYING, TM_CONNECTING}, {TM_RELAYING, TM_DEAD}, {TM_RESETTING, TM_RELAYING},
        {TM_ENDING, TM_RELAYING}, {TM_DEAD, TM_ACCEPTED}, {TM_DEAD, TM_ENDING},
    };
    for (size_t i = 0; i < sizeof(LEGAL) / sizeof(LEGAL[0]); i++)
        CHECK(tm_conn_moves(LEGAL[i].from) >> LEGAL[i].to & 1);
    for (size_t i = 0; i < sizeof(ILLEGAL) / sizeof(ILLEGAL[0]); i++)
        CHECK(!(tm_conn_moves(ILLEGAL[i].from) >> ILLEGAL[i].to & 1));
    CHECK_EQUAL(tm_conn_moves((enum tm_conn_state)99), 0);
}

/* A record in use with an annex of 9 bytes' worth of a name. */
static struct tm_live *live_with_annex(uint32_t capacity, uint32_t index, uint32_t at)
{
    struct tm_live *live = new_live(0, capacity);
    struct tm_annex *annex = &tm_live_annexes(live, capacity)[at];
    live->records[index].generation = 5;
    live->records[index].state = TM_RELAYING;
    tm_live_colds(live, capacity)[index].annex = at + 1;
    tm_annex_disown(annex);
    tm_annex_own(annex, index, 5);
    annex->length = sizeof(struct tm_known);
    tm_known_in(annex)->first_bytes = TM_FIRST_TLS;
    tm_known_in(annex)->sni_size = 9;
    memcpy(tm_known_in(annex)->sni, "a.example", 9);
    return live;
}

static void an_annex_is_copied_for_its_own_record_alone(void)
{
    enum { CAPACITY = 4, INDEX = 2, AT = 3 };
    struct tm_live *live = live_with_annex(CAPACITY, INDEX, AT);
    struct tm_annex *annex = &tm_live_annexes(live, CAPACITY)[AT], got;
    struct tm_copy copy;
    CHECK(tm_conn_copy(live, CAPACITY, INDEX, &copy));
    CHECK(tm_annex_copy(live, CAPACITY, INDEX, &copy, &got));
    CHECK(memcmp(&got, annex, sizeof(got)) == 0);
    annex->owner = INDEX + 1;
    CHECK(!tm_annex_copy(live, CAPACITY, INDEX, &copy, &got));
    annex->owner = INDEX;
    annex->generation = 6;
    CHECK(!tm_annex_copy(live, CAPACITY, INDEX, &copy, &got));
    /* Beyond the region: not looked at. */
    for (uint32_t wrong = CAPACITY + 1; wrong; wrong <<= 1) {
        copy.cold.annex = wrong;
        CHECK(!tm_annex_copy(live, CAPACITY, INDEX, &copy, &got));
    }
    copy.cold.annex = UINT32_MAX;
    CHECK(!tm_annex_copy(live, CAPACITY, INDEX, &copy, &got));
    copy.cold.annex = 0;
    CHECK(!tm_annex_copy(live, CAPACITY, INDEX, &copy, &got));
    free(live);
}

/* Passwords stand where a TLS client has a name: nobody reads them from there. */
static void what_is_kept_of_a_client_is_not_copied(void)
{
    struct tm_live *live = live_with_annex(1, 0, 0);
    struct tm_annex *annex = tm_live_annexes(live, 1);
    struct tm_known *there = tm_known_in(annex), known;
    static const unsigned char none[sizeof(there->kept)];
    struct tm_copy copy;
    tm_talk_begin(&annex->talk, TM_PROTOCOL_REDIS);
    memset(&there->kept, 'x', sizeof(there->kept));
    for (there->first_bytes = 0; there->first_bytes < TM_FIRST_KINDS; there->first_bytes++) {
        bool is_tls = there->first_bytes == TM_FIRST_TLS;
        CHECK(tm_conn_copy(live, 1, 0, &copy) && tm_known_copy(live, 1, 0, &copy, &known));
        CHECK_EQUAL(known.sni_size, is_tls ? 9 : 0);
        CHECK(is_tls || memcmp(&known.kept, none, sizeof(none)) == 0);
        CHECK(!tm_kept_in(annex) == is_tls);
    }
    free(live);
}

static void sizes_in_an_annex_are_not_believed(void)
{
    struct tm_live *live = live_with_annex(1, 0, 0);
    struct tm_annex *annex = tm_live_annexes(live, 1);
    struct tm_known *there = tm_known_in(annex), known;
    struct tm_copy copy;
    CHECK(tm_conn_copy(live, 1, 0, &copy) && tm_known_copy(live, 1, 0, &copy, &known));
    CHECK(known.sni_size == 9 && strcmp(known.sni, "a.example") == 0);
    memset(there, 0xff, sizeof(*there));
    CHECK(tm_known_copy(live, 1, 0, &copy, &known));
    CHECK(known.first_bytes == TM_UNREAD && known.alpn_size == 0 && known.tlvs_size == 0);
    CHECK_EQUAL(strlen(known.sni), known.sni_size);
    annex->length = sizeof(known) - 1;
    CHECK(!tm_known_copy(live, 1, 0, &copy, &known));
    free(live);
}

int main(void)
{
    RUN(size_holds_every_record);
    RUN(init_makes_an_empty_region);
    RUN(the_size_says_how_many_records_there_are);
    RUN(each_life_of_a_worker_is_counted);
    RUN(accessors_keep_their_own_words);
    RUN(counters_grow_past_32_bits);
    RUN(closed_total_is_over_every_reason);
    RUN(the_last_failed_connects_can_be_read);
    RUN(the_last_differences_can_be_read);
    RUN(only_these_moves_are_legal);
    RUN(an_annex_is_copied_for_its_own_record_alone);
    RUN(what_is_kept_of_a_client_is_not_copied);
    RUN(sizes_in_an_annex_are_not_believed);
    return 0;
}
