/* Resets of one side. Runs in a worker. */
#include "conn/reset.h"

#include "conn/mirror.h"
#include "conn/moves.h"
#include "conn/occupy.h"
#include "conn/outcome.h"
#include "conn/record.h"
#include "conn/timeout.h"
#include "sock.h"

/* `side` has reset it: for that one it is over, whatever the other side has still to get. */
static void vacate_side(struct tm_worker *w, uint32_t index, int side)
{
    if (side == TM_CLIENT) {
        tm_vacate(w, index, TM_HOLDS_LISTENER);
        tm_vacate(w, index, TM_HOLDS_ROUTE);
        tm_vacate(w, index, TM_HOLDS_SOURCE);
    } else {
        tm_vacate(w, index, TM_HOLDS_DESTINATION);
        tm_vacate(w, index, TM_HOLDS_ENDPOINT);
    }
}

void tm_reset_from(struct tm_worker *w, uint32_t index, int side)
{
    struct tm_conn *conn = &w->records[index];
    struct tm_cold *cold = &w->colds[index];
    int other = 1 - side;
    enum tm_close_reason reason =
        side == TM_CLIENT ? TM_CLOSED_client_reset : TM_CLOSED_endpoint_reset;
    for (int half = 0; half < 2; half++) {
        conn->half[half].state = TM_HALF_ABORTED;
        tm_pump_release(&w->pump, &conn->half[half]);
    }
    if (conn->side_flags[other] & TM_RESET || tm_sock_unacknowledged(conn->fd[other]) == 0) {
        tm_outcome_end(w, index, reason, true);
        return;
    }
    vacate_side(w, index, side);
    if (cold->marks & TM_HAS_MOVES)
        tm_mirror_ended(w, index, reason);
    cold->close_reason = (uint8_t)reason;
    cold->until_ms = w->now_ms + TM_RESET_WAIT_MS;
    tm_conn_enter(conn, TM_RESETTING);
    tm_record_close_side(w, index, side, true);
    tm_arm(w, index, w->now_ms + TM_RESET_LOOK_MS);
}

void tm_reset_await(struct tm_worker *w, uint32_t index)
{
    struct tm_cold *cold = &w->colds[index];
    for (int side = 0; side < 2; side++)
        if (w->records[index].side_flags[side] & TM_RESET)
            vacate_side(w, index, side);
    if (cold->until_ms == 0) {
        cold->until_ms = w->now_ms + TM_RESET_WAIT_MS;
        tm_arm(w, index, cold->until_ms);
    }
}
