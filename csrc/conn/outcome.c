/* The end. Runs in a worker. */
#include "conn/outcome.h"

#include <string.h>

#include "conn/mirror.h"
#include "conn/occupy.h"
#include "conn/destination.h"
#include "conn/moves.h"
#include "conn/proxy.h"
#include "conn/rate.h"
#include "conn/record.h"
#include "conn/rehome.h"
#include "conn/relay.h"
#include "conn/shadow.h"
#include "conn/talk.h"
#include "sock.h"
#include "trust.h"

/* --- the log -------------------------------------------------------------------------------- */

static struct tm_peer local_address(int fd, uint16_t port)
{
    struct tm_peer local;
    tm_sock_local(fd, &local);
    if (local.port == 0)
        local.port = port;
    return local;
}

/* Why one that ends was turned away. */
static enum tm_refusal refusal_of(const struct tm_worker *w, uint32_t index)
{
    const struct tm_cold *cold = &w->colds[index];
    if (w->records[index].destination_slot != TM_NONE) {
        if (cold->close_reason != TM_CLOSED_overflow)
            return TM_NOT_REFUSED;
        return cold->holds & TM_HOLDS_DESTINATION ? TM_REFUSED_ENDPOINT_MAX
                                                  : TM_REFUSED_DESTINATION_MAX;
    }
    if (cold->close_reason == TM_CLOSED_rejected_by_rule)
        return TM_REFUSED_BY_RULE;
    if (cold->close_reason == TM_CLOSED_no_endpoint)
        return TM_REFUSED_NO_DESTINATION;
    if (cold->close_reason == TM_CLOSED_proxy_header ||
        cold->close_reason == TM_CLOSED_client_hello)
        return w->refusal;
    return cold->stage == TM_STAGE_ADMIT && (cold->close_reason == TM_CLOSED_overflow ||
                                             cold->close_reason == TM_CLOSED_not_allowed ||
                                             cold->close_reason == TM_CLOSED_rate_limited)
               ? w->refusal
               : TM_NOT_REFUSED;
}

/* NULL: it gets none. */
static struct tm_log_entry *new_entry(struct tm_worker *w, enum tm_refusal refusal)
{
    struct tm_log *log = &w->live->log;
    return tm_log_admits(log, refusal, w->refusals_ns, w->now_us * 1000)
               ? tm_log_free_entry(log, tm_table_log_capacity(w->table))
               : NULL;
}

void tm_outcome_log_refused(struct tm_worker *w, int fd, const struct tm_peer *client,
                            uint32_t route_slot, enum tm_refusal refusal)
{
    struct tm_log_entry *entry;
    if (!tm_table_log_kinds(w->table) || !(entry = new_entry(w, refusal)))
        return;
    *entry = (struct tm_log_entry){
        .kind = TM_LOG_REFUSED,
        .refusal = (uint8_t)refusal,
        .route_slot = route_slot,
        .destination_slot = TM_NONE,
        .endpoint_slot = TM_NONE,
        .rule_slot = TM_NONE,
        .table_generation = w->generation,
        .accepted_at_us = w->now_us,
        .at_us = w->now_us,
        .client = *client,
        .client_local = local_address(fd, 0),
        .direct = *client,
    };
    tm_log_commit(&w->live->log);
}

/* Of an entry that is not committed yet. */
static void write_known(struct tm_worker *w, uint32_t index, struct tm_log_entry *entry)
{
    const struct tm_known *known = tm_known_of(w, index);
    if (!known || known->sni_size + known->alpn_size + known->tlvs_size == 0)
        return;
    struct tm_log_known *its = &w->live->log.known[entry - w->live->log.entries];
    if (known->first_bytes == TM_FIRST_TLS) { /* else something else may stand there */
        memcpy(its->sni, known->sni, sizeof(its->sni));
        memcpy(its->alpn, known->alpn, sizeof(its->alpn));
    }
    memcpy(its->tlvs, known->tlvs, sizeof(its->tlvs));
    entry->sni_size = known->first_bytes == TM_FIRST_TLS ? known->sni_size : 0;
    entry->alpn_size = known->first_bytes == TM_FIRST_TLS ? known->alpn_size : 0;
    entry->tlvs_size = known->tlvs_size;
}

/* For the log process, if it keeps up; its sockets must be open still. local: our ends, by enum
 * tm_side; NULL = to be asked for. */
static void write_log(struct tm_worker *w, uint32_t index, enum tm_log_kind kind,
                      const struct tm_peer *local)
{
    const struct tm_conn *conn = &w->records[index];
    const struct tm_cold *cold = &w->colds[index];
    enum tm_refusal refusal = kind == TM_LOG_END ? refusal_of(w, index) : TM_NOT_REFUSED;
    struct tm_log_entry *entry = new_entry(w, refusal);
    struct tm_peer asked[2];
    if (!entry)
        return;
    for (int side = 0; side < 2 && !local; side++)
        asked[side] = local_address(conn->fd[side], cold->local_port[side]);
    *entry = (struct tm_log_entry){
        .kind = (uint8_t)kind,
        .close_reason = cold->close_reason,
        .pick_reason = cold->pick_reason,
        .attempts = cold->attempts,
        .refusal = (uint8_t)refusal,
        .route_slot = cold->route_slot,
        .destination_slot = conn->destination_slot,
        .endpoint_slot = cold->endpoint_slot,
        .rule_slot = cold->rule_slot,
        .index = index,
        .generation = conn->generation,
        .connect_us = cold->connect_us,
        .first_byte_us = conn->first_byte_us,
        .table_generation = cold->table_generation,
        .accepted_at_us = cold->accepted_at_us,
        .at_us = w->now_us,
        .bytes = {conn->half[TM_CLIENT].bytes, conn->half[TM_ENDPOINT].bytes},
        .client = cold->client,
        .endpoint = cold->endpoint,
        .client_local = local ? local[TM_CLIENT] : asked[TM_CLIENT],
        .endpoint_local = local ? local[TM_ENDPOINT] : asked[TM_ENDPOINT],
        .direct = *tm_peer_of(w, index),
        .born_worker = cold->born_worker,
        .born_index = cold->born_index,
        .born_generation = cold->born_generation,
        .rehomed = tm_moves_of(w, index)->rehomed,
    };
    write_known(w, index, entry);
    tm_log_commit(&w->live->log);
}

void tm_outcome_log_start(struct tm_worker *w, uint32_t index)
{
    uint32_t kinds = tm_table_log_kinds(w->table);
    struct tm_peer local[2];
    if (!kinds)
        return;
    for (int side = 0; side < 2; side++) {
        /* The kernel forgets its port when a socket is reset. */
        tm_sock_local(w->records[index].fd[side], &local[side]);
        w->colds[index].local_port[side] = local[side].port;
    }
    if (kinds & TM_LOG_STARTS)
        write_log(w, index, TM_LOG_START, local);
}

/* --- what it says of the endpoint ----------------------------------------------------------- */

enum {
    AT_ONCE_US = 1000000,       /* after accept: an endpoint that closes by then has refused */
    UNANSWERED_MAX_US = 60000000 /* a reset after that says nothing of those that begin */
};

/* Of the client, with its highest bits on top. */
static uint64_t client_key(struct tm_worker *w, const struct tm_cold *cold)
{
    return tm_source_key(w->commons, cold->route_slot, cold->client.family, cold->client.ip)
           << (64 - TM_KEY_BITS);
}

/* What a client sends can bring an end about, so it is a suspicion at the most, and only where the
 * configuration asks for it. */
static void assess_for_ejection(struct tm_worker *w, uint32_t index, enum tm_close_reason reason,
                                struct tm_common *endpoint)
{
    const struct tm_cold *cold = &w->colds[index];
    const struct tm_destination *destination = tm_destination_of(w, index);
    if (!destination)
        return;
    if (reason == TM_CLOSED_endpoint_reset) {
        if (destination->rules.resets)
            tm_note_suspicion(endpoint, client_key(w, cold));
    } else if (reason == TM_CLOSED_finished) {
        if (w->now_us - cold->accepted_at_us < destination->rules.early_close_ms * 1000)
            tm_note_suspicion(endpoint, client_key(w, cold));
        else
            tm_note_trust(endpoint);
    }
}

/* Of one that both sides have finished: whether the endpoint was the first. */
static bool is_by_endpoint(const struct tm_conn *conn)
{
    return conn->half[TM_ENDPOINT].state == TM_HALF_SHUT &&
           conn->half[TM_CLIENT].state != TM_HALF_SHUT;
}

/* For people: an endpoint that ends every connection is not shown as healthy. Of a client that
 * comes and goes without a byte, as a load balancer's check does, nothing follows. */
static void assess_for_people(struct tm_worker *w, uint32_t index, enum tm_close_reason reason,
                              struct tm_common *endpoint)
{
    const struct tm_conn *conn = &w->records[index];
    const struct tm_cold *cold = &w->colds[index];
    uint64_t age_us = w->now_us - cold->accepted_at_us;
    if (reason == TM_CLOSED_endpoint_reset) {
        if (age_us < UNANSWERED_MAX_US)
            tm_note_unanswered(endpoint, client_key(w, cold), true);
    } else if (reason == TM_CLOSED_finished) {
        if (is_by_endpoint(conn) && age_us < AT_ONCE_US)
            tm_note_unanswered(endpoint, client_key(w, cold), false);
        else if (conn->half[TM_CLIENT].bytes || age_us >= AT_ONCE_US)
            tm_note_served(endpoint);
    }
}

static void assess_endpoint(struct tm_worker *w, uint32_t index, enum tm_close_reason reason)
{
    const struct tm_conn *conn = &w->records[index];
    uint32_t slot = w->colds[index].endpoint_slot;
    if (!tm_is_slot(slot) || conn->first_byte_us || tm_is_opening(conn->state))
        return;
    assess_for_ejection(w, index, reason, &w->commons->slots[slot]);
    assess_for_people(w, index, reason, &w->commons->slots[slot]);
}

/* --- the end -------------------------------------------------------------------------------- */

static void count_closed(struct tm_worker *w, uint32_t slot, enum tm_close_reason reason)
{
    if (slot != TM_NONE)
        tm_count(&tm_slot_of(w, slot)->closed[reason], 1);
}

static void count_times(struct tm_worker *w, uint32_t index, enum tm_close_reason reason)
{
    const struct tm_conn *conn = &w->records[index];
    uint64_t age_us = w->now_us - w->colds[index].accepted_at_us;
    if (conn->destination_slot == TM_NONE)
        return;
    struct tm_times *times = &w->live->times[conn->destination_slot];
    tm_histogram_add(&times->duration, tm_duration_bounds_us, age_us);
    if (reason == TM_CLOSED_finished && conn->first_byte_us == 0 && is_by_endpoint(conn))
        tm_histogram_add(&times->early_close, tm_latency_bounds_us, age_us);
}

void tm_outcome_end(struct tm_worker *w, uint32_t index, enum tm_close_reason reason, bool reset)
{
    struct tm_conn *conn = &w->records[index];
    struct tm_cold *cold = &w->colds[index];
    assess_endpoint(w, index, reason);
    if (cold->marks & TM_HAS_MOVES)
        tm_mirror_ended(w, index, reason);
    for (int side = 0; side < 2; side++)
        if (conn->half[side].paused)
            tm_rate_end_pause(w, index, tm_destination_of(w, index), side);
    cold->close_reason = (uint8_t)reason;
    cold->by_reset = reset;
    if (tm_table_log_kinds(w->table))
        write_log(w, index, TM_LOG_END, NULL);
    tm_conn_enter(conn, TM_ENDING);
    /* Before its sockets are closed: who sees the end finds it counted. */
    count_closed(w, cold->route_slot, reason);
    count_closed(w, conn->destination_slot, reason);
    count_times(w, index, reason);
    count_closed(w, cold->endpoint_slot, reason);
    count_closed(w, cold->rule_slot, reason);
    if (reason == TM_CLOSED_converged)
        tm_goodbye(w, index); /* not before it is ENDING: a death must not leave it both ways */
    tm_record_finish(w, index);
    tm_record_release(w, index);
}

void tm_outcome_kill(struct tm_worker *w, uint32_t index, uint32_t generation)
{
    if (index >= w->live->records_used)
        return;
    const struct tm_conn *conn = &w->records[index];
    if (conn->generation != generation || conn->moving || !tm_is_open(conn->state))
        return;
    w->pump.journal->current = index;
    tm_outcome_end(w, index, TM_CLOSED_killed, true);
}

void tm_outcome_end_all(struct tm_worker *w)
{
    for (uint32_t index = 0; index < w->live->records_used; index++) {
        if (!tm_is_in_use(w->records[index].state))
            continue;
        tm_live_advance(w->live);
        if (w->records[index].state == TM_SCOUTING)
            tm_rehome_end(w, index);
        else if (w->records[index].state == TM_SHADOWING)
            tm_shadow_end(w, index, TM_SHADOW_CUT);
        else
            tm_outcome_end(w, index, TM_CLOSED_shutdown, true);
    }
    tm_relay_resume(w);
    tm_record_free_dead(w);
}
