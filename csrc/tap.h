/* A copy of what the pump moves, for a shadow: conn/mirror.h. Nothing here waits, and nothing that
 * happens here is told to the connection: a shadow that can't follow is given up.
 *
 *     the client's bytes    copied: one more send, behind the one to the endpoint
 *                           spliced: tee(2), from the half's pipe to the shadow's
 *                           what the shadow does not take waits in its pipe, at most `lag`
 *     the endpoint's        heard, as far as they are compared: compare.h
 *
 * The shadow's half counts in `bytes` what was sent to it, and in `queued` what its pipe holds. The
 * two together are what was read from the client, after each step of the pump: after a death that
 * tells whether its copy is exact.
 */
#ifndef TM_TAP_H
#define TM_TAP_H

#include <stddef.h>
#include <stdint.h>

#include "compare.h"
#include "pipe_pool.h"

struct tm_half;

enum tm_tap_lost { TM_TAP_FOLLOWS = 0, TM_TAP_BEHIND, TM_TAP_FAILED };

struct tm_tap {
    struct tm_half *half; /* of the shadow, from the client */
    struct tm_comparison *comparison;
    int fd;               /* the shadow's socket; -1 = it is not connected yet */
    enum tm_tap_lost lost;
};

/* side: whose bytes these are. They have been passed on, or are about to be. */
void tm_tap_bytes(struct tm_tap *tap, struct tm_pipe_pool *pool, int side,
                  const unsigned char *bytes, size_t size);
/* How many of so many bytes it has room for at most, with nothing waiting. */
static inline size_t tm_tap_most(const struct tm_tap *tap, size_t size)
{
    return size < tap->comparison->lag ? size : tap->comparison->lag;
}

/* The client's, which are all that is in a pipe and stay there. */
void tm_tap_tee(struct tm_tap *tap, struct tm_pipe_pool *pool, int pipe, size_t size);
/* Sends what waits, as far as the shadow takes it. */
void tm_tap_flush(struct tm_tap *tap, struct tm_pipe_pool *pool);

#endif
