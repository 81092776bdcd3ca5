/* The connection's side of a mirror. Runs in a worker. */
#include "conn/mirror.h"

#include "conn/destination.h"
#include "conn/known.h"
#include "conn/moves.h"
#include "conn/shadow.h"
#include "conn/shadow_begin.h"

enum { WHOLE = 10000 }; /* of mirror_share */

static const uint8_t marks[2] = {[TM_CLIENT] = TM_TAPPED, [TM_ENDPOINT] = TM_COMPARED};

static uint32_t shadow_of(const struct tm_worker *w, uint32_t index)
{
    const struct tm_moves *moves = tm_moves_of(w, index);
    uint32_t shadow = moves->partner;
    return moves->partner_generation && shadow < w->live->records_used &&
                   w->records[shadow].state == TM_SHADOWING &&
                   w->records[shadow].generation == moves->partner_generation &&
                   tm_shadow_primary(w, shadow) == index
               ? shadow
               : TM_NONE;
}

bool tm_mirror_has(const struct tm_worker *w, uint32_t index)
{
    return shadow_of(w, index) != TM_NONE;
}

/* --- who gets one --------------------------------------------------------------------------- */

/* Exactly so many of any 10,000 in a row, and of fewer as many as that comes to, evenly. */
static bool is_picked(struct tm_worker *w, const struct tm_route *route)
{
    uint64_t ticket = tm_rota_take(&w->commons->slots[route->slot].rota) % WHOLE;
    return ticket * route->rules.mirror_share % WHOLE < route->rules.mirror_share;
}

/* What is encrypted for one endpoint is noise to another one. */
static bool speaks_tls(struct tm_worker *w, uint32_t index)
{
    const struct tm_known *known = tm_known_of(w, index);
    return known && (known->starttls || known->first_bytes == TM_FIRST_TLS);
}

uint32_t tm_mirror_begin(struct tm_worker *w, uint32_t index, const struct tm_route *route)
{
    struct tm_conn *conn = &w->records[index];
    uint32_t shadow = TM_NONE;
    uint32_t to = route->first_destination + (uint32_t)route->rules.mirror_to;
    if (w->image->destinations[to].slot == conn->destination_slot || !is_picked(w, route))
        return TM_NONE;
    if (!speaks_tls(w, index))
        shadow = tm_shadow_make(w, index, to);
    if (shadow == TM_NONE) {
        tm_count(&tm_slot_of(w, route->slot)->mirror_skipped, 1);
        return TM_NONE;
    }
    tm_count(&tm_slot_of(w, route->slot)->mirrored, 1);
    tm_count(&tm_slot_of(w, w->image->destinations[to].slot)->picked[TM_PICKED_mirrored], 1);
    for (int side = 0; side < 2; side++)
        conn->half[side].splicing |= marks[side];
    return shadow;
}

void tm_mirror_connect(struct tm_worker *w, uint32_t shadow)
{
    if (w->records[shadow].state == TM_SHADOWING)
        tm_shadow_connect(w, shadow);
}

/* --- bytes ---------------------------------------------------------------------------------- */

/* Since a change of the configuration: it goes where it would go, if to anybody. */
static bool is_still_wanted(struct tm_worker *w, uint32_t index, uint32_t shadow)
{
    struct tm_cold *cold = &w->colds[shadow];
    if (cold->table_generation == w->generation)
        return true;
    const struct tm_route *route = tm_route_of(w, index);
    if (!route || !route->rules.mirror_share)
        return false;
    uint32_t to = route->first_destination + (uint32_t)route->rules.mirror_to;
    const struct tm_destination *destination = &w->image->destinations[to];
    if (destination->slot != w->records[shadow].destination_slot)
        return false;
    for (uint32_t i = 0; i < destination->endpoint_count; i++)
        if (w->image->endpoints[destination->first_endpoint + i].slot == cold->endpoint_slot) {
            cold->table_generation = w->generation;
            return true;
        }
    return false;
}

void tm_mirror_before(struct tm_worker *w, uint32_t index, int side)
{
    struct tm_half *half = &w->records[index].half[side];
    uint32_t shadow = shadow_of(w, index);
    if (shadow != TM_NONE && !is_still_wanted(w, index, shadow)) {
        tm_shadow_end(w, shadow, TM_SHADOW_CUT);
        shadow = TM_NONE;
    }
    if (shadow == TM_NONE) {
        half->splicing &= (uint8_t)~(TM_TAPPED | TM_COMPARED);
        return;
    }
    w->tap = tm_shadow_tap(w, shadow);
    w->pump.tap = &w->tap;
}

/* When its endpoint could begin to answer, and when it did. */
static void note_times(struct tm_answers *of, bool asked, bool answered)
{
    if (of->first_us || (!answered && (of->was_asked || !asked)))
        return;
    uint64_t now_us = tm_clock_us(), taken = now_us - of->asked_us;
    if (answered)
        of->first_us = taken == 0 ? 1 : taken < UINT32_MAX ? (uint32_t)taken : UINT32_MAX;
    if (!answered)
        of->asked_us = now_us;
    of->was_asked = 1;
}

void tm_mirror_after(struct tm_worker *w, uint32_t index, int side, uint32_t moved)
{
    struct tm_half *half = &w->records[index].half[side];
    uint32_t shadow = shadow_of(w, index);
    if (shadow == TM_NONE)
        return;
    struct tm_comparison *comparison = tm_shadow_comparison(w, shadow);
    if (moved)
        note_times(&comparison->of[TM_PRIMARY], side == TM_CLIENT, side == TM_ENDPOINT);
    if (side == TM_CLIENT)
        (void)tm_shadow_go_on(w, shadow, w->tap.lost);
    else if (comparison->of[TM_PRIMARY].first_us && !tm_compare_wants(comparison, TM_PRIMARY))
        half->splicing &= (uint8_t)~TM_COMPARED;
}

/* --- ends ----------------------------------------------------------------------------------- */

void tm_mirror_fin(struct tm_worker *w, uint32_t index)
{
    uint32_t shadow = shadow_of(w, index);
    if (shadow == TM_NONE)
        return;
    tm_shadow_comparison(w, shadow)->fin = 1;
    (void)tm_shadow_go_on(w, shadow, TM_TAP_FOLLOWS);
}

void tm_mirror_leave(struct tm_worker *w, uint32_t index)
{
    uint32_t shadow = shadow_of(w, index);
    if (shadow != TM_NONE)
        tm_shadow_end(w, shadow, TM_SHADOW_CUT);
}

void tm_mirror_ended(struct tm_worker *w, uint32_t index, enum tm_close_reason reason)
{
    uint32_t shadow = shadow_of(w, index);
    if (shadow == TM_NONE)
        return;
    struct tm_comparison *comparison = tm_shadow_comparison(w, shadow);
    /* Of one that is reset now what waits is still to be passed on. */
    comparison->bytes = w->records[index].half[TM_ENDPOINT].bytes +
                        w->records[index].half[TM_ENDPOINT].queued;
    comparison->of[TM_PRIMARY].ended = reason == TM_CLOSED_finished         ? TM_STREAM_FIN
                                       : reason == TM_CLOSED_endpoint_reset ? TM_STREAM_RST
                                                                            : TM_STREAM_CUT;
    comparison->fin = reason == TM_CLOSED_finished;
    tm_shadow_finish(w, shadow);
}
