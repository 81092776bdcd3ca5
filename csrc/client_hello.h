/* The ClientHello of TLS, of versions 1.0 to 1.3: RFC 8446, 4.1.2 and 5.1. Of its extensions the
 * server's name (RFC 6066, 3) and the protocols (ALPN: RFC 7301) are read.
 *
 *     tm_hello_parse(bytes, have, limit, &hello)
 *         WHOLE       it is there, in the first hello.size bytes
 *         MORE        as far as they go the bytes are a ClientHello: ask again with hello.need of
 *                     them at the least
 *         OTHER       no TLS, or another of its messages: also SSL 2.0's way to begin, which has no
 *                     extensions
 *         MALFORMED   it begins as TLS does, and no server should take it
 *         TOO_LONG    more than `limit` bytes, or more than TM_HELLO_STREAM with the heads of its
 *                     records
 *
 * It depends on nothing but the bytes, reads none beyond `have`, and every prefix of a whole one is
 * MORE. It may be in any number of records of any size but 0, which the specification forbids.
 *
 * With an encrypted ClientHello (ECH) the names are those of the outer one: nobody else sees more.
 */
#ifndef TM_CLIENT_HELLO_H
#define TM_CLIENT_HELLO_H

#include <stddef.h>
#include <stdint.h>

enum {
    TM_HELLO_STREAM = 65536, /* bytes that are looked at, with the heads of records */
    TM_SNI_MAX = 255,        /* bytes of a name: RFC 1035 */
    TM_ALPN_MAX = 64,        /* bytes that are kept of a list */
};

enum tm_hello_result {
    TM_HELLO_WHOLE = 0,
    TM_HELLO_MORE,
    TM_HELLO_OTHER,
    TM_HELLO_MALFORMED,
    TM_HELLO_TOO_LONG,
};

struct tm_hello {
    uint32_t size;     /* WHOLE */
    uint32_t need;     /* MORE: more than `have` */
    uint8_t sni_size;  /* 0: none, or one that is no host name, such as an address */
    uint8_t alpn_size;
    uint8_t alpn_cut;  /* 1: there was no room for all of its list */
    char sni[TM_SNI_MAX + 1];        /* in lower case, without a dot at its end; ends with NUL */
    unsigned char alpn[TM_ALPN_MAX]; /* names, each after its size, up to the first without room */
};

/* limit: bytes of the message. One in several records is put together in `bytes`, which are others
 * then. */
enum tm_hello_result tm_hello_parse(unsigned char *bytes, size_t have, uint32_t limit,
                                    struct tm_hello *hello) __attribute__((warn_unused_result));

#endif
