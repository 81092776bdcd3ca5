/* Counters after a death. Runs in a worker, before its loop. */
#include "conn/reconcile.h"
#include "conn/moves.h"

#include <stdlib.h>

#include "conn/shadow.h"
#include "trust.h"

/* What is known of the step that the death has cut off. */
struct cut {
    enum tm_close_reason reason; /* of an end; TM_OPEN: it was leaving for another worker */
    bool taken_over;             /* of a begin: it came from another worker */
};

/* It counts where it has a connect; after an exchange, where the connection was, too. */
static void count_scout(const struct tm_conn *conn, const struct tm_cold *cold, uint32_t *open)
{
    if (cold->endpoint_slot != TM_NONE)
        open[cold->endpoint_slot]++;
    if (cold->close_reason == TM_CLOSED_rehomed)
        open[conn->destination_slot]++;
}

static void count_open(const struct tm_worker *w, uint32_t *open)
{
    for (uint32_t i = 0; i < w->live->records_used; i++) {
        const struct tm_conn *conn = &w->records[i];
        const struct tm_cold *cold = &w->colds[i];
        if (conn->state == TM_SCOUTING)
            count_scout(conn, cold, open);
        if (conn->state == TM_SHADOWING && cold->endpoint_slot != TM_NONE)
            open[cold->endpoint_slot]++;
        if (!tm_is_open(conn->state))
            continue;
        open[cold->route_slot]++;
        if (conn->destination_slot != TM_NONE)
            open[conn->destination_slot]++;
        if (cold->endpoint_slot != TM_NONE)
            open[cold->endpoint_slot]++;
        if (cold->rule_slot != TM_NONE)
            open[cold->rule_slot]++;
    }
}

static struct cut what_was_cut(const struct tm_worker *w)
{
    struct cut cut = {.reason = TM_CLOSED_worker_lost};
    uint32_t current = w->pump.journal->current;
    if (current < w->live->records_used) {
        const struct tm_cold *cold = &w->colds[current];
        cut.taken_over = tm_moves_of(w, current)->origin.worker != 0;
        if (w->records[current].state == TM_DEAD)
            cut.reason = (enum tm_close_reason)tm_close_reason_checked(cold->close_reason);
    }
    for (uint32_t i = 0; i < w->live->records_used; i++)
        if (w->records[i].state == TM_ENDING ||
            (w->records[i].state == TM_SCOUTING && w->colds[i].close_reason != TM_OPEN))
            cut.reason = (enum tm_close_reason)w->colds[i].close_reason;
    return cut;
}

static void reconcile(struct tm_worker *w, uint32_t slot, const uint32_t *open, struct cut cut)
{
    if (slot >= TM_MAX_SLOTS)
        return;
    struct tm_slot *counters = tm_slot_of(w, slot);
    int64_t surplus = (int64_t)(tm_slot_active(counters) - open[slot]);
    if (surplus > 0)
        tm_count(cut.reason == TM_OPEN ? &counters->moved_out : &counters->closed[cut.reason],
                 (uint64_t)surplus);
    else if (surplus < 0)
        tm_count(cut.taken_over ? &counters->moved_in : &counters->opened, (uint64_t)-surplus);
}

/* What became of shadows, of one route's. */
static void reconcile_shadows(struct tm_worker *w, uint32_t slot)
{
    struct tm_slot *counters = tm_slot_of(w, slot);
    uint64_t open = 0;
    if (counters->mirrored == 0)
        return;
    for (uint32_t i = 0; i < w->live->records_used; i++)
        open += w->records[i].state == TM_SHADOWING && w->colds[i].route_slot == slot;
    int64_t surplus = (int64_t)(counters->mirrored - tm_shadow_fates(counters) - open);
    tm_count(surplus > 0 ? &counters->mirror_lost : &counters->mirrored,
             (uint64_t)(surplus > 0 ? surplus : -surplus));
}

void tm_reconcile(struct tm_worker *w)
{
    const struct tm_image *image = w->image;
    struct cut cut = what_was_cut(w);
    uint32_t *open = calloc(TM_MAX_SLOTS, sizeof(*open));
    if (!open)
        return; /* counters stay off by one; connections matter more */
    count_open(w, open);
    /* Slots in use now, and those of a route that a reload has removed meanwhile. */
    for (uint32_t i = 0; i < image->route_count; i++) {
        reconcile(w, image->routes[i].slot, open, cut);
        reconcile_shadows(w, image->routes[i].slot);
    }
    for (uint32_t i = 0; i < image->pick_rule_count; i++)
        reconcile(w, image->pick_rules[i].slot, open, cut);
    for (uint32_t i = 0; i < image->destination_count; i++)
        reconcile(w, image->destinations[i].slot, open, cut);
    for (uint32_t i = 0; i < image->endpoint_count; i++)
        reconcile(w, image->endpoints[i].slot, open, cut);
    for (uint32_t i = 0; i < w->live->records_used; i++) {
        reconcile(w, w->colds[i].route_slot, open, cut);
        reconcile(w, w->records[i].destination_slot, open, cut);
        reconcile(w, w->colds[i].endpoint_slot, open, cut);
        reconcile(w, w->colds[i].rule_slot, open, cut);
    }
    free(open);
}
