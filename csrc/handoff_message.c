/* Sending and receiving connections. Runs in workers. */
#include "handoff_message.h"

#include <errno.h>
#include <unistd.h>

#include "rights.h"

/* Every place where a descriptor can be, in the order in which they travel. Returns how many. */
static uint32_t list_places(struct tm_handoff *handoff, int32_t *places[TM_HANDOFF_FDS])
{
    struct tm_conn *conn = &handoff->conn;
    uint32_t count = 0;
    for (int side = 0; side < 2; side++) {
        places[count++] = &conn->fd[side];
        places[count++] = &conn->half[side].pipe.in;
        places[count++] = &conn->half[side].pipe.out;
    }
    for (int i = 0; i < TM_ANNEX_FDS && handoff->cold.annex; i++)
        places[count++] = &handoff->annex.fd[i];
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
    int32_t *places[TM_HANDOFF_FDS];
    int fds[TM_HANDOFF_FDS], error;
    uint32_t count = 0, known = handoff->type == TM_GIVE ? list_places(handoff, places) : 0;
    for (uint32_t i = 0; i < known; i++)
        if (*places[i] >= 0)
            fds[count++] = *places[i];
    error = tm_rights_send(line, handoff, size_of(handoff), fds, count);
    /* Too many descriptors under way: the taker has to take some first (unix(7)). */
    return error == -ETOOMANYREFS || error == -ENOBUFS || error == -ENOMEM ? -EAGAIN : error;
}

/* Puts the descriptors that came to where the sender had some. */
static void place(struct tm_handoff *handoff, const int *fds, uint32_t count)
{
    int32_t *places[TM_HANDOFF_FDS];
    uint32_t known = list_places(handoff, places), wanted = 0;
    for (uint32_t i = 0; i < known; i++)
        wanted += *places[i] >= 0;
    bool whole = wanted == count;
    for (uint32_t i = 0; i < known; i++)
        if (*places[i] >= 0)
            *places[i] = whole ? *fds++ : -1;
    while (!whole && count)
        close(fds[--count]);
}

int tm_handoff_receive(int line, struct tm_handoff *handoff)
{
    struct tm_received received;
    int fds[TM_RIGHTS_MOST], error;
    do
        error = tm_rights_receive(line, handoff, sizeof(*handoff), fds, &received);
    /* ECONNRESET: the other end has closed with something unread. It is told once, and before
     * what was sent ahead of it. */
    while (error == -ECONNRESET);
    if (error)
        return error;
    bool whole = received.size >= offsetof(struct tm_handoff, conn) && !received.cut &&
                                   (handoff->type != TM_GIVE ||
                   received.size >= offsetof(struct tm_handoff, annex)) &&
                 received.size == size_of(handoff);
    if (whole && handoff->type == TM_GIVE) {
        place(handoff, fds, received.count);
        return 1;
    }
    while (received.count)
        close(fds[--received.count]);
    return whole ? 1 : received.size == 0 ? 0 : -EPROTO;
}

void tm_handoff_close(struct tm_handoff *handoff)
{
    int32_t *places[TM_HANDOFF_FDS];
    uint32_t known = list_places(handoff, places);
    for (uint32_t i = 0; i < known; i++) {
        if (*places[i] >= 0)
            close(*places[i]);
        *places[i] = -1;
    }
}
