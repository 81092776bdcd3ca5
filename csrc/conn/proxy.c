/* Headers of the PROXY protocol. Runs in a worker. */
#include "conn/proxy.h"

#include <errno.h>

#include "conn/destination.h"
#include "conn/preface.h"
#include "conn/stage.h"
#include "proxy_header.h"
#include "sock.h"

/* A family other than 0 says that the rest is there. */
static void keep_peer(struct tm_peer *kept, const struct tm_peer *peer)
{
    memcpy(kept->ip, peer->ip, sizeof(kept->ip));
    kept->port = peer->port;
    atomic_signal_fence(memory_order_seq_cst);
    kept->family = peer->family;
    atomic_signal_fence(memory_order_seq_cst);
}

/* False: there is no annex for it. */
static bool name_client(struct tm_worker *w, uint32_t index, const struct tm_proxy_header *header)
{
    struct tm_known *known = tm_known_take(w, index);
    if (!known)
        return false;
    if (!known->peer.family)
        keep_peer(&known->peer, &w->colds[index].client);
    known->to = header->to;
    w->colds[index].client = header->client;
    return true;
}

static struct tm_answer refuse(struct tm_worker *w, enum tm_refusal refusal, uint64_t *counter)
{
    w->refusal = refusal;
    tm_count(counter, 1);
    return tm_end_for(TM_CLOSED_proxy_header);
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
        return refuse(w, TM_REFUSED_PROXY_TOO_LONG, &counters->proxy_too_long);
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
static struct tm_answer take(struct tm_worker *w, uint32_t index,
                             const struct tm_proxy_header *header)
{
    if (header->has_client && !name_client(w, index, header))
        return tm_end_for(TM_CLOSED_local_error);
    atomic_signal_fence(memory_order_seq_cst);
    return tm_preface_consume(w, index, header->size) ? tm_next()
                                                      : tm_end_for(TM_CLOSED_client_reset);
}

static struct tm_answer read_header(struct tm_worker *w, uint32_t index,
                                    const struct tm_route_rules *rules)
{
    struct tm_proxy_header header;
    unsigned char bytes[TM_PROXY_MAX];
    ssize_t got = tm_preface_peek(w, index, bytes, sizeof(bytes));
    if (got < 0 && got != -EAGAIN)
        return tm_end_for(TM_CLOSED_client_reset);
    enum tm_proxy_result result = tm_proxy_parse(bytes, got > 0 ? (size_t)got : 0,
                                                 (uint32_t)rules->proxy_versions, &header);
    if (result == TM_PROXY_WHOLE)
        return take(w, index, &header);
    if (result != TM_PROXY_MORE)
        return refuse_for(w, result);
    struct tm_answer answer =
        tm_preface_wait(w, index, rules->proxy_timeout_ms, TM_CLOSED_proxy_header);
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
    return read_header(w, index, &route->rules);
}

/* --- to the endpoint ------------------------------------------------------------------------ */

/* Whether bytes of the client wait, to be in one segment with the header. */
static bool has_begun(struct tm_worker *w, uint32_t index)
{
    unsigned char byte;
    return tm_preface_peek(w, index, &byte, sizeof(byte)) > 0;
}

/* Where the client has connected to: as a header has said, or this host's address. */
static struct tm_peer target_of(struct tm_worker *w, uint32_t index)
{
    const struct tm_known *known = tm_known_of(w, index);
    struct tm_peer local;
    if (known && known->peer.family)
        return known->to;
    tm_sock_local(w->records[index].fd[TM_CLIENT], &local);
    return local;
}

struct tm_answer tm_header(struct tm_worker *w, uint32_t index)
{
    struct tm_conn *conn = &w->records[index];
    const struct tm_destination *destination = tm_destination_of(w, index);
    uint32_t version = destination ? (uint32_t)destination->rules.send_proxy : 0;
    if (!version || w->colds[index].endpoint.family == AF_UNIX ||
        conn->side_flags[TM_ENDPOINT] & TM_RESET || tm_base_prepended(conn->half[TM_CLIENT].base))
        return tm_next();
    struct tm_peer to = target_of(w, index);
    uint32_t size = tm_proxy_write(w->pump.buffer, version, &w->colds[index].client, &to);
    w->pump.journal->side = TM_CLIENT;
    if (tm_pump_prepend(&w->pump, &conn->half[TM_CLIENT], conn->fd[TM_ENDPOINT], size,
                        has_begun(w, index)) < 0)
        conn->side_flags[TM_ENDPOINT] |= TM_RESET | TM_HUNG_UP; /* the relay ends it as such */
    return tm_next();
}
