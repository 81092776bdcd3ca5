/* A conversation in any of the protocols comes to the same however it is cut, takes no longer than
 * its bytes, and never leaves the state's memory; and what is kept of a client of Redis can be told
 * and is wiped where it is not kept any more.
 *
 * An input: the protocol; then parts, each with a byte of its side (the highest bit) and size. */
#include "protocol/talk.h"

#include "fuzz.h"

struct part {
    int side;
    const uint8_t *bytes;
    size_t size;
};

static size_t next_part(const uint8_t *data, size_t size, struct part *part)
{
    size_t most = data[0] & 0x7f;
    part->side = data[0] >> 7;
    part->bytes = data + 1;
    part->size = size - 1 < most ? size - 1 : most;
    return 1 + part->size;
}

static void feed(struct tm_talk *talk, struct tm_kept *kept, int side, const uint8_t *bytes,
                 size_t size)
{
    uint8_t *exact = exact_copy(bytes, size);
    tm_talk_feed(talk, kept, side, exact, size);
    free(exact);
    HOLDS(talk->moment < TM_MOMENTS);
    HOLDS(tm_kept_is_sealed(kept));
    for (size_t at = kept->size + kept->pending + kept->taking; at < TM_KEPT_BYTES; at++)
        HOLDS(kept->bytes[at] == 0);
    HOLDS(kept->state == TM_KEPT_WHOLE || kept->size + kept->pending + kept->taking == 0);
}

static void tell(const struct tm_kept *kept)
{
    unsigned char *bytes = malloc(TM_REDIS_TOLD_MOST);
    struct tm_redis_talk talk;
    size_t size = tm_redis_tell(&talk, kept, bytes);
    HOLDS(size <= TM_REDIS_TOLD_MOST);
    HOLDS(talk.owed >= 1 && talk.owed <= TM_KEPT_KINDS);
    free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tm_talk *whole = malloc(sizeof(*whole)), *cut = malloc(sizeof(*cut));
    enum tm_protocol protocol = (enum tm_protocol)(size ? data[0] % TM_PROTOCOLS : 0);
    uint32_t state = first_number(data, size);
    struct tm_kept *kept = malloc(sizeof(*kept)), *kept_cut = malloc(sizeof(*kept_cut));
    tm_kept_begin(kept);
    tm_kept_begin(kept_cut);
    tm_talk_begin(whole, protocol);
    tm_talk_begin(cut, protocol);
    for (size_t at = 1; at < size;) {
        struct part part;
        at += next_part(data + at, size - at, &part);
        feed(whole, kept, part.side, part.bytes, part.size);
        for (size_t done = 0; done < part.size;) {
            size_t some = 1 + next_number(&state) % 8;
            if (some > part.size - done)
                some = part.size - done;
            feed(cut, kept_cut, part.side, part.bytes + done, some);
            done += some;
        }
        HOLDS(whole->moment == cut->moment);
        HOLDS(whole->fed[0] == cut->fed[0] && whole->fed[1] == cut->fed[1]);
        HOLDS(whole->moment == TM_MOMENT_UNKNOWN || memcmp(whole, cut, sizeof(*cut)) == 0);
        HOLDS(memcmp(kept, kept_cut, sizeof(*kept)) == 0);
        struct tm_talk mended = *cut;
        tm_talk_mend(&mended);
        HOLDS(memcmp(&mended, cut, sizeof(*cut)) == 0);
    }
    tell(kept);
    free(kept);
    free(kept_cut);
    free(whole);
    free(cut);
    return 0;
}
