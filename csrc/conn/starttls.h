/* Clients of PostgreSQL that ask for TLS before they begin with it: postgres.h. On a route with
 * `preread: {starttls: postgres}` they are answered here, so that their ClientHello can be read,
 * and the endpoint is asked in their place, with the same bytes.
 *
 *     to the client     SSLRequest: S. GSSENCRequest, once and before that: N. preread.c reads on.
 *     to the endpoint   an SSLRequest, in one write with a header of the PROXY protocol if it
 *                       gets one (header.c); then the stage STARTTLS waits for its S, and drops
 *                       it. What else it does is a failed connect; with an N it
 *                       refuses TLS alone, and other clients find it as good as before. The
 *                       ClientHello is still in the client's socket, so the next endpoint can be
 *                       tried.
 *
 * A death may come anywhere. What the client has asked for is in the annex (known.starttls) before
 * it leaves the socket; that it has left, that the answer is sent, that the endpoint is asked and
 * that its answer is dropped are in the sealed counts of the halves.
 */
#ifndef TM_CONN_STARTTLS_H
#define TM_CONN_STARTTLS_H

#include "known.h"
#include "postgres.h"
#include "stage.h"

/* Whether the client has asked for TLS and was told to begin. */
static inline bool tm_starttls_is_asked(struct tm_worker *w, uint32_t index)
{
    const struct tm_known *known = tm_known_of(w, index);
    return known && known->starttls & TM_STARTTLS_TLS;
}

/* What a client has sent that may be a request: OTHER if none is awaited (any more). */
enum tm_postgres_first tm_starttls_parse(struct tm_worker *w, uint32_t index,
                                         const unsigned char *bytes, size_t have)
    __attribute__((warn_unused_result));

/* Takes the request, which is there, from the socket, and answers it. */
struct tm_answer tm_starttls_take(struct tm_worker *w, uint32_t index,
                                  enum tm_postgres_first request);

/* What is left of that after a death. */
struct tm_answer tm_starttls_finish(struct tm_worker *w, uint32_t index);

/* Writes what the endpoint is to be asked. Returns its size: 0 if nothing. */
uint32_t tm_starttls_write(struct tm_worker *w, uint32_t index, unsigned char *bytes);

#endif
