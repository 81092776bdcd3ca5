/* csrc/pump.c after a death: a child pumps and is killed at a random moment, again and again;
 * its parent finishes what the journal says and goes on. Every byte is a function of its place,
 * so that one that is lost, doubled or moved is seen where it arrives. */
#include "pump_deaths.h"

enum { DEATHS = 60, MAX_NS = 400000 };

static void pump_until_killed(struct rig *rig, struct shared *shared)
{
    struct timespec wait = {.tv_nsec = (long)random_below(MAX_NS)};
    pid_t child = fork();
    CHECK(child >= 0);
    while (child == 0)
        pump_once(rig, &shared->half, true);
    client_sends(rig, 1 + random_below(300000));
    nanosleep(&wait, NULL);
    server_receives(rig, random_below(2) ? EVERYTHING : random_below(100000));
    CHECK(kill(child, SIGKILL) == 0);
    CHECK(waitpid(child, NULL, 0) == child);
}

static void recover(struct rig *rig, struct shared *shared, struct tm_pipe lent)
{
    struct tm_half *half = &shared->half;
    half->pipe = lent; /* as recovery of the worker finds it by the record */
    half->queued = lent.in >= 0 ? (uint32_t)tm_kernel_piped(lent.out) : 0;
    struct tm_way way = {rig->source, rig->destination, false, 0};
    CHECK(tm_pump_recover(&rig->pump, half, &way) == 0);
    tm_journal_note(&shared->journal, TM_NOTHING);
}

/* A header of the client's that nobody gets, and one that the destination was sent ahead of all: kernel
 * counts have both, payload has neither. */
static void begin_with_headers(struct rig *rig, struct shared *shared, uint32_t consumed,
                               uint32_t prepended)
{
    static const unsigned char header[4096];
    unsigned char got[4096];
    CHECK_EQUAL(send(rig->client, header, consumed, 0), consumed);
    wait_readable_bytes(rig->source, consumed);
    CHECK(tm_pump_consume(&rig->pump, &shared->half, rig->source, consumed));
    CHECK_EQUAL(tm_base_consumed(shared->half.base), consumed);
    shared->half.base = tm_base_make(consumed, prepended);
    CHECK_EQUAL(send(rig->destination, header, prepended, 0), prepended);
    wait_readable_bytes(rig->server, prepended);
    CHECK_EQUAL(recv(rig->server, got, sizeof(got), 0), prepended);
}

/* To Redis's protocol all of the stream is one long argument, of which it counts what is left. */
static const char REQUEST[] = "*1\r\n$900000000\r\n";
enum { VALUE = 900000000 + 2, REQUEST_SIZE = sizeof(REQUEST) - 1 };

static void begin_to_hear(struct rig *rig, struct shared *shared)
{
    shared->half.splicing = TM_HEARD;
    rig->pump.talk = &shared->talk;
    tm_talk_begin(&shared->talk, TM_PROTOCOL_REDIS);
    tm_talk_feed(&shared->talk, NULL, TM_FROM_CLIENT, (const unsigned char *)REQUEST, REQUEST_SIZE);
}

/* After a death: what it says is true, or it says nothing. Whether it says something. */
static bool is_heard(struct shared *shared)
{
    uint32_t passed = (uint32_t)shared->half.bytes + shared->half.queued;
    tm_talk_mend(&shared->talk);
    if (tm_talk_moment(&shared->talk, TM_PROTOCOL_REDIS,
                       (uint32_t[]){REQUEST_SIZE + passed, 0}) == TM_MOMENT_UNKNOWN)
        return false;
    CHECK_EQUAL(shared->talk.redis.number[TM_FROM_CLIENT], VALUE - passed);
    CHECK_EQUAL(shared->talk.moment, TM_MOMENT_BUSY);
    return true;
}

static void kill_and_go_on(struct shape shape, uint8_t splicing)
{
    struct rig *rig = open_rig(shape);
    struct shared *shared = share(rig);
    if (shape.source_family == AF_UNIX)
        shared->half.uncounted |= TM_UNCOUNTED_SOURCE;
    if (shape.destination_family == AF_UNIX)
        shared->half.uncounted |= TM_UNCOUNTED_DESTINATION;
    shared->half.splicing = splicing;
    bool heard = splicing == TM_HEARD;
    if (heard)
        begin_to_hear(rig, shared);
    if (random_below(2))
        begin_with_headers(rig, shared, 1 + (uint32_t)random_below(4096),
                           1 + (uint32_t)random_below(4096));
    for (int death = 0; death < DEATHS; death++) {
        lend_pipe(rig, shared, shape.pipes);
        struct tm_pipe lent = shared->half.pipe;
        pump_until_killed(rig, shared);
        recover(rig, shared, lent);
        if (splicing == TM_HEARD) {
            bool still = is_heard(shared);
            CHECK(heard || !still); /* what was missed once is missing from then on */
            heard = still;
        }
    }
    uint64_t deadline = now_ms() + (uint64_t)DEADLINE_MS;
    while (rig->received < rig->sent) {
        CHECK(now_ms() < deadline);
        pump_once(rig, &shared->half, true);
        server_receives(rig, EVERYTHING);
    }
    CHECK(rig->sent > 0);
    CHECK(is_heard(shared) == heard);
    unshare_all(rig, shared);
    close_rig(rig);
}

static void killed_while_pumping(void)
{
    static const int families[] = {AF_INET, AF_UNIX};
    for (int way = 0; way < 4; way++) {
        for (int mode = 0; mode < 5; mode++) { /* copy, splice, no pipe; heard, without a pipe too */
            fprintf(stderr, "    way %d, mode %d\n", way, mode);
            kill_and_go_on((struct shape){families[way & 1], families[way >> 1],
                                          random_below(2) ? 0 : 16384,
                                          mode == 2 || mode == 4 ? 0 : PIPES},
                           mode == 1 ? TM_SPLICE : mode > 2 ? TM_HEARD : TM_COPY);
        }
    }
}

/* Each entry of the journal, as a worker leaves it that dies right behind it. */
static void every_entry_by_hand(void)
{
    for (int sent_first = 0; sent_first < 2; sent_first++) {
        struct rig *rig = open_rig((struct shape){AF_INET, AF_INET, 0, PIPES});
        struct tm_journal *journal = &rig->journal;
        client_sends(rig, 5000);
        wait_readable_bytes(rig->source, 5000);
        journal->before = 0;
        journal->besides = tm_base_make(0, 0);
        tm_journal_note(journal, TM_RECEIVE);
        CHECK_EQUAL(recv(rig->source, rig->pump.buffer, BUFFER_SIZE, 0), 5000);
        if (sent_first) {
            journal->read = 5000;
            tm_journal_note(journal, TM_SEND);
            CHECK_EQUAL(send(rig->destination, rig->pump.buffer, 1200, 0), 1200);
        }
        struct tm_way way = {rig->source, rig->destination, false, 0};
        CHECK(tm_pump_recover(&rig->pump, &rig->half, &way) == 0);
        CHECK_EQUAL(rig->half.bytes, sent_first ? 1200 : 0);
        CHECK_EQUAL(rig->half.queued, sent_first ? 3800 : 5000);
        tm_journal_note(journal, TM_NOTHING);
        pump_once(rig, &rig->half, false);
        wait_readable_bytes(rig->server, 5000);
        CHECK_EQUAL(server_receives(rig, EVERYTHING), 5000);
        close_rig(rig);
    }
}

/* Its death may come before, in or behind the call, and once more in the recovery. */
static void kill_while_consuming(int family)
{
    enum { HEADER = 1500, REST = 300 };
    for (int death = 0; death < DEATHS; death++) {
        struct rig *rig = open_rig((struct shape){family, AF_INET, 0, PIPES});
        struct shared *shared = share(rig);
        unsigned char rest[HEADER + REST];
        struct timespec wait = {.tv_nsec = (long)random_below(MAX_NS / 8)};
        if (family == AF_UNIX)
            shared->half.uncounted |= TM_UNCOUNTED_SOURCE;
        CHECK_EQUAL(send(rig->client, (unsigned char[HEADER + REST]){0}, HEADER + REST, 0),
                    HEADER + REST);
        wait_readable_bytes(rig->source, HEADER + REST);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0)
            _exit(!tm_pump_consume(&rig->pump, &shared->half, rig->source, HEADER));
        nanosleep(&wait, NULL);
        kill(child, SIGKILL);
        CHECK(waitpid(child, NULL, 0) == child);
        if (tm_journal_operation(&shared->journal) == TM_CONSUME) {
            CHECK(tm_pump_recover_consume(&rig->pump, &shared->half, rig->source) == 0);
            CHECK_EQUAL(tm_base_consumed(shared->half.base), HEADER);
        }
        uint32_t consumed = tm_base_consumed(shared->half.base);
        CHECK(consumed == HEADER || consumed == 0);
        CHECK_EQUAL(recv(rig->source, rest, sizeof(rest), 0),
                    HEADER + REST - consumed);
        unshare_all(rig, shared);
        close_rig(rig);
    }
}

static void killed_while_consuming(void)
{
    kill_while_consuming(AF_INET);
    kill_while_consuming(AF_UNIX);
}

/* Each moment of it, as a worker leaves it that dies there. */
static void every_moment_of_a_consume(void)
{
    enum { HEADER = 400 };
    for (int moment = 0; moment < 4; moment++) {
        struct rig *rig = open_rig((struct shape){AF_INET, AF_INET, 0, PIPES});
        struct tm_half *half = &rig->half;
        unsigned char bytes[1000] = {0};
        uint32_t taken = moment == 0 ? 0 : moment == 1 ? 150 : HEADER;
        CHECK_EQUAL(send(rig->client, bytes, sizeof(bytes), 0), (ssize_t)sizeof(bytes));
        wait_readable_bytes(rig->source, sizeof(bytes));
        half->blocked = TM_PUMPING;
        half->base = tm_base_make(70, 0); /* of another header before it */
        CHECK_EQUAL(recv(rig->source, bytes, 70, 0), 70);
        rig->journal.before = 70;
        rig->journal.read = HEADER;
        tm_journal_note(&rig->journal, TM_CONSUME);
        if (taken)
            CHECK_EQUAL(recv(rig->source, bytes, taken, 0), taken);
        if (moment == 3)
            half->base = tm_base_make(70 + HEADER, 0);
        CHECK(tm_pump_recover_consume(&rig->pump, half, rig->source) == 0);
        CHECK_EQUAL(tm_base_consumed(half->base), 70 + HEADER);
        CHECK_EQUAL(recv(rig->source, bytes, sizeof(bytes), 0), 1000 - 70 - HEADER);
        half->base = tm_base_make(71, 0); /* corrupt: neither before nor after */
        half->blocked = TM_PUMPING;
        CHECK(tm_pump_recover_consume(&rig->pump, half, rig->source) == -EUCLEAN);
        tm_journal_note(&rig->journal, TM_NOTHING);
        close_rig(rig);
    }
}

/* The same of bytes that the destination is sent, which was sent others before. In a pair it is the
 * end that was accepted; the kernel counts a connected one's SYN, which we_connected says. */
static void every_moment_of_a_prepend(void)
{
    enum { BEFORE = 70, HEADER = 400 };
    for (int moment = 0; moment < 4; moment++) {
        struct rig *rig = open_rig((struct shape){AF_INET, AF_INET, 0, PIPES});
        struct tm_half *half = &rig->half;
        unsigned char got[1000];
        uint32_t sent = moment == 0 ? 0 : moment == 1 ? 150 : HEADER;
        memset(rig->pump.buffer, 'b', BEFORE);
        CHECK(tm_pump_prepend(&rig->pump, half, rig->destination, BEFORE, false) == 0);
        half->blocked = TM_PUMPING;
        rig->journal.before = BEFORE;
        rig->journal.read = HEADER;
        tm_journal_note(&rig->journal, TM_PREPEND);
        for (int i = 0; i < HEADER; i++)
            rig->pump.buffer[i] = (unsigned char)i;
        if (sent)
            CHECK_EQUAL(send(rig->destination, rig->pump.buffer, sent, 0), sent);
        if (moment == 3)
            half->base = tm_base_make(0, BEFORE + HEADER);
        CHECK(tm_pump_recover_prepend(&rig->pump, half, rig->destination, false) == 0);
        CHECK_EQUAL(tm_base_prepended(half->base), BEFORE + HEADER);
        wait_readable_bytes(rig->server, BEFORE + HEADER);
        CHECK_EQUAL(recv(rig->server, got, sizeof(got), 0), BEFORE + HEADER);
        CHECK(got[0] == 'b' && memcmp(got + BEFORE, rig->pump.buffer, HEADER) == 0);
        half->base = tm_base_make(0, BEFORE + 1); /* corrupt: neither before nor after */
        half->blocked = TM_PUMPING;
        CHECK(tm_pump_recover_prepend(&rig->pump, half, rig->destination, false) == -EUCLEAN);
        tm_journal_note(&rig->journal, TM_NOTHING);
        close_rig(rig);
    }
}

/* --- what goes ahead of the first bytes ------------------------------------------------------- */

/* As a worker does it. */
static void begin_ahead(struct rig *rig, struct shared *shared, struct tm_pipe lent)
{
    (void)lent;
    tm_pump_precede(&rig->pump, &shared->half, AHEAD);
    pump_once(rig, &shared->half, false);
}

/* As its next incarnation does. */
static void finish_ahead(struct rig *rig, struct shared *shared, struct tm_pipe lent)
{
    struct tm_half *half = &shared->half;
    struct tm_way way = {rig->source, rig->destination, false, 0};
    rig->pump.ahead = 0;
    half->pipe = lent;
    half->queued = (uint32_t)tm_kernel_piped(lent.out);
    if (tm_journal_operation(&shared->journal) == TM_PREPEND)
        CHECK(tm_pump_recover_prepend(&rig->pump, half, rig->destination, false) == 0);
    else
        CHECK(tm_pump_recover(&rig->pump, half, &way) == 0);
    tm_journal_note(&shared->journal, TM_NOTHING);
    if (tm_base_prepended(half->base) == 0) {
        make_ahead(shared->buffer);
        begin_ahead(rig, shared, lent);
    }
}

/* Cut off after so many instructions, and its recovery after so many. Returns how many it takes. */
static uint64_t cut_off_after(uint32_t payload, int buffer, uint64_t instructions,
                              uint64_t of_recovery)
{
    struct rig *rig = open_rig((struct shape){AF_INET, AF_INET, buffer, PIPES});
    struct shared *shared = share(rig);
    uint64_t made, again, deadline = now_ms() + (uint64_t)DEADLINE_MS;
    if (payload)
        client_sends(rig, payload);
    make_ahead(shared->buffer);
    lend_pipe(rig, shared, PIPES);
    struct tm_pipe lent = shared->half.pipe;
    if (cut_off(rig, shared, lent, begin_ahead, instructions, &made))
        cut_off(rig, shared, lent, finish_ahead, of_recovery, &again);
    finish_ahead(rig, shared, lent);
    CHECK_EQUAL(tm_base_prepended(shared->half.base), AHEAD);
    check_ahead(rig);
    client_sends(rig, 1000);
    while (rig->received < rig->sent) {
        CHECK(now_ms() < deadline);
        pump_once(rig, &shared->half, true);
        server_receives(rig, EVERYTHING);
    }
    unshare_all(rig, shared);
    close_rig(rig);
    return made;
}

/* With bytes of the client's to go with, without any, and with more than the destination takes. */
static void what_goes_ahead_may_be_cut_off_anywhere(void)
{
    static const struct { uint32_t payload; int buffer, cases; } ways[] = {
        {500, 0, 80}, {0, 0, 30}, {60000, 4096, 30},
    };
    for (int way = 0; way < 3; way++) {
        uint32_t payload = ways[way].payload;
        int buffer = ways[way].buffer, cases = ways[way].cases;
        uint64_t whole = cut_off_after(payload, buffer, EVERYTHING, 0);
        CHECK(whole > 100);
        for (int i = 0; i < cases; i++) {
            uint64_t part = whole / (uint64_t)cases, at = part * (uint64_t)i;
            cut_off_after(payload, buffer, at + random_below(part + 1), random_below(whole));
        }
    }
}

/* Where each call may be the last. sent: by it, of both. */
static void every_moment_of_what_goes_ahead(void)
{
    enum { PAYLOAD = 500 };
    static const int all_sent[] = {-1, 0, 1, AHEAD - 1, AHEAD, AHEAD + 1, AHEAD + PAYLOAD};
    for (size_t k = 0; k < sizeof(all_sent) / sizeof(all_sent[0]); k++) {
        for (int known = 0; known < 2; known++) {
            struct rig *rig = open_rig((struct shape){AF_INET, AF_INET, 0, PIPES});
            struct tm_half *half = &rig->half;
            int sent = all_sent[k];
            if (known && sent < AHEAD) {
                close_rig(rig);
                continue;
            }
            client_delivers(rig, PAYLOAD);
            make_ahead(rig->pump.buffer);
            rig->journal.before = 0;
            rig->journal.besides = tm_base_make(0, AHEAD);
            tm_journal_note(&rig->journal, TM_RECEIVE);
            CHECK_EQUAL(recv(rig->source, rig->pump.buffer + AHEAD, PAYLOAD, 0), PAYLOAD);
            if (sent >= 0) {
                rig->journal.read = PAYLOAD;
                tm_journal_note(&rig->journal, TM_SEND);
            }
            if (sent > 0)
                CHECK_EQUAL(send(rig->destination, rig->pump.buffer, (size_t)sent, 0), sent);
            if (known)
                half->base = tm_base_make(0, AHEAD);
            rig->journal.besides ^= 1; /* corrupt */
            struct tm_way way = {rig->source, rig->destination, false, 0};
            CHECK(tm_pump_recover(&rig->pump, half, &way) == -EUCLEAN);
            rig->journal.besides ^= 1;
            CHECK(tm_pump_recover(&rig->pump, half, &way) == 0);
            CHECK_EQUAL(tm_base_prepended(half->base), AHEAD);
            CHECK_EQUAL(half->bytes, sent > AHEAD ? sent - AHEAD : 0);
            CHECK_EQUAL(half->bytes + half->queued, PAYLOAD);
            tm_journal_note(&rig->journal, TM_NOTHING);
            check_ahead(rig);
            pump_once(rig, half, false);
            server_receives_all(rig);
            CHECK_EQUAL(rig->received, PAYLOAD);
            close_rig(rig);
        }
    }
}

/* Its destination has gone meanwhile: that is no fault of the half. */
static void a_prepend_to_nobody(void)
{
    struct rig *rig = open_rig((struct shape){AF_INET, AF_INET, 0, PIPES});
    struct linger linger = {.l_onoff = 1};
    rig->half.blocked = TM_PUMPING;
    rig->journal.read = 10;
    tm_journal_note(&rig->journal, TM_PREPEND);
    CHECK(setsockopt(rig->server, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)) == 0);
    CHECK(close(rig->server) == 0);
    rig->server = -1;
    CHECK(wait_events(rig->destination, POLLERR) & POLLERR);
    CHECK(tm_pump_recover_prepend(&rig->pump, &rig->half, rig->destination, false) == -ECONNRESET);
    CHECK_EQUAL(rig->half.blocked, 0);
    CHECK_EQUAL(tm_base_prepended(rig->half.base), 0);
    tm_journal_note(&rig->journal, TM_NOTHING);
    close_rig(rig);
}

static void what_can_not_be_is_refused(void)
{
    struct rig *rig = open_rig((struct shape){AF_INET, AF_INET, 0, PIPES});
    struct tm_way way = {rig->source, rig->destination, false, 0};
    tm_journal_note(&rig->journal, TM_QUEUE);
    rig->journal.besides = tm_base_make(0, 0);
    rig->journal.read = 10;
    rig->journal.sent = 11; /* more than there were */
    CHECK(tm_pump_recover(&rig->pump, &rig->half, &way) < 0);
    rig->journal.read = BUFFER_SIZE + 1; /* more than the buffer holds */
    CHECK(tm_pump_recover(&rig->pump, &rig->half, &way) < 0);
    tm_journal_note(&rig->journal, TM_NOTHING);
    close_rig(rig);
}

/* What a record says was passed on is wrong, and the journal has copied it: the lengths worked out
 * from it would be wrong as well, and bytes of another connection could go out. */
static void a_wrong_count_of_bytes_is_noticed(void)
{
    static const enum tm_operation operations[] = {TM_RECEIVE, TM_SEND, TM_PEEK_SEND};
    for (int k = 0; k < 3; k++) {
        for (int wrong = -1; wrong <= 1; wrong++) {
            struct rig *rig = open_rig((struct shape){AF_INET, AF_INET, 0, PIPES});
            struct tm_journal *journal = &rig->journal;
            client_sends(rig, 5000);
            wait_readable_bytes(rig->source, 5000);
            pump_once(rig, &rig->half, false); /* 5,000 are passed on and counted */
            wait_readable_bytes(rig->server, 5000);
            CHECK_EQUAL(server_receives(rig, EVERYTHING), 5000);
            client_sends(rig, 700);
            wait_readable_bytes(rig->source, 700);
            rig->half.bytes += (uint64_t)wrong;
            journal->before = rig->half.bytes;
            journal->read = 700;
            journal->besides = tm_base_make(0, 0);
            tm_journal_note(journal, operations[k]);
            int flags = operations[k] == TM_PEEK_SEND ? MSG_PEEK : 0;
            CHECK_EQUAL(recv(rig->source, rig->pump.buffer, BUFFER_SIZE, flags), 700);
            struct tm_way way = {rig->source, rig->destination, false, 0};
            int result = tm_pump_recover(&rig->pump, &rig->half, &way);
            CHECK_EQUAL(result, wrong ? -EUCLEAN : 0);
            tm_journal_note(journal, TM_NOTHING);
            close_rig(rig);
        }
    }
}

int main(void)
{
    random_seed();
    CHECK(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
    RUN(every_entry_by_hand);
    RUN(what_can_not_be_is_refused);
    RUN(a_wrong_count_of_bytes_is_noticed);
    RUN(every_moment_of_a_consume);
    RUN(every_moment_of_a_prepend);
    RUN(a_prepend_to_nobody);
    RUN(every_moment_of_what_goes_ahead);
    RUN(what_goes_ahead_may_be_cut_off_anywhere);
    RUN(killed_while_consuming);
    RUN(killed_while_pumping);
    return 0;
}
