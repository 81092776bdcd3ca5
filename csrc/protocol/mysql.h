/* The protocol of MySQL and MariaDB, 4.1 and later:
 * https://dev.mysql.com/doc/dev/mysql-server/latest/PAGE_PROTOCOL.html
 * https://mariadb.com/kb/en/clientserver-protocol/
 *
 * Each packet of number 0 from the client is a command, whose answer has a form of its own. What
 * ends an answer says whether a transaction is open; after an error that is not known before the
 * next answer. Compressed or encrypted connections are not understood. */
#ifndef TM_PROTOCOL_MYSQL_H
#define TM_PROTOCOL_MYSQL_H

#include <stddef.h>
#include <stdint.h>

#include "protocol/moment.h"

#define TM_MYSQL_QUEUE 4

struct tm_mysql_talk {
    uint32_t capabilities; /* of the server; after the login, those of both */
    uint32_t size[2];      /* of the packet that is being read */
    uint32_t left[2];      /* bytes of it that are still to come */
    uint32_t count;        /* definitions of an answer still to come; the client's capabilities */
    uint16_t then;         /* and after those */
    uint16_t status;       /* of the last answer */
    uint8_t have[2];       /* bytes of a packet's head, until they are complete */
    uint8_t phase;
    uint8_t flags;
    uint8_t step;          /* of the answer */
    uint8_t shape;         /* of the server's packet */
    uint8_t field;         /* of that */
    uint8_t skip;          /* bytes of the field still to come; of a greeting: bytes so far */
    uint8_t queued;        /* commands that are not answered */
    uint8_t queue[TM_MYSQL_QUEUE]; /* how they are to be, the first one first */
    uint8_t is_command;    /* the client's packet */
    uint8_t unused[6];
};

void tm_mysql_feed(struct tm_mysql_talk *talk, int side, const unsigned char *bytes, size_t size);
enum tm_moment tm_mysql_moment(const struct tm_mysql_talk *talk);

#endif
