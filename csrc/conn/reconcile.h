/* Makes a dead worker's counters agree with its records. */
#ifndef TM_RECONCILE_H
#define TM_RECONCILE_H

#include "worker.h"

/* Opened and closed are counted apart from what they count. Whatever stands between them and the
 * connections that there are was cut off by the death. */
void tm_reconcile(struct tm_worker *w);

#endif
