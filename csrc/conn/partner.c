/* Records of scouts and shadows. Runs in a worker. */
#include "conn/partner.h"

#include "conn/moves.h"
#include "conn/record.h"

uint32_t tm_partner_take(struct tm_worker *w, uint32_t index, uint32_t at,
                         enum tm_pick_reason reason)
{
    const struct tm_destination *destination = &w->image->destinations[at];
    const struct tm_cold *of = &w->colds[index];
    uint32_t partner = tm_record_take(w);
    if (partner == TM_NONE)
        return TM_NONE;
    struct tm_conn *conn = &w->records[partner];
    struct tm_cold *cold = &w->colds[partner];
    tm_record_clear(conn, cold);
    conn->destination_slot = destination->slot;
    cold->client = of->client; /* for balances that go by it */
    cold->client_family = of->client_family;
    cold->listener = of->listener;
    cold->accepted_at_us = w->now_us;
    cold->table_generation = w->generation;
    cold->route = of->route;
    cold->route_slot = of->route_slot;
    cold->destination = at;
    cold->pick_reason = (uint8_t)reason;
    cold->connect_timeout_ms = (uint32_t)destination->rules.connect_timeout_ms;
    struct tm_moves *moves = tm_moves_take(w, partner);
    moves->partner = index;
    moves->partner_generation = w->records[index].generation;
    return partner;
}

void tm_partner_enter(struct tm_worker *w, uint32_t partner, uint32_t index,
                      enum tm_conn_state state)
{
    struct tm_moves *its = tm_moves_take(w, index);
    tm_conn_enter(&w->records[partner], state);
    w->connections++;
    tm_live_set_connections(w->live, w->connections);
    its->partner = partner;
    its->partner_generation = w->records[partner].generation;
}
