/* Peers that have stopped reading. Runs in a worker. */
#include "conn/stall.h"

#include <stdlib.h>

#include "conn/outcome.h"
#include "conn/record.h"
#include "sock.h"

enum {
    PART = 512,        /* records looked at in one turn */
    SLOW_EPOCHS = 20,  /* what takes longer to be read than so many is not being read */
    STALLED = 2,       /* looks in a row */
    IDLE_EPOCHS = 120, /* the same two of what is reset when a limit is reached, */
    IDLE = 60,
    TOO_SLOW = 2, /* and so many times the limit is where those are that have stalled, */
    AT_ONCE = 4,  /* and so many times, where they are reset at once */
    /* Parts of the average: smaller ones are spared, as they are not what uses up the memory. */
    SPARED_PARTS = 4,
    CERTAIN = 2, /* epochs in a row whose sums exceed the limit, before anything is reset */
};
#define ANY_ROUTE UINT32_MAX

/* Whether what `side` sends finds no room at the other one. */
static bool is_blocked(const struct tm_conn *conn, int side)
{
    return conn->half[side].blocked == 1 && conn->half[side].state == TM_HALF_OPEN;
}

/* Bytes, the low bits. A UNIX socket has what it was sent at once, and little room. */
static uint32_t taken_by(const struct tm_conn *conn, const struct tm_cold *cold, int side)
{
    uint32_t count;
    if (tm_side_family(cold, side) != AF_UNIX && tm_sock_acknowledged(conn->fd[side], &count))
        return count;
    return (uint32_t)conn->half[1 - side].bytes;
}

static uint8_t one_more(uint8_t looks)
{
    return looks < IDLE ? (uint8_t)(looks + 1) : IDLE;
}

/* Whether a reader has taken next to nothing of it for a while. Compares with the look before. */
static bool has_stalled(struct tm_worker *w, uint32_t index, uint64_t held)
{
    const struct tm_conn *conn = &w->records[index];
    struct tm_looked *looked = &w->stall.looked[index];
    bool is_new = looked->generation != conn->generation, slow = false, idle = false;
    for (int side = 0; side < 2; side++) {
        if (!is_blocked(conn, 1 - side))
            continue;
        uint32_t taken = taken_by(conn, &w->colds[index], side);
        uint64_t lately = (uint32_t)(taken - looked->acknowledged[side]);
        slow |= lately * SLOW_EPOCHS < held;
        idle |= lately * IDLE_EPOCHS < held;
        looked->acknowledged[side] = taken;
    }
    looked->generation = conn->generation;
    looked->slow = slow && !is_new ? one_more(looked->slow) : 0;
    looked->idle = idle && !is_new ? one_more(looked->idle) : 0;
    return looked->slow >= STALLED;
}

/* Bytes of memory. */
static uint64_t held_by(const struct tm_conn *conn)
{
    return tm_sock_held(conn->fd[TM_CLIENT]) + tm_sock_held(conn->fd[TM_ENDPOINT]) +
           conn->half[0].queued + conn->half[1].queued;
}

/* What its pipes do not need of what a user's pipes may have, others do. */
static void give_back_pages(struct tm_worker *w, const struct tm_conn *conn)
{
    if (!tm_pipe_is_tight(&w->pump.pool))
        return;
    for (int side = 0; side < 2; side++)
        if (conn->half[side].pipe.in >= 0)
            tm_pipe_shrink(&w->pump.pool, &conn->half[side].pipe);
}

/* For this connection to stay: the further above the limit, the less patience. */
static bool is_too_much(uint64_t sum, uint64_t limit, const struct tm_looked *looked)
{
    uint64_t looks = sum / TOO_SLOW > limit ? looked->slow : looked->idle;
    return sum > limit && looks >= STALLED &&
           (looks * sum >= IDLE * limit || sum / AT_ONCE > limit);
}

/* A client has no more than all have: else its account is corrupt. */
static bool is_used_up(const _Atomic uint64_t *client, const _Atomic uint64_t *all,
                       uint64_t limit, uint64_t epoch, const struct tm_looked *looked)
{
    uint64_t sum = tm_pinned_sum(client, epoch);
    return is_too_much(sum, limit, looked) && sum <= tm_pinned_sum(all, epoch);
}

static bool is_small(const struct tm_stall *stall, uint64_t bytes)
{
    return stall->stalled_before != 0 &&
           bytes < stall->pinned_before / stall->stalled_before / SPARED_PARTS;
}

/* The account of a client that does not read; NULL: it has none, or needs none. */
static _Atomic uint64_t *account_of(struct tm_worker *w, uint32_t index, uint64_t epoch)
{
    const struct tm_peer *client = &w->colds[index].client;
    if (!is_blocked(&w->records[index], TM_ENDPOINT) || client->family == AF_UNIX ||
        !tm_table_buffer(w->table, TM_BUFFER_PER_SOURCE))
        return NULL;
    uint64_t key = tm_source_key(w->commons, ANY_ROUTE, client->family, client->ip);
    return tm_pinned_by(&w->commons->pinned, key, epoch);
}

static void look_at(struct tm_worker *w, uint32_t index, uint64_t epoch)
{
    const struct tm_conn *conn = &w->records[index];
    struct tm_stall *stall = &w->stall;
    _Atomic uint64_t *all = &w->commons->pinned.account;
    uint64_t most = tm_table_buffer(w->table, TM_BUFFER_TOTAL);
    uint64_t most_of_one = tm_table_buffer(w->table, TM_BUFFER_PER_SOURCE);
    if (conn->state != TM_RELAYING || conn->moving ||
        !(is_blocked(conn, TM_ENDPOINT) || is_blocked(conn, TM_CLIENT)))
        return;
    stall->has_blocked = true;
    uint64_t bytes = held_by(conn);
    if (!has_stalled(w, index, bytes))
        return;
    give_back_pages(w, conn);
    stall->stalled++;
    stall->pinned += bytes;
    tm_pinned_add(all, epoch, bytes);
    _Atomic uint64_t *client = account_of(w, index, epoch);
    if (client)
        tm_pinned_add(client, epoch, bytes);
    if (is_small(stall, bytes))
        return;
    const struct tm_looked *looked = &stall->looked[index];
    if (client && is_used_up(client, all, most_of_one, epoch, looked))
        stall->reset_by_source++;
    else if (!(most && stall->excess >= CERTAIN &&
               is_too_much(tm_pinned_sum(all, epoch), most, looked)))
        return;
    stall->reset++;
    tm_pinned_free(all, epoch, bytes);
    if (client)
        tm_pinned_free(client, epoch, bytes);
    w->pump.journal->current = index;
    tm_outcome_end(w, index, TM_CLOSED_unread, true);
}

/* False: there is no memory for what it sees. */
static bool begin_look(struct tm_worker *w)
{
    struct tm_stall *stall = &w->stall;
    uint64_t most = tm_table_buffer(w->table, TM_BUFFER_TOTAL);
    uint64_t sum = tm_pinned_sum(&w->commons->pinned.account, tm_pinned_epoch(w->now_ms));
    stall->stalled_before = stall->stalled;
    stall->pinned_before = stall->pinned;
    stall->stalled = 0;
    stall->pinned = 0;
    stall->has_blocked = false;
    stall->excess = most && sum > most ? stall->excess + 1 : 0;
    if (!stall->looked)
        stall->looked = calloc(w->capacity, sizeof(*stall->looked));
    return stall->looked != NULL;
}

void tm_stall_look(struct tm_worker *w)
{
    struct tm_stall *stall = &w->stall;
    uint64_t epoch = tm_pinned_epoch(w->now_ms);
    if (stall->cursor == 0 && !begin_look(w)) {
        stall->look_ms = tm_pinned_next(w->now_ms);
        return;
    }
    for (int part = 0; part < PART; part++) {
        if (stall->cursor >= w->live->records_used) {
            stall->cursor = 0;
            stall->look_ms = stall->has_blocked ? tm_pinned_next(w->now_ms) : 0;
            return;
        }
        look_at(w, stall->cursor, epoch);
        stall->cursor++;
    }
}
