/* What is read before the pick. Runs in a worker. */
#include "conn/preface.h"

#include <errno.h>
#include <sys/ioctl.h>

#include "sock.h"

struct tm_answer tm_preface(struct tm_worker *w, uint32_t index)
{
    struct tm_cold *cold = &w->colds[index];
    while (cold->preface != TM_PREFACES) {
        struct tm_answer answer = tm_next();
        switch ((enum tm_preface_part)cold->preface) {
#define TM_PREFACE(NAME, run)                                                                     \
    case TM_PREFACE_##NAME:                                                                       \
        answer = run(w, index);                                                                   \
        break;
#include "conn/prefaces.def"
        case TM_PREFACES:
            break;
        }
        if (answer.kind != TM_ANSWER_NEXT)
            return answer;
        cold->preface++;
    }
    return tm_next();
}

static bool consume(struct tm_worker *w, uint32_t index, uint32_t size)
{
    struct tm_conn *conn = &w->records[index];
    w->pump.journal->side = TM_CLIENT;
    return tm_pump_consume(&w->pump, &conn->half[TM_CLIENT], conn->fd[TM_CLIENT], size);
}

/* What was to be skipped goes, as somebody wants to see what is behind it. */
static bool settle(struct tm_worker *w, uint32_t index)
{
    uint32_t skipped = tm_base_skipped(w->records[index].half[TM_CLIENT].base);
    return skipped == 0 || consume(w, index, skipped);
}

ssize_t tm_preface_peek(struct tm_worker *w, uint32_t index, unsigned char *bytes, size_t size)
{
    if (!settle(w, index))
        return -ECONNRESET;
    return tm_sock_peek(w->records[index].fd[TM_CLIENT], bytes, size);
}

struct tm_answer tm_preface_wait(struct tm_worker *w, uint32_t index, ssize_t got,
                                 uint64_t timeout_ms, enum tm_close_reason reason)
{
    uint64_t until_ms = w->colds[index].accepted_at_us / 1000 + timeout_ms;
    int fd = w->records[index].fd[TM_CLIENT], waiting = 0;
    if (got != -EAGAIN && tm_sock_input_ends(fd)) { /* that says that it has not ended */
        if (ioctl(fd, FIONREAD, &waiting) == 0 && waiting > got)
            return tm_wait(TM_READING, w->now_ms); /* the rest has come since, and the end */
        return tm_end_for(TM_CLOSED_client_reset); /* what is waited for can't come any more */
    }
    return w->now_ms < until_ms ? tm_wait(TM_READING, until_ms) : tm_end_for(reason);
}

bool tm_preface_consume(struct tm_worker *w, uint32_t index, uint32_t size)
{
    return settle(w, index) && consume(w, index, size);
}

bool tm_preface_skip(struct tm_worker *w, uint32_t index, uint32_t size)
{
    struct tm_half *half = &w->records[index].half[TM_CLIENT];
    if (half->uncounted || tm_base_skipped(half->base))
        return tm_preface_consume(w, index, size);
    tm_pump_skip(half, size);
    return true;
}
