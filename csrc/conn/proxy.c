/* Headers of the PROXY protocol. Runs in a worker. */
#include "conn/proxy.h"

#include <errno.h>

#include "conn/destination.h"
#include "conn/preface.h"
#include "conn/rules.h"
#include "conn/stage.h"
#include "proxy_header.h"

_Static_assert(TM_PROXY_MAX <= TM_MAX_SKIPPED, "each can be skipped");

/* A family other than 0 says that the rest is there. */
static void keep_peer(struct tm_peer *kept, const struct tm_peer *peer)
{
    memcpy(kept->ip, peer->ip, sizeof(kept->ip));
    kept->port = peer->port;
    atomic_signal_fence(memory_order_seq_cst);
    kept->family = peer->family;
    atomic_signal_fence(memory_order_seq_cst);
}

static void name_client(struct tm_worker *w, uint32_t index, struct tm_known *known,
                        const struct tm_proxy_header *header)
{
    if (!known->peer.family)
        keep_peer(&known->peer, &w->colds[index].client);
    known->to = header->to;
    known->header_ms = (uint32_t)(w->now_ms - w->colds[index].accepted_at_us / 1000);
    w->colds[index].client = header->client;
}

static bool has_listed(const uint64_t list[4], const unsigned char *bytes,
                       const struct tm_proxy_header *header)
{
    struct tm_proxy_tlv tlv;
    uint32_t at = header->tlvs_at;
    while (tm_proxy_next_tlv(bytes, header->size, &at, &tlv))
        if (tm_proxy_is_listed(list, tlv.type))
            return true;
    return false;
}

/* Those that find room, each whole. False: there is none for one that rules are about, and who sent
 * it could have taken the room with others. */
static bool keep_tlvs(struct tm_worker *w, struct tm_known *known, const struct tm_route *route,
                      const uint64_t list[4], const unsigned char *bytes,
                      const struct tm_proxy_header *header)
{
    struct tm_proxy_tlv tlv;
    uint32_t at = header->tlvs_at, from = at, size = 0;
    known->tlvs_size = 0; /* they may have been kept before: a death has come in between */
    atomic_signal_fence(memory_order_seq_cst);
    for (; tm_proxy_next_tlv(bytes, header->size, &at, &tlv); from = at) {
        if (!tm_proxy_is_listed(list, tlv.type))
            continue;
        if (at - from > TM_TLVS_MAX - size) {
            tm_count(&w->live->counters.proxy_tlvs_dropped, 1);
            if (tm_rules_ask_for_tlv(w, route, tlv.type))
                return false;
            continue;
        }
        memcpy(known->tlvs + size, bytes + from, at - from);
        size += at - from;
    }
    atomic_signal_fence(memory_order_seq_cst);
    known->tlvs_size = (uint8_t)size;
    return true;
}

static struct tm_answer refuse(struct tm_worker *w, enum tm_refusal refusal, uint64_t *counter)
{
    w->refusal = refusal;
    tm_count(counter, 1);
    return tm_end_for(TM_CLOSED_proxy_header);
}

static struct tm_answer refuse_too_long(struct tm_worker *w)
{
    return refuse(w, TM_REFUSED_PROXY_TOO_LONG, &w->live->counters.proxy_too_long);
}

/* What it says that is asked for. */
static struct tm_answer keep(struct tm_worker *w, uint32_t index, const struct tm_route *route,
                             const unsigned char *bytes, const struct tm_proxy_header *header)
{
    const struct tm_route_rules *rules = &route->rules;
    const uint64_t list[4] = {rules->keep_tlvs0, rules->keep_tlvs1, rules->keep_tlvs2,
                              rules->keep_tlvs3};
    bool has_tlvs = has_listed(list, bytes, header);
    if (!header->has_client && !has_tlvs)
        return tm_next();
    struct tm_known *known = tm_known_take(w, index);
    if (!known)
        return tm_end_for(TM_CLOSED_local_error);
    if (header->has_client)
        name_client(w, index, known, header);
    if (has_tlvs && !keep_tlvs(w, known, route, list, bytes, header))
        return refuse_too_long(w);
    return tm_next();
}

static struct tm_answer refuse_for(struct tm_worker *w, enum tm_proxy_result fault)
{
    struct tm_worker_counters *counters = &w->live->counters;
    switch (fault) {
    case TM_PROXY_MISSING:
        return refuse(w, TM_REFUSED_PROXY_MISSING, &counters->proxy_missing);
    case TM_PROXY_VERSION:
        return refuse(w, TM_REFUSED_PROXY_VERSION, &counters->proxy_version);
    case TM_PROXY_TOO_LONG:
        return refuse_too_long(w);
    case TM_PROXY_CHECKSUM:
        return refuse(w, TM_REFUSED_PROXY_CHECKSUM, &counters->proxy_checksum);
    case TM_PROXY_WHOLE:
    case TM_PROXY_MORE:
    case TM_PROXY_MALFORMED:
        break;
    }
    return refuse(w, TM_REFUSED_PROXY_MALFORMED, &counters->proxy_malformed);
}

/* Of a whole header. */
static struct tm_answer take(struct tm_worker *w, uint32_t index, const struct tm_route *route,
                             const unsigned char *bytes, const struct tm_proxy_header *header)
{
    struct tm_answer answer = keep(w, index, route, bytes, header);
    if (answer.kind != TM_ANSWER_NEXT)
        return answer;
    atomic_signal_fence(memory_order_seq_cst);
    return tm_preface_skip(w, index, header->size) ? tm_next()
                                                   : tm_end_for(TM_CLOSED_client_reset);
}

static struct tm_answer read_header(struct tm_worker *w, uint32_t index,
                                    const struct tm_route *route)
{
    const struct tm_route_rules *rules = &route->rules;
    struct tm_proxy_header header;
    unsigned char *bytes = w->pump.buffer; /* which the first read is about to fill */
    ssize_t got = tm_preface_peek(w, index, bytes, TM_PROXY_MAX);
    if (got < 0 && got != -EAGAIN)
        return tm_end_for(TM_CLOSED_client_reset);
    enum tm_proxy_result result = tm_proxy_parse(bytes, got > 0 ? (size_t)got : 0,
                                                 (uint32_t)rules->proxy_versions, &header);
    if (result == TM_PROXY_WHOLE)
        return take(w, index, route, bytes, &header);
    if (result != TM_PROXY_MORE)
        return refuse_for(w, result);
    struct tm_answer answer =
        tm_preface_wait(w, index, got, rules->proxy_timeout_ms, TM_CLOSED_proxy_header);
    return answer.kind == TM_ANSWER_END && answer.reason == TM_CLOSED_proxy_header
               ? refuse(w, TM_REFUSED_PROXY_LATE, &w->live->counters.proxy_late)
               : answer;
}

/* One that has begun to wait for its header goes on, though a reload has changed the senders of the
 * route: what has come of it is no payload. */
static bool sends_header(struct tm_worker *w, uint32_t index, const struct tm_route *route)
{
    const struct tm_peer *peer = tm_peer_of(w, index);
    return w->records[index].state == TM_READING ||
           tm_in_ranges(w->image, &route->senders, peer->family, peer->ip);
}

struct tm_answer tm_proxy_preface(struct tm_worker *w, uint32_t index)
{
    const struct tm_route *route = tm_route_of(w, index);
    if (!route || tm_proxy_is_taken(w, index) || !sends_header(w, index, route))
        return tm_next();
    return read_header(w, index, route);
}
