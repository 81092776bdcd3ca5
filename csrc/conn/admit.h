/* Admission of a connection: limits of the route, its listeners and its clients. */
#ifndef TM_ADMIT_H
#define TM_ADMIT_H

#include "worker.h"

/* A limit is reached, but perhaps by one that is over: its client has seen that, or ended it, and
 * another worker is about to hear of it. So a new connection looks again for a moment; not while
 * there are many: they would fill this worker. */
bool tm_is_new(const struct tm_worker *w, uint32_t index);

/* A client whose connection was just accepted, before it has a record. */
enum tm_admission {
    TM_ADMITTED,
    TM_DENIED,  /* its address is not let in */
    TM_LOOPED,  /* it comes from this instance, and has been in this route */
    TM_UNROUTED, /* no route has this listener */
};
/* Whether a route lets a peer in: of one that sends a header of the PROXY protocol, only the client
 * that it names is asked about, once it is known. */
bool tm_admit_peer(const struct tm_image *image, const struct tm_route *route,
                   const struct tm_peer *peer);
/* Counts a refusal. *route: index in the image. */
enum tm_admission tm_admission_of(struct tm_worker *w, uint32_t listener, int fd,
                                  const struct tm_peer *peer, uint32_t *route);

#endif
