/* What the protocol of a relayed connection says of it: protocol/talk.h. Only those of routes with
 * `converge.protocol` are heard, from their first byte on. */
#ifndef TM_CONN_TALK_H
#define TM_CONN_TALK_H

#include "conn/annex.h"

/* It is about to be relayed. With no annex left it goes unheard. */
void tm_talk_start(struct tm_worker *w, uint32_t index, const struct tm_route *route);

/* NULL: it is not heard. */
static inline struct tm_talk *tm_talk_of(struct tm_worker *w, uint32_t index)
{
    struct tm_annex *annex = tm_annex_of(w, index);
    return annex ? &annex->talk : NULL;
}

/* NULL: it is not kept. */
static inline struct tm_kept *tm_kept_of(struct tm_worker *w, uint32_t index)
{
    struct tm_annex *annex = tm_annex_of(w, index);
    return annex ? tm_kept_in(annex) : NULL;
}

/* By its route's protocol, which is one. */
enum tm_moment tm_moment_of(struct tm_worker *w, uint32_t index, uint64_t protocol);

/* Of one that is ENDING: tells its client to come again, in its protocol, if its route wants that
 * and nothing is under way. All of it is sent or nothing. */
void tm_goodbye(struct tm_worker *w, uint32_t index);

#endif
