/* The header of the PROXY protocol, to endpoints, apart from the stage that sends it. */
#ifndef TM_HEADER_H
#define TM_HEADER_H

#include "worker.h"

/* Tells the endpoint of record `index` of the client of record `of`, if its destination is to be
 * told. 0 or -errno: the endpoint has failed, or its destination is not there any more. */
int tm_header_send(struct tm_worker *w, uint32_t index, uint32_t of)
    __attribute__((warn_unused_result));

/* What a destination's endpoints are sent first of a connection, which is there in full; at most
 * TM_PROXY_WRITE_MAX bytes. decided: why it goes there. Returns its size. */
uint32_t tm_header_make(struct tm_worker *w, uint32_t index, const struct tm_cold *decided,
                        const struct tm_destination *destination, unsigned char *bytes);

#endif
