/* What MySQL's packets and answers have in common. Private to mysql.c and mysql_answers.c. */
#ifndef TM_PROTOCOL_MYSQL_PARTS_H
#define TM_PROTOCOL_MYSQL_PARTS_H

#include "protocol/mysql.h"

enum {
    GREETING = 0, /* the server's */
    LOGIN,        /* the client's answer to it */
    PROOF,        /* and who it is, until the server says OK */
    SESSION,
    LOST, /* not understood */
};

/* Bits of flags. */
enum {
    GOES_ON = 1,        /* the client's packet is continued by the next one */
    SERVER_GOES_ON = 2, /* the server's is */
    NO_EOF = 4,        /* definitions end without a packet of their own, rows with OK */
    CACHED = 8,        /* definitions may be left out */
    LEFT_OUT = 16,     /* they are */
    DOUBT = 32,        /* the last answer has said nothing of transactions */
    FILE_DATA = 64,    /* the client sends a file */
    STREAMS = 128,     /* it is a replica */
};

/* How a command is answered. */
enum answer {
    NEVER = 0, /* there is no such command, or nothing is known of it */
    NOTHING,
    ONE,       /* OK, EOF or an error */
    TEXT,      /* anything */
    RESULTS,   /* OK, or definitions and rows; more than once */
    ROWS_ONLY, /* up to EOF */
    PREPARED,  /* two lists of definitions */
    USER,      /* as a login */
    REPLICA,
};

/* Where an answer has got to. */
enum { FIRST = 0, DEFINITIONS, END_OF_DEFINITIONS, ROWS };

/* What a packet of the server is. */
enum { SKIPPED = 0, IS_OK, IS_EOF, IS_ERROR, IS_PROGRESS, IS_COUNT, IS_PREPARED, IS_FILE, IS_TEXT,
       CONTINUES };

/* Of a status. */
enum {
    IN_TRANSACTION = 0x0001,
    MORE_RESULTS = 0x0008,
    CURSOR_EXISTS = 0x0040,
    IN_READ_ONLY_TRANSACTION = 0x2000,
};

enum { WHOLE = 0xffffff, LOGIN_LEAST = 32, EOF_SIZE = 5, LOOKED_AT = 32 };

static inline void tm_mysql_lose(struct tm_mysql_talk *talk)
{
    talk->phase = LOST;
}

/* A byte of a packet of the server, behind its greeting; and its end. */
void tm_mysql_answer_byte(struct tm_mysql_talk *talk, uint32_t at, unsigned char byte);
void tm_mysql_answer_packet_ends(struct tm_mysql_talk *talk);

#endif
