/* Shadows after a death. Runs in a worker, before its loop. */
#include "conn/interest.h"
#include "conn/shadow.h"
#include "kernel_count.h"

static bool has_heard(const struct tm_comparison *comparison, enum tm_whose whose,
                      const struct tm_half *answer)
{
    uint64_t read = answer->bytes + answer->queued;
    return comparison->of[whose].heard ==
           (read < comparison->prefix ? read : (uint64_t)comparison->prefix);
}

/* Its connection's halves are as they are: what was under way there has been finished. */
static bool is_exact(struct tm_worker *w, uint32_t shadow, uint32_t index)
{
    struct tm_conn *conn = &w->records[shadow];
    const struct tm_half *of = w->records[index].half;
    struct tm_half *half = &conn->half[TM_CLIENT], *answer = &conn->half[TM_ENDPOINT];
    const struct tm_comparison *comparison = tm_shadow_comparison(w, shadow);
    int fd = conn->fd[TM_ENDPOINT];
    uint64_t sent = 0, taken = 0;
    if (comparison->of[TM_SHADOW].ended || (half->uncounted & TM_UNCOUNTED_DESTINATION) ||
        tm_kernel_written(fd, true, half->bytes, &sent) != 0 ||
        tm_kernel_consumed(fd, answer->bytes, &taken) != 0)
        return false;
    if (half->state == TM_HALF_SHUT && sent == 1)
        sent = 0; /* its FIN */
    half->bytes += sent;
    return taken == 0 &&
           half->bytes + half->queued ==
               of[TM_CLIENT].bytes + of[TM_CLIENT].queued + comparison->ahead &&
           has_heard(comparison, TM_SHADOW, answer) &&
           has_heard(comparison, TM_PRIMARY, &of[TM_ENDPOINT]);
}

void tm_shadow_resume(struct tm_worker *w, uint32_t shadow)
{
    struct tm_conn *conn = &w->records[shadow];
    const struct tm_cold *cold = &w->colds[shadow];
    uint32_t index = tm_shadow_primary(w, shadow);
    if (index == TM_NONE || w->records[index].moving || !cold->annex || !cold->connect_us ||
        conn->fd[TM_ENDPOINT] < 0 || !is_exact(w, shadow, index) ||
        tm_interest_add(w, shadow, TM_ENDPOINT) < 0) {
        tm_shadow_end(w, shadow, TM_SHADOW_LOST);
        return;
    }
    if (w->records[index].half[TM_CLIENT].state == TM_HALF_SHUT)
        tm_shadow_comparison(w, shadow)->fin = 1;
    tm_count(&w->live->counters.shadows_recovered, 1);
    if (tm_shadow_go_on(w, shadow, TM_TAP_FOLLOWS))
        tm_shadow_read(w, shadow);
}
