/* Records of connections. Runs in a worker. */
#include "conn/record.h"

#include <assert.h>
#include <unistd.h>

#include "conn/annex.h"
#include "conn/moves.h"
#include "conn/occupy.h"
#include "sock.h"

bool tm_record_available(struct tm_worker *w)
{
    if (w->free == TM_NONE && w->live->records_used == w->capacity)
        /* Some may have ended in this batch. Their events can be told by generation. */
        tm_record_free_dead(w);
    return w->free != TM_NONE || w->live->records_used < w->capacity;
}

uint32_t tm_record_take(struct tm_worker *w)
{
    uint32_t index;
    if (!tm_record_available(w))
        return TM_NONE;
    index = w->free;
    if (index != TM_NONE)
        w->free = w->records[index].next;
    else
        index = tm_live_next_record(w->live);
    assert(w->records[index].state == TM_FREE);
    return index;
}

void tm_record_clear(struct tm_conn *conn, struct tm_cold *cold)
{
    tm_conn_replace(conn, cold, NULL, NULL);
    for (int side = 0; side < 2; side++) {
        tm_conn_set_fd(conn, cold, side, -1);
        conn->half[side].base = tm_base_make(0, 0);
        conn->half[side].pipe = (struct tm_pipe){-1, -1};
    }
    conn->timer_place = TM_UNARMED;
    conn->destination_slot = TM_NONE;
    cold->endpoint_slot = TM_NONE;
    cold->rule_slot = TM_NONE;
}

uint32_t tm_record_open(struct tm_worker *w, int fd, const struct tm_peer *peer,
                        const struct tm_route *route)
{
    uint32_t index = tm_record_take(w);
    assert(index != TM_NONE);
    struct tm_conn *conn = &w->records[index];
    struct tm_cold *cold = &w->colds[index];
    w->pump.journal->current = index;
    tm_record_clear(conn, cold);
    tm_conn_set_fd(conn, cold, TM_CLIENT, fd);
    conn->side_flags[TM_CLIENT] = tm_first_flags(peer->family);
    cold->client = *peer;
    cold->client_family = peer->family;
    cold->born_worker = (uint16_t)w->id;
    cold->born_index = index;
    cold->born_generation = conn->generation;
    cold->listener = (uint16_t)w->pump.journal->listener;
    cold->accepted_at_us = w->now_us;
    cold->table_generation = w->generation;
    cold->route = (uint32_t)(route - w->image->routes);
    cold->route_slot = route->slot;
    tm_record_note_uncounted(conn, cold);
    tm_conn_enter(conn, TM_ACCEPTED);
    tm_journal_note(w->pump.journal, TM_NOTHING); /* the record owns the socket now: no ACCEPT */
    return index;
}

void tm_record_close_side(struct tm_worker *w, uint32_t index, int side, bool reset)
{
    struct tm_conn *conn = &w->records[index];
    int fd = conn->fd[side];
    if (fd < 0)
        return;
    if (reset)
        tm_sock_will_reset(fd);
    tm_conn_set_fd(conn, &w->colds[index], side, -1);
    close(fd);
}

void tm_record_finish(struct tm_worker *w, uint32_t index)
{
    struct tm_conn *conn = &w->records[index];
    struct tm_cold *cold = &w->colds[index];
    bool goes_on = cold->close_reason == TM_OPEN;
    if (!goes_on)
        /* Before its sockets are closed: who sees the end may come again at once. */
        tm_vacate_all(w, index);
    for (int side = 0; side < 2; side++) {
        struct tm_half *half = &conn->half[side];
        if (!goes_on) {
            tm_pump_release(&w->pump, half);
        } else {
            half->queued = 0;
            if (half->pipe.in >= 0)
                tm_pipe_give_back(&w->pump.pool, &half->pipe, false);
        }
        tm_record_close_side(w, index, side, cold->by_reset);
    }
    if (cold->annex)
        tm_annex_release(w, index);
    tm_wheel_disarm(&w->wheel, w->records, index);
    tm_conn_enter(conn, TM_DEAD);
}

void tm_record_bury(struct tm_worker *w, uint32_t index)
{
    w->records[index].next = w->dead;
    w->dead = index;
}

void tm_record_release(struct tm_worker *w, uint32_t index)
{
    w->expecting = TM_EXPECT_ANY;
    w->connections--;
    tm_live_set_connections(w->live, w->connections);
    if (!(w->records[index].ready & TM_LISTED)) /* else tm_relay_resume() moves it on */
        tm_record_bury(w, index);
}

static bool may_be_given_again(const struct tm_worker *w, uint32_t index)
{
    uint32_t worker = tm_moves_of(w, index)->origin.worker;
    return worker && w->live->lines[(worker - 1) % TM_MAX_LINES] >= 0;
}

void tm_record_free_dead(struct tm_worker *w)
{
    uint32_t index = w->dead, next;
    w->dead = TM_NONE;
    for (; index != TM_NONE; index = next) {
        struct tm_conn *conn = &w->records[index];
        next = conn->next;
        if (may_be_given_again(w, index)) {
            w->colds[index].marks |= TM_AWAITS_GONE; /* handoff_message.h */
        } else {
            tm_conn_enter(conn, TM_FREE);
            conn->next = w->free;
            w->free = index;
        }
    }
}

void tm_record_push_ready(struct tm_worker *w, uint32_t index, int side)
{
    struct tm_conn *conn = &w->records[index];
    conn->ready |= (uint8_t)(1 << side);
    if (!(conn->ready & TM_LISTED)) {
        conn->ready |= TM_LISTED;
        conn->next = w->ready;
        w->ready = index;
    }
}
