/* What a route allows of retries. Runs in a worker. */
#include "conn/retry.h"

bool tm_retries_used_up(const struct tm_cold *cold, const struct tm_route *route)
{
    const struct tm_route_rules *rules = &route->rules;
    return cold->attempts != 0 && ((rules->max_attempts && cold->attempts >= rules->max_attempts) ||
                                   (rules->retry_percent == 0 && rules->retry_burst == 0));
}

/* Whether it is with the fallback, as its own destination can't be reached. */
static bool is_replaced(const struct tm_cold *cold, const struct tm_route *route)
{
    return route->rules.on_unavailable == TM_FALL_BACK &&
           cold->pick_reason == TM_PICKED_failed_over &&
           cold->destination == route->first_destination + route->rules.fallback;
}

bool tm_retry_allowed(struct tm_worker *w, uint32_t index, const struct tm_destination *destination,
                      struct tm_tier tier, bool is_first)
{
    struct tm_cold *cold = &w->colds[index];
    const struct tm_route *route = &w->image->routes[destination->route];
    struct tm_common *account = &w->commons->slots[destination->slot];
    if (cold->attempts == 0) {
        tm_retry_earn(account, route->rules.retry_percent);
        return true;
    }
    if (cold->pick_reason == TM_PICKED_failed_over && tier.first == 0)
        is_first = is_first && is_replaced(cold, route);
    if (tm_retries_used_up(cold, route) ||
        !(is_first || tm_retry_take(account, route->rules.retry_burst))) {
        cold->failure = TM_CLOSED_retries_used_up;
        return false;
    }
    tm_count(&tm_slot_of(w, destination->slot)->retries, 1);
    return true;
}
