/* Peers that may not read. Runs in a worker. */
#include "conn/bound.h"

#include "conn/proxy.h"
#include "conn/rate.h"
#include "sock.h"

enum {
    /* Until a peer has taken PROOF bytes it may be one that never reads: it is given so much at
     * once. What kernels take for a program that does not read is half of that. */
    AT_ONCE_POWER = 14,
    AT_ONCE = 1 << AT_ONCE_POWER,
    PROOF = 1 << 17,
    NEXT_TO_NOTHING = AT_ONCE >> 2,
    DEFAULT_BOUND = 1 << 14,
    UNBOUNDED = 1 << 30,
};

void tm_bound_do_not_pace(struct tm_worker *w, uint32_t index, int side)
{
    struct tm_conn *conn = &w->records[index];
    const struct tm_cold *cold = &w->colds[index];
    if (!w->paced || conn->side_flags[side] & TM_UNPACED)
        return;
    conn->side_flags[side] |= TM_UNPACED;
    tm_sock_do_not_pace(conn->fd[side], side == TM_CLIENT ? tm_peer_of(w, index) : &cold->endpoint);
}

/* More for who has taken more: calls cost more than bytes. */
static uint32_t power_at_once(const struct tm_half *half)
{
    uint32_t power = AT_ONCE_POWER;
    while (power < AT_ONCE_POWER + 2 && half->bytes >> (power + 1))
        power++;
    return power;
}

void tm_bound_before(struct tm_worker *w, uint32_t index, int side)
{
    struct tm_conn *conn = &w->records[index];
    struct tm_half *half = &conn->half[side];
    int other = 1 - side;
    uint64_t unsent = tm_table_buffer(w->table, other);
    if (unsent == 0)
        unsent = DEFAULT_BOUND;
    w->whole_budget = w->pump.budget;
    if (w->pump.budget >> power_at_once(half))
        tm_rate_allow(w, power_at_once(half));
    if (half->bytes + half->queued < AT_ONCE || unsent >= UNBOUNDED)
        return;
    if (half->queued == 0 && tm_sock_outstanding(conn->fd[other]) < NEXT_TO_NOTHING)
        return; /* it has taken all so far, and there is room for what comes at once */
    w->pump.bounded = true;
    if (conn->side_flags[other] & TM_BOUNDED)
        return;
    tm_sock_bound_unsent(conn->fd[other], (uint32_t)unsent);
    if (!half->bound) { /* else by an earlier incarnation, which went no further */
        half->bound = 1;
        if (!tm_sock_bound_unread(conn->fd[side]))
            half->bound = 0;
    }
    conn->side_flags[other] |= TM_BOUNDED;
}

void tm_bound_after(struct tm_worker *w, uint32_t index, int side)
{
    struct tm_conn *conn = &w->records[index];
    struct tm_half *half = &conn->half[side];
    int other = 1 - side;
    w->pump.bounded = false;
    if (w->pump.budget < w->whole_budget)
        tm_rate_allow(w, TM_SHAPE_MOST_POWER);
    if (half->bytes < PROOF ||
        half->bytes - tm_sock_unacknowledged(conn->fd[other]) < PROOF)
        return;
    tm_sock_bound_unsent(conn->fd[other], 0);
    if (half->bound) {
        tm_sock_unbind_unread(conn->fd[side]);
        half->bound = 0;
    }
    conn->side_flags[other] |= TM_PROVEN;
    /* So far it was given little at once, and paced it may never be given much. */
    tm_bound_do_not_pace(w, index, other);
}
