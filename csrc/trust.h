/* Validation of what a worker's region says.
 *
 * The region outlives the worker, and a worker may be faulty or compromised. So every reader bounds
 * a number where it reads it:
 *
 *     an incarnation, at its start    tm_live_mend(), tm_listening_possible() and
 *                             tm_conn_possible() look at every word that the incarnation before has
 *                             left; afterwards this incarnation is the only one that writes them
 *     all others              one of the inlines below, for each kind of number
 *
 * An impossible record is given up alone. What is cheap to repair is repaired. If the start of an
 * incarnation still fails several times in a row, the guardian initialises the region again:
 * tm_live_renew().
 *
 * Not detected: plausible numbers (a counter, an address that is only displayed); bytes in the copy
 * buffer; and the length that the kernel has stored for a UNIX socket, which is kept nowhere else.
 */
#ifndef TM_TRUST_H
#define TM_TRUST_H

#include <stdbool.h>
#include <stdint.h>

#include "live_copy.h"

static inline bool tm_is_slot(uint32_t slot)
{
    return slot < TM_MAX_SLOTS;
}

static inline bool tm_is_slot_or_none(uint32_t slot)
{
    return slot == TM_NONE || slot < TM_MAX_SLOTS;
}

/* For arrays by reason. */
static inline uint8_t tm_close_reason_checked(uint8_t reason)
{
    return reason < TM_CLOSE_REASONS ? reason : (uint8_t)TM_CLOSED_worker_lost;
}

static inline uint8_t tm_pick_reason_checked(uint8_t reason)
{
    return reason < TM_PICK_REASONS ? reason : (uint8_t)TM_UNPICKED;
}

/* How many records there are to look at in a region with room for `capacity`. */
static inline uint32_t tm_records_checked(const struct tm_live *live, uint32_t capacity)
{
    uint32_t used = __atomic_load_n(&live->records_used, __ATOMIC_ACQUIRE);
    uint32_t again = __atomic_load_n(&live->records_again, __ATOMIC_RELAXED);
    used = used <= capacity ? used : 0;
    again = again <= capacity ? again : 0;
    return used > again ? used : again;
}

static inline uint32_t tm_listening_checked(const struct tm_live *live)
{
    uint32_t count = __atomic_load_n(&live->listening_count, __ATOMIC_RELAXED);
    return count < TM_MAX_LISTENING ? count : (uint32_t)TM_MAX_LISTENING;
}

static inline uint32_t tm_orders_checked(const struct tm_live *live)
{
    return live->orders_again == ~live->orders ? live->orders & (TM_ORDER_DRAIN | TM_ORDER_RETIRE)
                                               : 0;
}

enum { TM_HEADER_MS_MAX = 24 * 60 * 60 * 1000 }; /* the longest accept_proxy.timeout */

/* Of bytes that end somewhere: all that is in there can be read then. */
static inline void tm_known_mend(struct tm_known *known)
{
    if (known->first_bytes >= TM_FIRST_KINDS)
        known->first_bytes = TM_UNREAD;
    known->starttls &= TM_STARTTLS_GSS | TM_STARTTLS_TLS;
    if (known->alpn_size > TM_ALPN_MAX)
        known->alpn_size = 0;
    if (known->tlvs_size > TM_TLVS_MAX)
        known->tlvs_size = 0;
    if (known->header_ms > TM_HEADER_MS_MAX)
        known->header_ms = 0;
    if (known->first_bytes != TM_FIRST_TLS)
        known->sni_size = known->alpn_size = 0; /* something else may stand there */
    else
        known->sni[known->sni_size] = '\0';
}

/* What was read of a copied connection before its pick. False: nothing. */
static inline bool tm_known_copy(const struct tm_live *live, uint32_t capacity, uint32_t index,
                                 const struct tm_copy *of, struct tm_known *known)
{
    struct tm_annex annex;
    if (!tm_annex_copy(live, capacity, index, of, &annex) || annex.length < sizeof(*known))
        return false;
    memcpy(known, annex.bytes, sizeof(*known));
    explicit_bzero(annex.bytes, sizeof(annex.bytes));
    tm_known_mend(known);
    if (known->first_bytes != TM_FIRST_TLS)
        explicit_bzero(&known->kept, sizeof(known->kept)); /* nobody's to read */
    return true;
}

/* What a relayed connection is in the middle of, as far as all of it has been heard. */
static inline enum tm_moment tm_conn_moment(const struct tm_conn *conn, const struct tm_talk *talk,
                                            uint64_t protocol)
{
    uint32_t passed[2];
    for (int side = 0; side < 2; side++)
        passed[side] = (uint32_t)conn->half[side].bytes + conn->half[side].queued;
    return tm_talk_moment(talk, protocol, passed);
}

/* Whether an endpoint knows something of its client that the next one can't be told: TLS, of which
 * the beginning was seen, or what its protocol says. */
static inline bool tm_is_bound(struct tm_annex *annex, uint64_t protocol)
{
    const struct tm_known *known = tm_known_in(annex);
    const struct tm_kept *kept = tm_kept_in(annex);
    return known->starttls || known->first_bytes == TM_FIRST_TLS ||
           (protocol == TM_PROTOCOL_REDIS && !(kept && kept->state == TM_KEPT_WHOLE));
}

/* What a copied one is in the middle of; without a protocol nothing is known to be. moves: it is to
 * go on with another endpoint. */
static inline enum tm_moment tm_moment_copy(const struct tm_live *live, uint32_t capacity,
                                            uint32_t index, const struct tm_copy *of,
                                            uint64_t protocol, bool moves)
{
    struct tm_annex annex;
    enum tm_moment moment = protocol == TM_PROTOCOL_NONE ? TM_MOMENT_SAFE : TM_MOMENT_UNKNOWN;
    if (!(protocol || moves) || !tm_annex_copy(live, capacity, index, of, &annex))
        return moment;
    if (protocol != TM_PROTOCOL_NONE)
        moment = tm_conn_moment(&of->conn, &annex.talk, protocol);
    if (moves && moment != TM_MOMENT_UNKNOWN && moment != TM_MOMENT_SUBSCRIBED &&
        tm_is_bound(&annex, protocol))
        moment = TM_MOMENT_STATEFUL;
    explicit_bzero(annex.bytes, sizeof(annex.bytes));
    return moment;
}

/* Whether the entry is in use and its numbers are plausible. Its socket is checked elsewhere. */
static inline bool tm_listening_possible(const struct tm_listening *listening)
{
    return listening->fd >= 0 && listening->id < TM_MAX_LISTENERS &&
           listening->shard < TM_MAX_SHARDS;
}

/* Whether it can be true, descriptors left aside. Repairs what is only of use for a moment or
 * has one possible value. now_us: monotonic. */
bool tm_conn_possible(struct tm_conn *conn, struct tm_cold *cold, uint64_t now_us);
/* The same of what it has in the fourth array, if it is marked to have it there. */
bool tm_moves_possible(struct tm_moves *moves, const struct tm_conn *conn, uint64_t now_us);

/* Puts all of a region in bounds but listeners, lines and records. */
void tm_live_mend(struct tm_live *live, struct tm_commons *commons, uint32_t worker,
                  uint32_t capacity);

/* Of which record the journal is, after a death: mends journal.current and journal.side by what the
 * records say if they do not fit. */
void tm_journal_mend(struct tm_live *live, uint32_t records);

/* What a connection counts in, by one bit of enum tm_holding; NULL: the record names none that
 * there is. */
struct tm_counted *tm_counted_of(struct tm_commons *commons, const struct tm_conn *conn,
                               const struct tm_cold *cold, int what);

/* Where its client is counted, if it is: by the client if the index can't be right. */
void tm_source_mend(const struct tm_commons *commons, struct tm_cold *cold);

/* Initialises a region again whose incarnations die at their start. Its connections are lost, and
 * counted as such; what they counted in the commons is given back as far as records can say.
 * Counters and the log go on; listeners and lines stay, and are looked at by the next incarnation.
 * slots: those from there on have never been used. Returns how many connections it had. */
uint32_t tm_live_renew(struct tm_live *live, struct tm_commons *commons, uint32_t worker,
                       uint32_t capacity, uint32_t slots);

#endif
