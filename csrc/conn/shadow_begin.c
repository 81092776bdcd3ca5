/* New shadows. Runs in a worker. */
#include "conn/shadow_begin.h"

#include "conn/annex.h"
#include "conn/attempt.h"
#include "conn/destination.h"
#include "conn/header.h"
#include "conn/interest.h"
#include "conn/partner.h"
#include "conn/proxy.h"
#include "conn/record.h"
#include "conn/shadow.h"
#include "proxy_header.h"
#include "sock.h"
#include "trace.h"

enum { UNSENT = 1 << 18 }; /* bytes that may wait in its socket, at most `lag`, besides its pipe */

/* --- connecting ----------------------------------------------------------------------------- */

static void established(struct tm_worker *w, uint32_t shadow)
{
    struct tm_conn *conn = &w->records[shadow];
    struct tm_cold *cold = &w->colds[shadow];
    struct tm_comparison *comparison = tm_shadow_comparison(w, shadow);
    uint32_t connect_us = (uint32_t)tm_clock_us() - cold->connect_started_us;
    tm_note_success(&w->commons->slots[cold->endpoint_slot]);
    cold->connect_us = connect_us ? connect_us : 1;
    cold->until_ms = comparison->of[TM_PRIMARY].ended ? w->now_ms + tm_shadow_patience_ms(w) : 0;
    tm_record_note_uncounted(conn, cold);
    comparison->of[TM_SHADOW].asked_us = tm_clock_us();
    if (cold->until_ms)
        tm_arm(w, shadow, cold->until_ms);
    if (cold->endpoint.family != AF_UNIX) {
        tm_sock_acknowledge(conn->fd[TM_ENDPOINT]);
        tm_sock_bound_unsent(conn->fd[TM_ENDPOINT],
                             comparison->lag < UNSENT ? comparison->lag : UNSENT);
    }
    if (tm_shadow_go_on(w, shadow, TM_TAP_FOLLOWS))
        tm_shadow_read(w, shadow);
}

/* By an endpoint: not if a limit has left it no place, or this host no port. */
static bool is_refused(const struct tm_cold *cold)
{
    return cold->failure == TM_CLOSED_connect_failed || cold->failure == TM_CLOSED_connect_timeout;
}

/* The next endpoint, until one is being connected to or all have been tried. */
static void connect_next(struct tm_worker *w, uint32_t shadow)
{
    struct tm_conn *conn = &w->records[shadow];
    struct tm_cold *cold = &w->colds[shadow];
    const struct tm_destination *destination = tm_destination_of(w, shadow);
    const struct tm_endpoint *endpoint;
    uint32_t index = tm_shadow_primary(w, shadow);
    while (destination && (endpoint = tm_attempt_place(w, shadow, TM_NONE))) {
        int fd = tm_attempt_open(w, shadow, endpoint);
        int state = fd < 0 ? fd : tm_sock_established(fd);
        if (state < 0) {
            tm_attempt_failed(w, shadow, -state);
            continue;
        }
        if (index != TM_NONE)
            tm_trace_connect(&w->commons->traces, w->records[index].fd[TM_CLIENT],
                             tm_peer_of(w, index), fd, &cold->endpoint, cold->route_slot,
                             w->connects++);
        conn->side_flags[TM_ENDPOINT] = tm_first_flags(cold->endpoint.family);
        if (state == 0)
            conn->side_flags[TM_ENDPOINT] |= TM_WRITE_WATCHED;
        if (tm_interest_add(w, shadow, TM_ENDPOINT) < 0)
            break;
        if (index != TM_NONE) /* else it has until then */
            cold->until_ms = w->now_ms + cold->connect_timeout_ms;
        if (state)
            established(w, shadow);
        else
            tm_arm(w, shadow, cold->until_ms);
        return;
    }
    tm_shadow_end(w, shadow, is_refused(cold) ? TM_SHADOW_REFUSED : TM_SHADOW_CUT);
}

void tm_shadow_connect(struct tm_worker *w, uint32_t shadow)
{
    uint32_t current = w->pump.journal->current;
    w->pump.journal->current = shadow; /* recovery puts a socket into the record that it names */
    connect_next(w, shadow);
    w->pump.journal->current = current;
}

static void connect_failed(struct tm_worker *w, uint32_t shadow, int error)
{
    tm_attempt_failed(w, shadow, error);
    connect_next(w, shadow);
}

void tm_shadow_connect_event(struct tm_worker *w, uint32_t shadow, uint32_t events)
{
    if (!(events & (EPOLLOUT | EPOLLERR | EPOLLHUP)))
        return;
    int error = tm_sock_error(w->records[shadow].fd[TM_ENDPOINT]);
    if (error < 0)
        connect_failed(w, shadow, -error);
    else if (events & EPOLLOUT)
        established(w, shadow);
}

void tm_shadow_connect_late(struct tm_worker *w, uint32_t shadow)
{
    connect_failed(w, shadow, 0);
}

/* --- a new one ------------------------------------------------------------------------------ */

/* What its endpoint is sent first, if it is told who the client is. False: there is no pipe. */
static bool put_header(struct tm_worker *w, uint32_t shadow, uint32_t index)
{
    unsigned char bytes[TM_PROXY_WRITE_MAX];
    uint32_t at = w->colds[shadow].destination;
    const struct tm_destination *destination = &w->image->destinations[at];
    struct tm_tap tap = tm_shadow_tap(w, shadow);
    if (!destination->rules.send_proxy)
        return true;
    uint32_t size = tm_header_make(w, index, &w->colds[shadow], destination, bytes);
    tap.comparison->ahead = size;
    tm_tap_bytes(&tap, &w->pump.pool, TM_CLIENT, bytes, size);
    return tap.lost == TM_TAP_FOLLOWS;
}

uint32_t tm_shadow_make(struct tm_worker *w, uint32_t index, uint32_t destination)
{
    const struct tm_route_rules *rules = &w->image->routes[w->colds[index].route].rules;
    const struct tm_cold *of = &w->colds[index];
    if (w->connections >= w->capacity / 2) /* the rest is for connections */
        return TM_NONE;
    uint32_t shadow = tm_partner_take(w, index, destination, TM_PICKED_mirrored);
    if (shadow == TM_NONE)
        return TM_NONE;
    struct tm_cold *cold = &w->colds[shadow];
    cold->born_worker = of->born_worker;
    cold->born_index = of->born_index;
    cold->born_generation = of->born_generation;
    struct tm_annex *annex = tm_annex_take(w, shadow);
    if (!annex) {
        w->records[shadow].next = w->free;
        w->free = shadow;
        return TM_NONE;
    }
    struct tm_comparison *comparison = tm_comparison_in(annex);
    tm_compare_begin(comparison, (uint32_t)rules->mirror_prefix);
    comparison->lag = (uint32_t)rules->mirror_lag;
    comparison->beside = w->records[index].destination_slot;
    comparison->of[TM_PRIMARY].asked_us = tm_clock_us();
    tm_partner_enter(w, shadow, index, TM_SHADOWING);
    if (put_header(w, shadow, index)) {
        w->shadows++;
        return shadow;
    }
    /* Nobody has heard of it yet. */
    tm_shadow_let_go(w, shadow);
    cold->close_reason = TM_CLOSED_shadow;
    tm_conn_enter(&w->records[shadow], TM_ENDING);
    tm_record_finish(w, shadow);
    tm_record_release(w, shadow);
    return TM_NONE;
}
