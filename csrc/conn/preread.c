/* The client's first bytes. Runs in a worker. */
#include "conn/preread.h"

#include <errno.h>

#include "conn/destination.h"
#include "sock.h"

/* Most hellos are not longer, and what comes behind them is not copied in vain. */
enum { FIRST_LOOK = 4096 };

_Static_assert(TM_BUFFER_SIZE >= TM_HELLO_STREAM, "all of it can be looked at");

static struct tm_answer refuse(struct tm_worker *w, enum tm_refusal refusal, uint64_t *counter)
{
    w->refusal = refusal;
    if (counter)
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
    return w->colds[index].accepted_at_us / 1000 + rules->preread_timeout_ms;
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
    if (is_over || is_interrupted(w, index))
        return refuse_malformed(w);
    if (w->now_ms >= deadline_ms)
        return refuse(w, TM_REFUSED_HELLO_LATE, &w->live->counters.preread_late);
    if (!(known = tm_known_take(w, index)))
        return tm_end_for(TM_CLOSED_local_error);
    return wait_for(w, index, known, need) ? tm_wait(TM_READING, deadline_ms) : refuse_too_long(w);
}

/* What peeking has found: as tm_preface_peek(). */
static ssize_t look(struct tm_worker *w, uint32_t index, const struct tm_route_rules *rules,
                    enum tm_hello_result *result, struct tm_hello *hello)
{
    static const size_t sizes[] = {FIRST_LOOK, TM_HELLO_STREAM};
    ssize_t got = 0;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        got = tm_preface_peek(w, index, w->pump.buffer, sizes[i]);
        *result = tm_hello_parse(w->pump.buffer, got > 0 ? (size_t)got : 0,
                                 (uint32_t)rules->preread_limit, hello);
        if (*result != TM_HELLO_MORE || got < (ssize_t)sizes[i])
            break;
    }
    return got;
}

static struct tm_answer read_first(struct tm_worker *w, uint32_t index,
                                   const struct tm_route_rules *rules)
{
    struct tm_worker_counters *counters = &w->live->counters;
    enum tm_hello_result result;
    struct tm_hello hello;
    ssize_t got = look(w, index, rules, &result, &hello);
    bool is_over = got == 0;
    if (got > 0 && result == TM_HELLO_MORE &&
        tm_sock_input_ends(w->records[index].fd[TM_CLIENT])) {
        is_over = true;
        got = look(w, index, rules, &result, &hello); /* the rest may have come in between */
    }
    if (got < 0 && got != -EAGAIN)
        return tm_end_for(TM_CLOSED_client_reset);
    if (got <= 0)
        return is_silent(w, index, rules, is_over);
    switch (result) {
    case TM_HELLO_WHOLE:
        return know(w, index, TM_FIRST_TLS, &hello, &counters->preread_tls);
    case TM_HELLO_MORE:
        return is_begun(w, index, rules, hello.need, is_over);
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
    struct tm_answer answer = tm_next();
    if (route && route->rules.preread && !(known && known->first_bytes))
        answer = read_first(w, index, &route->rules);
    if (answer.kind == TM_ANSWER_NEXT)
        wait_for_any(w, index);
    return answer;
}
