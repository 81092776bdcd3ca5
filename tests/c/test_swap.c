/* csrc/conn/swap.c: an exchange of endpoints that is cut off after any instruction. Runs alone,
 * under sanitizers. */
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include "check.h"
#include "conn/moves.h"
#include "conn/swap.h"
#include "trust.h"

enum { CAPACITY = 4, INDEX = 1, SCOUT = 3 };

static const enum tm_holding PLACES = TM_HOLDS_DESTINATION | TM_HOLDS_ENDPOINT;

static void *shared(size_t size)
{
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(base != MAP_FAILED);
    return base;
}

static void set_endpoint(struct tm_worker *w, uint32_t index, int fd, uint32_t slot,
                         uint16_t family)
{
    struct tm_conn *conn = &w->records[index];
    struct tm_cold *cold = &w->colds[index];
    tm_conn_set_fd(conn, cold, TM_ENDPOINT, fd);
    conn->generation = 10 + index;
    conn->destination_slot = slot;
    cold->endpoint_slot = slot + 10;
    cold->endpoint.family = family;
    cold->destination = slot;
    cold->route_slot = 0;
    cold->rule_slot = TM_NONE;
}

/* A connection that has passed bytes on, and its scout, with a header sent. */
static struct tm_worker *make_two(void)
{
    static struct tm_worker w;
    struct tm_live *live = shared(tm_live_size(CAPACITY));
    memset(&w, 0, sizeof(w));
    tm_live_init(live, 0, CAPACITY);
    tm_worker_use(&w, live, CAPACITY);
    w.pump.journal = &live->journal;
    w.pump.buffer = live->buffer;
    live->records_used = CAPACITY;
    set_endpoint(&w, INDEX, 21, 1, AF_INET);
    set_endpoint(&w, SCOUT, 22, 2, AF_UNIX);
    for (uint32_t index = INDEX; index <= SCOUT; index += SCOUT - INDEX)
        for (int side = 0; side < 2; side++) {
            w.records[index].half[side].base = tm_base_make(0, 0);
            w.records[index].half[side].pipe = (struct tm_pipe){-1, -1};
        }
    struct tm_conn *conn = &w.records[INDEX];
    tm_conn_set_fd(conn, &w.colds[INDEX], TM_CLIENT, 20);
    tm_conn_set_fd(&w.records[SCOUT], &w.colds[SCOUT], TM_CLIENT, -1);
    conn->half[TM_CLIENT].bytes = 1000;
    conn->half[TM_ENDPOINT].bytes = 2000;
    conn->half[TM_CLIENT].base = tm_base_make(7, 30);
    conn->half[TM_ENDPOINT].base = tm_base_make(1, 2);
    conn->half[TM_CLIENT].uncounted = TM_UNCOUNTED_SOURCE;
    conn->half[TM_ENDPOINT].uncounted = TM_UNCOUNTED_DESTINATION;
    w.records[SCOUT].half[TM_CLIENT].base = tm_base_make(0, 40);
    w.records[SCOUT].half[TM_ENDPOINT].base = tm_base_make(50, 0);
    w.colds[INDEX].holds = TM_HOLDS_ROUTE | TM_HOLDS_LISTENER | PLACES;
    w.colds[SCOUT].holds = PLACES;
    tm_moves_take(&w, SCOUT)->partner = INDEX;
    tm_moves_take(&w, INDEX)->partner = SCOUT;
    tm_moves_take(&w, INDEX)->partner_generation = 10 + SCOUT;
    tm_conn_enter(conn, TM_RELAYING);
    tm_conn_enter(&w.records[SCOUT], TM_SCOUTING);
    return &w;
}

/* Each has the endpoint of the one or of the other, as a whole. */
static void check_whole(const struct tm_worker *w, bool exchanged)
{
    for (uint32_t index = INDEX; index <= SCOUT; index += SCOUT - INDEX) {
        struct tm_conn conn = w->records[index];
        struct tm_cold cold = w->colds[index];
        bool first = (index == INDEX) != exchanged;
        struct tm_moves moves = w->moves[index];
        CHECK(tm_conn_possible(&conn, &cold, 1000000));
        CHECK(tm_moves_possible(&moves, &conn, 1000000));
        CHECK_EQUAL(conn.fd[TM_ENDPOINT], first ? 21 : 22);
        CHECK(tm_conn_fd_sealed(&conn, &cold, TM_ENDPOINT));
        CHECK_EQUAL(conn.destination_slot, first ? 1 : 2);
        CHECK_EQUAL(cold.endpoint_slot, first ? 11 : 12);
        CHECK_EQUAL(cold.endpoint.family, first ? AF_INET : AF_UNIX);
        CHECK_EQUAL(cold.holds & PLACES, PLACES);
    }
    CHECK_EQUAL(w->colds[INDEX].holds, TM_HOLDS_ROUTE | TM_HOLDS_LISTENER | PLACES);
    CHECK_EQUAL(w->colds[SCOUT].close_reason, exchanged ? TM_CLOSED_rehomed : TM_OPEN);
    CHECK_EQUAL(tm_moves_of(w, INDEX)->rehomed, exchanged);
}

/* What a recovery would make of this moment; afterwards it is as it was. */
static bool recovered(struct tm_worker *w)
{
    struct tm_copy before[2];
    struct tm_journal journal = *w->pump.journal;
    for (int i = 0; i < 2; i++) {
        before[i].conn = w->records[i ? SCOUT : INDEX];
        before[i].cold = w->colds[i ? SCOUT : INDEX];
        before[i].moves = w->moves[i ? SCOUT : INDEX];
    }
    tm_swap_recover(w);
    CHECK_EQUAL(tm_journal_operation(w->pump.journal), TM_NOTHING);
    bool exchanged = w->records[INDEX].fd[TM_ENDPOINT] == 22;
    check_whole(w, exchanged);
    *w->pump.journal = journal;
    for (int i = 0; i < 2; i++) {
        w->records[i ? SCOUT : INDEX] = before[i].conn;
        w->colds[i ? SCOUT : INDEX] = before[i].cold;
        w->moves[i ? SCOUT : INDEX] = before[i].moves;
    }
    return exchanged;
}

static void it_may_be_cut_off_anywhere(void)
{
    struct tm_worker *w = make_two();
    uint64_t steps = 0, as_new = 0, changes = 0;
    bool before = false;
    int status;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0 && raise(SIGSTOP) == 0);
        tm_swap(w, INDEX, SCOUT);
        _exit(0);
    }
    while (waitpid(child, &status, 0) == child && WIFSTOPPED(status)) {
        CHECK(WSTOPSIG(status) == SIGSTOP || WSTOPSIG(status) == SIGTRAP);
        bool exchanged = recovered(w);
        changes += exchanged != before;
        as_new += exchanged;
        before = exchanged;
        CHECK(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) == 0);
        steps++;
    }
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0 && steps > 1000);
    CHECK(as_new > 100);
    CHECK_EQUAL(changes, 1); /* from one to the other, and not back */
    check_whole(w, true);
    CHECK(munmap(w->live, tm_live_size(CAPACITY)) == 0);
}

/* What the kernel will have counted of the new socket: what was said ahead of the client, and what
 * was answered to that. */
static void counts_begin_anew_at_the_new_one(void)
{
    struct tm_worker *w = make_two();
    const struct tm_half *half = w->records[INDEX].half;
    tm_swap(w, INDEX, SCOUT);
    CHECK_EQUAL(half[TM_CLIENT].bytes, 1000);
    CHECK_EQUAL(tm_elsewhere_bytes(tm_moves_of(w, INDEX)->elsewhere[TM_CLIENT]), 1000);
    CHECK_EQUAL(tm_elsewhere_bytes(tm_moves_of(w, INDEX)->elsewhere[TM_ENDPOINT]), 2000);
    CHECK_EQUAL(tm_base_consumed(half[TM_CLIENT].base), 7);
    CHECK_EQUAL(tm_base_prepended(half[TM_CLIENT].base), 40);
    CHECK_EQUAL(tm_base_consumed(half[TM_ENDPOINT].base), 50);
    CHECK_EQUAL(tm_base_prepended(half[TM_ENDPOINT].base), 2);
    CHECK_EQUAL(half[TM_CLIENT].uncounted, TM_UNCOUNTED_SOURCE | TM_UNCOUNTED_DESTINATION);
    CHECK_EQUAL(half[TM_ENDPOINT].uncounted, TM_UNCOUNTED_SOURCE | TM_UNCOUNTED_DESTINATION);
    CHECK(munmap(w->live, tm_live_size(CAPACITY)) == 0);
}

/* Text in the buffer that is not whole, or of other connections, is not carried out. */
static void what_can_not_be_is_not_carried_out(void)
{
    struct tm_worker *w = make_two();
    struct tm_copy before = {w->records[INDEX], w->colds[INDEX], w->moves[INDEX]};
    tm_swap(w, INDEX, SCOUT);
    for (size_t at = 0; at < 16 + 2 * sizeof(struct tm_copy); at++) {
        w->records[INDEX] = before.conn;
        w->colds[INDEX] = before.cold;
        w->moves[INDEX] = before.moves;
        tm_journal_note(w->pump.journal, TM_SWAP);
        w->pump.buffer[at] ^= 0x40;
        tm_swap_recover(w);
        w->pump.buffer[at] ^= 0x40;
        CHECK_EQUAL(w->records[INDEX].fd[TM_ENDPOINT], 21);
    }
    tm_journal_note(w->pump.journal, TM_SWAP);
    w->records[INDEX].generation++;
    tm_swap_recover(w);
    CHECK_EQUAL(w->records[INDEX].fd[TM_ENDPOINT], 21);
    w->records[INDEX].generation--;
    tm_journal_note(w->pump.journal, TM_SWAP);
    tm_swap_recover(w);
    CHECK_EQUAL(w->records[INDEX].fd[TM_ENDPOINT], 22);
    CHECK(munmap(w->live, tm_live_size(CAPACITY)) == 0);
}

int main(void)
{
    RUN(counts_begin_anew_at_the_new_one);
    RUN(it_may_be_cut_off_anywhere);
    RUN(what_can_not_be_is_not_carried_out);
    return 0;
}
