/* Whose is what, after a death. Runs in a worker, before its loop. */
#include "conn/recover.h"

#include <string.h>
#include <unistd.h>

#include "conn/admit.h"
#include "conn/annex.h"
#include "conn/occupy.h"
#include "conn/record.h"
#include "conn/swap.h"
#include "kernel_count.h"
#include "sock.h"
#include "trust.h"

enum { MAX_FAULTS = 2 }; /* faults over one connection before it is given up */

/* --- one record ----------------------------------------------------------------------------- */

/* False: what the record says of its pipe can't be true. */
static bool claim_pipe(const struct tm_conn *conn, struct tm_half *half, struct tm_descriptors *all)
{
    bool lost = false;
    if (half->pipe.in < 0 || half->pipe.out < 0) {
        /* Never taken, or being given back, which only an empty one is without an end. */
        lost = conn->state == TM_RELAYING && half->state == TM_HALF_OPEN && half->queued != 0;
    } else if (!tm_is_pipe(half->pipe.in, half->pipe.out) ||
               !tm_descriptors_free_to_claim(all, half->pipe.in) ||
               !tm_descriptors_free_to_claim(all, half->pipe.out)) {
        lost = true;
    } else {
        int queued = tm_kernel_piped(half->pipe.out);
        tm_descriptors_claim(all, half->pipe.in);
        tm_descriptors_claim(all, half->pipe.out);
        half->queued = queued >= 0 ? (uint32_t)queued : 0;
        return queued >= 0;
    }
    half->pipe = (struct tm_pipe){-1, -1};
    half->queued = 0;
    return !lost;
}

/* False: the record has no right socket where it must have one. */
static bool claim_socket(struct tm_conn *conn, struct tm_cold *cold, int side,
                         struct tm_descriptors *all)
{
    if (side == TM_ENDPOINT && tm_is_opening(conn->state) && cold->endpoint_slot == TM_NONE)
        tm_conn_set_fd(conn, cold, side, -1); /* a failed attempt, about to be closed */
    if (conn->fd[side] < 0)
        return tm_may_lack_socket(conn->state, side);
    if (tm_conn_fd_sealed(conn, cold, side) &&
        tm_stream_family(conn->fd[side]) == tm_side_family(cold, side) &&
        tm_descriptors_claim(all, conn->fd[side]))
        return true;
    tm_conn_set_fd(conn, cold, side, -1);
    return false;
}

/* Whether the record can be true: its fields in bounds, its descriptors its own. Afterwards it
 * names only what it has claimed. */
static bool claim(struct tm_worker *w, uint32_t index, struct tm_descriptors *all)
{
    struct tm_conn *conn = &w->records[index];
    struct tm_cold *cold = &w->colds[index];
    bool whole = tm_conn_possible(conn, cold, w->now_us);
    if (cold->marks & TM_HAS_MOVES)
        whole = tm_moves_possible(&w->moves[index], conn, w->now_us) && whole;
    for (int side = 0; side < 2; side++) {
        whole = claim_socket(conn, cold, side, all) && whole;
        whole = claim_pipe(conn, &conn->half[side], all) && whole;
    }
    return tm_annex_claim(w, index, all) && whole;
}

/* A half that is shut is not read any more: its FIN must have gone out. Only what is certain speaks
 * against the record: a call that tells nothing must not cost a connection. */
static bool shut_is_true(const struct tm_conn *conn)
{
    for (int side = 0; side < 2; side++) {
        int fd = conn->fd[1 - side];
        if (conn->state == TM_RELAYING && conn->half[side].state == TM_HALF_SHUT &&
            (tm_sock_not_shut(fd) || tm_kernel_fin_missing(fd)))
            return false;
    }
    return true;
}

static void close_end(int32_t *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* Closes what it has claimed, sockets by RST if they are nobody else's. */
static void give_up(struct tm_worker *w, uint32_t index)
{
    struct tm_conn *conn = &w->records[index];
    bool by_reset = !conn->moving; /* else another worker may have the same sockets */
    tm_count(&w->live->counters.abandoned, 1);
    if (by_reset) /* else it counts in the other worker */
        tm_vacate_all(w, index);
    tm_conn_enter(conn, TM_FREE);
    conn->moving = 0;
    for (int side = 0; side < 2; side++) {
        tm_record_close_side(w, index, side, by_reset);
        close_end(&conn->half[side].pipe.in);
        close_end(&conn->half[side].pipe.out);
    }
    if (w->colds[index].annex)
        tm_annex_release(w, index);
}

static void keep(struct tm_worker *w, uint32_t index)
{
    struct tm_conn *conn = &w->records[index];
    struct tm_cold *cold = &w->colds[index];
    tm_record_note_uncounted(conn, cold);
    tm_source_mend(w->commons, cold);
    for (int side = 0; side < 2; side++) {
        if (conn->fd[side] >= 0)
            conn->side_flags[side] |= tm_first_flags(tm_side_family(cold, side));
        if (conn->half[side].pipe.in >= 0)
            tm_pipe_pool_adopt(&w->pump.pool, &conn->half[side].pipe);
    }
}

/* --- what is in no record ------------------------------------------------------------------- */

/* Whether a listener that this worker has is at the address that the client has come to: one of
 * another route must not get it. */
static bool came_from(struct tm_worker *w, int fd, uint32_t listener)
{
    struct tm_peer here, there;
    tm_sock_local(fd, &here);
    for (uint32_t place = 0; place < w->live->listening_count; place++) {
        const struct tm_listening *listening = &w->live->listening[place];
        if (listening->fd >= 0 && listening->id == listener) {
            tm_sock_local(listening->fd, &there);
            return here.family == there.family && here.port == there.port;
        }
    }
    return false;
}

/* A record for a socket that was accepted and not written down. */
static bool place_accepted(struct tm_worker *w, int fd)
{
    uint32_t listener = w->pump.journal->listener, route;
    struct tm_peer peer;
    if (!tm_sock_is_connection(fd, &peer) || !tm_kernel_untouched(fd, false) ||
        !came_from(w, fd, listener))
        return false;
    route = w->image->route_of_listener[listener];
    if (route == TM_NONE ||
        !tm_admit_peer(w->image, &w->image->routes[route], &peer))
        return false;
    tm_record_open(w, fd, &peer, &w->image->routes[route]);
    return true;
}

/* Back into its record with a socket whose connect has succeeded. */
static bool place_connected(struct tm_worker *w, int fd)
{
    uint32_t current = w->pump.journal->current;
    struct tm_peer peer;
    if (current >= w->live->records_used || w->records[current].state != TM_CONNECTING ||
        w->records[current].fd[TM_ENDPOINT] >= 0 || !tm_sock_is_connection(fd, &peer) ||
        !tm_kernel_untouched(fd, true) ||
        memcmp(&peer, &w->colds[current].endpoint, sizeof(peer)) != 0)
        return false;
    tm_conn_set_fd(&w->records[current], &w->colds[current], TM_ENDPOINT, fd);
    return true;
}

/* Of a connection that was ending well, a socket is closed as it would have been; one that another
 * worker was giving is still its own. */
static bool unclaimed_by_reset(const struct tm_worker *w, enum tm_operation operation)
{
    uint32_t current = w->pump.journal->current;
    bool ending = current < w->live->records_used && (w->records[current].state == TM_ENDING ||
                                                      w->records[current].state == TM_DEAD);
    return operation != TM_TAKE && !(ending && !w->colds[current].by_reset);
}

static void close_unclaimed(struct tm_worker *w, struct tm_descriptors *all)
{
    enum tm_operation operation = tm_journal_operation(w->pump.journal);
    bool by_reset = unclaimed_by_reset(w, operation);
    for (int fd = tm_descriptors_next(all, 0); fd >= 0; fd = tm_descriptors_next(all, fd + 1)) {
        bool is_socket = tm_is_socket(fd);
        /* While one socket is made no other descriptor is, so this is it. */
        if (is_socket && ((operation == TM_ACCEPT && place_accepted(w, fd)) ||
                          (operation == TM_CONNECT && place_connected(w, fd)))) {
            tm_journal_note(w->pump.journal, TM_NOTHING);
            operation = TM_NOTHING;
            continue;
        }
        if (is_socket && (operation == TM_ACCEPT || by_reset)) /* or an unserved client */
            tm_sock_will_reset(fd);
        close(fd);
    }
}

/* --- all ------------------------------------------------------------------------------------ */

static void recover_one(struct tm_worker *w, uint32_t index, struct tm_descriptors *all)
{
    struct tm_conn *conn = &w->records[index];
    struct tm_cold *cold = &w->colds[index];
    conn->timer_place = TM_UNARMED;
    conn->ready = 0;
    cold->marks &= (uint8_t)~TM_AWAITS_GONE;
    if (index == w->pump.journal->current && tm_live_at_fault(w->live) && cold->faults < MAX_FAULTS)
        cold->faults++;
    if (conn->state != TM_FREE && conn->state != TM_DEAD) {
        if (claim(w, index, all) && shut_is_true(conn) && cold->faults < MAX_FAULTS)
            keep(w, index);
        else
            give_up(w, index);
    }
    if (conn->state == TM_FREE || conn->state == TM_DEAD)
        conn->moving = 0;
    if (conn->state == TM_FREE) {
        conn->next = w->free;
        w->free = index;
    }
}

void tm_recover_records(struct tm_worker *w, struct tm_descriptors *all)
{
    w->free = w->dead = w->ready = w->free_annex = TM_NONE;
    w->connections = 0;
    tm_swap_recover(w);
    tm_journal_mend(w->live, w->live->records_used);
    tm_occupy_recover(w);
    for (uint32_t index = 0; index < w->live->records_used; index++) {
        tm_live_advance(w->live);
        recover_one(w, index, all);
    }
    tm_annex_recover(w);
    close_unclaimed(w, all);
}
