/* First messages of PostgreSQL's clients. Calls nothing but memcmp(). */
#include "postgres.h"

#include <string.h>

/* Length and code: 1234 and 5679 or 5680. */
const unsigned char tm_postgres_ssl_request[TM_POSTGRES_REQUEST] = {0, 0, 0, 8, 4, 210, 22, 47};
static const unsigned char gss_request[TM_POSTGRES_REQUEST] = {0, 0, 0, 8, 4, 210, 22, 48};

enum tm_postgres_first tm_postgres_parse(const unsigned char *bytes, size_t have)
{
    size_t seen = have < TM_POSTGRES_REQUEST ? have : TM_POSTGRES_REQUEST;
    if (seen && memcmp(bytes, tm_postgres_ssl_request, seen) == 0)
        return seen == TM_POSTGRES_REQUEST ? TM_POSTGRES_SSL_REQUEST : TM_POSTGRES_MORE;
    if (seen && memcmp(bytes, gss_request, seen) == 0)
        return TM_POSTGRES_GSS_REQUEST;
    return seen ? TM_POSTGRES_OTHER : TM_POSTGRES_MORE;
}
