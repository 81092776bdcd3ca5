/* What is kept of a client, as entries. Calls nothing but memcpy(), memmove() and memset(). */
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#include "protocol/kept_parts.h"
#include "protocol/seal.h"

/* --- the whole ------------------------------------------------------------------------------ */

_Static_assert(offsetof(struct tm_kept, seal) == 0, "as tm_seal_of() takes it");
_Static_assert(sizeof(struct tm_kept) % sizeof(uint64_t) == 0, "whole words");

/* Never 0: that is one that is being changed. */
static uint32_t seal_of(const struct tm_kept *kept)
{
    return tm_seal_of(kept, sizeof(*kept)) | 1;
}

void tm_kept_seal(struct tm_kept *kept)
{
    if (kept->seal)
        return;
    atomic_signal_fence(memory_order_seq_cst);
    kept->seal = seal_of(kept);
}

bool tm_kept_is_sealed(const struct tm_kept *kept)
{
    return kept->seal == seal_of(kept);
}

bool tm_kept_open(struct tm_kept *kept)
{
    if (kept->seal && !tm_kept_is_sealed(kept)) {
        tm_kept_give_up(kept, TM_KEPT_OTHER);
        return false;
    }
    kept->seal = 0;
    atomic_signal_fence(memory_order_seq_cst);
    return kept->state == TM_KEPT_WHOLE;
}

void tm_kept_wipe(struct tm_kept *kept)
{
    memset(kept, 0, sizeof(*kept));
}

void tm_kept_begin(struct tm_kept *kept)
{
    tm_kept_wipe(kept);
    kept->version = 1;
    kept->state = TM_KEPT_WHOLE;
    tm_kept_seal(kept);
}

void tm_kept_give_up(struct tm_kept *kept, enum tm_kept_state why)
{
    uint32_t version = kept->version + 1;
    tm_kept_wipe(kept);
    kept->version = version;
    kept->state = (uint8_t)why;
}

/* --- reading what is in there --------------------------------------------------------------- */

bool tm_kept_next_entry(const struct tm_kept *kept, size_t *at, struct tm_kept_entry *entry)
{
    const unsigned char *bytes = kept->bytes + *at;
    if (*at >= kept->size)
        return false;
    entry->kind = (enum tm_kept_kind)bytes[0];
    entry->size = tm_kept_two_bytes(bytes + 1);
    entry->arguments = bytes + TM_KEPT_HEAD;
    *at += TM_KEPT_HEAD + entry->size;
    return true;
}

bool tm_kept_next_argument(const struct tm_kept_entry *entry, size_t *at,
                           struct tm_kept_argument *argument)
{
    if (*at >= entry->size)
        return false;
    argument->size = entry->arguments[*at];
    argument->bytes = entry->arguments + *at + 1;
    *at += 1 + argument->size;
    return true;
}

/* --- entries -------------------------------------------------------------------------------- */

void tm_kept_take_out(struct tm_kept *kept, size_t at, size_t size)
{
    size_t end = tm_kept_used(kept);
    memmove(kept->bytes + at, kept->bytes + at + size, end - at - size);
    memset(kept->bytes + end - size, 0, size);
}

void tm_kept_drop(struct tm_kept *kept, enum tm_kept_kind kind)
{
    struct tm_kept_entry entry;
    for (size_t at = 0, next = 0; tm_kept_next_entry(kept, &next, &entry); at = next)
        if (entry.kind == kind) {
            tm_kept_take_out(kept, at, next - at);
            kept->size = (uint16_t)(kept->size - (next - at));
            return;
        }
}

void tm_kept_put(struct tm_kept *kept, enum tm_kept_kind kind, const unsigned char *arguments,
                 size_t size)
{
    struct tm_kept_entry entry;
    size_t at = 0, next = 0, whole = TM_KEPT_HEAD + size;
    if (kept->state != TM_KEPT_WHOLE)
        return;
    tm_kept_drop(kept, kind);
    if (tm_kept_used(kept) + whole > TM_KEPT_BYTES) {
        tm_kept_give_up(kept, TM_KEPT_TOO_MUCH);
        return;
    }
    while (tm_kept_next_entry(kept, &next, &entry) && entry.kind < kind)
        at = next;
    memmove(kept->bytes + at + whole, kept->bytes + at, tm_kept_used(kept) - at);
    kept->bytes[at] = (unsigned char)kind;
    kept->bytes[at + 1] = (unsigned char)size;
    kept->bytes[at + 2] = (unsigned char)(size >> 8);
    memcpy(kept->bytes + at + TM_KEPT_HEAD, arguments, size);
    kept->size = (uint16_t)(kept->size + whole);
}

