/* Additional memory for the few connections that need it: 576 bytes each, including descriptors.
 *
 *     tm_annex_take(w, index)      NULL: every annex is taken
 *     tm_annex_of(w, index)        NULL: it has none
 *     tm_annex_release(w, index)   closes its descriptors
 *
 * The record names its annex, and the annex its record, so an annex that only one of the two names
 * (after a death between the two stores) is free. It moves with its connection to another worker,
 * to the next build and to the next incarnation.
 */
#ifndef TM_ANNEX_H
#define TM_ANNEX_H

#include "descriptors.h"
#include "worker.h"

struct tm_annex *tm_annex_take(struct tm_worker *w, uint32_t index)
    __attribute__((warn_unused_result));
void tm_annex_release(struct tm_worker *w, uint32_t index);

static inline struct tm_annex *tm_annex_of(struct tm_worker *w, uint32_t index)
{
    uint32_t annex = w->colds[index].annex;
    return annex ? &w->annexes[annex - 1] : NULL;
}

/* One that another process has left: puts all that is in it in bounds. */
void tm_annex_mend(struct tm_annex *annex);

/* After a death, for each record in use: whether the annex that it names is its own. Claims the
 * descriptors of that, and forgets any other. False: the record can't be true. */
bool tm_annex_claim(struct tm_worker *w, uint32_t index, struct tm_descriptors *all);
/* And then: those that nobody has claimed are free. */
void tm_annex_recover(struct tm_worker *w);

#endif
