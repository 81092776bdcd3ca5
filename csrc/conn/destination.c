/* Which destination. Runs in a worker. */
#include "conn/destination.h"

#include "conn/occupy.h"
#include "conn/rules.h"
#include "conn/stage.h"
#include "conn/sticky.h"

const struct tm_route *tm_route_look_up(struct tm_worker *w, uint32_t index)
{
    struct tm_cold *cold = &w->colds[index];
    const struct tm_image *image = w->image;
    for (uint32_t i = 0; i < image->route_count; i++) {
        if (image->routes[i].slot == cold->route_slot) {
            cold->route = i;
            return &image->routes[i];
        }
    }
    return NULL;
}

const struct tm_destination *tm_destination_look_up(struct tm_worker *w, uint32_t index)
{
    struct tm_cold *cold = &w->colds[index];
    const struct tm_image *image = w->image;
    uint32_t slot = w->records[index].destination_slot;
    for (uint32_t i = 0; i < image->destination_count; i++) {
        if (image->destinations[i].slot == slot) {
            cold->destination = i;
            return &image->destinations[i];
        }
    }
    return NULL;
}

/* From here on the record names it. */
static void name_destination(struct tm_worker *w, uint32_t index, uint32_t at)
{
    const struct tm_destination *destination = &w->image->destinations[at];
    struct tm_cold *cold = &w->colds[index];
    cold->destination = at;
    cold->connect_timeout_ms = (uint32_t)destination->rules.connect_timeout_ms;
    cold->idle_timeout_ms = (uint32_t)destination->rules.idle_timeout_ms;
    w->records[index].destination_slot = destination->slot;
}

/* Names a destination in the record and counts the connection there, if it has room. */
static bool has_room(struct tm_worker *w, uint32_t index, uint32_t at)
{
    name_destination(w, index, at);
    if (tm_occupy(w, index, TM_HOLDS_DESTINATION, w->image->destinations[at].rules.max_connections))
        return true;
    w->records[index].destination_slot = TM_NONE;
    return false;
}

static bool seems_to_have_room(const struct tm_worker *w, uint32_t at)
{
    const struct tm_destination *destination = &w->image->destinations[at];
    uint64_t limit = destination->rules.max_connections;
    return limit == 0 || tm_counted_now(&w->commons->slots[destination->slot].connections) < limit;
}

/* Whether another_with_room() would find one now. */
static bool somebody_has_room(const struct tm_worker *w, uint32_t index, uint32_t but)
{
    const struct tm_route *route = &w->image->routes[w->image->destinations[but].route];
    const struct tm_split *split = tm_split_of(w, index, route);
    for (uint32_t i = 0; i < route->destination_count; i++) {
        uint32_t at = route->first_destination + i;
        const struct tm_destination *destination = &w->image->destinations[at];
        if (at != but && tm_split_weight(split, i) && destination->turn_count &&
            seems_to_have_room(w, at))
            return true;
    }
    return false;
}

/* Of the route, but none of `not_these`: the client's next best if the route is sticky, else
 * exactly by weight. TM_NONE: there is none. */
static uint32_t other_by_weight(struct tm_worker *w, uint32_t index, const struct tm_route *route,
                                const struct tm_split *split, uint64_t not_these,
                                struct tm_rota *rota)
{
    uint64_t key;
    if (tm_sticky_key_of(w, index, route, &key))
        return tm_sticky_other(w->image, route, split, key, not_these);
    return tm_pick_other(w->image, route, split, not_these, tm_rota_take(rota));
}

/* Moves the connection to another destination of the route that has weight, endpoints and room.
 * TM_NONE: there is none. */
static uint32_t another_with_room(struct tm_worker *w, uint32_t index, uint32_t but)
{
    const struct tm_destination *destination = &w->image->destinations[but];
    const struct tm_route *route = &w->image->routes[destination->route];
    const struct tm_split *split = tm_split_of(w, index, route);
    uint64_t not_these = (uint64_t)1 << (but - route->first_destination);
    for (;;) {
        uint32_t other = other_by_weight(w, index, route, split, not_these,
                                         &w->commons->slots[destination->slot].rota);
        if (other == TM_NONE)
            return TM_NONE;
        if (has_room(w, index, route->first_destination + other))
            return route->first_destination + other;
        not_these |= (uint64_t)1 << other;
    }
}

/* It is a connection of this destination now. */
static void count_picked(struct tm_worker *w, uint32_t index, uint32_t at,
                         enum tm_pick_reason reason)
{
    struct tm_cold *cold = &w->colds[index];
    struct tm_slot *slot = tm_slot_of(w, w->image->destinations[at].slot);
    name_destination(w, index, at);
    cold->pick_reason = (uint8_t)reason;
    cold->tried = 0;
    cold->passed = 0;
    tm_count(&slot->picked[reason], 1);
    tm_count(&slot->opened, 1);
}

/* The destination that a sticky route's client belongs to. TM_NONE: no client belongs to any, or it
 * has no key. */
static uint32_t home_of(struct tm_worker *w, uint32_t index, const struct tm_route *route,
                        const struct tm_split *split)
{
    uint64_t key;
    uint32_t home;
    /* A period of 1 is all weight on one destination: pick.h. */
    if ((split->contest_count == 1 && split->period == 1) ||
        !tm_sticky_key_of(w, index, route, &key))
        return TM_NONE;
    home = tm_sticky_home(w->image, split, key);
    return home < route->destination_count ? home : TM_NONE;
}

struct tm_answer tm_pick_stage(struct tm_worker *w, uint32_t index)
{
    const struct tm_route *route = tm_route_of(w, index);
    const struct tm_split *split;
    uint32_t at, home = TM_NONE;
    enum tm_pick_reason reason = TM_PICKED_sticky;
    if (w->records[index].destination_slot != TM_NONE)
        return tm_next(); /* picked by an earlier incarnation */
    if (!route)
        return tm_end_for(TM_CLOSED_no_endpoint);
    split = &route->split;
    if (route->rule_set.rule_count || w->colds[index].rule_slot != TM_NONE) {
        const struct tm_pick_rule *rule = tm_rule_meet(w, index, route);
        if (rule && rule->reject)
            return tm_end_for(TM_CLOSED_rejected_by_rule);
        if (rule)
            split = &rule->split;
    }
    if (split->contest_count)
        home = home_of(w, index, route, split);
    if (home == TM_NONE && split->period == 0) {
        /* No destination can take it: some time may pass until one can. */
        if (route->rules.on_all_unavailable != TM_HOLD)
            return tm_end_for(TM_CLOSED_no_endpoint);
        return tm_wait_until(w, index, TM_HOLDING, w->now_ms + route->rules.hold_ms,
                             TM_CLOSED_no_endpoint);
    }
    if (home == TM_NONE) {
        reason = split->period == 1 ? TM_PICKED_only : TM_PICKED_weighted;
        home = tm_pick(split, tm_ticket_take(&w->commons->tickets[split->ticket]));
    }
    at = route->first_destination + home;
    if (!has_room(w, index, at) && w->image->destinations[at].rules.on_full == TM_FULL_SPILL) {
        uint32_t other = another_with_room(w, index, at);
        if (other != TM_NONE) {
            at = other;
            reason = TM_PICKED_spilled;
        }
    }
    count_picked(w, index, at, reason);
    return tm_next();
}

static enum tm_change change_to(struct tm_worker *w, uint32_t index, uint32_t to,
                                enum tm_pick_reason reason)
{
    uint32_t slot = w->records[index].destination_slot, before = w->colds[index].destination;
    tm_vacate(w, index, TM_HOLDS_QUEUE);
    tm_vacate(w, index, TM_HOLDS_DESTINATION);
    if (to == TM_NONE)
        to = another_with_room(w, index, before);
    else if (!has_room(w, index, to))
        to = TM_NONE;
    if (to != TM_NONE) {
        tm_count(&tm_slot_of(w, slot)->closed[TM_CLOSED_passed_on], 1);
        count_picked(w, index, to, reason);
        return TM_CHANGED;
    }
    /* Another connection was faster. Whether the slot it came from is still free is not certain. */
    name_destination(w, index, before);
    return tm_occupy(w, index, TM_HOLDS_DESTINATION,
                     w->image->destinations[before].rules.max_connections)
               ? TM_UNCHANGED
               : TM_HOMELESS;
}

enum tm_change tm_pick_change(struct tm_worker *w, uint32_t index, uint32_t to,
                              enum tm_pick_reason reason)
{
    struct tm_cold *cold = &w->colds[index];
    uint32_t before = cold->destination;
    if (!(to == TM_NONE ? somebody_has_room(w, index, before) : seems_to_have_room(w, to)))
        return TM_UNCHANGED;
    /* Until this is done it may have no destination, so after a death it starts from the pick. */
    cold->stage = TM_STAGE_PICK;
    atomic_signal_fence(memory_order_seq_cst);
    enum tm_change change = change_to(w, index, to, reason);
    atomic_signal_fence(memory_order_seq_cst);
    cold->stage = TM_STAGE_CONNECT;
    return change;
}
