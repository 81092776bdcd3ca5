/* csrc/conn/: annexes, the runner of stages and the list of records, in a worker without a loop. Runs
 * alone, under sanitizers. */
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include "conn/admit.h"
#include "conn/annex.h"
#include "conn/connection.h"
#include "conn/destination.h"
#include "conn/interest.h"
#include "conn/outcome.h"
#include "conn/preface.h"
#include "conn/record.h"
#include "conn/recover.h"
#include "conn/resume.h"
#include "conn/stage.h"
#include "conn/timeout.h"
#include "pairs.h"
#include "sock.h"
#include "trust.h"

enum { CAPACITY = 8 };

static void *fresh(size_t size)
{
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(base != MAP_FAILED);
    return base;
}

static struct tm_table *table;
static struct tm_commons *commons;

/* One route of one destination, which holds what it can't serve. */
static struct tm_image *make_image(void)
{
    struct tm_image *image = &table->images[0];
    image->route_count = image->destination_count = 1;
    image->routes[0] = (struct tm_route){.destination_count = 1, .admitted.count = TM_NONE};
    image->routes[0].rules.on_all_unavailable = TM_HOLD;
    image->routes[0].rules.hold_ms = 5000;
    image->destinations[0] = (struct tm_destination){.slot = 1, .rules.connect_timeout_ms = 1000};
    return image;
}

static void set_clock(struct tm_worker *w, uint64_t now_ms)
{
    w->now_ms = now_ms;
    w->now_us = now_ms * 1000;
}

static struct tm_worker *new_worker(struct tm_live *live)
{
    struct tm_worker *w = calloc(1, sizeof(*w));
    CHECK(w);
    set_clock(w, 1000000);
    w->table = table;
    w->image = make_image();
    w->commons = commons;
    tm_worker_use(w, live, CAPACITY);
    w->pump.journal = &live->journal;
    w->free = w->dead = w->ready = w->free_annex = TM_NONE;
    tm_pipe_pool_init(&w->pump.pool, 4);
    tm_wheel_init(&w->wheel, w->now_ms);
    w->epoll = epoll_create1(EPOLL_CLOEXEC);
    CHECK(w->epoll >= 0);
    return w;
}

static struct tm_live *new_live(void)
{
    struct tm_live *live = fresh(tm_live_size(CAPACITY));
    tm_live_init(live, 0, CAPACITY);
    return live;
}

static void end_worker(struct tm_worker *w)
{
    CHECK(close(w->epoll) == 0);
    CHECK(munmap(w->live, tm_live_size(CAPACITY)) == 0);
    free(w);
}

/* A client's connection in its first stage; its other end. */
static int open_connection(struct tm_worker *w, uint32_t *index)
{
    struct tm_peer peer = {.family = AF_UNIX};
    int ends[2];
    make_pair(AF_UNIX, ends, 0);
    *index = w->free != TM_NONE ? w->free : w->live->records_used;
    tm_connection_open(w, ends[1], &peer, 0);
    return ends[0];
}

/* --- annexes -------------------------------------------------------------------------------- */

static void annexes_are_taken_and_given_back(void)
{
    struct tm_worker *w = new_worker(new_live());
    uint32_t before = open_descriptors(), index;
    int clients[CAPACITY];
    for (int i = 0; i < CAPACITY; i++) {
        clients[i] = open_connection(w, &index);
        struct tm_annex *annex = tm_annex_take(w, index);
        CHECK(annex && annex == tm_annex_of(w, index) && annex->owner == index);
        annex->fd[1] = dup(clients[i]);
        CHECK(annex->fd[1] >= 0);
    }
    for (int i = 0; i < CAPACITY; i++) {
        CHECK(w->colds[i].annex == (uint32_t)i + 1);
        tm_annex_release(w, (uint32_t)i);
        CHECK(w->colds[i].annex == 0 && !tm_annex_of(w, (uint32_t)i));
    }
    CHECK(tm_annex_take(w, 3) == &w->annexes[CAPACITY - 1]); /* the one given back last */
    CHECK_EQUAL(w->live->annexes_used, CAPACITY);
    for (int i = 0; i < CAPACITY; i++)
        CHECK(close(clients[i]) == 0 && close(w->records[i].fd[TM_CLIENT]) == 0);
    CHECK_EQUAL(open_descriptors(), before);
    end_worker(w);
}

static bool is_wiped(const struct tm_annex *annex)
{
    for (int i = 0; i < TM_ANNEX_BYTES; i++)
        if (annex->bytes[i])
            return false;
    return true;
}

/* What is kept of a client goes with its annex, also where a death has come before that; and what a
 * death has left half written is not kept. */
static void what_is_kept_is_wiped(void)
{
    struct tm_worker *w = new_worker(new_live());
    struct tm_descriptors all;
    int clients[4];
    uint32_t index;
    CHECK(tm_descriptors_list(&all) == 0);
    for (int i = 0; i < 4; i++) {
        clients[i] = open_connection(w, &index);
        struct tm_annex *annex = tm_annex_take(w, index);
        CHECK(annex && is_wiped(annex));
        tm_talk_begin(&annex->talk, TM_PROTOCOL_REDIS);
        tm_kept_begin(&tm_known_in(annex)->kept);
        tm_talk_feed(&annex->talk, tm_kept_in(annex), TM_FROM_CLIENT,
                     (const unsigned char *)"AUTH p\r\n", 8);
        CHECK(!is_wiped(annex) && tm_kept_is_whole(tm_kept_in(annex)));
    }
    tm_annex_release(w, 0);
    CHECK(is_wiped(&w->annexes[0]));
    w->colds[1].annex = 0; /* and there its worker has died */
    tm_annex_recover(w);
    CHECK(is_wiped(&w->annexes[1]) && !is_wiped(&w->annexes[2]));
    tm_known_in(&w->annexes[2])->kept.seal ^= 1;
    w->annexes[3].talk.seal ^= 1;
    for (uint32_t at = 2; at < 4; at++) {
        CHECK(tm_annex_claim(w, at, &all));
        CHECK(!tm_kept_in(&w->annexes[at]) && is_wiped(&w->annexes[at]));
    }
    for (int i = 0; i < 4; i++)
        CHECK(close(clients[i]) == 0 && close(w->records[i].fd[TM_CLIENT]) == 0);
    tm_descriptors_free(&all);
    end_worker(w);
}

/* What a dead worker leaves of annexes: its own are known again, all else is free, and a wrong number
 * costs the record that has it. */
static void annexes_after_a_death(void)
{
    struct tm_worker *w = new_worker(new_live()), *next;
    struct tm_descriptors all;
    int clients[4];
    uint32_t index;
    for (int i = 0; i < 4; i++) {
        clients[i] = open_connection(w, &index);
        CHECK(tm_annex_take(w, index) != NULL);
    }
    w->annexes[0].bytes[0] = 'a';
    w->annexes[0].length = 1;
    w->annexes[0].fd[0] = dup(clients[0]);
    w->colds[1].annex = 1;                  /* another one's */
    w->annexes[2].length = TM_ANNEX_BYTES + 1;
    w->annexes[3].fd[2] = 1000;             /* not open */
    next = calloc(1, sizeof(*next));
    CHECK(next);
    *next = *w;
    next->free_annex = 77; /* what it remembers is worth nothing */
    CHECK(tm_descriptors_list(&all) == 0);
    for (int i = 0; i < 4; i++)
        CHECK(tm_annex_claim(next, (uint32_t)i, &all) == (i == 0));
    CHECK(!tm_descriptors_free_to_claim(&all, w->annexes[0].fd[0]));
    for (int i = 1; i < 4; i++) { /* as recovery does with such a record */
        if (next->colds[i].annex)
            tm_annex_release(next, (uint32_t)i);
        next->records[i].state = TM_FREE;
    }
    tm_annex_recover(next);
    CHECK(tm_annex_of(next, 0)->bytes[0] == 'a');
    for (int i = 1; i < 4; i++) {
        struct tm_annex *annex = tm_annex_take(next, (uint32_t)i);
        CHECK(annex != NULL && annex != &next->annexes[0]);
    }
    CHECK_EQUAL(next->live->annexes_used, 4);
    CHECK(close(w->annexes[0].fd[0]) == 0);
    for (int i = 0; i < 4; i++)
        CHECK(close(clients[i]) == 0 && close(w->records[i].fd[TM_CLIENT]) == 0);
    tm_descriptors_free(&all);
    free(next);
    end_worker(w);
}

/* --- stages --------------------------------------------------------------------------------- */

/* Without a destination the connection holds, and goes on when there is one; nothing is done twice. */
static void a_stage_that_waits_goes_on_where_it_was(void)
{
    struct tm_worker *w = new_worker(new_live());
    uint32_t index;
    int client = open_connection(w, &index);
    CHECK_EQUAL(w->records[index].state, TM_HOLDING);
    CHECK_EQUAL(w->colds[index].stage, TM_STAGE_PICK);
    uint64_t until_ms = w->colds[index].until_ms;
    CHECK_EQUAL(until_ms, w->now_ms + 5000);
    set_clock(w, w->now_ms + 3000);
    tm_connection_deadlines(w);
    CHECK(w->records[index].state == TM_HOLDING && w->colds[index].until_ms == until_ms);
    CHECK_EQUAL(w->live->slots[0].opened, 1);
    set_clock(w, until_ms);
    tm_connection_deadlines(w);
    CHECK_EQUAL(w->records[index].state, TM_DEAD);
    CHECK_EQUAL(w->live->slots[0].closed[TM_CLOSED_no_endpoint], 1);
    tm_record_free_dead(w);
    CHECK(w->records[index].state == TM_FREE && w->free == index && w->connections == 0);
    CHECK(close(client) == 0);
    end_worker(w);
}

/* A client may send all of it and its FIN between the peek and the wait for the rest. */
static void what_comes_just_before_the_end_is_read(void)
{
    struct tm_worker *w = new_worker(new_live());
    unsigned char bytes[8];
    uint32_t index;
    int client = open_connection(w, &index);
    ssize_t got = tm_preface_peek(w, index, bytes, sizeof(bytes));
    CHECK_EQUAL(got, -EAGAIN);
    struct tm_answer answer = tm_preface_wait(w, index, got, 5000, TM_CLOSED_proxy_header);
    CHECK(answer.kind == TM_ANSWER_WAIT && answer.state == TM_READING);
    CHECK_EQUAL(answer.look_ms, w->now_ms + 5000);
    CHECK(write(client, "la", 2) == 2);
    got = tm_preface_peek(w, index, bytes, sizeof(bytes));
    CHECK_EQUAL(got, 2);
    CHECK(write(client, "te", 2) == 2 && shutdown(client, SHUT_WR) == 0);
    while (!tm_sock_input_ends(w->records[index].fd[TM_CLIENT]))
        ;
    answer = tm_preface_wait(w, index, got, 5000, TM_CLOSED_proxy_header);
    CHECK_EQUAL(answer.kind, TM_ANSWER_WAIT);
    CHECK_EQUAL(answer.look_ms, w->now_ms); /* to look again at once */
    CHECK_EQUAL(tm_preface_peek(w, index, bytes, sizeof(bytes)), 4);
    answer = tm_preface_wait(w, index, 4, 5000, TM_CLOSED_proxy_header);
    CHECK(answer.kind == TM_ANSWER_END && answer.reason == TM_CLOSED_client_reset);
    tm_outcome_end(w, index, TM_CLOSED_client_reset, true);
    tm_record_free_dead(w);
    CHECK(close(client) == 0);
    end_worker(w);
}

/* A pick is a step of the split: an earlier incarnation's is not made again. */
static void a_pick_is_made_once(void)
{
    struct tm_worker *w = new_worker(new_live());
    struct tm_route *route = &((struct tm_image *)(uintptr_t)w->image)->routes[0];
    uint64_t tickets = atomic_load(&commons->tickets[0].rota.next);
    uint32_t index;
    route->split.period = 1;
    route->split.cumulative[0] = 1;
    ((struct tm_image *)(uintptr_t)w->image)->destinations[0].rules.max_connections = 1;
    int first = open_connection(w, &index); /* has no endpoint */
    CHECK_EQUAL(w->records[index].state, TM_DEAD);
    CHECK_EQUAL(atomic_load(&commons->tickets[0].rota.next), tickets + 1);
    tm_record_free_dead(w);
    commons->slots[1].connections.cell += 1; /* full */
    int second = open_connection(w, &index);
    CHECK_EQUAL(w->records[index].state, TM_WAITING);
    CHECK_EQUAL(w->colds[index].stage, TM_STAGE_PLACE);
    for (int look = 1; look <= 5; look++) {
        set_clock(w, w->now_ms + TM_LOOK_MS);
        w->colds[index].stage = TM_STAGE_PICK; /* as the next incarnation may find it */
        tm_timeout_due(w, index);
        CHECK_EQUAL(w->records[index].state, TM_WAITING);
    }
    CHECK_EQUAL(atomic_load(&commons->tickets[0].rota.next), tickets + 2);
    CHECK_EQUAL(w->live->slots[1].picked[TM_PICKED_only], 2);
    commons->slots[1].connections.cell -= 1;
    tm_timeout_due(w, index);
    CHECK_EQUAL(w->live->slots[0].closed[TM_CLOSED_no_endpoint], 2);
    CHECK(close(first) == 0 && close(second) == 0);
    end_worker(w);
}

/* Three destinations: nobody listens at the first one, the second one, to which nearly all others go, is
 * full, the third one listens. */
static void make_three(struct tm_image *image, int *listener)
{
    struct tm_route *route = &image->routes[0];
    image->destination_count = image->endpoint_count = 3;
    route->destination_count = 3;
    tm_pick_plan((uint32_t[]){1, 100, 1}, 3, &route->split);
    route->split.stride = 0; /* each ticket is the first one's */
    route->rules.across = 1;
    route->rules.retry_percent = 100;
    route->rules.retry_burst = 100;
    for (uint32_t i = 0; i < 3; i++) {
        struct sockaddr_in in;
        int fd = listen_loopback(&in, 0);
        image->endpoints[i] = (struct tm_endpoint){
            .slot = 10 + i, .weight = 1, .slow_start_percent = 100,
            .address = {.length = sizeof(in), .in = in},
        };
        image->turns[i] = (struct tm_turn){0};
        image->destinations[i] = (struct tm_destination){
            .slot = 1 + i, .ticket = 1 + i,
            .first_endpoint = i, .endpoint_count = 1, .first_turn = i, .turn_count = 1,
            .rules.connect_timeout_ms = 1000,
        };
        image->destinations[i].rules.max_connections = 1;
        if (i == 2)
            *listener = fd;
        else
            CHECK(close(fd) == 0);
    }
    commons->slots[2].connections.cell += 1;
}

/* What the record says at any instruction can be gone on with. Its place in the destination is there when
 * the stage is over that takes it. */
static void check_can_go_on(const struct tm_live *live, uint64_t now_us)
{
    struct tm_conn conn = live->records[0];
    struct tm_cold cold = tm_live_colds((struct tm_live *)(uintptr_t)live, CAPACITY)[0];
    if (!tm_is_opening(conn.state))
        return;
    CHECK(tm_conn_possible(&conn, &cold, now_us));
    if (cold.stage > TM_STAGE_PLACE)
        CHECK(conn.destination_slot != TM_NONE && cold.holds & TM_HOLDS_DESTINATION);
}

/* A connection fails over to the third destination, one instruction after the other. */
static void a_change_of_destination_may_be_cut_off_anywhere(void)
{
    struct tm_worker *w = new_worker(new_live());
    struct tm_peer peer = {.family = AF_UNIX};
    uint64_t steps = 0;
    int listener, ends[2], status;
    make_three((struct tm_image *)(uintptr_t)w->image, &listener);
    make_pair(AF_UNIX, ends, 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        w->pump.buffer = malloc(TM_BUFFER_SIZE);
        CHECK(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0 && raise(SIGSTOP) == 0);
        tm_connection_open(w, ends[1], &peer, 0);
        _exit(0);
    }
    while (waitpid(child, &status, 0) == child && WIFSTOPPED(status)) {
        CHECK(WSTOPSIG(status) == SIGSTOP || WSTOPSIG(status) == SIGTRAP);
        check_can_go_on(w->live, w->now_us);
        CHECK(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) == 0);
        steps++;
    }
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0 && steps > 1000);
    CHECK_EQUAL(w->records[0].state, TM_RELAYING);
    CHECK_EQUAL(w->records[0].destination_slot, 3);
    CHECK_EQUAL(w->live->slots[1].closed[TM_CLOSED_passed_on], 1);
    commons->slots[2].connections.cell -= 1;
    CHECK(close(listener) == 0 && close(ends[0]) == 0 && close(ends[1]) == 0);
    end_worker(w);
}

/* A worker has died when the connect had succeeded and the record did not say so yet; then the endpoint has
 * reset it: it has failed, as it would have in one incarnation. */
static void an_endpoint_that_resets_before_the_relay_has_failed(void)
{
    struct tm_worker *w = new_worker(new_live());
    struct tm_image *image = (struct tm_image *)(uintptr_t)w->image;
    uint32_t index;
    int listener;
    make_three(image, &listener);
    image->routes[0].first_destination = 2;
    image->routes[0].destination_count = 1;
    image->routes[0].rules.across = 0;
    commons->slots[2].connections.cell -= 1;
    w->pump.buffer = malloc(TM_BUFFER_SIZE);
    CHECK(w->pump.buffer);
    int client = open_connection(w, &index);
    struct tm_conn *conn = &w->records[index];
    CHECK_EQUAL(conn->state, TM_RELAYING);
    int accepted = accept(listener, NULL, NULL);
    CHECK(accepted >= 0);
    reset_close(accepted);
    CHECK(tm_sock_connect_failed(conn->fd[TM_ENDPOINT]));
    for (int side = 0; side < 2; side++)
        tm_interest_remove(w, index, side);
    conn->state = TM_CONNECTING;
    CHECK_EQUAL(w->colds[index].stage, TM_STAGE_RELAY);
    tm_resume(w, index);
    CHECK_EQUAL(conn->state, TM_DEAD);
    CHECK_EQUAL(w->live->slots[0].closed[TM_CLOSED_connect_failed], 1);
    CHECK_EQUAL(tm_counted_now(&commons->slots[3].connections), 0);
    free(w->pump.buffer);
    CHECK(close(listener) == 0 && close(client) == 0);
    end_worker(w);
}

/* --- what the log says of clients that find no destination ------------------------------------ */

static void check_logged(struct tm_worker *w, enum tm_log_kind kind, enum tm_refusal refusal,
                         uint32_t route_slot)
{
    struct tm_log *log = &w->live->log;
    CHECK_EQUAL(tm_log_written(log), tm_log_taken(log) + 1);
    const struct tm_log_entry *entry = &log->entries[tm_log_taken(log) % TM_LOG_ENTRIES];
    CHECK_EQUAL(entry->kind, kind);
    CHECK_EQUAL(entry->refusal, refusal);
    CHECK_EQUAL(entry->route_slot, route_slot);
    CHECK_EQUAL(entry->destination_slot,
                refusal >= TM_REFUSED_DESTINATION_MAX ? 1 : TM_NONE);
    CHECK_EQUAL(entry->client.family, AF_INET);
    tm_log_take(log, tm_log_written(log));
}

/* A client from 127.0.0.1 for which the route has no room; its entry names the limit. */
static void check_limited(struct tm_worker *w, enum tm_refusal refusal)
{
    struct tm_peer peer = {.family = AF_INET, .port = 1, .ip = {127, 0, 0, 1}};
    uint32_t index = w->free != TM_NONE ? w->free : w->live->records_used;
    int ends[2];
    make_pair(AF_UNIX, ends, 0);
    tm_connection_open(w, ends[1], &peer, 0);
    if (w->records[index].state == TM_WAITING) { /* it looks again for a while */
        CHECK_EQUAL(tm_log_written(&w->live->log), tm_log_taken(&w->live->log));
        set_clock(w, w->now_ms + 1000);
        tm_stage_run(w, index);
    }
    CHECK_EQUAL(w->records[index].state, TM_DEAD);
    check_logged(w, TM_LOG_END, refusal, 0);
    tm_record_free_dead(w);
    CHECK(close(ends[0]) == 0);
}

/* The one before is admitted and ends without a destination. */
static void check_limited_after_one(struct tm_worker *w, enum tm_refusal refusal)
{
    struct tm_route_rules *rules = &((struct tm_image *)(uintptr_t)w->image)->routes[0].rules;
    rules->on_all_unavailable = TM_RESET_ALL;
    check_limited(w, TM_REFUSED_NO_DESTINATION);
    check_limited(w, refusal);
    rules->on_all_unavailable = TM_HOLD;
}

/* Those of the destination that was picked are told like the others, and a flood of them is bounded. */
static void a_client_that_a_destination_limits_is_logged_with_its_limit(void)
{
    struct tm_worker *w = new_worker(new_live());
    struct tm_image *image = (struct tm_image *)(uintptr_t)w->image;
    int listener;
    make_three(image, &listener);
    image->destination_count = image->routes[0].destination_count = 1;
    image->routes[0].rules.across = 0;
    tm_table_set_log(table, TM_LOG_ENDS, TM_LOG_ENTRIES);
    commons->slots[1].connections.cell += 1;
    check_limited(w, TM_REFUSED_DESTINATION_MAX);
    image->destinations[0].rules.on_full = TM_FULL_QUEUE; /* whose time is over at once */
    image->destinations[0].rules.queue_size = 1;
    check_limited(w, TM_REFUSED_DESTINATION_MAX);
    image->destinations[0].rules.on_full = TM_FULL_REJECT;
    commons->slots[1].connections.cell -= 1;
    image->endpoints[0].rules.max_connections = 1;
    commons->slots[10].connections.cell += 1;
    check_limited(w, TM_REFUSED_ENDPOINT_MAX);
    w->connections = CAPACITY / 2; /* so nobody looks again */
    for (int i = 0; i < 300; i++) {
        uint32_t index;
        int client = open_connection(w, &index);
        CHECK_EQUAL(w->records[index].state, TM_DEAD);
        tm_record_free_dead(w);
        CHECK(close(client) == 0);
    }
    /* Together with the one before them. */
    CHECK_EQUAL(tm_log_written(&w->live->log) - tm_log_taken(&w->live->log), TM_REFUSED_BURST - 1);
    CHECK_EQUAL(tm_log_untold(&w->live->log, TM_REFUSED_ENDPOINT_MAX), 301 - TM_REFUSED_BURST);
    commons->slots[10].connections.cell -= 1;
    commons->slots[2].connections.cell -= 1;
    tm_table_set_log(table, 0, 0);
    CHECK(close(listener) == 0);
    end_worker(w);
}

static void a_limited_client_is_logged_with_its_limit(void)
{
    struct tm_worker *w = new_worker(new_live());
    struct tm_image *image = (struct tm_image *)(uintptr_t)w->image;
    struct tm_route_rules *rules = &image->routes[0].rules;
    uint32_t index;
    tm_table_set_log(table, TM_LOG_ENDS, TM_LOG_ENTRIES);
    /* It is held, and so it takes its places. */
    struct tm_peer peer = {.family = AF_INET, .port = 1, .ip = {127, 0, 0, 1}};
    int ends[2];
    make_pair(AF_UNIX, ends, 0);
    rules->source_max_connections = 9;
    index = w->live->records_used;
    tm_connection_open(w, ends[1], &peer, 0);
    CHECK_EQUAL(w->records[index].state, TM_HOLDING);
    rules->listener_max_connections = 1;
    check_limited(w, TM_REFUSED_LISTENER_MAX);
    rules->listener_max_connections = 0;
    rules->source_max_connections = 1;
    check_limited(w, TM_REFUSED_SOURCE_MAX);
    rules->source_max_connections = 0;
    rules->max_connections = 1;
    check_limited(w, TM_REFUSED_ROUTE_MAX);
    rules->max_connections = 0;
    rules->interval_ns = UINT64_C(3600000000000);
    rules->burst = 1;
    tm_connect_allowed(&commons->slots[0], w->now_us * 1000, rules->interval_ns, 1);
    check_limited(w, TM_REFUSED_ROUTE_RATE);
    rules->interval_ns = 0;
    rules->source_interval_ns = UINT64_C(3600000000000);
    rules->source_burst = 1;
    check_limited_after_one(w, TM_REFUSED_SOURCE_RATE);
    rules->source_interval_ns = 0;
    rules->on_all_unavailable = TM_RESET_ALL;
    check_limited(w, TM_REFUSED_NO_DESTINATION);
    tm_outcome_kill(w, index, w->records[index].generation); /* it is no refusal */
    check_logged(w, TM_LOG_END, TM_NOT_REFUSED, 0);
    CHECK(close(ends[0]) == 0);
    tm_table_set_log(table, 0, 0);
    end_worker(w);
}

/* Those that are reset on accept have no record. Where nothing is logged, nothing is counted. */
static void a_denied_client_is_logged(void)
{
    struct tm_worker *w = new_worker(new_live());
    struct tm_image *image = (struct tm_image *)(uintptr_t)w->image;
    struct tm_peer peer = {.family = AF_INET, .port = 1, .ip = {127, 0, 0, 1}};
    struct sockaddr_in in;
    uint32_t route;
    int fd = listen_loopback(&in, 0);
    image->routes[0].admitted.count = 0;
    image->routes[0].slot = 7;
    for (int i = 0; i < 300; i++)
        CHECK_EQUAL(tm_admission_of(w, 0, fd, &peer, &route), TM_DENIED);
    CHECK_EQUAL(tm_log_written(&w->live->log), 0);
    CHECK_EQUAL(tm_log_untold(&w->live->log, TM_REFUSED_DENIED), 0);
    tm_table_set_log(table, TM_LOG_ENDS, TM_LOG_ENTRIES);
    CHECK_EQUAL(tm_admission_of(w, 0, fd, &peer, &route), TM_DENIED);
    CHECK_EQUAL(w->live->log.entries[0].client_local.port, ntohs(in.sin_port));
    check_logged(w, TM_LOG_REFUSED, TM_REFUSED_DENIED, 7);
    image->route_of_listener[0] = TM_NONE;
    CHECK_EQUAL(tm_admission_of(w, 0, fd, &peer, &route), TM_UNROUTED);
    check_logged(w, TM_LOG_REFUSED, TM_REFUSED_NO_ROUTE, TM_NONE);
    image->route_of_listener[0] = 0;
    for (int i = 0; i < 300; i++)
        CHECK_EQUAL(tm_admission_of(w, 0, fd, &peer, &route), TM_DENIED);
    CHECK_EQUAL(tm_log_written(&w->live->log), TM_REFUSED_BURST + 1);
    CHECK_EQUAL(tm_log_untold(&w->live->log, TM_REFUSED_DENIED), 301 - TM_REFUSED_BURST);
    tm_table_set_log(table, 0, 0);
    image->routes[0].admitted.count = TM_NONE;
    CHECK(close(fd) == 0);
    end_worker(w);
}

int main(void)
{
    table = fresh(sizeof(*table));
    commons = fresh(sizeof(*commons));
    RUN(annexes_are_taken_and_given_back);
    RUN(what_is_kept_is_wiped);
    RUN(annexes_after_a_death);
    RUN(a_stage_that_waits_goes_on_where_it_was);
    RUN(what_comes_just_before_the_end_is_read);
    RUN(a_pick_is_made_once);
    RUN(a_limited_client_is_logged_with_its_limit);
    RUN(a_client_that_a_destination_limits_is_logged_with_its_limit);
    RUN(a_denied_client_is_logged);
    RUN(an_endpoint_that_resets_before_the_relay_has_failed);
    RUN(a_change_of_destination_may_be_cut_off_anywhere);
    return 0;
}
