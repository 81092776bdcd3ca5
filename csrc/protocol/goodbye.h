/* What a client is told, in its protocol, before its connection is closed: that it is to come
 * again. Only between requests. */
#ifndef TM_PROTOCOL_GOODBYE_H
#define TM_PROTOCOL_GOODBYE_H

#include "protocol/talk.h"

struct tm_goodbye {
    const unsigned char *bytes;
    size_t size; /* 0 = the protocol has none */
};

struct tm_goodbye tm_goodbye_in(const struct tm_talk *talk);

#endif
