/* Tests csrc/pump between real sockets: every byte once and in order, an edge after each call,
 * back-pressure, ends and resets. Runs alone, under sanitizers. */
#include "pump.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>

#include "check.h"
#include "pump_rig.h"

static const int FAMILIES[] = {AF_INET, AF_UNIX};

/* In place of libc's splice: fails once with `error`, after `passes` calls. */
static struct {
    int error;
    uint32_t passes;
} splice_fault;

ssize_t splice(int in, off64_t *in_place, int out, off64_t *out_place, size_t size, unsigned flags)
{
    if (splice_fault.error && splice_fault.passes-- == 0) {
        errno = splice_fault.error;
        splice_fault.error = 0;
        return -1;
    }
    return syscall(SYS_splice, in, in_place, out, out_place, size, flags);
}

/* --- whole streams -------------------------------------------------------------------------- */

static const struct traffic TRAFFICS[] = {
    {200000, 3000, 4000, 0, BUDGET},             /* small messages: copied */
    {4000000, 400000, 400000, 0, BUDGET},        /* bulk: spliced */
    {3000000, 200000, 20000, 65536, BUDGET},     /* bulk to a slow reader */
    {2000000, 100000, 100000, 131072, 3000},     /* YIELD after every read */
    {2000000, 100000, 100000, 131072, 100000},
};

static void relay_every_way(uint32_t pipes, int fault)
{
    for (size_t k = 0; k < sizeof(TRAFFICS) / sizeof(TRAFFICS[0]); k++) {
        for (int way = 0; way < 4; way++) {
            struct rig *rig = open_rig((struct shape){
                FAMILIES[way & 1], FAMILIES[way >> 1], TRAFFICS[k].buffer, pipes});
            splice_fault.error = fault;
            splice_fault.passes = (uint32_t)random_below(4);
            relay(rig, &TRAFFICS[k]);
            CHECK((rig->pump.fallbacks > 0) == (pipes == 0));
            splice_fault.error = 0;
            close_rig(rig);
        }
    }
}

static void streams_arrive_byte_for_byte(void)
{
    relay_every_way(PIPES, 0);
}

static void streams_arrive_without_any_pipe(void)
{
    relay_every_way(0, 0);
}

static void an_interrupted_splice_is_repeated(void)
{
    relay_every_way(PIPES, EINTR);
}

static void reads_choose_the_mode(void)
{
    for (int k = 0; k < 2; k++) {
        struct rig *rig = open_rig((struct shape){FAMILIES[k], FAMILIES[k], 0, PIPES});
        /* size of the read, mode after it */
        static const struct {
            uint32_t size;
            uint8_t splicing;
        } steps[] = {
            {TM_BIG_READ, 0}, {32768, 0}, {100, 0}, /* one small read begins the count anew */
            {TM_BIG_READ, 0}, {32768, 0}, {TM_BIG_READ, 1},
            {100, 1}, {TM_BIG_READ - 1, 1}, {32768, 1},
            {1, 1}, {TM_BIG_READ - 1, 1}, {100, 0},
            {32768, 0}, {32768, 0}, {32768, 1}, {60000, 1},
        };
        for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
            client_delivers(rig, steps[i].size);
            CHECK(pump(rig, false) == TM_PUMP_DRAINED);
            CHECK_EQUAL(rig->half.bytes, rig->sent);
            CHECK_EQUAL(rig->half.splicing, steps[i].splicing);
            server_receives_all(rig);
        }
        close_rig(rig);
    }
}

/* Whatever its reads are: each byte is heard once, and never spliced. */
static void a_half_that_is_heard_is_copied(void)
{
    for (int way = 0; way < 8; way++) {
        struct rig *rig = open_rig((struct shape){FAMILIES[way & 1], FAMILIES[way & 1],
                                                  way & 4 ? 16384 : 0, way & 2 ? PIPES : 0});
        struct tm_talk talk;
        tm_talk_begin(&talk, TM_PROTOCOL_NONE);
        rig->half.splicing = TM_HEARD;
        rig->pump.talk = &talk;
        rig->journal.side = way & 1;
        for (int i = 0; i < 200; i++) {
            client_sends(rig, 1 + random_below(100000));
            (void)pump(rig, false);
            CHECK_EQUAL(talk.fed[way & 1], rig->half.bytes + rig->half.queued);
            CHECK_EQUAL(talk.fed[1 - (way & 1)], 0);
            CHECK_EQUAL(rig->half.splicing, TM_HEARD);
            server_receives(rig, random_below(200000));
        }
        CHECK(rig->half.bytes > 0);
        close_rig(rig);
    }
}

/* --- where a call ends ---------------------------------------------------------------------- */

static void every_way(void (*test)(struct shape shape, bool splicing), int buffer)
{
    for (int way = 0; way < 4; way++)
        for (int mode = 0; mode < 3; mode++) /* copy, splice, peek */
            test((struct shape){FAMILIES[way & 1], FAMILIES[way >> 1], buffer,
                                mode == 2 ? 0 : PIPES}, mode == 1);
}

static void check_back_pressure(struct shape shape, bool splicing)
{
    struct rig *rig = open_rig(shape);
    rig->half.splicing = splicing;
    uint64_t deadline = now_ms() + (uint64_t)DEADLINE_MS;
    for (int quiet = 0; quiet < 5; quiet++) {
        fill(rig, splicing ? BUFFER_SIZE : 5000);
        CHECK(now_ms() < deadline);
        uint64_t passed_on = rig->half.bytes;
        uint32_t queued = rig->half.queued;
        CHECK(queued <= (shape.pipes == 0 ? 0 : splicing ? TM_PIPE_SIZE : BUFFER_SIZE));
        CHECK((queued > 0) == (shape.pipes > 0)); /* else it waits in the source */
        enum tm_pump_result result = pump(rig, false);
        if (rig->half.bytes != passed_on) {
            quiet = -1; /* TCP moved what was under way, and the destination took more */
            continue;
        }
        /* Called again, it takes nothing more out of the source. */
        CHECK(result == TM_PUMP_BLOCKED && rig->half.queued == queued);
    }
    CHECK(rig->sent > rig->half.bytes + rig->half.queued); /* the client is held up */
    CHECK(shutdown(rig->client, SHUT_WR) == 0);
    enum tm_pump_result result;
    do {
        server_receives(rig, UINT64_MAX / 2);
        result = pump(rig, true);
        CHECK(now_ms() < deadline);
    } while (result != TM_PUMP_EOF);
    server_receives_all(rig);
    CHECK_EQUAL(rig->received, rig->sent);
    close_rig(rig);
}

static void a_reader_that_does_not_read_holds_up_the_sender(void)
{
    every_way(check_back_pressure, 65536);
}

static void check_end(struct shape shape, bool splicing)
{
    struct rig *rig = open_rig(shape);
    rig->half.splicing = splicing;
    CHECK(pump(rig, false) == TM_PUMP_DRAINED);
    client_delivers(rig, 30000);
    CHECK(shutdown(rig->client, SHUT_WR) == 0);
    CHECK(wait_events(rig->source, POLLRDHUP) & POLLRDHUP);
    CHECK(pump(rig, true) == TM_PUMP_EOF);
    CHECK_EQUAL(rig->half.bytes, 30000);
    CHECK(pump(rig, true) == TM_PUMP_EOF); /* the end stays the end */
    server_receives_all(rig);
    CHECK(!rig->ended); /* passing the FIN on is the caller's */
    close_rig(rig);
}

static void the_end_comes_after_the_last_byte(void)
{
    every_way(check_end, 0);
}

static void a_short_read_is_the_last_unless_the_source_hung_up(void)
{
    for (int k = 0; k < 2; k++) {
        struct rig *rig = open_rig((struct shape){FAMILIES[k], FAMILIES[k], 0, PIPES});
        client_delivers(rig, 100);
        CHECK(shutdown(rig->client, SHUT_WR) == 0);
        CHECK(wait_events(rig->source, POLLRDHUP) & POLLRDHUP);
        /* A second read would have seen the end. */
        CHECK(pump(rig, false) == TM_PUMP_DRAINED);
        CHECK_EQUAL(rig->half.bytes, 100);
        CHECK(pump(rig, true) == TM_PUMP_EOF);
        close_rig(rig);
    }
}

static void check_budget(struct shape shape, bool splicing)
{
    enum { TOTAL = 160000, SMALL_BUDGET = 30000 };
    struct rig *rig = open_rig(shape);
    rig->half.splicing = splicing;
    rig->pump.budget = SMALL_BUDGET;
    rig->pump.buffer_size = 10000;
    client_delivers(rig, TOTAL);
    CHECK(pump(rig, false) == TM_PUMP_YIELD);
    CHECK_EQUAL(rig->half.bytes, SMALL_BUDGET);
    enum tm_pump_result result;
    do {
        server_receives_all(rig);
        result = pump(rig, false);
    } while (result == TM_PUMP_YIELD);
    CHECK(result == TM_PUMP_DRAINED);
    CHECK_EQUAL(rig->half.bytes, TOTAL);
    close_rig(rig);
}

static void a_used_up_budget_yields(void)
{
    every_way(check_budget, 400000);
}

static void a_spliced_half_goes_on_without_a_pipe(void)
{
    struct rig *rig = open_rig((struct shape){AF_INET, AF_INET, 0, PIPES});
    rig->half.splicing = 1;
    client_delivers(rig, 20000);
    CHECK(pump(rig, false) == TM_PUMP_DRAINED);
    tm_pipe_pool_destroy(&rig->pump.pool);
    rig->pump.pool.limit = 0;
    client_delivers(rig, 50000);
    CHECK(pump(rig, false) == TM_PUMP_DRAINED);
    CHECK_EQUAL(rig->half.bytes, 70000);
    CHECK(rig->pump.fallbacks > 0 && rig->half.splicing == 0);
    server_receives_all(rig);
    close_rig(rig);
}

static void check_urgent(struct shape shape, bool splicing)
{
    if (shape.source_family != AF_INET)
        return;
    for (int way = 0; way < 4; way++) {
        struct rig *rig = open_rig(shape);
        bool seen_fin, fin = way & 1;
        uint32_t ahead = way & 2 ? 4000 : 0; /* of the urgent byte */
        int on = 1;
        uint64_t deadline = now_ms() + (uint64_t)DEADLINE_MS;
        CHECK(setsockopt(rig->client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) == 0);
        rig->unaccounted = true; /* the kernel hides what is behind the urgent byte */
        rig->half.splicing = splicing;
        client_sends(rig, ahead);
        CHECK(send(rig->client, "!", 1, MSG_OOB) == 1); /* beside the stream, not in it */
        client_sends(rig, 4000);
        if (fin)
            CHECK(shutdown(rig->client, SHUT_WR) == 0);
        while (tcp_arrived(rig->source, &seen_fin) < ahead + 4001 || seen_fin != fin)
            CHECK(now_ms() < deadline);
        CHECK(pump(rig, true) == (fin ? TM_PUMP_EOF : TM_PUMP_DRAINED));
        CHECK_EQUAL(rig->half.bytes, ahead + 4000);
        server_receives_all(rig);
        close_rig(rig);
    }
}

static void urgent_data_hides_nothing_behind_it(void)
{
    every_way(check_urgent, 0);
}

/* --- resets --------------------------------------------------------------------------------- */

static void check_source_reset(struct shape shape, bool splicing)
{
    struct rig *rig = open_rig(shape);
    rig->half.splicing = splicing;
    client_delivers(rig, 50000);
    if (shape.source_family == AF_UNIX) {
        CHECK(send(rig->source, "unread", 6, 0) == 6); /* makes the close below a reset */
        CHECK(close(rig->client) == 0);
    } else {
        reset_close(rig->client);
    }
    rig->client = -1;
    rig->unaccounted = true;
    CHECK(wait_events(rig->source, POLLIN) & POLLHUP);
    CHECK(pump(rig, true) == TM_PUMP_SOURCE_ERROR);
    CHECK_EQUAL(rig->half.error, ECONNRESET);
    CHECK_EQUAL(rig->half.bytes, 50000); /* what came before it has been passed on */
    server_receives_all(rig);
    close_rig(rig);
}

static void a_reset_source_is_told_after_its_last_byte(void)
{
    every_way(check_source_reset, 0);
}

static void check_destination_reset(struct shape shape, bool splicing)
{
    bool unix_socket = shape.destination_family == AF_UNIX;
    for (int full = 0; full < 2; full++) {
        struct rig *rig = open_rig(shape);
        rig->half.splicing = splicing;
        if (full)
            fill(rig, 20000);
        if (unix_socket)
            CHECK(close(rig->server) == 0);
        else
            reset_close(rig->server);
        rig->server = -1;
        CHECK(wait_events(rig->destination, 0) & POLLHUP);
        if (!full)
            client_delivers(rig, 10);
        uint64_t passed_on = rig->half.bytes;
        CHECK(pump(rig, false) == TM_PUMP_DESTINATION_ERROR);
        if (!(unix_socket && full)) /* a UNIX peer that left mail unread says ECONNRESET */
            CHECK_EQUAL(rig->half.error, unix_socket ? EPIPE : ECONNRESET);
        CHECK_EQUAL(rig->half.bytes, passed_on);
        close_rig(rig);
    }
}

static void a_reset_destination_is_told_with_its_error(void)
{
    every_way(check_destination_reset, 65536);
}

static void a_destination_lost_between_send_and_splice_is_told(void)
{
    struct rig *rig = open_rig((struct shape){AF_UNIX, AF_UNIX, 16384, PIPES});
    set_buffer(rig->client, SO_SNDBUF, 400000);
    client_delivers(rig, BUFFER_SIZE); /* more than the destination takes */
    splice_fault.error = EPIPE;        /* the rest is in the pipe by then */
    splice_fault.passes = 0;
    CHECK(pump(rig, false) == TM_PUMP_DESTINATION_ERROR);
    CHECK_EQUAL(splice_fault.error, 0);
    CHECK_EQUAL(rig->half.error, EPIPE);
    CHECK(rig->half.queued > 0 && rig->half.bytes + rig->half.queued == BUFFER_SIZE);
    close_rig(rig);
}

static void a_released_half_keeps_nothing(void)
{
    struct rig *rig = open_rig((struct shape){AF_UNIX, AF_INET, 65536, PIPES});
    fill(rig, 20000);
    CHECK(rig->half.queued > 0 && rig->pump.pool.open == 1);
    uint32_t before = open_descriptors();
    tm_pump_release(&rig->pump, &rig->half);
    CHECK(rig->half.queued == 0 && rig->half.pipe.in == -1 && rig->half.pipe.out == -1);
    CHECK(rig->pump.pool.open == 0 && rig->pump.pool.idle == 0); /* destroyed, not pooled */
    CHECK_EQUAL(open_descriptors(), before - 2);
    tm_pump_release(&rig->pump, &rig->half); /* a half without a pipe: nothing to do */
    CHECK_EQUAL(open_descriptors(), before - 2);
    close_rig(rig);
}

int main(void)
{
    /* As in the worker: splice to a socket that was reset raises SIGPIPE, and has no flag
     * against it. */
    CHECK(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
    random_seed();
    RUN(streams_arrive_byte_for_byte);
    RUN(streams_arrive_without_any_pipe);
    RUN(an_interrupted_splice_is_repeated);
    RUN(reads_choose_the_mode);
    RUN(a_half_that_is_heard_is_copied);
    RUN(a_reader_that_does_not_read_holds_up_the_sender);
    RUN(the_end_comes_after_the_last_byte);
    RUN(a_short_read_is_the_last_unless_the_source_hung_up);
    RUN(a_used_up_budget_yields);
    RUN(a_spliced_half_goes_on_without_a_pipe);
    RUN(urgent_data_hides_nothing_behind_it);
    RUN(a_reset_source_is_told_after_its_last_byte);
    RUN(a_reset_destination_is_told_with_its_error);
    RUN(a_destination_lost_between_send_and_splice_is_told);
    RUN(a_released_half_keeps_nothing);
    return 0;
}
