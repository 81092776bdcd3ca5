/* The first bytes that an endpoint sends on a connection: whether they are an error, by the
 * protocol that the route is said to speak. */
#ifndef TCPMUX_PROTOCOL_FIRST_ANSWER_H
#define TCPMUX_PROTOCOL_FIRST_ANSWER_H

#include <stdbool.h>
#include <stddef.h>

#include "protocol/talk.h"

/* bytes: those that have come together. Of fewer than it takes to know: false. */
bool tm_is_error_answer(enum tm_protocol protocol, const unsigned char *bytes, size_t size);

#endif
