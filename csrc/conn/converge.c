/* The end of a connection that is to go elsewhere. Runs in a worker. */
#include "conn/converge.h"

#include "conn/destination.h"
#include "conn/outcome.h"
#include "conn/talk.h"
#include "sock.h"

/* The moment at which it was ordered may be ahead of the time of this batch of events. */
static bool is_fresh(uint32_t ordered_ms)
{
    int32_t age = (int32_t)((uint32_t)(tm_clock_us() / 1000) - ordered_ms);
    return age >= -TM_CONVERGE_FRESH_MS && age <= TM_CONVERGE_FRESH_MS;
}

/* By what the record says. */
static bool is_quiet(const struct tm_worker *w, const struct tm_conn *conn, uint32_t quiet_ms)
{
    if (conn->spoke != TM_SPOKE_ENDPOINT || conn->ready ||
        w->now_ms < conn->last_activity_ms + quiet_ms)
        return false;
    for (int side = 0; side < 2; side++) {
        const struct tm_half *half = &conn->half[side];
        if (half->state != TM_HALF_OPEN || half->queued || half->blocked || half->paused ||
            conn->side_flags[side] & TM_RESET)
            return false;
    }
    return true;
}

/* By what the kernel says: nothing on its way that we know of, and nobody has ended it. A UNIX peer
 * has read what it was sent. */
static bool is_settled(const struct tm_conn *conn)
{
    for (int side = 0; side < 2; side++)
        if (tm_sock_outstanding(conn->fd[side]) || tm_sock_input_ends(conn->fd[side]))
            return false;
    /* Last, and the client's behind the endpoint's: what comes from now on crosses our FIN. */
    return !tm_sock_unread(conn->fd[TM_ENDPOINT]) && !tm_sock_unread(conn->fd[TM_CLIENT]);
}

/* By what its protocol says, if the route names one. */
static bool is_between_requests(struct tm_worker *w, uint32_t index)
{
    const struct tm_route *route = tm_route_of(w, index);
    uint64_t protocol = route ? route->rules.converge_protocol : TM_PROTOCOL_NONE;
    return protocol == TM_PROTOCOL_NONE || tm_moment_of(w, index, protocol) == TM_MOMENT_SAFE;
}

bool tm_converge_is_moment(struct tm_worker *w, uint32_t index, uint32_t quiet_ms)
{
    const struct tm_conn *conn = &w->records[index];
    return is_quiet(w, conn, quiet_ms) && is_between_requests(w, index) && is_settled(conn);
}

bool tm_converge_may_obey(const struct tm_worker *w, uint32_t index, uint64_t order)
{
    if (index >= w->live->records_used || !is_fresh((uint32_t)(order >> 32)))
        return false;
    const struct tm_conn *conn = &w->records[index];
    return conn->generation == (uint32_t)order && conn->state == TM_RELAYING && !conn->moving;
}

void tm_converge(struct tm_worker *w, uint32_t index, uint64_t order, uint32_t quiet_ms, bool late)
{
    if (!tm_converge_may_obey(w, index, order))
        return;
    w->pump.journal->current = index;
    if (late)
        tm_outcome_end(w, index, TM_CLOSED_converged_late, true);
    else if (tm_converge_is_moment(w, index, quiet_ms))
        tm_outcome_end(w, index, TM_CLOSED_converged, false);
}
