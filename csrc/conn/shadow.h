/* A shadow: a connect to an endpoint that gets a copy of what a connection's client sends. Its
 * answers are compared and dropped.
 *
 * It is a record in the state SHADOWING: no connection, so nobody lists it, and no other worker
 * gets it. It counts in the limits of its destination and its endpoint. Its annex has the
 * comparison (compare.h). Its half TM_CLIENT has what waits for it, its half TM_ENDPOINT counts its
 * answer. `partner` is its connection, as long as that is there.
 *
 * What becomes of it is counted once, in the route's slot: counters.def has the ways. All but those
 * that have been compared end by RST.
 *
 * After a death it is kept if its copy is exact: what it has got and what waits for it is what was
 * read from the client, by the kernel's counts, and of both answers all that was read has been
 * heard. Else, and where the kernel does not count, it ends as lost: shadow_resume.c.
 */
#ifndef TM_SHADOW_H
#define TM_SHADOW_H

#include "worker.h"

/* What became of it. */
enum tm_shadow_fate {
    TM_SHADOW_AGREED = 0, /* these four: as enum tm_judgement */
    TM_SHADOW_CONTENT,
    TM_SHADOW_BYTES,
    TM_SHADOW_END,
    TM_SHADOW_REFUSED,
    TM_SHADOW_RESET,
    TM_SHADOW_BEHIND,
    TM_SHADOW_LATE,
    TM_SHADOW_CUT,
    TM_SHADOW_LOST,
    TM_SHADOW_FATES
};

_Static_assert(sizeof(struct tm_comparison) <= TM_ANNEX_BYTES, "room for it in an annex");

static inline struct tm_comparison *tm_comparison_in(struct tm_annex *annex)
{
    return (struct tm_comparison *)(void *)annex->bytes;
}

struct tm_comparison *tm_shadow_comparison(const struct tm_worker *w, uint32_t shadow);
/* Whom the pump gives copies for it. */
struct tm_tap tm_shadow_tap(const struct tm_worker *w, uint32_t shadow);

/* Bytes have been copied for it, or its client has ended. False: it is over. */
bool tm_shadow_go_on(struct tm_worker *w, uint32_t shadow, enum tm_tap_lost lost);
/* Its connection has ended: it has until then to do so as well. */
void tm_shadow_finish(struct tm_worker *w, uint32_t shadow);
void tm_shadow_end(struct tm_worker *w, uint32_t shadow, enum tm_shadow_fate fate);
/* Its connection goes on without. */
void tm_shadow_let_go(struct tm_worker *w, uint32_t shadow);
/* How long it may go on after that has ended. */
uint32_t tm_shadow_patience_ms(const struct tm_worker *w);

void tm_shadow_event(struct tm_worker *w, uint32_t shadow, uint32_t events);
void tm_shadow_due(struct tm_worker *w, uint32_t shadow);
/* Its turn, when it had more to read than one turn allows. */
void tm_shadow_read(struct tm_worker *w, uint32_t shadow);

/* Ends some, as a connection needs a record. False: there are none. */
bool tm_shadow_make_room(struct tm_worker *w);

/* Its connection; TM_NONE: that is over, or elsewhere. */
uint32_t tm_shadow_primary(const struct tm_worker *w, uint32_t shadow);

/* After a death. */
void tm_shadow_resume(struct tm_worker *w, uint32_t shadow);

/* Shadows that became of a slot's route, whatever became of them. */
uint64_t tm_shadow_fates(const struct tm_slot *slot);

#endif
