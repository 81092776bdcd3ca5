/* MQTT 3.1.1 and 5: https://docs.oasis-open.org/mqtt/mqtt/v5.0/mqtt-v5.0.html
 *
 * What a subscriber gets is complete with its packet; at QoS 1 and 2, with its acknowledgements. */
#ifndef TM_PROTOCOL_MQTT_H
#define TM_PROTOCOL_MQTT_H

#include <stddef.h>
#include <stdint.h>

#include "protocol/moment.h"

/* Of what one side publishes. */
struct tm_mqtt_exchanges {
    uint16_t begun;    /* PUBLISH: PUBACK or PUBREC is to come */
    uint16_t received; /* PUBREC: PUBREL is to come from the one that publishes */
    uint16_t released; /* PUBREL: PUBCOMP is to come */
};

struct tm_mqtt_talk {
    uint32_t size[2]; /* of the packet that is being read, without its fixed header */
    uint32_t left[2]; /* bytes of it still to come */
    struct tm_mqtt_exchanges of[2];
    uint16_t owed;    /* answers to the client's other packets */
    uint8_t have[2];  /* bytes of a fixed header */
    uint8_t first[2]; /* its first one: type and flags */
    uint8_t reason[2]; /* of an acknowledgement; 0 = it says none */
    uint8_t phase;
    uint8_t level;    /* of the protocol: 4 = 3.1.1, or 5 */
    uint8_t unused[10];
};

void tm_mqtt_feed(struct tm_mqtt_talk *talk, int side, const unsigned char *bytes, size_t size);
enum tm_moment tm_mqtt_moment(const struct tm_mqtt_talk *talk);

#endif
