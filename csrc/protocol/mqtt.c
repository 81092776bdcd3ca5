/* MQTT's packets. Calls nothing. */
#include "protocol/mqtt.h"

#include <stdbool.h>

enum {
    BEFORE = 0, /* CONNECT */
    CONNECTING, /* before CONNACK */
    SESSION,
    LOST, /* not understood, or over */
};

enum {
    CONNECT = 1, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBSCRIBE, SUBACK,
    UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT, AUTH,
};

enum { HEAD_MOST = 5, LEVEL_AT = 6, FAILED = 0x80 };

static const unsigned char NAME[LEVEL_AT] = {0, 4, 'M', 'Q', 'T', 'T'};

static void lose(struct tm_mqtt_talk *talk)
{
    talk->phase = LOST;
}

static uint8_t type_of(const struct tm_mqtt_talk *talk, int side)
{
    return talk->first[side] >> 4;
}

static void add(struct tm_mqtt_talk *talk, uint16_t *count)
{
    if (*count == UINT16_MAX)
        lose(talk);
    else
        ++*count;
}

/* What nobody waits for is not understood. */
static void take(struct tm_mqtt_talk *talk, uint16_t *count)
{
    if (*count == 0)
        lose(talk);
    else
        --*count;
}

/* --- packets -------------------------------------------------------------------------------- */

static void publish_ends(struct tm_mqtt_talk *talk, int side)
{
    uint8_t qos = talk->first[side] >> 1 & 3;
    if (qos == 3)
        lose(talk);
    else if (qos)
        add(talk, &talk->of[side].begun);
}

/* Of an exchange: `side` answers to what the other one publishes, or releases its own. */
static void exchange_goes_on(struct tm_mqtt_talk *talk, int side, uint8_t type)
{
    struct tm_mqtt_exchanges *others = &talk->of[1 - side], *own = &talk->of[side];
    switch (type) {
    case PUBACK:
        take(talk, &others->begun);
        break;
    case PUBREC:
        take(talk, &others->begun);
        if (talk->reason[side] < FAILED)
            add(talk, &others->received);
        break;
    case PUBREL:
        if (own->received) /* else it is one of an earlier connection */
            own->received--;
        add(talk, &own->released);
        break;
    default: /* PUBCOMP */
        take(talk, &others->released);
        break;
    }
}

static void client_ends(struct tm_mqtt_talk *talk, uint8_t type)
{
    if ((talk->phase == BEFORE) != (type == CONNECT)) {
        lose(talk);
        return;
    }
    switch (type) {
    case CONNECT:
        talk->phase = talk->level == 4 || talk->level == 5 ? CONNECTING : LOST;
        break;
    case SUBSCRIBE: case UNSUBSCRIBE: case PINGREQ:
        add(talk, &talk->owed);
        break;
    case AUTH:
        if (talk->phase != CONNECTING)
            lose(talk);
        break;
    default:
        lose(talk);
        break;
    }
}

static void server_ends(struct tm_mqtt_talk *talk, uint8_t type)
{
    switch (type) {
    case CONNACK:
        talk->phase = talk->phase == CONNECTING && talk->reason[TM_FROM_SERVER] == 0 ? SESSION
                                                                                     : LOST;
        break;
    case SUBACK: case UNSUBACK: case PINGRESP:
        take(talk, &talk->owed);
        break;
    case AUTH:
        if (talk->phase != CONNECTING)
            lose(talk);
        break;
    default:
        lose(talk);
        break;
    }
}

static void packet_ends(struct tm_mqtt_talk *talk, int side)
{
    uint8_t type = type_of(talk, side);
    if (talk->phase == BEFORE && type != CONNECT)
        lose(talk);
    else if (type == PUBLISH)
        publish_ends(talk, side);
    else if (type >= PUBACK && type <= PUBCOMP)
        exchange_goes_on(talk, side, type);
    else if (side == TM_FROM_CLIENT)
        client_ends(talk, type);
    else
        server_ends(talk, type);
}

/* --- framing -------------------------------------------------------------------------------- */

/* Of those that have one: behind two other bytes, or one of CONNACK's. */
static bool is_reason(uint8_t type, uint32_t at)
{
    return (type == PUBREC && at == 2) || (type == CONNACK && at == 1);
}

static void body(struct tm_mqtt_talk *talk, int side, const unsigned char *bytes, uint32_t size)
{
    uint32_t at = talk->size[side] - talk->left[side];
    uint8_t type = type_of(talk, side);
    for (uint32_t i = 0; i < size && at <= LEVEL_AT; i++, at++) {
        if (is_reason(type, at))
            talk->reason[side] = bytes[i];
        if (type != CONNECT)
            continue;
        if (at < LEVEL_AT && bytes[i] != NAME[at])
            lose(talk);
        else if (at == LEVEL_AT)
            talk->level = bytes[i];
    }
}

/* Its size is there. */
static void packet_begins(struct tm_mqtt_talk *talk, int side)
{
    uint8_t type = type_of(talk, side), flags = talk->first[side] & 0xf;
    bool has_two = type == PUBREL || type == SUBSCRIBE || type == UNSUBSCRIBE;
    talk->have[side] = talk->reason[side] = 0;
    talk->left[side] = talk->size[side];
    if (type == 0 || (type != PUBLISH && flags != (has_two ? 2 : 0)))
        lose(talk);
    else if (talk->left[side] == 0)
        packet_ends(talk, side);
}

static void head_byte(struct tm_mqtt_talk *talk, int side, unsigned char byte)
{
    if (talk->have[side] == 0) {
        talk->first[side] = byte;
        talk->size[side] = 0;
        talk->have[side] = 1;
        return;
    }
    if (talk->have[side] >= HEAD_MOST) {
        lose(talk);
        return;
    }
    talk->size[side] |= (uint32_t)(byte & 0x7f) << 7 * (talk->have[side] - 1);
    talk->have[side]++;
    if (!(byte & 0x80))
        packet_begins(talk, side);
}

void tm_mqtt_feed(struct tm_mqtt_talk *talk, int side, const unsigned char *bytes, size_t size)
{
    size_t at = 0;
    while (at < size && talk->phase < LOST) {
        uint32_t part = size - at < talk->left[side] ? (uint32_t)(size - at) : talk->left[side];
        if (part == 0) {
            head_byte(talk, side, bytes[at++]);
            continue;
        }
        body(talk, side, bytes + at, part);
        at += part;
        talk->left[side] -= part;
        if (talk->left[side] == 0)
            packet_ends(talk, side);
    }
}

enum tm_moment tm_mqtt_moment(const struct tm_mqtt_talk *talk)
{
    if (talk->phase >= LOST)
        return TM_MOMENT_UNKNOWN;
    if (talk->phase != SESSION || talk->owed)
        return TM_MOMENT_BUSY;
    for (int side = 0; side < 2; side++) {
        const struct tm_mqtt_exchanges *of = &talk->of[side];
        if (talk->have[side] || talk->left[side] || of->begun || of->received || of->released)
            return TM_MOMENT_BUSY;
    }
    return TM_MOMENT_SAFE;
}
