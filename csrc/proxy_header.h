/* The header of the PROXY protocol, versions 1 and 2, that stands in front of a connection's bytes.
 * https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt (2020/03/05)
 *
 *     tm_proxy_parse(bytes, have, versions, &header)
 *         MORE     not whole yet; so far nothing is wrong with it
 *         WHOLE    header.size bytes of it
 *         else     what is wrong; nothing of it may be believed
 *
 * It depends on nothing but the bytes, and reads none beyond `have` or beyond the header's end. All
 * prefixes of a whole header are MORE, and a header's end is decided by its own bytes alone.
 */
#ifndef TM_PROXY_HEADER_H
#define TM_PROXY_HEADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "access_log.h"

enum {
    TM_PROXY_V1_MAX = 107,  /* bytes, with CR and LF */
    TM_PROXY_MAX = 4096,    /* of version 2, with its TLVs: more is refused */
    TM_PROXY_V2_HEAD = 16,  /* signature, version, family, length */
    TM_PROXY_ADDRESSES_MAX = TM_PROXY_V2_HEAD + 216,
    TM_PROXY_WRITE_MAX = 1024, /* that is written, with all TLVs */
    TM_PROXY_TLV_ALPN = 1,
    TM_PROXY_TLV_AUTHORITY = 2,
    TM_PROXY_TLV_CRC32C = 3,
    TM_PROXY_TLV_UNIQUE_ID = 5,
};

/* Bits of `versions`. */
enum { TM_PROXY_V1 = 1, TM_PROXY_V2 = 2 };

enum tm_proxy_result {
    TM_PROXY_WHOLE = 0,
    TM_PROXY_MORE,
    TM_PROXY_MISSING, /* it does not begin with a header */
    TM_PROXY_VERSION, /* of a version that is not asked for */
    TM_PROXY_MALFORMED,
    TM_PROXY_TOO_LONG,
    TM_PROXY_CHECKSUM,
};

struct tm_proxy_header {
    uint32_t size;     /* of all of it: what follows is the client's */
    uint32_t tlvs_at;  /* where the TLVs begin; version 2 */
    bool has_client;   /* false: LOCAL, UNKNOWN, or no TCP: the peer is the client */
    struct tm_peer client; /* who has connected, */
    struct tm_peer to;     /* and to where */
};

enum tm_proxy_result tm_proxy_parse(const unsigned char *bytes, size_t have, uint32_t versions,
                                    struct tm_proxy_header *header)
    __attribute__((warn_unused_result));

/* Writes a header of version 1 or 2 for a client that has connected to `to`; returns its size, at
 * most TM_PROXY_V1_MAX. One without an IP, as of a UNIX socket, is UNKNOWN or LOCAL there. */
uint32_t tm_proxy_write(unsigned char bytes[TM_PROXY_V1_MAX], uint32_t version,
                        const struct tm_peer *client, const struct tm_peer *to);

struct tm_proxy_tlv {
    uint8_t type;
    uint16_t size;
    const unsigned char *value;
};

/* The next TLV of those that end at `end`: *at is its place, and then the one behind it. False:
 * there is none, or it is not whole. Those of a whole header are, up to header.size. */
static inline bool tm_proxy_next_tlv(const unsigned char *bytes, uint32_t end, uint32_t *at,
                                     struct tm_proxy_tlv *tlv)
{
    const unsigned char *head;
    if (end - *at < 3)
        return false; /* there may be no bytes at all */
    head = bytes + *at;
    tlv->type = head[0];
    tlv->size = (uint16_t)(head[1] << 8 | head[2]);
    tlv->value = head + 3;
    if (end - *at - 3 < tlv->size)
        return false;
    *at += 3u + tlv->size;
    return true;
}

/* Whether a type is one of a list: a bit each, in four words. */
static inline bool tm_proxy_is_listed(const uint64_t types[4], uint8_t type)
{
    return types[type >> 6] >> (type & 63) & 1;
}

/* Adds a TLV to a header of version 2, of `size` bytes; returns the new size. Receivers ignore
 * those of a LOCAL header, so such a one becomes that of a UNIX socket without a name. */
uint32_t tm_proxy_add(unsigned char *bytes, uint32_t size, uint8_t type, const void *value,
                      uint16_t value_size);
/* Puts the checksum into the header's last TLV, which is a CRC32C of 0. */
void tm_proxy_set_checksum(unsigned char *bytes, uint32_t size);

#endif
