/* The client's first bytes, on a route whose rules want to know of them: whether they are TLS, and
 * the names in its ClientHello, which known.h keeps.
 *
 * They stay in the socket, so nothing of this is lost with a worker, and endpoints get them as
 * they came. Whoever begins with something else, or with nothing before the time is over, goes on
 * as if nobody had asked (or is reset, if `silent` says so). A ClientHello that is bad, too long or
 * late is reset: it could name somebody else to the endpoint than to us.
 *
 * While a part of one is there the socket waits for what is missing at the least (SO_RCVLOWAT), so
 * one that comes byte by byte wakes a worker a few times. That a socket does so is written down
 * before, and it is an ordinary one again before the next stage.
 */
#ifndef TM_CONN_PREREAD_H
#define TM_CONN_PREREAD_H

#include "known.h"
#include "preface.h"

/* The route's rule `preread`; 0 = nothing is read. */
enum tm_preread {
    TM_PREREAD_NAMES = 1,
    TM_PREREAD_ALPN, /* the same, and every protocol has to find room: rules name some */
};

#endif
