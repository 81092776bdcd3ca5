/* The first bytes that an endpoint sends on a connection: whether they are an error, by the
 * protocol that the route is said to speak. However they are cut. */
#ifndef TCPMUX_PROTOCOL_FIRST_ANSWER_H
#define TCPMUX_PROTOCOL_FIRST_ANSWER_H

#include <stddef.h>

#include "protocol/talk.h"

/* What is known of them, in a byte that is 0 before the first one. The lowest bits are patterns
 * that they may still be like. */
enum tm_first_answer {
    TM_FIRST_BEGUN = 0x20,
    TM_FIRST_ERROR = 0x40,   /* they are one */
    TM_FIRST_COUNTED = 0x80, /* and that has been told: tm_talk_take_error() */
};

/* That, after these bytes. at: how many were there before. */
uint8_t tm_first_answer_feed(uint8_t known, enum tm_protocol protocol, uint32_t at,
                             const unsigned char *bytes, size_t size);

#endif
