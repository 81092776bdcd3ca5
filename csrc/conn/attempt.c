/* One connect to an endpoint. Runs in a worker. */
#include "conn/attempt.h"

#include <errno.h>

#include "conn/endpoint.h"
#include "conn/occupy.h"
#include "conn/record.h"
#include "sock.h"

int tm_attempt_open(struct tm_worker *w, uint32_t index, const struct tm_endpoint *endpoint)
{
    struct tm_conn *conn = &w->records[index];
    struct tm_cold *cold = &w->colds[index];
    if (cold->attempts < UINT8_MAX)
        cold->attempts++;
    bool unpaced = w->paced && conn->state == TM_SHADOWING; /* it has to follow its connection */
    tm_peer_from(&cold->endpoint, &endpoint->address);
    tm_count(&tm_slot_of(w, endpoint->slot)->opened, 1);
    cold->connect_started_us = (uint32_t)tm_clock_us();
    tm_record_forget_endpoint(conn);
    tm_journal_note(w->pump.journal, TM_CONNECT);
    int fd = tm_sock_connect(&endpoint->address, unpaced);
    tm_conn_set_fd(conn, cold, TM_ENDPOINT, fd >= 0 ? fd : -1);
    tm_journal_note(w->pump.journal, TM_NOTHING);
    return fd;
}

/* Of UNIX sockets these are about who may connect, of others about this host's firewall. */
static bool is_denied(const struct tm_cold *cold, int error)
{
    return cold->endpoint.family == AF_UNIX && (error == EACCES || error == EPERM);
}

void tm_attempt_failed(struct tm_worker *w, uint32_t index, int error)
{
    struct tm_cold *cold = &w->colds[index];
    struct tm_slot *destination = tm_slot_of(w, w->records[index].destination_slot);
    struct tm_slot *endpoint = tm_slot_of(w, cold->endpoint_slot);
    struct tm_common *common = &w->commons->slots[cold->endpoint_slot];
    bool denied = is_denied(cold, error);
    /* What is no connection of a client fails nobody who was picked for the destination. */
    uint64_t counts = w->records[index].state != TM_SHADOWING;
    if (denied) {
        w->denied = true;
        w->denied_slot = cold->endpoint_slot;
    }
    cold->failure = (uint8_t)(error == 0 ? TM_CLOSED_connect_timeout
                              : tm_sock_local_failure(error) && !denied ? TM_CLOSED_local_error
                                                                        : TM_CLOSED_connect_failed);
    if (error == 0) {
        tm_count(&destination->connect_timeouts, counts);
        tm_count(&endpoint->connect_timeouts, 1);
    }
    if (cold->failure != TM_CLOSED_local_error) {
        tm_count(&destination->connect_failures, counts);
        tm_count(&endpoint->connect_failures, 1);
        tm_endpoint_failed(w, common, (uint32_t)error);
        tm_failed_note(&w->live->failed, &(struct tm_failed_connect){
                                             .client = cold->client,
                                             .endpoint_slot = cold->endpoint_slot,
                                             .error = (uint32_t)error,
                                             .attempt = cold->attempts,
                                         });
    }
    tm_count(&endpoint->closed[cold->failure], 1);
    tm_vacate(w, index, TM_HOLDS_ENDPOINT);
    cold->endpoint_slot = TM_NONE;
    tm_record_close_side(w, index, TM_ENDPOINT, false);
}

void tm_attempt_note_tried(struct tm_cold *cold, uint32_t at)
{
    cold->tried |= (uint32_t)1 << (at % TM_TRIED_BITS);
    if (cold->passed < UINT16_MAX)
        cold->passed++;
}

const struct tm_endpoint *tm_attempt_place(struct tm_worker *w, uint32_t index, uint32_t not_this)
{
    struct tm_cold *cold = &w->colds[index];
    const struct tm_destination *destination = &w->image->destinations[cold->destination];
    if (!tm_occupy(w, index, TM_HOLDS_DESTINATION, destination->rules.max_connections))
        return NULL;
    for (;;) {
        struct tm_tier tier = tm_tier_first(destination);
        uint32_t at = destination->turn_count
                          ? tm_endpoint_next(w, cold, destination, &tier, false)
                          : TM_NONE;
        if (at == TM_NONE)
            return NULL;
        const struct tm_endpoint *endpoint = &w->image->endpoints[destination->first_endpoint + at];
        tm_attempt_note_tried(cold, at);
        if (endpoint->slot == not_this)
            continue;
        cold->endpoint_slot = endpoint->slot;
        if (tm_occupy(w, index, TM_HOLDS_ENDPOINT, endpoint->rules.max_connections))
            return endpoint;
        cold->endpoint_slot = TM_NONE;
    }
}
