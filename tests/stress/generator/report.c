/* What the clients saw, as one line of JSON. */
#include "generator.h"

#include <inttypes.h>
#include <stdio.h>

enum { WIDTH_US = 100, SLOTS = 600000 }; /* of a histogram: up to a minute */

struct seen seen;
static uint32_t times[FIGURES][SLOTS];
static const char *const causes[CAUSES] = {"refused", "reset", "ended", "silent", "wrong", "other"};
static const char *const figures[FIGURES] = {"delay", "new"};

void note_time(enum figure figure, uint64_t took)
{
    times[figure][took / WIDTH_US < SLOTS ? took / WIDTH_US : SLOTS - 1]++;
}

/* Upper end of the slot that holds this share of the times, ms; 0 = there are none. */
static double percentile(const uint32_t *histogram, uint64_t percent)
{
    uint64_t total = 0, below = 0;
    for (int i = 0; i < SLOTS; i++)
        total += histogram[i];
    for (int i = 0; total && i < SLOTS; i++) {
        below += histogram[i];
        if (below * 100 >= total * percent)
            return (i + 1) * WIDTH_US / 1000.0;
    }
    return 0;
}

static void print_causes(const char *name, const uint64_t *counts)
{
    const char *separator = "";
    printf("\"%s\": {", name);
    for (int cause = 0; cause < CAUSES; cause++) {
        if (!counts[cause])
            continue;
        printf("%s\"%s\": %" PRIu64, separator, causes[cause], counts[cause]);
        separator = ", ";
    }
    printf("}, ");
}

void report(void)
{
    printf("{");
    print_causes("streams_lost_by", seen.streams_lost);
    print_causes("opened_lost_by", seen.opened_lost);
    for (int figure = 0; figure < FIGURES; figure++)
        printf("\"%s_p50_ms\": %.1f, \"%s_p99_ms\": %.1f, \"%s_max_ms\": %.1f, ",
               figures[figure], percentile(times[figure], 50), figures[figure],
               percentile(times[figure], 99), figures[figure], percentile(times[figure], 100));
    printf("\"streams\": %" PRIu64 ", \"opened\": %" PRIu64 ", \"messages\": %" PRIu64
           ", \"bytes\": %" PRIu64 ", \"wrong\": %" PRIu64 ", \"first_loss\": \"%s\"}\n",
           seen.streams, seen.opened, seen.messages, seen.bytes, seen.wrong, seen.first_loss);
}
