/* Placing a connection in its destination. Runs in a worker. */
#include "conn/place.h"

#include "conn/admit.h"
#include "conn/occupy.h"
#include "conn/destination.h"

struct tm_answer tm_place_full(struct tm_worker *w, uint32_t index,
                               const struct tm_destination *destination)
{
    const struct tm_cold *cold = &w->colds[index];
    bool queues = destination->rules.on_full == TM_FULL_QUEUE;
    if (!queues && tm_is_new(w, index))
        return tm_wait(TM_WAITING, w->now_ms + TM_LOOK_MS);
    if (!queues || !tm_occupy(w, index, TM_HOLDS_QUEUE, destination->rules.queue_size))
        return tm_end_for(TM_CLOSED_overflow);
    /* Connects that have failed come out of the time that it may wait. */
    uint64_t from_ms = cold->attempts ? cold->accepted_at_us / 1000 : w->now_ms;
    return tm_wait_until(w, index, TM_WAITING, from_ms + destination->rules.queue_ms,
                         TM_CLOSED_overflow);
}

struct tm_answer tm_place(struct tm_worker *w, uint32_t index)
{
    const struct tm_destination *destination = tm_destination_of(w, index);
    if (!destination)
        return tm_end_for(TM_CLOSED_no_endpoint);
    if (!tm_occupy(w, index, TM_HOLDS_DESTINATION, destination->rules.max_connections))
        return tm_place_full(w, index, destination);
    return tm_next();
}
