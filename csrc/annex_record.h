/* The annex of a connection's record (conn_record.h): its fields. */
#ifndef TM_ANNEX_RECORD_H
#define TM_ANNEX_RECORD_H

#include <stddef.h>
#include <stdint.h>

#include "access_log.h"
#include "client_hello.h"
#include "protocol/talk.h"
#include "route_table.h"

/* What few connections need, taken when they need it: conn/annex.h. */
#define TM_ANNEX_SIZE 576
#define TM_ANNEX_FDS 4
#define TM_ANNEX_BYTES (TM_ANNEX_SIZE - 12 - 4 * TM_ANNEX_FDS - (int)sizeof(struct tm_talk))

struct tm_annex {
    uint32_t owner;           /* index of the record that has it */
    uint32_t generation;      /* and that record's: an annex without its owner is free */
    uint32_t length;          /* bytes of it in use */
    int32_t fd[TM_ANNEX_FDS]; /* -1 = none; closed with it, and go where it goes */
    unsigned char bytes[TM_ANNEX_BYTES];
    struct tm_talk talk;      /* of a half that is TM_HEARD */
};

_Static_assert(sizeof(struct tm_annex) == TM_ANNEX_SIZE, "whole");

/* What a client's first bytes are. */
enum tm_first_bytes {
    TM_UNREAD = 0,
    TM_FIRST_OTHER,  /* not TLS */
    TM_FIRST_TLS,    /* a whole ClientHello */
    TM_FIRST_SILENT, /* none came in time */
    TM_FIRST_KINDS
};

/* Requests of PostgreSQL's clients: conn/starttls.h. */
enum tm_starttls { TM_STARTTLS_GSS = 1, TM_STARTTLS_TLS = 2 };

/* What was read of a connection before its destination was picked, at the start of its annex:
 * conn/known.h. */
struct tm_known {
    struct tm_peer peer; /* of the socket, when a header has named a client; family 0 = it is not
                          * kept (yet): conn/proxy.h */
    struct tm_peer to;   /* and where that client had connected to */
    uint8_t first_bytes; /* enum tm_first_bytes */
    uint8_t sni_size;    /* 0 = none */
    uint8_t alpn_size;
    uint8_t tlvs_size;
    uint8_t starttls;    /* what it has asked for before TLS, a bit each: enum tm_starttls */
    uint8_t waits_for_more; /* SO_RCVLOWAT is raised: its socket is reported readable only once
                             * enough bytes are there. preread.c */
    uint8_t alpn_cut;    /* as tm_hello has it */
    uint8_t starttls_end; /* bytes consumed of it with the last of these, the low bits */
    uint32_t header_ms;  /* from the accept until its header was read; 0 = it had none */
    union {
        struct {
            char sni[TM_SNI_MAX + 1]; /* client_hello.h: struct tm_hello */
            unsigned char alpn[TM_ALPN_MAX];
        };
        struct tm_kept kept; /* of those that do not begin with TLS: tm_kept_in() */
    };
    unsigned char tlvs[TM_TLVS_MAX];  /* those to be kept, as they came: type, size, value */
};

_Static_assert(sizeof(struct tm_known) <= TM_ANNEX_BYTES, "room for it");
_Static_assert(offsetof(struct tm_annex, bytes) % _Alignof(struct tm_known) == 0, "aligned");

static inline struct tm_known *tm_known_in(struct tm_annex *annex)
{
    return (struct tm_known *)(void *)annex->bytes;
}

/* What the endpoint has been told of its client; NULL: it is not kept. Where a name stands of a TLS
 * server there is no room for it, nor anything to be heard. */
static inline struct tm_kept *tm_kept_in(struct tm_annex *annex)
{
    struct tm_known *known = tm_known_in(annex);
    return annex->talk.protocol == TM_PROTOCOL_REDIS && known->first_bytes != TM_FIRST_TLS &&
                   known->kept.state != TM_KEPT_NOT
               ? &known->kept
               : NULL;
}

#endif
