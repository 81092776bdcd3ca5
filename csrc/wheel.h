/* Deadlines of connections: two timing wheels over the records of live.h.
 *
 *     tm_wheel_arm(wheel, records, i, deadline_ms)   O(1); replaces an earlier one
 *     tm_wheel_disarm(wheel, records, i)             O(1)
 *     while ((i = tm_wheel_pop(wheel, records, now_ms)) != TM_NONE) ...
 *     tm_wheel_wait(wheel, now_ms)                   ms until there may be work, -1 = never
 *
 * The fine wheel ticks every 10 ms for the next 10 s, the coarse one every
 * second for the next 68 minutes. A later deadline is armed for the end of that.
 * So pop may return a record before its deadline, though never before its tick:
 * the caller computes the actual deadline (for idle: from the last activity,
 * which is only noted, without re-arming) and arms it again if it is still to
 * come. A deadline fires up to one tick late.
 */
#ifndef TM_WHEEL_H
#define TM_WHEEL_H

#include <stdint.h>

#include "live.h"

enum {
    TM_FINE_TICK_MS = 10,
    TM_FINE_SLOTS = 1024,
    TM_COARSE_TICK_MS = 1000,
    TM_COARSE_SLOTS = 4096,
    TM_WHEEL_SLOTS = TM_FINE_SLOTS + TM_COARSE_SLOTS,
};

struct tm_wheel {
    uint64_t fine_tick;   /* ticks up to and with this one are done */
    uint64_t coarse_tick;
    uint32_t armed;
    uint32_t heads[TM_WHEEL_SLOTS];
    uint64_t used[TM_WHEEL_SLOTS / 64]; /* a bit per slot that is not empty */
};

void tm_wheel_init(struct tm_wheel *wheel, uint64_t now_ms);
void tm_wheel_arm(struct tm_wheel *wheel, struct tm_conn *records, uint32_t index,
                  uint64_t deadline_ms);
void tm_wheel_disarm(struct tm_wheel *wheel, struct tm_conn *records, uint32_t index);
uint32_t tm_wheel_pop(struct tm_wheel *wheel, struct tm_conn *records, uint64_t now_ms);
int tm_wheel_wait(const struct tm_wheel *wheel, uint64_t now_ms);

#endif
