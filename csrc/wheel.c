/* The timing wheels. Runs in a worker. */
#include "wheel.h"

#include <assert.h>
#include <string.h>

/* One of the two wheels: where it starts in heads[] and how it ticks. */
struct ring {
    uint32_t first, slots, tick_ms;
};

static const struct ring FINE = {0, TM_FINE_SLOTS, TM_FINE_TICK_MS};
static const struct ring COARSE = {TM_FINE_SLOTS, TM_COARSE_SLOTS, TM_COARSE_TICK_MS};

static void mark(struct tm_wheel *wheel, uint32_t slot, int used)
{
    uint64_t bit = 1ull << (slot % 64);
    if (used)
        wheel->used[slot / 64] |= bit;
    else
        wheel->used[slot / 64] &= ~bit;
}

void tm_wheel_init(struct tm_wheel *wheel, uint64_t now_ms)
{
    wheel->fine_tick = now_ms / TM_FINE_TICK_MS;
    wheel->coarse_tick = now_ms / TM_COARSE_TICK_MS;
    wheel->armed = 0;
    memset(wheel->heads, 0xff, sizeof(wheel->heads));
    memset(wheel->used, 0, sizeof(wheel->used));
}

static uint32_t slot_for(const struct ring *ring, uint64_t done_tick, uint64_t deadline_ms)
{
    /* The first tick at which the deadline has passed; at least the next one. */
    uint64_t tick = (deadline_ms + ring->tick_ms - 1) / ring->tick_ms;
    if (tick <= done_tick)
        tick = done_tick + 1;
    if (tick >= done_tick + ring->slots)
        tick = done_tick + ring->slots - 1;
    return ring->first + (uint32_t)(tick % ring->slots);
}

void tm_wheel_arm(struct tm_wheel *wheel, struct tm_conn *records, uint32_t index,
                  uint64_t deadline_ms)
{
    struct tm_conn *conn = &records[index];
    uint64_t fine_horizon_ms = (wheel->fine_tick + TM_FINE_SLOTS - 1) * TM_FINE_TICK_MS;
    tm_wheel_disarm(wheel, records, index);
    uint32_t slot = deadline_ms < fine_horizon_ms
                        ? slot_for(&FINE, wheel->fine_tick, deadline_ms)
                        : slot_for(&COARSE, wheel->coarse_tick, deadline_ms);
    conn->timer_place = (uint16_t)slot;
    conn->timer_prev = TM_NONE;
    conn->timer_next = wheel->heads[slot];
    if (conn->timer_next != TM_NONE)
        records[conn->timer_next].timer_prev = index;
    wheel->heads[slot] = index;
    mark(wheel, slot, 1);
    wheel->armed++;
}

void tm_wheel_disarm(struct tm_wheel *wheel, struct tm_conn *records, uint32_t index)
{
    struct tm_conn *conn = &records[index];
    if (conn->timer_place == TM_UNARMED)
        return;
    assert(conn->timer_place < TM_WHEEL_SLOTS);
    if (conn->timer_prev != TM_NONE)
        records[conn->timer_prev].timer_next = conn->timer_next;
    else
        wheel->heads[conn->timer_place] = conn->timer_next;
    if (conn->timer_next != TM_NONE)
        records[conn->timer_next].timer_prev = conn->timer_prev;
    if (wheel->heads[conn->timer_place] == TM_NONE)
        mark(wheel, conn->timer_place, 0);
    conn->timer_place = TM_UNARMED;
    wheel->armed--;
}

/* Ticks from `done_tick` to the next used slot; the ring's size if none is. */
static uint32_t ticks_to_used(const struct tm_wheel *wheel, const struct ring *ring,
                              uint64_t done_tick)
{
    uint32_t ahead = 1;
    while (ahead < ring->slots) {
        uint32_t slot = ring->first + (uint32_t)((done_tick + ahead) % ring->slots);
        uint64_t word = wheel->used[slot / 64] >> (slot % 64);
        if (word)
            return ahead + (uint32_t)__builtin_ctzll(word);
        ahead += 64 - slot % 64;
    }
    return ring->slots;
}

static uint32_t pop_from(struct tm_wheel *wheel, struct tm_conn *records, const struct ring *ring,
                         uint64_t *done_tick, uint64_t now_ms)
{
    uint64_t now_tick = now_ms / ring->tick_ms;
    while (*done_tick < now_tick) {
        uint64_t tick = *done_tick + ticks_to_used(wheel, ring, *done_tick);
        if (tick > now_tick) {
            *done_tick = now_tick;
            break;
        }
        uint32_t index = wheel->heads[ring->first + tick % ring->slots];
        if (index != TM_NONE) {
            /* Just before the slot's tick: what the caller arms again lands after it. */
            *done_tick = tick - 1;
            tm_wheel_disarm(wheel, records, index);
            if (wheel->heads[ring->first + tick % ring->slots] == TM_NONE)
                *done_tick = tick;
            return index;
        }
        *done_tick = tick;
    }
    return TM_NONE;
}

uint32_t tm_wheel_pop(struct tm_wheel *wheel, struct tm_conn *records, uint64_t now_ms)
{
    uint32_t index = pop_from(wheel, records, &FINE, &wheel->fine_tick, now_ms);
    if (index == TM_NONE)
        index = pop_from(wheel, records, &COARSE, &wheel->coarse_tick, now_ms);
    return index;
}

int tm_wheel_wait(const struct tm_wheel *wheel, uint64_t now_ms)
{
    if (!wheel->armed)
        return -1;
    uint64_t fine = ticks_to_used(wheel, &FINE, wheel->fine_tick);
    uint64_t coarse = ticks_to_used(wheel, &COARSE, wheel->coarse_tick);
    uint64_t next_ms = UINT64_MAX;
    if (fine < FINE.slots)
        next_ms = (wheel->fine_tick + fine) * FINE.tick_ms;
    if (coarse < COARSE.slots && (wheel->coarse_tick + coarse) * COARSE.tick_ms < next_ms)
        next_ms = (wheel->coarse_tick + coarse) * COARSE.tick_ms;
    assert(next_ms != UINT64_MAX);
    return next_ms > now_ms ? (int)(next_ms - now_ms) : 0;
}
