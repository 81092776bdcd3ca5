/* Connections, for the loop. Runs in a worker. */
#include "conn/connection.h"

#include <assert.h>

#include "conn/interest.h"
#include "conn/outcome.h"
#include "conn/record.h"
#include "conn/rehome.h"
#include "conn/relay.h"
#include "conn/shadow.h"
#include "conn/stage.h"
#include "conn/timeout.h"

void tm_connection_open(struct tm_worker *w, int fd, const struct tm_peer *peer, uint32_t route)
{
    const struct tm_route *of = &w->image->routes[route];
    uint32_t index = tm_record_open(w, fd, peer, of);
    w->connections++;
    tm_live_set_connections(w->live, w->connections);
    tm_count(&tm_slot_of(w, of->slot)->opened, 1);
    if (tm_interest_add(w, index, TM_CLIENT) < 0)
        tm_outcome_end(w, index, TM_CLOSED_local_error, true);
    else
        tm_stage_run(w, index);
}

void tm_connection_event(struct tm_worker *w, uint32_t index, uint32_t generation, int side,
                         uint32_t events)
{
    const struct tm_conn *conn = &w->records[index];
    w->pump.journal->current = index;
    if (conn->generation != generation) {
        tm_count(&w->live->counters.stale_events, 1);
        return;
    }
    switch ((enum tm_conn_state)conn->state) {
    case TM_RELAYING:
        tm_relay_event(w, index, side, events);
        return;
    case TM_ACCEPTED:
    case TM_READING:
    case TM_HOLDING:
    case TM_WAITING:
    case TM_CONNECTING:
        tm_stage_event(w, index, side, events);
        return;
    case TM_RESETTING:
        if (events & (EPOLLERR | EPOLLHUP)) /* it went first */
            tm_outcome_end(w, index, (enum tm_close_reason)w->colds[index].close_reason, true);
        return;
    case TM_SCOUTING:
        tm_rehome_event(w, index, events);
        return;
    case TM_SHADOWING:
        tm_shadow_event(w, index, events);
        return;
    case TM_FREE:
    case TM_DEAD:
        tm_count(&w->live->counters.stale_events, 1);
        return;
    case TM_ENDING:
    case TM_CONN_STATES:
        break;
    }
    assert(!"a state that can have events");
}

void tm_connection_deadlines(struct tm_worker *w)
{
    uint32_t index;
    while ((index = tm_wheel_pop(&w->wheel, w->records, w->now_ms)) != TM_NONE) {
        tm_live_advance(w->live);
        tm_timeout_due(w, index);
    }
}
