/* A part of the preface, for a test: it waits for four bytes. "CUT!" is taken out of the stream and
 * "END!" ends the connection; all else is the endpoint's. A word with a "T" is not waited for long.
 * Meanwhile the annex has what was seen so far, and a descriptor that says how often it was looked:
 * what is not carried along ends the connection. */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "conn/annex.h"
#include "conn/preface.h"

enum { WORD = 4, TIMEOUT_MS = 600000, SHORT_MS = 300 };

static struct tm_annex *begun(struct tm_worker *w, uint32_t index)
{
    struct tm_annex *annex = tm_annex_of(w, index);
    if (annex)
        return annex;
    annex = tm_annex_take(w, index);
    if (annex)
        annex->fd[2] = eventfd(0, EFD_NONBLOCK);
    return annex;
}

/* What was seen before is still what it was, and the descriptor is the one that it was. */
static bool is_carried(const struct tm_annex *annex, const unsigned char *bytes, size_t size)
{
    uint64_t looks = 0;
    if (annex->length > size || memcmp(annex->bytes, bytes, annex->length) != 0)
        return false;
    return annex->length == 0 || (read(annex->fd[2], &looks, sizeof(looks)) == sizeof(looks) &&
                                  looks == annex->length);
}

static void keep(struct tm_annex *annex, const unsigned char *bytes, size_t size)
{
    uint64_t looks = size;
    memcpy(annex->bytes, bytes, size);
    annex->length = (uint32_t)size;
    if (size && write(annex->fd[2], &looks, sizeof(looks)) < 0)
        annex->length = UINT32_MAX;
}

struct tm_answer tm_four_bytes(struct tm_worker *w, uint32_t index)
{
    unsigned char bytes[WORD];
    struct tm_annex *annex = begun(w, index);
    ssize_t got = tm_preface_peek(w, index, bytes, sizeof(bytes));
    size_t size = got > 0 ? (size_t)got : 0;
    if (got < 0 && got != -EAGAIN)
        return tm_end_for(TM_CLOSED_client_reset);
    if (!annex || !is_carried(annex, bytes, size))
        return tm_end_for(TM_CLOSED_local_error);
    if (size < WORD) {
        keep(annex, bytes, size);
        return tm_preface_wait(w, index, got, size && bytes[0] == 'T' ? SHORT_MS : TIMEOUT_MS,
                               TM_CLOSED_idle_timeout);
    }
    tm_annex_release(w, index);
    if (memcmp(bytes, "END!", WORD) == 0)
        return tm_end_for(TM_CLOSED_killed);
    if (memcmp(bytes, "CUT!", WORD) == 0 && !tm_preface_consume(w, index, WORD))
        return tm_end_for(TM_CLOSED_local_error);
    return tm_next();
}
