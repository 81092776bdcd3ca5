/* The stages that a connection goes through before it is relayed: stages.def.
 *
 *     for each stage, beginning with the one that it has reached:
 *         answer = stage(w, index)
 *         NEXT   continue with the next stage
 *         WAIT   the connection is in `state` until an event or `look_ms`; then this stage runs
 *                again
 *         END    the connection ends, for `reason`
 *         AGAIN  continue with the stage that the record names by now
 *         OVER   the stages are done: it is being relayed, or has ended
 *
 * A stage calls mechanism (pump, sock, occupy, ...), never another stage. It may run again at any
 * time, also in another process; the record says what it has done already.
 */
#ifndef TM_STAGE_H
#define TM_STAGE_H

#include "worker.h"

enum tm_answer_kind { TM_ANSWER_NEXT, TM_ANSWER_WAIT, TM_ANSWER_END, TM_ANSWER_AGAIN,
                      TM_ANSWER_OVER };

struct tm_answer {
    enum tm_answer_kind kind;
    enum tm_conn_state state;     /* WAIT */
    enum tm_close_reason reason;  /* END */
    uint64_t look_ms;             /* WAIT: monotonic */
};

static inline struct tm_answer tm_next(void)
{
    return (struct tm_answer){.kind = TM_ANSWER_NEXT};
}

static inline struct tm_answer tm_over(void)
{
    return (struct tm_answer){.kind = TM_ANSWER_OVER};
}

static inline struct tm_answer tm_end_for(enum tm_close_reason reason)
{
    return (struct tm_answer){.kind = TM_ANSWER_END, .reason = reason};
}

static inline struct tm_answer tm_wait(enum tm_conn_state state, uint64_t look_ms)
{
    return (struct tm_answer){.kind = TM_ANSWER_WAIT, .state = state, .look_ms = look_ms};
}

/* Waits in `state` and retries every TM_LOOK_MS until `until_ms`; then the connection ends for
 * `reason`. A further wait in the same state keeps the deadline of the first. */
struct tm_answer tm_wait_until(struct tm_worker *w, uint32_t index, enum tm_conn_state state,
                               uint64_t until_ms, enum tm_close_reason reason);

/* Runs the stages from where the connection has got to. It may have ended afterwards. */
void tm_stage_run(struct tm_worker *w, uint32_t index);

/* An event of a connection that is not relayed yet. */
void tm_stage_event(struct tm_worker *w, uint32_t index, int side, uint32_t events);

#define TM_STAGE(NAME, run) struct tm_answer run(struct tm_worker *w, uint32_t index);
#include "conn/stages.def"

#endif
