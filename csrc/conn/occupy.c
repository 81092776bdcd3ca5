/* Where a connection counts. Runs in a worker. */
#include "conn/occupy.h"

#include "trust.h"

bool tm_occupy(struct tm_worker *w, uint32_t index, int what, uint64_t limit)
{
    struct tm_cold *cold = &w->colds[index];
    struct tm_intent *intent = &w->live->intent;
    struct tm_counted *counted = tm_counted_of(w->commons, &w->records[index], cold, what);
    bool occupied;
    if (cold->holds & what || !counted)
        return true; /* since before this incarnation; or it has forgotten where */
    intent->record = index;
    tm_intent_begin(intent, TM_COUNT_UP, (uint8_t)what);
    occupied = tm_count_up(w->commons, counted, limit ? limit : TM_NO_LIMIT, intent);
    if (occupied)
        cold->holds |= (uint8_t)what;
    tm_intent_end(intent);
    return occupied;
}

void tm_vacate(struct tm_worker *w, uint32_t index, int what)
{
    struct tm_cold *cold = &w->colds[index];
    struct tm_intent *intent = &w->live->intent;
    if (!(cold->holds & what))
        return;
    struct tm_counted *counted = tm_counted_of(w->commons, &w->records[index], cold, what);
    if (counted) {
        intent->record = index;
        tm_intent_begin(intent, TM_COUNT_DOWN, (uint8_t)what);
        tm_count_down(w->commons, counted, intent);
        cold->holds &= (uint8_t)~what;
        tm_intent_end(intent);
    }
    cold->holds &= (uint8_t)~what;
}

void tm_vacate_all(struct tm_worker *w, uint32_t index)
{
    for (int what = TM_HOLDS_LISTENER; what <= TM_HOLDS_QUEUE; what <<= 1)
        tm_vacate(w, index, what);
}

int tm_occupy_source(struct tm_worker *w, uint32_t index, uint64_t limit)
{
    struct tm_cold *cold = &w->colds[index];
    struct tm_intent *intent = &w->live->intent;
    if (cold->holds & TM_HOLDS_SOURCE)
        return 0;
    uint64_t key =
        tm_source_key(w->commons, cold->route_slot, cold->client.family, cold->client.ip);
    intent->record = index;
    tm_intent_begin(intent, TM_COUNT_UP, TM_HOLDS_SOURCE);
    int entry =
        tm_source_up(w->commons, key, limit ? limit : TM_NO_LIMIT, w->now_us * 1000, intent);
    if (entry >= 0) {
        cold->source = (uint32_t)entry;
        cold->holds |= TM_HOLDS_SOURCE;
    }
    tm_intent_end(intent);
    return entry < 0 ? entry : 0;
}

static void finish_counting(struct tm_worker *w, const struct tm_intent *intent)
{
    struct tm_conn *conn = &w->records[intent->record];
    struct tm_cold *cold = &w->colds[intent->record];
    bool was_up = tm_intent_step(intent) == TM_COUNT_UP;
    if (intent->what == TM_HOLDS_SOURCE && was_up && intent->source < TM_MAX_SOURCES)
        cold->source = intent->source;
    struct tm_counted *counted = tm_counted_of(w->commons, conn, cold, intent->what);
    if (!counted)
        return;
    /* It counts if the step up has happened, or the one down has not. */
    if (tm_intent_did(w->commons, counted, intent) == was_up)
        cold->holds |= intent->what;
    else
        cold->holds &= (uint8_t)~intent->what;
}

void tm_occupy_recover(struct tm_worker *w)
{
    struct tm_intent *intent = &w->live->intent;
    if (tm_intent_step(intent) == TM_COUNT_NOTHING)
        return;
    if (intent->record < w->live->records_used)
        finish_counting(w, intent);
    tm_intent_end(intent);
}
