/* PostgreSQL's way into TLS. Runs in a worker. */
#include "conn/starttls.h"

#include <errno.h>
#include <string.h>

#include "conn/connect.h"
#include "conn/destination.h"
#include "conn/endpoint.h"
#include "conn/preface.h"
#include "sock.h"

/* --- to the client -------------------------------------------------------------------------- */

enum tm_postgres_first tm_starttls_parse(struct tm_worker *w, uint32_t index,
                                         const unsigned char *bytes, size_t have)
{
    const struct tm_known *known = tm_known_of(w, index);
    const struct tm_route *route = tm_route_of(w, index);
    uint8_t taken = known ? known->starttls : 0;
    enum tm_postgres_first found;
    if (!route || !route->rules.preread_starttls || taken & TM_STARTTLS_TLS)
        return TM_POSTGRES_OTHER;
    found = tm_postgres_parse(bytes, have);
    return found == TM_POSTGRES_GSS_REQUEST && taken ? TM_POSTGRES_OTHER : found;
}

struct tm_answer tm_starttls_take(struct tm_worker *w, uint32_t index,
                                  enum tm_postgres_first request)
{
    const struct tm_half *half = &w->records[index].half[TM_CLIENT];
    struct tm_known *known = tm_known_take(w, index);
    if (!known)
        return tm_end_for(TM_CLOSED_local_error);
    known->starttls_end = (uint8_t)(tm_base_consumed(half->base) + TM_POSTGRES_REQUEST);
    atomic_signal_fence(memory_order_seq_cst);
    known->starttls |=
        request == TM_POSTGRES_SSL_REQUEST ? TM_STARTTLS_TLS : TM_STARTTLS_GSS;
    atomic_signal_fence(memory_order_seq_cst);
    return tm_starttls_finish(w, index);
}

/* One byte for each request: of the last one. */
static bool answer(struct tm_worker *w, uint32_t index, uint8_t taken)
{
    struct tm_conn *conn = &w->records[index];
    uint32_t due = (taken & TM_STARTTLS_TLS ? 1u : 0u) + (taken & TM_STARTTLS_GSS ? 1u : 0u);
    if (tm_base_prepended(conn->half[TM_ENDPOINT].base) >= due)
        return true;
    w->pump.buffer[0] = taken & TM_STARTTLS_TLS ? TM_POSTGRES_YES : TM_POSTGRES_NO;
    w->pump.journal->side = TM_ENDPOINT;
    return tm_pump_prepend(&w->pump, &conn->half[TM_ENDPOINT], conn->fd[TM_CLIENT], 1, false) == 0;
}

struct tm_answer tm_starttls_finish(struct tm_worker *w, uint32_t index)
{
    const struct tm_known *known = tm_known_of(w, index);
    const struct tm_half *half = &w->records[index].half[TM_CLIENT];
    if (!known || !known->starttls)
        return tm_next();
    uint8_t missing = (uint8_t)(known->starttls_end - tm_base_consumed(half->base));
    if (missing == TM_POSTGRES_REQUEST && !tm_preface_consume(w, index, missing))
        return tm_end_for(TM_CLOSED_client_reset);
    return answer(w, index, known->starttls) ? tm_next() : tm_end_for(TM_CLOSED_client_reset);
}

/* --- to the endpoint ------------------------------------------------------------------------ */

uint32_t tm_starttls_write(struct tm_worker *w, uint32_t index, unsigned char *bytes)
{
    if (!tm_starttls_is_asked(w, index))
        return 0;
    memcpy(bytes, tm_postgres_ssl_request, TM_POSTGRES_REQUEST);
    return TM_POSTGRES_REQUEST;
}

static bool drop_answer(struct tm_worker *w, uint32_t index)
{
    struct tm_conn *conn = &w->records[index];
    w->pump.journal->side = TM_ENDPOINT;
    return tm_pump_consume(&w->pump, &conn->half[TM_ENDPOINT], conn->fd[TM_ENDPOINT], 1);
}

struct tm_answer tm_starttls(struct tm_worker *w, uint32_t index)
{
    const struct tm_conn *conn = &w->records[index];
    uint64_t until_ms = w->colds[index].until_ms;
    unsigned char byte;
    if (!tm_starttls_is_asked(w, index) || tm_base_consumed(conn->half[TM_ENDPOINT].base))
        return tm_next();
    if (!tm_base_prepended(conn->half[TM_CLIENT].base))
        return tm_connect_again(w, index, ECONNRESET); /* it could not even be asked */
    ssize_t got = tm_sock_peek(conn->fd[TM_ENDPOINT], &byte, sizeof(byte));
    if (got == -EAGAIN && w->now_ms < until_ms)
        return tm_wait(TM_CONNECTING, until_ms);
    if (got == 1 && byte == TM_POSTGRES_YES && drop_answer(w, index))
        return tm_next();
    if (got == 1)
        return tm_connect_again(w, index, byte == TM_POSTGRES_NO ? TM_REFUSES_TLS : EPROTO);
    return tm_connect_again(w, index, got == -EAGAIN ? 0 : got < 0 ? (int)-got : EPROTO);
}
