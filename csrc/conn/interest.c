/* Events that are asked for. Runs in a worker. */
#include "conn/interest.h"

#include <assert.h>

static int control(struct tm_worker *w, uint32_t index, int side, int operation, uint32_t events)
{
    const struct tm_conn *conn = &w->records[index];
    struct epoll_event event = {
        .events = events,
        .data.u64 = (uint64_t)conn->generation << 32 | index << 1 | (uint32_t)side,
    };
    return epoll_ctl(w->epoll, operation, conn->fd[side], &event);
}

static uint32_t events_of(const struct tm_conn *conn, int side)
{
    uint32_t events = TM_BASE_EVENTS;
    if (conn->side_flags[side] & TM_READ_UNWATCHED)
        events &= ~(uint32_t)(EPOLLIN | EPOLLPRI);
    if (conn->side_flags[side] & TM_WRITE_WATCHED)
        events |= EPOLLOUT;
    return events;
}

int tm_interest_add(struct tm_worker *w, uint32_t index, int side)
{
    return control(w, index, side, EPOLL_CTL_ADD, events_of(&w->records[index], side));
}

void tm_interest_remove(struct tm_worker *w, uint32_t index, int side)
{
    control(w, index, side, EPOLL_CTL_DEL, 0);
}

/* MOD looks at the socket again: an edge that came before is not lost. */
static void change(struct tm_worker *w, uint32_t index, int side)
{
    int error = control(w, index, side, EPOLL_CTL_MOD, events_of(&w->records[index], side));
    assert(error == 0);
}

void tm_interest_again(struct tm_worker *w, uint32_t index, int side)
{
    change(w, index, side);
}

void tm_interest_write(struct tm_worker *w, uint32_t index, int side)
{
    struct tm_conn *conn = &w->records[index];
    if (!(conn->side_flags[side] & TM_WRITE_WATCHED)) {
        conn->side_flags[side] |= TM_WRITE_WATCHED;
        change(w, index, side);
    }
}

void tm_interest_stop_reading(struct tm_worker *w, uint32_t index, int side)
{
    struct tm_conn *conn = &w->records[index];
    if (!(conn->side_flags[side] & TM_READ_UNWATCHED)) {
        conn->side_flags[side] |= TM_READ_UNWATCHED;
        change(w, index, side);
    }
}

void tm_interest_read(struct tm_worker *w, uint32_t index, int side)
{
    struct tm_conn *conn = &w->records[index];
    if (conn->side_flags[side] & TM_READ_UNWATCHED) {
        conn->side_flags[side] &= (uint8_t)~TM_READ_UNWATCHED;
        change(w, index, side);
    }
}
