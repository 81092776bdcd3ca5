/* Regions that may be corrupt. Runs in a worker at the start of each incarnation, and in its
 * guardian. */
#include "trust.h"

#include <string.h>

enum {
    MAX_WAIT_MS = 86400000, /* no deadline but a configured one is further off */
    MAX_UNCOUNTED = 4 << 20,   /* bytes that one turn of a half moves at most: pump.h */
    ALL_HOLDS = TM_HOLDS_LISTENER | TM_HOLDS_ROUTE | TM_HOLDS_SOURCE | TM_HOLDS_DESTINATION |
                TM_HOLDS_ENDPOINT | TM_HOLDS_QUEUE,
    ALL_FLAGS = TM_HUNG_UP | TM_RESET | TM_WRITE_WATCHED | TM_READ_UNWATCHED | TM_UNPACED |
                TM_KEPT_ALIVE | TM_BOUNDED | TM_PROVEN,
};

static bool half_possible(const struct tm_conn *conn, int side)
{
    const struct tm_half *half = &conn->half[side];
    if (half->state > TM_HALF_ABORTED || !tm_base_is_sealed(half->base))
        return false;
    /* A client may have begun with something that nobody gets, and nothing has been read since. */
    if (tm_base_skipped(half->base) && (side == TM_ENDPOINT || half->bytes || half->queued))
        return false;
    /* One that is relayed is given up only when one of the sides was reset. */
    return conn->state != TM_RELAYING || half->state != TM_HALF_ABORTED ||
           (conn->side_flags[0] | conn->side_flags[1]) & TM_RESET;
}

static bool slots_possible(const struct tm_conn *conn, const struct tm_cold *cold)
{
    if (!tm_is_slot(cold->route_slot) || !tm_is_slot_or_none(conn->destination_slot) ||
        !tm_is_slot_or_none(cold->endpoint_slot))
        return false;
    if ((conn->state == TM_SCOUTING || conn->state == TM_SHADOWING) &&
        !tm_is_slot(conn->destination_slot))
        return false;
    if (conn->state == TM_RELAYING || conn->state == TM_RESETTING)
        return tm_is_slot(conn->destination_slot) && tm_is_slot(cold->endpoint_slot);
    return cold->endpoint_slot == TM_NONE || tm_is_slot(conn->destination_slot);
}

static void mend_half(struct tm_half *half)
{
    if ((uint32_t)half->bytes - half->counted > MAX_UNCOUNTED)
        half->counted = (uint32_t)half->bytes;
    if (half->paused > TM_RESERVED + TM_SHAPE_MOST_POWER)
        half->paused = TM_PAUSED; /* for how long is looked at again and again */
    half->splicing &= TM_MODES - 1;
    if (half->splicing & TM_THROUGH_BUFFER)
        half->splicing &= (uint8_t)~TM_SPLICE;
    half->uncounted &= TM_UNCOUNTED_SOURCE | TM_UNCOUNTED_DESTINATION;
}

/* Of one that is opening: its stage is one that can be in that state. */
static bool stage_possible(const struct tm_conn *conn, const struct tm_cold *cold)
{
    if (!tm_is_opening(conn->state))
        return true;
    if (cold->stage >= TM_STAGES || cold->preface > TM_PREFACES)
        return false;
    if (cold->stage >= TM_STAGE_HEADER)
        return conn->state == TM_CONNECTING && tm_is_slot(cold->endpoint_slot) &&
               conn->fd[TM_ENDPOINT] >= 0;
    /* A later one finds what it needs: it comes after the pick. */
    return cold->stage <= TM_STAGE_PICK || tm_is_slot(conn->destination_slot);
}

static void mend_cold(struct tm_cold *cold, uint64_t now_us)
{
    uint64_t furthest = now_us / 1000 + MAX_WAIT_MS;
    cold->close_reason = tm_close_reason_checked(cold->close_reason);
    cold->failure = tm_close_reason_checked(cold->failure);
    cold->pick_reason = tm_pick_reason_checked(cold->pick_reason);
    cold->holds &= ALL_HOLDS;
    cold->marks &= TM_AWAITS_GONE | TM_HAS_MOVES;
    if (!tm_is_slot_or_none(cold->rule_slot))
        cold->rule_slot = TM_NONE;
    if (cold->accepted_at_us > now_us)
        cold->accepted_at_us = now_us;
    if (cold->until_ms > furthest)
        cold->until_ms = furthest;
}

bool tm_conn_possible(struct tm_conn *conn, struct tm_cold *cold, uint64_t now_us)
{
    if (!tm_is_in_use(conn->state) || conn->generation == 0 || !slots_possible(conn, cold) ||
        !half_possible(conn, TM_CLIENT) || !half_possible(conn, TM_ENDPOINT) ||
        !stage_possible(conn, cold))
        return false;
    /* What has passed bytes on is not connected anew: its next ones would be taken for the
     * first. */
    if (tm_is_opening(conn->state) && (conn->half[0].bytes || conn->half[1].bytes))
        return false;
    for (int side = 0; side < 2; side++) {
        conn->side_flags[side] &= ALL_FLAGS;
        mend_half(&conn->half[side]);
    }
    if (conn->last_activity_ms > now_us / 1000)
        conn->last_activity_ms = now_us / 1000;
    if (conn->moving > TM_MAX_LINES)
        conn->moving = 0;
    if (conn->spoke > TM_SPOKE_ENDPOINT)
        conn->spoke = TM_SPOKE_NOBODY; /* then it is left alone until it says more */
    mend_cold(cold, now_us);
    return true;
}

bool tm_moves_possible(struct tm_moves *moves, const struct tm_conn *conn, uint64_t now_us)
{
    if (moves->stays_until_s > (now_us / 1000 + MAX_WAIT_MS) / 1000)
        moves->stays_until_s = 0;
    if (moves->origin.worker > TM_MAX_LINES)
        moves->origin.worker = 0;
    for (int side = 0; side < 2; side++)
        if (!tm_elsewhere_is_sealed(moves->elsewhere[side]) ||
            tm_elsewhere_bytes(moves->elsewhere[side]) > conn->half[side].bytes)
            return false;
    return true;
}

static void mend_log(struct tm_log *log)
{
    uint64_t written = atomic_load_explicit(&log->written, memory_order_relaxed);
    uint64_t taken = atomic_load_explicit(&log->taken, memory_order_acquire);
    if (written - taken > TM_LOG_ENTRIES)
        atomic_store_explicit(&log->written, taken, memory_order_release);
}

void tm_live_mend(struct tm_live *live, struct tm_commons *commons, uint32_t worker,
                  uint32_t capacity)
{
    uint32_t records = tm_records_checked(live, capacity);
    tm_live_head(live, worker, capacity);
    tm_intent_mend(&live->intent, commons, worker);
    tm_live_order(live, tm_orders_checked(live));
    live->records_used = live->records_again = records;
    if (live->annexes_used > capacity)
        live->annexes_used = capacity;
    live->listening_count = tm_listening_checked(live);
    mend_log(&live->log);
}

static bool is_pumping(const struct tm_live *live, uint32_t index, int side)
{
    return live->records[index].half[side].blocked == TM_PUMPING;
}

void tm_journal_mend(struct tm_live *live, uint32_t records)
{
    struct tm_journal *journal = &live->journal;
    enum tm_operation operation = tm_journal_operation(journal);
    bool moves = operation == TM_RECEIVE || operation == TM_SEND || operation == TM_QUEUE ||
                 operation == TM_PEEK_SEND || operation == TM_PEEK_TAKE ||
                 operation == TM_CONSUME || operation == TM_PREPEND ||
                 operation == TM_GARBLED;
    journal->side &= 1;
    if (journal->current >= records)
        journal->current = TM_NONE;
    if (!moves || (journal->current != TM_NONE &&
                   is_pumping(live, journal->current, journal->side)))
        return;
    /* Then one of them is wrong; what a half says of itself is nearer to the bytes. */
    for (uint32_t index = 0; index < records; index++) {
        for (int side = 0; side < 2; side++) {
            if (tm_is_open(live->records[index].state) && is_pumping(live, index, side)) {
                journal->current = index;
                journal->side = (uint8_t)side;
                return;
            }
        }
    }
}

struct tm_counted *tm_counted_of(struct tm_commons *commons, const struct tm_conn *conn,
                               const struct tm_cold *cold, int what)
{
    uint32_t slot;
    switch (what) {
    case TM_HOLDS_LISTENER:
        return cold->listener < TM_MAX_LISTENERS ? &commons->listeners[cold->listener] : NULL;
    case TM_HOLDS_SOURCE:
        return cold->source < TM_MAX_SOURCES ? &commons->sources[cold->source].connections : NULL;
    case TM_HOLDS_ROUTE:
        slot = cold->route_slot;
        break;
    case TM_HOLDS_ENDPOINT:
        slot = cold->endpoint_slot;
        break;
    case TM_HOLDS_DESTINATION:
    case TM_HOLDS_QUEUE:
        slot = conn->destination_slot;
        break;
    default:
        return NULL;
    }
    if (!tm_is_slot(slot))
        return NULL;
    return what == TM_HOLDS_QUEUE ? &commons->slots[slot].waiting
                                  : &commons->slots[slot].connections;
}

static bool is_entry_of(const struct tm_commons *commons, uint32_t source, uint64_t key)
{
    return source < TM_MAX_SOURCES &&
           (tm_counted_read(&commons->sources[source].connections).key & TM_KEY_MASK) == key;
}

void tm_source_mend(const struct tm_commons *commons, struct tm_cold *cold)
{
    if (!(cold->holds & TM_HOLDS_SOURCE))
        return;
    uint64_t key = tm_source_key(commons, cold->route_slot, cold->client.family, cold->client.ip);
    uint32_t first = (uint32_t)(key % TM_SOURCE_SETS) * TM_SOURCE_WAYS;
    if (is_entry_of(commons, cold->source, key))
        return;
    for (uint32_t way = 0; way < TM_SOURCE_WAYS; way++)
        if (is_entry_of(commons, first + way, key))
            cold->source = first + way;
    /* Not found: it is the client's address that is not right. */
}

static void give_back(struct tm_live *live, struct tm_commons *commons, const struct tm_conn *conn,
                      const struct tm_cold *cold)
{
    for (int what = 1; what <= ALL_HOLDS; what <<= 1) {
        struct tm_counted *at =
            cold->holds & what ? tm_counted_of(commons, conn, cold, what) : NULL;
        if (!at)
            continue;
        tm_intent_begin(&live->intent, TM_COUNT_DOWN, (uint8_t)what);
        tm_count_down(commons, at, &live->intent);
        tm_intent_end(&live->intent);
    }
}

/* Its connections are gone; the generations of the records go on, so that no reader takes the next
 * one for the one before. Returns how many there were. */
static uint32_t clear_records(struct tm_live *live, struct tm_commons *commons, uint32_t capacity)
{
    struct tm_cold *colds = tm_live_colds(live, capacity);
    struct tm_annex *annexes = tm_live_annexes(live, capacity);
    uint32_t lost = 0;
    for (uint32_t index = 0; index < live->records_used; index++) {
        struct tm_conn *conn = &live->records[index];
        uint32_t generation = conn->generation;
        if (tm_is_in_use(conn->state)) {
            lost++;
            if (!conn->moving) /* else it counts where it goes */
                give_back(live, commons, conn, &colds[index]);
        }
        tm_conn_enter(conn, TM_FREE);
        memset(conn, 0, sizeof(*conn));
        memset(&colds[index], 0, sizeof(colds[index]));
        conn->generation = generation;
    }
    for (uint32_t at = 0; at < live->annexes_used && at < capacity; at++)
        memset(&annexes[at], 0, sizeof(annexes[at]));
    return lost;
}

uint32_t tm_live_renew(struct tm_live *live, struct tm_commons *commons, uint32_t worker,
                       uint32_t capacity, uint32_t slots)
{
    uint32_t lost;
    tm_live_mend(live, commons, worker, capacity);
    tm_intent_end(&live->intent);
    lost = clear_records(live, commons, capacity);
    for (uint32_t slot = 0; slot < slots && slot < TM_MAX_SLOTS; slot++) {
        struct tm_slot *counters = &live->slots[slot];
        uint64_t open = tm_slot_active(counters);
        if (open)
            tm_count(&counters->closed[TM_CLOSED_worker_lost], open);
    }
    memset(&live->journal, 0, sizeof(live->journal));
    live->journal.current = TM_NONE;
    tm_journal_note(&live->journal, TM_NOTHING);
    live->records_used = live->records_again = live->annexes_used = 0;
    live->gives_to = 0;
    live->pipes = 0;
    live->pipe_bytes = 0;
    tm_live_set_connections(live, 0);
    return lost;
}
