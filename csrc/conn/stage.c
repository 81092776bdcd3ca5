/* The runner of the stages. Runs in a worker. */
#include "conn/stage.h"

#include <assert.h>

#include "conn/connect.h"
#include "conn/interest.h"
#include "conn/outcome.h"
#include "conn/relay.h"
#include "sock.h"

static struct tm_answer run_one(struct tm_worker *w, uint32_t index)
{
    switch ((enum tm_stage)w->colds[index].stage) {
#define TM_STAGE(NAME, run)                                                                       \
    case TM_STAGE_##NAME:                                                                         \
        return run(w, index);
#include "conn/stages.def"
    case TM_STAGES:
        break;
    }
    assert(!"a stage that there is");
    return tm_over();
}

static void wait_in(struct tm_worker *w, uint32_t index, enum tm_conn_state state, uint64_t look_ms)
{
    struct tm_conn *conn = &w->records[index];
    if (conn->state != state)
        tm_conn_enter(conn, state);
    tm_arm(w, index, look_ms);
}

void tm_stage_run(struct tm_worker *w, uint32_t index)
{
    struct tm_cold *cold = &w->colds[index];
    for (;;) {
        struct tm_answer answer = run_one(w, index);
        switch (answer.kind) {
        case TM_ANSWER_NEXT:
            cold->stage++;
            break;
        case TM_ANSWER_WAIT:
            wait_in(w, index, answer.state, answer.look_ms);
            return;
        case TM_ANSWER_END:
            tm_outcome_end(w, index, answer.reason, true);
            return;
        case TM_ANSWER_AGAIN:
            break;
        case TM_ANSWER_OVER:
            return;
        }
    }
}

struct tm_answer tm_wait_until(struct tm_worker *w, uint32_t index, enum tm_conn_state state,
                               uint64_t until_ms, enum tm_close_reason reason)
{
    struct tm_cold *cold = &w->colds[index];
    if (w->records[index].state != state || cold->until_ms == 0)
        cold->until_ms = until_ms;
    if (w->now_ms >= cold->until_ms)
        return tm_end_for(reason);
    return tm_wait(state, w->now_ms + TM_LOOK_MS);
}

/* Its bytes, FIN or RST wait in the socket until there is somebody to pass them to. */
static void client_event(struct tm_worker *w, uint32_t index, uint32_t events)
{
    struct tm_conn *conn = &w->records[index];
    tm_interest_note(conn, TM_CLIENT, events);
    if (conn->state == TM_CONNECTING) {
        /* After a FIN, no later call returns this error, and no event repeats it. */
        if (events & EPOLLERR && tm_sock_error(conn->fd[TM_CLIENT]) < 0)
            conn->side_flags[TM_CLIENT] |= TM_RESET;
        return;
    }
    if (events & EPOLLERR)
        tm_outcome_end(w, index, TM_CLOSED_client_reset, true);
    else if (conn->state == TM_READING)
        tm_stage_run(w, index);
}

/* It is connected, and a stage waits for what it says. */
static void endpoint_event(struct tm_worker *w, uint32_t index, uint32_t events)
{
    tm_stage_run(w, index);
    if (w->records[index].state == TM_RELAYING)
        tm_relay_event(w, index, TM_ENDPOINT, events);
}

void tm_stage_event(struct tm_worker *w, uint32_t index, int side, uint32_t events)
{
    if (side == TM_CLIENT)
        client_event(w, index, events);
    else if (w->colds[index].stage > TM_STAGE_CONNECT)
        endpoint_event(w, index, events);
    else
        tm_connect_event(w, index, events);
}
