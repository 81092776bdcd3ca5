/* What was read of a connection before its destination was picked: struct tm_known, at the start of
 * its annex. Few have it: tm_known_of() is NULL for the others.
 *
 * It is written before what it was read from leaves the socket, and in this order: what belongs to
 * a size or a kind, then that size or kind. So after a death what it says is whole, or is read
 * again.
 */
#ifndef TM_KNOWN_H
#define TM_KNOWN_H

#include "annex.h"

static inline struct tm_known *tm_known_of(struct tm_worker *w, uint32_t index)
{
    struct tm_annex *annex = tm_annex_of(w, index);
    return annex ? tm_known_in(annex) : NULL;
}

/* That of the connection, with room for it made if it has none: all zero. NULL: there is none. */
static inline struct tm_known *tm_known_take(struct tm_worker *w, uint32_t index)
{
    struct tm_annex *annex = tm_annex_of(w, index);
    if (!annex)
        annex = tm_annex_take(w, index);
    if (!annex)
        return NULL;
    annex->length = sizeof(struct tm_known);
    return tm_known_in(annex);
}

#endif
