/* Annexes of records. Runs in a worker.
 *
 * A free one has no generation, its `owner` is the next free one, and all else of it is zero. */
#include "conn/annex.h"

#include <assert.h>
#include <string.h>
#include <unistd.h>

#include "trust.h"

static bool is_owned(const struct tm_worker *w, uint32_t at)
{
    const struct tm_annex *annex = &w->annexes[at];
    return annex->generation && annex->owner < w->live->records_used &&
           w->colds[annex->owner].annex == at + 1 &&
           w->records[annex->owner].generation == annex->generation;
}

/* What it has of its client is wiped while it is still said to be somebody's: a death in between
 * leaves that to tm_annex_recover(). */
static void make_free(struct tm_worker *w, uint32_t at)
{
    struct tm_annex *annex = &w->annexes[at];
    if (annex->generation) {
        explicit_bzero(annex->bytes, sizeof(annex->bytes));
        annex->talk = (struct tm_talk){0};
        annex->length = 0;
    }
    atomic_signal_fence(memory_order_seq_cst);
    tm_annex_disown(annex);
    annex->owner = w->free_annex;
    w->free_annex = at;
}

void tm_annex_mend(struct tm_annex *annex)
{
    struct tm_known *known = tm_known_in(annex);
    const struct tm_kept *kept;
    tm_known_mend(known);
    tm_talk_mend(&annex->talk);
    kept = tm_kept_in(annex);
    if (known->first_bytes != TM_FIRST_TLS && !(kept && tm_kept_is_sealed(kept)))
        tm_kept_wipe(&known->kept);
}

struct tm_annex *tm_annex_take(struct tm_worker *w, uint32_t index)
{
    struct tm_annex *annex;
    uint32_t at = w->free_annex;
    assert(w->colds[index].annex == 0);
    if (at != TM_NONE)
        w->free_annex = w->annexes[at].owner;
    else if (w->live->annexes_used < w->capacity)
        at = w->live->annexes_used++;
    else
        return NULL;
    annex = &w->annexes[at];
    for (int i = 0; i < TM_ANNEX_FDS; i++)
        annex->fd[i] = -1;
    tm_annex_own(annex, index, w->records[index].generation);
    atomic_signal_fence(memory_order_seq_cst);
    w->colds[index].annex = at + 1;
    return annex;
}

void tm_annex_release(struct tm_worker *w, uint32_t index)
{
    struct tm_annex *annex = tm_annex_of(w, index);
    for (int i = 0; i < TM_ANNEX_FDS; i++) {
        int fd = annex->fd[i];
        if (fd < 0)
            continue;
        annex->fd[i] = -1;
        atomic_signal_fence(memory_order_seq_cst);
        close(fd);
    }
    w->colds[index].annex = 0;
    atomic_signal_fence(memory_order_seq_cst);
    make_free(w, (uint32_t)(annex - w->annexes));
}

bool tm_annex_claim(struct tm_worker *w, uint32_t index, struct tm_descriptors *all)
{
    struct tm_cold *cold = &w->colds[index];
    struct tm_annex *annex;
    bool whole;
    if (cold->annex == 0)
        return true;
    if (cold->annex > w->live->annexes_used || !is_owned(w, cold->annex - 1) ||
        w->annexes[cold->annex - 1].owner != index) {
        cold->annex = 0;
        return false;
    }
    annex = &w->annexes[cold->annex - 1];
    whole = annex->length <= TM_ANNEX_BYTES;
    if (w->records[index].state != TM_SHADOWING) /* of which it is a comparison */
        tm_annex_mend(annex);
    for (int i = 0; i < TM_ANNEX_FDS; i++) {
        /* Those that are its own stay with it, to be closed. */
        if (annex->fd[i] >= 0 && !tm_descriptors_claim(all, annex->fd[i])) {
            annex->fd[i] = -1;
            whole = false;
        }
    }
    return whole;
}

void tm_annex_recover(struct tm_worker *w)
{
    w->free_annex = TM_NONE;
    for (uint32_t at = 0; at < w->live->annexes_used; at++)
        if (!is_owned(w, at) || !tm_is_in_use(w->records[w->annexes[at].owner].state))
            make_free(w, at);
}
