/* csrc/pump.c where the source begins with a header that nobody gets: it is read with what follows
 * it, alone or with a header of ours that goes ahead, in one step that may be cut off anywhere. */
#include "pump_deaths.h"

enum { SKIPPED = 150, PAYLOAD = 500 };

/* The client's header, or so much of it. */
static void client_sends_header(struct rig *rig, uint32_t size)
{
    unsigned char header[SKIPPED];
    memset(header, 0xee, sizeof(header));
    CHECK_EQUAL(send(rig->client, header, size, 0), size);
    wait_readable_bytes(rig->source, size);
}

static void check_base(const struct tm_half *half, uint32_t ahead)
{
    CHECK(tm_base_is_sealed(half->base));
    CHECK_EQUAL(tm_base_skipped(half->base), 0);
    CHECK_EQUAL(tm_base_consumed(half->base), SKIPPED);
    CHECK_EQUAL(tm_base_prepended(half->base), ahead);
}

/* --- without a death -------------------------------------------------------------------------- */

enum mode { COPY, SPLICE, PIPELESS, BOUNDED, CRAMPED, MODES };

/* With so much payload behind the header, and a header of ours that goes ahead. */
static void skip_and_go_on(enum mode mode, uint32_t payload, uint32_t ahead, bool hung_up)
{
    struct rig *rig =
        open_rig((struct shape){AF_INET, AF_INET, 0, mode == PIPELESS ? 0 : PIPES});
    struct tm_half *half = &rig->half;
    half->splicing = mode == SPLICE ? TM_SPLICE : TM_COPY;
    rig->pump.bounded = mode == BOUNDED;
    if (mode == CRAMPED) /* as with a limit of rates */
        rig->pump.buffer_size = 256;
    client_sends_header(rig, SKIPPED);
    tm_pump_skip(half, SKIPPED);
    CHECK_EQUAL(tm_base_skipped(half->base), SKIPPED);
    if (payload)
        client_delivers(rig, payload);
    if (ahead && mode != CRAMPED) {
        make_ahead(rig->pump.buffer);
        tm_pump_precede(&rig->pump, half, ahead);
    }
    CHECK(pump(rig, hung_up) == TM_PUMP_DRAINED);
    CHECK_EQUAL(half->bytes, payload);
    check_base(half, mode == CRAMPED ? 0 : ahead);
    if (ahead && mode != CRAMPED)
        check_ahead(rig);
    server_receives_all(rig);
    client_delivers(rig, PAYLOAD);
    CHECK(pump(rig, hung_up) == TM_PUMP_DRAINED);
    server_receives_all(rig);
    CHECK_EQUAL(rig->received, payload + PAYLOAD);
    close_rig(rig);
}

static void what_is_skipped_comes_with_what_follows(void)
{
    static const uint32_t payloads[] = {0, 1, PAYLOAD, 20000};
    for (int mode = 0; mode < MODES; mode++)
        for (size_t k = 0; k < sizeof(payloads) / sizeof(payloads[0]); k++)
            for (int way = 0; way < 4; way++)
                skip_and_go_on((enum mode)mode, payloads[k], way & 1 ? AHEAD : 0, way & 2);
}

/* Some byte of it is not there yet, as where urgent data stands in it. */
static void one_that_comes_in_parts_is_skipped_in_parts(void)
{
    for (int hung_up = 0; hung_up < 2; hung_up++) {
        struct rig *rig = open_rig((struct shape){AF_INET, AF_INET, 0, PIPES});
        client_sends_header(rig, SKIPPED - 50);
        tm_pump_skip(&rig->half, SKIPPED);
        CHECK(pump(rig, hung_up) == TM_PUMP_DRAINED);
        CHECK_EQUAL(tm_base_skipped(rig->half.base), 50);
        CHECK_EQUAL(tm_base_consumed(rig->half.base), SKIPPED - 50);
        client_sends_header(rig, 50);
        client_delivers(rig, PAYLOAD);
        CHECK(pump(rig, hung_up) == TM_PUMP_DRAINED);
        check_base(&rig->half, 0);
        server_receives_all(rig);
        CHECK_EQUAL(rig->received, PAYLOAD);
        close_rig(rig);
    }
}

static void an_end_behind_it_is_seen(void)
{
    struct rig *rig = open_rig((struct shape){AF_INET, AF_INET, 0, PIPES});
    client_sends_header(rig, SKIPPED);
    tm_pump_skip(&rig->half, SKIPPED);
    CHECK(shutdown(rig->client, SHUT_WR) == 0);
    CHECK(wait_events(rig->source, POLLRDHUP) & POLLRDHUP);
    CHECK(pump(rig, true) == TM_PUMP_EOF);
    check_base(&rig->half, 0);
    close_rig(rig);
}

/* Then it has to be taken by itself, and is not there: the source has failed. */
static void one_that_has_gone_is_told(void)
{
    struct rig *rig = open_rig((struct shape){AF_INET, AF_INET, 0, 0});
    tm_pump_skip(&rig->half, SKIPPED);
    CHECK(shutdown(rig->client, SHUT_WR) == 0);
    CHECK(wait_events(rig->source, POLLRDHUP) & POLLRDHUP);
    CHECK(pump(rig, true) == TM_PUMP_SOURCE_ERROR);
    close_rig(rig);
}

/* --- each moment, as a worker leaves it that dies there --------------------------------------- */

/* got: of header and payload. known: it is in the record. */
static struct rig *cut_off_in_receive(uint32_t ahead, uint32_t got, bool known)
{
    struct rig *rig = open_rig((struct shape){AF_INET, AF_INET, 0, PIPES});
    struct tm_half *half = &rig->half;
    size_t place = ahead ? 2 * ahead + SKIPPED : SKIPPED;
    uint32_t dropped = got < SKIPPED ? got : SKIPPED;
    client_sends_header(rig, SKIPPED);
    tm_pump_skip(half, SKIPPED);
    client_delivers(rig, PAYLOAD);
    make_ahead(rig->pump.buffer);
    rig->journal.before = 0;
    rig->journal.besides = tm_base_seal(0, ahead, SKIPPED);
    tm_journal_note(&rig->journal, TM_RECEIVE);
    if (got)
        CHECK_EQUAL(recv(rig->source, rig->pump.buffer + place - SKIPPED, got, 0), got);
    if (known && dropped)
        half->base = tm_base_after_skip(half->base, dropped);
    return rig;
}

static void finish_by_hand(struct rig *rig, uint32_t ahead)
{
    struct tm_half *half = &rig->half;
    struct tm_way way = {rig->source, rig->destination, false, 0};
    for (int again = 0; again < 2; again++) { /* the first recovery has died as well */
        if (half->queued) {
            unsigned char queued[PAYLOAD]; /* what it has put into the pipe, whoever has that now */
            CHECK_EQUAL(read(half->pipe.out, queued, sizeof(queued)), half->queued);
            half->queued = 0;
        }
        CHECK(tm_pump_recover(&rig->pump, half, &way) == 0);
        CHECK_EQUAL(tm_base_prepended(half->base), ahead);
    }
    tm_journal_note(&rig->journal, TM_NOTHING);
    if (ahead)
        check_ahead(rig);
    CHECK(pump(rig, true) == TM_PUMP_DRAINED);
    check_base(half, ahead);
    server_receives_all(rig);
    CHECK_EQUAL(rig->received, PAYLOAD);
    close_rig(rig);
}

static void every_moment_of_the_read(void)
{
    static const uint32_t all_got[] = {0, 1, SKIPPED - 1, SKIPPED, SKIPPED + 1, SKIPPED + PAYLOAD};
    for (size_t k = 0; k < sizeof(all_got) / sizeof(all_got[0]); k++)
        for (int way = 0; way < 4; way++) {
            uint32_t ahead = way & 1 ? AHEAD : 0;
            struct rig *rig = cut_off_in_receive(ahead, all_got[k], way & 2);
            finish_by_hand(rig, ahead);
        }
}

/* sent: of the header of ours and the payload. */
static void every_moment_of_the_send(void)
{
    for (int way = 0; way < 2; way++) {
        uint32_t ahead = way ? AHEAD : 0;
        const uint32_t all_sent[] = {0, 1, ahead, ahead + 1, ahead + PAYLOAD};
        for (size_t k = 0; k < sizeof(all_sent) / sizeof(all_sent[0]); k++) {
            struct rig *rig = cut_off_in_receive(ahead, SKIPPED + PAYLOAD, true);
            unsigned char *payload = rig->pump.buffer + 2 * ahead + SKIPPED;
            memcpy(payload - ahead, rig->pump.buffer, ahead);
            rig->journal.read = PAYLOAD;
            tm_journal_note(&rig->journal, TM_SEND);
            if (all_sent[k])
                CHECK_EQUAL(send(rig->destination, payload - ahead, all_sent[k], 0), all_sent[k]);
            finish_by_hand(rig, ahead);
        }
    }
}

static void what_can_not_be_is_refused(void)
{
    for (int k = 0; k < 4; k++) {
        struct rig *rig = cut_off_in_receive(0, SKIPPED + PAYLOAD, k == 3);
        struct tm_way way = {rig->source, rig->destination, false, 0};
        if (k == 0) { /* it would have been known by then */
            rig->journal.read = PAYLOAD;
            tm_journal_note(&rig->journal, TM_SEND);
        } else if (k == 1) {
            rig->journal.besides = tm_base_seal(0, 0, SKIPPED - 1); /* less than the record has */
        } else if (k == 2) {
            rig->journal.besides ^= 1;
        } else {
            rig->half.base = tm_base_seal(SKIPPED - 1, 0, 0); /* one byte too many is payload */
            rig->journal.read = PAYLOAD;
            tm_journal_note(&rig->journal, TM_SEND);
        }
        CHECK(tm_pump_recover(&rig->pump, &rig->half, &way) == -EUCLEAN);
        tm_journal_note(&rig->journal, TM_NOTHING);
        close_rig(rig);
    }
}

/* --- killed between any two instructions ------------------------------------------------------ */

static uint32_t ahead_now; /* of the way that is tried */

static void begin(struct rig *rig, struct shared *shared, struct tm_pipe lent)
{
    (void)lent;
    if (ahead_now)
        tm_pump_precede(&rig->pump, &shared->half, ahead_now);
    pump_once(rig, &shared->half, false);
}

static void finish(struct rig *rig, struct shared *shared, struct tm_pipe lent)
{
    struct tm_half *half = &shared->half;
    struct tm_way way = {rig->source, rig->destination, false, 0};
    enum tm_operation operation = tm_journal_operation(&shared->journal);
    rig->pump.ahead = 0;
    half->pipe = lent;
    half->queued = lent.out >= 0 ? (uint32_t)tm_kernel_piped(lent.out) : 0;
    if (operation == TM_PREPEND)
        CHECK(tm_pump_recover_prepend(&rig->pump, half, rig->destination, false) == 0);
    else if (operation == TM_CONSUME)
        CHECK(tm_pump_recover_consume(&rig->pump, half, rig->source) == 0);
    else
        CHECK(tm_pump_recover(&rig->pump, half, &way) == 0);
    tm_journal_note(&shared->journal, TM_NOTHING);
    if (ahead_now && tm_base_prepended(half->base) == 0) {
        make_ahead(shared->buffer);
        begin(rig, shared, lent);
    }
}

struct way {
    uint32_t payload, ahead;
    int buffer;
    uint32_t pipes;
    int cases;
};

/* Cut off after so many instructions, and its recovery after so many. Returns how many it takes. */
static uint64_t cut_off_after(const struct way *way, uint64_t instructions, uint64_t of_recovery)
{
    struct rig *rig = open_rig((struct shape){AF_INET, AF_INET, way->buffer, way->pipes});
    struct shared *shared = share(rig);
    uint64_t made, again, deadline = now_ms() + (uint64_t)DEADLINE_MS;
    client_sends_header(rig, SKIPPED);
    tm_pump_skip(&shared->half, SKIPPED);
    if (way->payload)
        client_sends(rig, way->payload);
    ahead_now = way->ahead;
    make_ahead(shared->buffer);
    lend_pipe(rig, shared, way->pipes);
    struct tm_pipe lent = shared->half.pipe;
    if (cut_off(rig, shared, lent, begin, instructions, &made))
        cut_off(rig, shared, lent, finish, of_recovery, &again);
    finish(rig, shared, lent);
    if (ahead_now)
        check_ahead(rig);
    client_sends(rig, 1000);
    while (rig->received < rig->sent) {
        CHECK(now_ms() < deadline);
        pump_once(rig, &shared->half, true);
        server_receives(rig, EVERYTHING);
    }
    check_base(&shared->half, ahead_now);
    unshare_all(rig, shared);
    close_rig(rig);
    return made;
}

/* With bytes of the client's behind it, without any, with more than the destination takes; where a
 * header of ours goes ahead, and where there is no pipe, so that it is taken by itself. */
static void it_may_be_cut_off_anywhere(void)
{
    static const struct way ways[] = {
        {PAYLOAD, 0, 0, PIPES, 24},     {0, 0, 0, PIPES, 10},     {60000, 0, 4096, PIPES, 8},
        {PAYLOAD, AHEAD, 0, PIPES, 24}, {0, AHEAD, 0, PIPES, 10}, {60000, AHEAD, 4096, PIPES, 8},
        {PAYLOAD, 0, 0, 0, 8},          {PAYLOAD, AHEAD, 0, 0, 8},
    };
    for (size_t k = 0; k < sizeof(ways) / sizeof(ways[0]); k++) {
        uint64_t cases = (uint64_t)ways[k].cases, whole = cut_off_after(&ways[k], EVERYTHING, 0);
        CHECK(whole > 100);
        for (uint64_t i = 0; i < cases; i++) {
            uint64_t part = whole / cases, at = part * i;
            cut_off_after(&ways[k], at + random_below(part + 1), random_below(whole));
        }
    }
}

int main(void)
{
    random_seed();
    CHECK(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
    RUN(what_is_skipped_comes_with_what_follows);
    RUN(one_that_comes_in_parts_is_skipped_in_parts);
    RUN(an_end_behind_it_is_seen);
    RUN(one_that_has_gone_is_told);
    RUN(every_moment_of_the_read);
    RUN(every_moment_of_the_send);
    RUN(what_can_not_be_is_refused);
    RUN(it_may_be_cut_off_anywhere);
    return 0;
}
