/* Limited rates. Runs in a worker. */
#include "conn/rate.h"

#include "sock.h"

enum { LOOK_MS = 1000 }; /* a paused half is looked at so often at least */

/* Bytes/s; 0 = no limit. */
static uint64_t own_rate(const struct tm_destination *destination, int side)
{
    return side == TM_CLIENT ? destination->rules.up : destination->rules.down;
}

static uint64_t shared_rate(const struct tm_worker *w, const struct tm_destination *destination,
                            int side)
{
    const struct tm_route_rules *rules = &w->image->routes[destination->route].rules;
    return side == TM_CLIENT ? rules->up : rules->down;
}

static struct tm_common *account_of(struct tm_worker *w, uint32_t index)
{
    return &w->commons->slots[w->colds[index].route_slot];
}

void tm_rate_allow(struct tm_worker *w, uint32_t power)
{
    uint32_t budget = (uint32_t)1 << power;
    w->pump.budget = budget;
    w->pump.buffer_size = budget < TM_BUFFER_SIZE ? budget : TM_BUFFER_SIZE;
    w->pump.splice_size = budget;
}

static bool is_reserved(const struct tm_half *half)
{
    return half->paused >= TM_RESERVED && half->paused <= TM_RESERVED + TM_SHAPE_MOST_POWER;
}

bool tm_rate_is_due(const struct tm_worker *w, uint32_t index, int side)
{
    return w->colds[index].paid_ns[side] <= w->now_us * 1000 + TM_SHAPE_EARLY;
}

uint64_t tm_rate_look_ms(const struct tm_worker *w, uint32_t index, int side)
{
    uint64_t due = w->colds[index].paid_ns[side] / 1000000 + 1;
    return due < w->now_ms + LOOK_MS ? due : w->now_ms + LOOK_MS;
}

/* Whether there may be something to be moved, or an end to be passed on. */
static bool has_more(const struct tm_conn *conn, int side)
{
    return conn->half[side].queued != 0 || conn->side_flags[side] & TM_HUNG_UP ||
           tm_sock_unread(conn->fd[side]) != 0;
}

/* A turn on the route's account, for about 2^power bytes. False: it is still to come. */
static bool reserve(struct tm_worker *w, uint32_t index, int side, uint64_t rate, uint32_t power)
{
    struct tm_half *half = &w->records[index].half[side];
    uint64_t now_ns = w->now_us * 1000;
    w->reserved_ns = tm_shape_cost((uint64_t)1 << power, rate);
    uint64_t start = tm_bytes_reserve(account_of(w, index), side, now_ns, w->reserved_ns);
    if (start <= now_ns + TM_SHAPE_EARLY)
        return true;
    w->colds[index].paid_ns[side] = start;
    half->paused = (uint8_t)(TM_RESERVED + power);
    return false;
}

bool tm_rate_may_read(struct tm_worker *w, uint32_t index, const struct tm_destination *destination,
                      int side)
{
    struct tm_conn *conn = &w->records[index];
    struct tm_half *half = &conn->half[side];
    uint64_t own = destination ? own_rate(destination, side) : 0;
    uint64_t shared = destination ? shared_rate(w, destination, side) : 0;
    uint32_t power = own ? tm_shape_power(own, 0) : TM_SHAPE_MOST_POWER;
    w->reserved_ns = 0;
    if (shared && is_reserved(half)) {
        power = (uint32_t)half->paused - TM_RESERVED;
        w->reserved_ns = tm_shape_cost((uint64_t)1 << power, shared);
    } else if (shared) {
        uint64_t ahead = tm_bytes_ahead(account_of(w, index), side, w->now_us * 1000);
        uint32_t given = tm_shape_power(shared, ahead);
        power = given < power ? given : power;
        if ((ahead <= TM_SHAPE_EARLY || has_more(conn, side)) &&
            !reserve(w, index, side, shared, power))
            return false;
    }
    half->paused = TM_UNPAUSED;
    tm_rate_allow(w, power);
    return true;
}

bool tm_rate_pay(struct tm_worker *w, uint32_t index, const struct tm_destination *destination,
                 int side, uint64_t moved)
{
    uint64_t *paid_ns = &w->colds[index].paid_ns[side];
    if (!destination)
        return false;
    uint64_t own = own_rate(destination, side), shared = shared_rate(w, destination, side);
    if (shared)
        tm_bytes_settle(account_of(w, index), side,
                        (int64_t)(tm_shape_cost(moved, shared) - w->reserved_ns));
    if (!own || !moved)
        return false;
    *paid_ns = tm_shape_pay(*paid_ns, w->now_us * 1000, tm_shape_cost(moved, own));
    if (tm_rate_is_due(w, index, side))
        return false;
    w->records[index].half[side].paused = TM_PAUSED;
    return true;
}

void tm_rate_end_pause(struct tm_worker *w, uint32_t index,
                       const struct tm_destination *destination, int side)
{
    struct tm_half *half = &w->records[index].half[side];
    uint64_t shared = destination ? shared_rate(w, destination, side) : 0;
    if (shared && is_reserved(half)) {
        uint64_t bytes = (uint64_t)1 << (half->paused - TM_RESERVED);
        tm_bytes_settle(account_of(w, index), side, -(int64_t)tm_shape_cost(bytes, shared));
    }
    half->paused = TM_UNPAUSED;
}

void tm_rate_shorten_pause(struct tm_worker *w, uint32_t index,
                           const struct tm_destination *destination, int side)
{
    uint64_t *paid_ns = &w->colds[index].paid_ns[side], latest = w->now_us * 1000;
    if (destination) {
        uint64_t rate = own_rate(destination, side);
        if (rate) /* the rest of a pipe may be more than is moved at once */
            latest += 4 * tm_shape_cost((uint64_t)1 << tm_shape_power(rate, 0), rate);
        if (shared_rate(w, destination, side))
            latest += tm_bytes_ahead(account_of(w, index), side, w->now_us * 1000);
    }
    if (*paid_ns > latest)
        *paid_ns = latest;
}

/* The route in the image that was in force before; NULL: it is new. */
static const struct tm_route *route_before(const struct tm_worker *w, uint32_t slot,
                                           uint32_t likely)
{
    const struct tm_image *image = w->image;
    if (!image)
        return NULL;
    if (likely < image->route_count && image->routes[likely].slot == slot)
        return &image->routes[likely];
    for (uint32_t i = 0; i < image->route_count; i++)
        if (image->routes[i].slot == slot)
            return &image->routes[i];
    return NULL;
}

/* What waits for its turn does not wait as long as the rate before demanded. */
static void forgive_changed(struct tm_worker *w, const struct tm_route *route, uint32_t likely)
{
    const struct tm_route *before = route_before(w, route->slot, likely);
    struct tm_common *account = &w->commons->slots[route->slot];
    if (before && before->rules.up != route->rules.up)
        tm_bytes_forgive(account, TM_CLIENT, w->now_us * 1000);
    if (before && before->rules.down != route->rules.down)
        tm_bytes_forgive(account, TM_ENDPOINT, w->now_us * 1000);
}

void tm_rate_use_image(struct tm_worker *w, const struct tm_image *image)
{
    w->shapes = false;
    for (uint32_t i = 0; i < image->route_count; i++) {
        const struct tm_route *route = &image->routes[i];
        if (route->rules.up || route->rules.down) {
            w->shapes = true;
            forgive_changed(w, route, i);
        }
    }
    for (uint32_t i = 0; i < image->destination_count && !w->shapes; i++)
        w->shapes = image->destinations[i].rules.up || image->destinations[i].rules.down;
    if (!w->shapes)
        tm_rate_allow(w, TM_SHAPE_MOST_POWER);
}
