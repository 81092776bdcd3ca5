/* Numbers and addresses as text, for what is read and written of every connection: the C library's
 * functions do the same, but are far off and large, and mostly not in the processor's caches. */
#ifndef TM_TEXT_H
#define TM_TEXT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "access_log.h"

enum {
    TM_TEXT_IP_MAX = 45,     /* ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255 */
    TM_TEXT_NUMBER_MAX = 20, /* 2^64 - 1 */
};

/* As inet_pton(): what that takes and no more, into the first 4 or all of ip[]. Returns where the
 * address ends, at the latest at `end`; NULL: there is none. */
const char *tm_text_read_ip(const char *at, const char *end, int family, unsigned char ip[16]);

/* Those that write return where the next character goes, and put no NUL there. */

/* As inet_ntop(). */
char *tm_text_ip(char *at, int family, const unsigned char ip[16]);

/* As %llu. */
char *tm_text_number(char *at, uint64_t number);

static inline char *tm_text(char *at, const char *text, size_t size)
{
    memcpy(at, text, size);
    return at + size;
}

static inline char *tm_text_char(char *at, char one)
{
    *at = one;
    return at + 1;
}

#endif
