/* Goodbyes. Calls nothing. */
#include "protocol/goodbye.h"

/* ErrorResponse, as a server that an administrator stops sends it. */
#define POSTGRES_FIELDS                                                                            \
    "SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0"               \
    "DThe proxy moves it to another server. Connect again.\0"
static const unsigned char POSTGRES[] = "E\0\0\0\x85" POSTGRES_FIELDS;
enum { POSTGRES_SIZE = sizeof(POSTGRES) }; /* its NUL ends the fields */
_Static_assert(sizeof(POSTGRES) - 1 == 0x85, "the length in it");

/* Error 1053, 0x041d, in a packet of number 0. */
#define MYSQL_FIELDS "\xff\x1d\x04#08S01Server shutdown in progress"
static const unsigned char MYSQL[] = "\x24\0\0\0" MYSQL_FIELDS;
_Static_assert(sizeof(MYSQL_FIELDS) - 1 == 0x24, "the length in it");

/* DISCONNECT, use another server; no properties. Before version 5 a server has none. */
static const unsigned char MQTT_5[] = {0xe0, 2, 0x9c, 0};

struct tm_goodbye tm_goodbye_in(const struct tm_talk *talk)
{
    switch ((enum tm_protocol)talk->protocol) {
    case TM_PROTOCOL_POSTGRES:
        return (struct tm_goodbye){POSTGRES, POSTGRES_SIZE};
    case TM_PROTOCOL_MYSQL:
        return (struct tm_goodbye){MYSQL, sizeof(MYSQL) - 1};
    case TM_PROTOCOL_MQTT:
        if (talk->mqtt.level == 5)
            return (struct tm_goodbye){MQTT_5, sizeof(MQTT_5)};
        break;
    case TM_PROTOCOL_REDIS: case TM_PROTOCOL_MEMCACHED: case TM_PROTOCOL_HTTP1:
    case TM_PROTOCOL_NONE: case TM_PROTOCOLS:
        break;
    }
    return (struct tm_goodbye){NULL, 0};
}
