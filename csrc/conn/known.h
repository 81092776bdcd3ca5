/* What was read of a connection before its destination was picked, at the start of its annex. Few
 * have it: tm_known_of() is NULL for the others.
 *
 * It is written before what it was read from leaves the socket, and in this order: what belongs to
 * a size or a kind, then that size or kind. So after a death what it says is whole, or is read
 * again.
 */
#ifndef TM_KNOWN_H
#define TM_KNOWN_H

#include "annex.h"

enum {
    TM_SNI_MAX = 255,  /* bytes of a name: RFC 1035 */
    TM_ALPN_MAX = 64,  /* bytes that are kept of a list */
    TM_TLVS_MAX = 112, /* bytes that are kept of a header's TLVs */
};

/* What a client's first bytes are. */
enum tm_first_bytes {
    TM_UNREAD = 0,
    TM_FIRST_OTHER,  /* not TLS */
    TM_FIRST_TLS,    /* a whole ClientHello */
    TM_FIRST_SILENT, /* none came in time */
};

struct tm_known {
    struct tm_peer peer; /* of the socket, when a header has named a client; family 0 = it is not
                          * kept (yet): conn/proxy.h */
    struct tm_peer to;   /* and where that client had connected to */
    uint8_t first_bytes; /* enum tm_first_bytes */
    uint8_t sni_size;    /* 0 = none */
    uint8_t alpn_size;
    uint8_t tlvs_size;
    uint8_t starttls;    /* steps done of what comes before TLS in the client's protocol */
    uint8_t spare[3];
    char sni[TM_SNI_MAX + 1];         /* in lower case, without a dot at its end; ends with NUL */
    unsigned char alpn[TM_ALPN_MAX];  /* names, each after its size: RFC 7301, 3.1 */
    unsigned char tlvs[TM_TLVS_MAX];  /* those to be kept, as they came: type, size, value */
};

_Static_assert(sizeof(struct tm_known) <= TM_ANNEX_BYTES, "room for it");
_Static_assert(offsetof(struct tm_annex, bytes) % _Alignof(struct tm_known) == 0, "aligned");

static inline struct tm_known *tm_known_in(struct tm_annex *annex)
{
    return (struct tm_known *)(void *)annex->bytes;
}

static inline struct tm_known *tm_known_of(struct tm_worker *w, uint32_t index)
{
    struct tm_annex *annex = tm_annex_of(w, index);
    return annex ? tm_known_in(annex) : NULL;
}

/* That of the connection, with room for it made if it has none: all zero. NULL: there is none. */
static inline struct tm_known *tm_known_take(struct tm_worker *w, uint32_t index)
{
    struct tm_annex *annex = tm_annex_of(w, index);
    if (!annex)
        annex = tm_annex_take(w, index);
    if (!annex)
        return NULL;
    annex->length = sizeof(struct tm_known);
    return tm_known_in(annex);
}

#endif
