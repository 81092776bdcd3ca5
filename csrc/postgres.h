/* How clients of PostgreSQL ask for TLS or GSSAPI before anything else: 8 bytes that are answered
 * with one. (PostgreSQL's documentation, 55.2.10 and 55.7: SSLRequest, GSSENCRequest.)
 *
 * It depends on nothing but the bytes, and reads none beyond `have`. */
#ifndef TM_POSTGRES_H
#define TM_POSTGRES_H

#include <stddef.h>

enum {
    TM_POSTGRES_REQUEST = 8, /* bytes of either */
    TM_POSTGRES_YES = 'S',   /* to an SSLRequest: begin with TLS */
    TM_POSTGRES_NO = 'N',
};

enum tm_postgres_first {
    TM_POSTGRES_MORE = 0,    /* one of the two, as far as it goes */
    TM_POSTGRES_SSL_REQUEST, /* whole */
    TM_POSTGRES_GSS_REQUEST,
    TM_POSTGRES_OTHER, /* another message, or none at all */
};

extern const unsigned char tm_postgres_ssl_request[TM_POSTGRES_REQUEST];

enum tm_postgres_first tm_postgres_parse(const unsigned char *bytes, size_t have)
    __attribute__((warn_unused_result));

#endif
