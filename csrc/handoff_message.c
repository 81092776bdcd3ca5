/* Sending and receiving connections. Runs in workers. */
#include "handoff_message.h"

#include <errno.h>
#include <unistd.h>

#include "rights.h"

/* Pointers to all descriptor fields, in the order of sending. Returns their number. */
static uint32_t list_descriptors(struct tm_handoff *handoff, int32_t *list[TM_HANDOFF_FDS])
{
    struct tm_conn *conn = &handoff->conn;
    uint32_t count = 0;
    for (int side = 0; side < 2; side++) {
        list[count++] = &conn->fd[side];
        list[count++] = &conn->half[side].pipe.in;
        list[count++] = &conn->half[side].pipe.out;
    }
    for (int i = 0; i < TM_ANNEX_FDS && handoff->cold.annex; i++)
        list[count++] = &handoff->annex.fd[i];
    return count;
}

static size_t size_of(const struct tm_handoff *handoff)
{
    if (handoff->type != TM_GIVE)
        return offsetof(struct tm_handoff, conn);
    return handoff->cold.annex ? sizeof(*handoff) : offsetof(struct tm_handoff, annex);
}

int tm_handoff_send(int line, struct tm_handoff *handoff)
{
    int32_t *list[TM_HANDOFF_FDS];
    int fds[TM_HANDOFF_FDS], error;
    uint32_t count = 0, known = handoff->type == TM_GIVE ? list_descriptors(handoff, list) : 0;
    for (uint32_t i = 0; i < known; i++)
        if (*list[i] >= 0)
            fds[count++] = *list[i];
    error = tm_rights_send(line, handoff, size_of(handoff), fds, count);
    /* Too many descriptors under way: the taker has to take some first (unix(7)). */
    return error == -ETOOMANYREFS || error == -ENOBUFS || error == -ENOMEM ? -EAGAIN : error;
}

/* Stores the received descriptors in the fields in which the sender had one. */
static void distribute(struct tm_handoff *handoff, const int *fds, uint32_t count)
{
    int32_t *list[TM_HANDOFF_FDS];
    uint32_t known = list_descriptors(handoff, list), wanted = 0;
    for (uint32_t i = 0; i < known; i++)
        wanted += *list[i] >= 0;
    bool whole = wanted == count;
    for (uint32_t i = 0; i < known; i++)
        if (*list[i] >= 0)
            *list[i] = whole ? *fds++ : -1;
    while (!whole && count)
        close(fds[--count]);
}

int tm_handoff_receive(int line, struct tm_handoff *handoff)
{
    struct tm_received received;
    int fds[TM_RIGHTS_MAX], error;
    do
        error = tm_rights_receive(line, handoff, sizeof(*handoff), fds, &received);
    /* ECONNRESET: the other end has closed with something unread. It is told once, and before
     * what was sent ahead of it. */
    while (error == -ECONNRESET);
    if (error)
        return error;
    bool has_head = received.size >= offsetof(struct tm_handoff, conn) && !received.cut;
    bool whole =
        has_head &&
        (handoff->type != TM_GIVE || received.size >= offsetof(struct tm_handoff, annex)) &&
        received.size == size_of(handoff);
    if (whole && handoff->type == TM_GIVE) {
        distribute(handoff, fds, received.count);
        return 1;
    }
    while (received.count)
        close(fds[--received.count]);
    return whole ? 1 : received.size == 0 ? 0 : -EPROTO;
}

void tm_handoff_close(struct tm_handoff *handoff)
{
    int32_t *list[TM_HANDOFF_FDS];
    uint32_t known = list_descriptors(handoff, list);
    for (uint32_t i = 0; i < known; i++) {
        if (*list[i] >= 0)
            close(*list[i]);
        *list[i] = -1;
    }
}
