/* The client's first bytes. Runs in a worker. */
#include "conn/preread.h"

#include <errno.h>

#include "conn/destination.h"
#include "conn/starttls.h"
#include "sock.h"

/* Most hellos are not longer, and what comes behind them is not copied in vain. */
enum { FIRST_LOOK = 4096 };

_Static_assert(TM_BUFFER_SIZE >= TM_HELLO_STREAM, "all of it can be looked at");

static struct tm_answer refuse(struct tm_worker *w, enum tm_refusal refusal, uint64_t *counter)
{
    w->refusal = refusal;
    tm_count(counter, 1);
    return tm_end_for(TM_CLOSED_client_hello);
}

static struct tm_answer refuse_malformed(struct tm_worker *w)
{
    return refuse(w, TM_REFUSED_HELLO_MALFORMED, &w->live->counters.preread_malformed);
}

static struct tm_answer refuse_too_long(struct tm_worker *w)
{
    return refuse(w, TM_REFUSED_HELLO_TOO_LONG, &w->live->counters.preread_too_long);
}

static uint64_t until_ms(struct tm_worker *w, uint32_t index, const struct tm_route_rules *rules)
{
    const struct tm_known *known = tm_known_of(w, index);
    return w->colds[index].accepted_at_us / 1000 + (known ? known->header_ms : 0) +
           rules->preread_timeout_ms;
}

/* --- the socket's own patience -------------------------------------------------------------- */

static void wait_for_any(struct tm_worker *w, uint32_t index)
{
    struct tm_known *known = tm_known_of(w, index);
    if (!known || !known->waits_for_more)
        return;
    tm_sock_wait_for(w->records[index].fd[TM_CLIENT], 1);
    known->waits_for_more = false;
}

/* False: it can't hold so many, and they would be waited for in vain. */
static bool wait_for(struct tm_worker *w, uint32_t index, struct tm_known *known, uint32_t bytes)
{
    known->waits_for_more = true;
    atomic_signal_fence(memory_order_seq_cst);
    return tm_sock_wait_for(w->records[index].fd[TM_CLIENT], bytes) >= bytes;
}

/* --- what has come -------------------------------------------------------------------------- */

/* The kind says that the rest is there. */
static struct tm_answer know(struct tm_worker *w, uint32_t index, enum tm_first_bytes first_bytes,
                             const struct tm_hello *hello, uint64_t *counter)
{
    struct tm_known *known = tm_known_take(w, index);
    if (!known)
        return tm_end_for(TM_CLOSED_local_error);
    if (hello) {
        memcpy(known->sni, hello->sni, hello->sni_size + 1u);
        memcpy(known->alpn, hello->alpn, hello->alpn_size);
        known->sni_size = hello->sni_size;
        known->alpn_size = hello->alpn_size;
        known->alpn_cut = hello->alpn_cut;
    }
    atomic_signal_fence(memory_order_seq_cst);
    known->first_bytes = (uint8_t)first_bytes;
    tm_count(counter, 1);
    return tm_next();
}

/* No byte has come. is_over: and none will. */
static struct tm_answer is_silent(struct tm_worker *w, uint32_t index,
                                  const struct tm_route_rules *rules, bool is_over)
{
    uint64_t deadline_ms = until_ms(w, index, rules);
    if (!is_over && w->now_ms < deadline_ms)
        return tm_wait(TM_READING, deadline_ms);
    if (rules->preread_silent == TM_SILENT_REJECT)
        return refuse(w, TM_REFUSED_HELLO_SILENT, &w->live->counters.preread_silent);
    return know(w, index, TM_FIRST_SILENT, NULL, &w->live->counters.preread_silent);
}

/* A read stops in front of urgent data, with what is behind it out of sight. */
static bool is_interrupted(const struct tm_worker *w, uint32_t index)
{
    return w->colds[index].client.family != AF_UNIX &&
           w->records[index].half[TM_CLIENT].uncounted & TM_UNCOUNTED_SOURCE;
}

/* Of a hello the beginning is there. need: bytes of it that must come at the least. is_over: and
 * none will. */
static struct tm_answer is_begun(struct tm_worker *w, uint32_t index,
                                 const struct tm_route_rules *rules, uint32_t need, bool is_over)
{
    uint64_t deadline_ms = until_ms(w, index, rules);
    struct tm_known *known;
    if (is_over && tm_sock_error(w->records[index].fd[TM_CLIENT]) < 0)
        return tm_end_for(TM_CLOSED_client_reset); /* before anybody has looked at it */
    if (is_over || is_interrupted(w, index))
        return refuse_malformed(w);
    if (w->now_ms >= deadline_ms)
        return refuse(w, TM_REFUSED_HELLO_LATE, &w->live->counters.preread_late);
    if (!(known = tm_known_take(w, index)))
        return tm_end_for(TM_CLOSED_local_error);
    return wait_for(w, index, known, need) ? tm_wait(TM_READING, deadline_ms) : refuse_too_long(w);
}

/* What peeking has found. */
struct found {
    ssize_t got;                    /* as tm_preface_peek() */
    enum tm_postgres_first request; /* ahead of TLS, or its beginning; else: */
    enum tm_hello_result result;
    struct tm_hello hello;
};

static void look(struct tm_worker *w, uint32_t index, const struct tm_route_rules *rules,
                 struct found *found)
{
    static const size_t sizes[] = {FIRST_LOOK, TM_HELLO_STREAM};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        found->got = tm_preface_peek(w, index, w->pump.buffer, sizes[i]);
        size_t have = found->got > 0 ? (size_t)found->got : 0;
        found->request = tm_starttls_parse(w, index, w->pump.buffer, have);
        found->result = TM_HELLO_MORE;
        found->hello.need = TM_POSTGRES_REQUEST;
        if (found->request != TM_POSTGRES_OTHER)
            break;
        found->result = tm_hello_parse(w->pump.buffer, have, (uint32_t)rules->preread_limit,
                                       &found->hello);
        if (found->result != TM_HELLO_MORE || found->got < (ssize_t)sizes[i])
            break;
    }
}

/* Looks twice at one that is not whole and sends no more: the rest may have come in between.
 * Returns whether it sends no more. */
static bool look_to_the_end(struct tm_worker *w, uint32_t index,
                            const struct tm_route_rules *rules, struct found *found)
{
    look(w, index, rules, found);
    if (found->got <= 0 || found->result != TM_HELLO_MORE ||
        !tm_sock_input_ends(w->records[index].fd[TM_CLIENT]))
        return found->got == 0;
    look(w, index, rules, found);
    return true;
}

/* Requests ahead of TLS, which are there, are answered; *found: what comes then. NEXT: it is none.
 * Nothing may stand behind one: who sends on before the answer may be somebody else. */
static struct tm_answer take_requests(struct tm_worker *w, uint32_t index,
                                      const struct tm_route_rules *rules, struct found *found,
                                      bool *is_over)
{
    struct tm_answer answer = tm_starttls_finish(w, index);
    while (answer.kind == TM_ANSWER_NEXT) {
        *is_over = look_to_the_end(w, index, rules, found);
        if (found->request != TM_POSTGRES_SSL_REQUEST && found->request != TM_POSTGRES_GSS_REQUEST)
            break;
        answer = found->got > TM_POSTGRES_REQUEST
                     ? refuse_malformed(w)
                     : tm_starttls_take(w, index, found->request);
    }
    return answer;
}

static struct tm_answer read_first(struct tm_worker *w, uint32_t index,
                                   const struct tm_route_rules *rules)
{
    struct tm_worker_counters *counters = &w->live->counters;
    struct found found;
    bool is_over = false;
    struct tm_answer answer = take_requests(w, index, rules, &found, &is_over);
    if (answer.kind != TM_ANSWER_NEXT)
        return answer;
    if (found.got < 0 && found.got != -EAGAIN)
        return tm_end_for(TM_CLOSED_client_reset);
    if (found.got <= 0)
        return is_silent(w, index, rules, is_over);
    switch (found.result) {
    case TM_HELLO_WHOLE:
        if (found.hello.alpn_cut && rules->preread == TM_PREREAD_ALPN)
            return refuse_too_long(w); /* a rule may name one that there was no room for */
        return know(w, index, TM_FIRST_TLS, &found.hello, &counters->preread_tls);
    case TM_HELLO_MORE:
        return is_begun(w, index, rules, found.hello.need, is_over);
    case TM_HELLO_OTHER:
        return know(w, index, TM_FIRST_OTHER, NULL, &counters->preread_other);
    case TM_HELLO_MALFORMED:
        break;
    case TM_HELLO_TOO_LONG:
        return refuse_too_long(w);
    }
    return refuse_malformed(w);
}

/* --- the part ------------------------------------------------------------------------------- */

struct tm_answer tm_preread_preface(struct tm_worker *w, uint32_t index)
{
    const struct tm_route *route = tm_route_of(w, index);
    const struct tm_known *known = tm_known_of(w, index);
    struct tm_answer answer;
    if (route && route->rules.preread && !(known && known->first_bytes))
        answer = read_first(w, index, &route->rules);
    else
        answer = tm_starttls_finish(w, index); /* of a route that reads no more: a reload */
    if (answer.kind == TM_ANSWER_NEXT)
        wait_for_any(w, index);
    return answer;
}
