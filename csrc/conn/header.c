/* The header of the PROXY protocol, to endpoints. Runs in a worker.
 *
 * It follows from the record, its annex and the image alone: until it is sent it can be made again,
 * by whatever incarnation. Once it is to be sent it stands in the buffer, and what is missing is
 * sent from there: pump_recover.c. It goes with the client's first bytes where there are any, in
 * one write if it can. */
#include "conn/header.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "conn/destination.h"
#include "conn/known.h"
#include "conn/preface.h"
#include "conn/proxy.h"
#include "conn/record.h"
#include "conn/stage.h"
#include "conn/starttls.h"
#include "proxy_header.h"
#include "sock.h"
#include "text.h"

enum {
    DECISION_MAX = 2 * TM_NAME_SIZE + 40, /* two names, a number, a word */
    ID_MAX = 32,
    TLV_HEAD = 3,
};

_Static_assert(TM_PROXY_ADDRESSES_MAX + 4 * TLV_HEAD + ID_MAX + TM_SNI_MAX + TM_TLVS_MAX +
                       DECISION_MAX + TM_TLVS_MAX + TLV_HEAD + 4 <=
                   TM_PROXY_WRITE_MAX,
               "room for all that one can have");

static const char *const pick_reasons[TM_PICK_REASONS] = {
    "",
#define TM_PICK(name, help) #name,
#include "counters.def"
};

/* The longest of them, with its NUL. */
union reason {
#define TM_PICK(name, help) char name[sizeof(#name)];
#include "counters.def"
};

_Static_assert(2 * (TM_NAME_SIZE - 1) + 3 + TM_TEXT_NUMBER_MAX + sizeof(union reason) <=
                   DECISION_MAX,
               "and for a decision");

/* Whether bytes of the client wait, to be in one segment with the header. What has been read of
 * them ahead of the pick waits still. */
static bool has_begun(struct tm_worker *w, uint32_t index)
{
    const struct tm_known *known = tm_known_of(w, index);
    unsigned char byte;
    if (known && (known->first_bytes == TM_FIRST_TLS || known->first_bytes == TM_FIRST_OTHER))
        return true;
    return tm_preface_peek(w, index, &byte, sizeof(byte)) > 0;
}

/* Where the client has connected to: as a header has said, or this host's address. */
static struct tm_peer target_of(struct tm_worker *w, uint32_t index)
{
    const struct tm_known *known = tm_known_of(w, index);
    struct tm_peer local;
    if (known && known->peer.family)
        return known->to;
    tm_sock_local(w->records[index].fd[TM_CLIENT], &local);
    return local;
}

/* --- TLVs ----------------------------------------------------------------------------------- */

/* A header that is being made. */
struct making {
    unsigned char *bytes;
    uint32_t size;
    uint64_t has[4]; /* types of the TLVs in it, a bit each */
};

static void put(struct making *made, uint8_t type, const void *value, size_t size)
{
    assert(made->size + TLV_HEAD + size <= TM_PROXY_WRITE_MAX);
    made->size = tm_proxy_add(made->bytes, made->size, type, value, (uint16_t)size);
    made->has[type >> 6] |= UINT64_C(1) << (type & 63);
}

/* Those of the header that came in whose type is listed, but none that is there already. */
static void pass_on(struct making *made, const struct tm_known *known, const uint64_t types[4])
{
    const uint64_t own[4] = {made->has[0], made->has[1], made->has[2], made->has[3]};
    struct tm_proxy_tlv tlv;
    uint32_t at = 0;
    while (tm_proxy_next_tlv(known->tlvs, known->tlvs_size, &at, &tlv))
        if (tm_proxy_is_listed(types, tlv.type) && !tm_proxy_is_listed(own, tlv.type))
            put(made, tlv.type, tlv.value, tlv.size);
}

static void put_id(struct making *made, const struct tm_cold *cold)
{
    char id[ID_MAX], *at = tm_text_number(id, cold->born_worker);
    at = tm_text_number(tm_text_char(at, '-'), cold->born_index);
    at = tm_text_number(tm_text_char(at, '-'), cold->born_generation);
    put(made, TM_PROXY_TLV_UNIQUE_ID, id, (size_t)(at - id));
}

static void put_decision(struct making *made, uint8_t type, const struct tm_cold *cold,
                         const struct tm_route *route, const struct tm_destination *destination)
{
    const char *reason = cold->pick_reason < TM_PICK_REASONS ? pick_reasons[cold->pick_reason] : "";
    char text[DECISION_MAX], *at = text;
    at = tm_text(at, route->name, strnlen(route->name, TM_NAME_SIZE - 1));
    at = tm_text_char(at, '/');
    at = tm_text(at, destination->name, strnlen(destination->name, TM_NAME_SIZE - 1));
    at = tm_text_number(tm_text_char(at, ' '), cold->table_generation);
    at = tm_text_char(at, ' ');
    at = tm_text(at, reason, strlen(reason));
    put(made, type, text, (size_t)(at - text));
}

/* A list of a single protocol. */
static bool offers_one(const struct tm_known *known)
{
    return known->alpn_size > 1 && known->alpn[0] == known->alpn_size - 1 && !known->alpn_cut;
}

static void put_known(struct making *made, const struct tm_known *known,
                      const struct tm_destination_rules *rules)
{
    uint64_t types[4] = {rules->pass_tlvs0, rules->pass_tlvs1, rules->pass_tlvs2,
                         rules->pass_tlvs3};
    if (rules->send_authority && known->sni_size)
        put(made, TM_PROXY_TLV_AUTHORITY, known->sni, known->sni_size);
    if (rules->send_alpn && offers_one(known))
        put(made, TM_PROXY_TLV_ALPN, known->alpn + 1, known->alpn[0]);
    if (rules->send_authority)
        types[0] |= UINT64_C(1) << TM_PROXY_TLV_AUTHORITY;
    if (rules->send_alpn && !known->alpn_size && !known->alpn_cut)
        types[0] |= UINT64_C(1) << TM_PROXY_TLV_ALPN;
    pass_on(made, known, types);
}

static void put_tlvs(struct tm_worker *w, uint32_t index, const struct tm_cold *decided,
                     const struct tm_destination *destination, struct making *made)
{
    const struct tm_cold *cold = &w->colds[index];
    const struct tm_known *known = tm_known_of(w, index);
    const struct tm_destination_rules *rules = &destination->rules;
    if (rules->send_unique_id)
        put_id(made, cold);
    if (rules->send_decision)
        put_decision(made, (uint8_t)rules->send_decision, decided,
                     &w->image->routes[destination->route], destination);
    if (known)
        put_known(made, known, rules);
    if (rules->send_crc32c) {
        put(made, TM_PROXY_TLV_CRC32C, "\0\0\0", 4);
        tm_proxy_set_checksum(made->bytes, made->size);
    }
}

/* --- the stage ------------------------------------------------------------------------------ */

uint32_t tm_header_make(struct tm_worker *w, uint32_t index, const struct tm_cold *decided,
                        const struct tm_destination *destination, unsigned char *bytes)
{
    const struct tm_cold *cold = &w->colds[index];
    struct tm_peer to = target_of(w, index);
    uint32_t version = (uint32_t)destination->rules.send_proxy;
    struct making made = {.bytes = bytes};
    made.size = tm_proxy_write(made.bytes, version, &cold->client, &to);
    if (version == 2)
        put_tlvs(w, index, decided, destination, &made);
    return made.size;
}

int tm_header_send(struct tm_worker *w, uint32_t index, uint32_t of)
{
    struct tm_conn *conn = &w->records[index];
    const struct tm_destination *destination = tm_destination_of(w, index);
    tm_record_note_uncounted(conn, &w->colds[index]);
    if (!destination)
        return -ENOENT;
    if (!destination->rules.send_proxy)
        return 0;
    uint32_t size = tm_header_make(w, of, &w->colds[index], destination, w->pump.buffer);
    w->pump.journal->side = TM_CLIENT;
    return tm_pump_prepend(&w->pump, &conn->half[TM_CLIENT], conn->fd[TM_ENDPOINT], size, false);
}

struct tm_answer tm_header(struct tm_worker *w, uint32_t index)
{
    struct tm_conn *conn = &w->records[index];
    struct tm_half *half = &conn->half[TM_CLIENT];
    const struct tm_destination *destination = tm_destination_of(w, index);
    bool asks = tm_starttls_is_asked(w, index); /* then its answer comes before more is sent */
    uint32_t size = 0;
    if (conn->side_flags[TM_ENDPOINT] & TM_RESET || tm_base_prepended(half->base))
        return tm_next();
    if (destination && destination->rules.send_proxy)
        size = tm_header_make(w, index, &w->colds[index], destination, w->pump.buffer);
    size += tm_starttls_write(w, index, w->pump.buffer + size);
    if (size == 0)
        return tm_next();
    w->pump.journal->side = TM_CLIENT;
    tm_record_note_uncounted(conn, &w->colds[index]);
    if (!asks && !half->uncounted && !w->shapes)
        tm_pump_precede(&w->pump, half, size); /* the relay is next, and reads at once */
    else if (tm_pump_prepend(&w->pump, half, conn->fd[TM_ENDPOINT], size,
                             !asks && has_begun(w, index)) < 0)
        conn->side_flags[TM_ENDPOINT] |= TM_RESET | TM_HUNG_UP; /* the relay ends it as such */
    return tm_next();
}
