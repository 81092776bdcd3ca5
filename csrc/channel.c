/* The worker's end of its line to the master. */
#include "channel.h"

#include <errno.h>
#include <unistd.h>

int tm_channel_receive(int channel, struct tm_message *message, int *fds, uint32_t *count)
{
    struct tm_received received;
    int error = tm_rights_receive(channel, message, sizeof(*message), fds, &received);
    *count = 0;
    if (error)
        return error == -ECONNRESET ? 0 : error;
    bool whole = received.size == sizeof(*message) && !received.cut;
    if (whole && !received.fds_lost) {
        *count = received.count;
        return 1;
    }
    /* The caller learns of no message, so it would not know whose these are. */
    for (uint32_t i = 0; i < received.count; i++)
        close(fds[i]);
    if (whole && received.count < TM_MESSAGE_FDS)
        return -EMFILE;
    /* The master is of the same build and in the same trust: a short packet is a bug. */
    return received.size == 0 ? 0 : -EPROTO;
}

int tm_channel_send(int channel, const struct tm_message *message)
{
    return tm_rights_send(channel, message, sizeof(*message), NULL, 0);
}

bool tm_channel_tell(int channel, enum tm_message_type type, uint32_t listener, uint64_t value)
{
    struct tm_message message = {.type = type, .listener = listener, .value = value};
    return channel >= 0 && tm_channel_send(channel, &message) == 0;
}

int tm_channel_send_fds(int channel, const struct tm_message *message, const int *fds,
                        uint32_t count)
{
    return tm_rights_send(channel, message, sizeof(*message), fds, count);
}
