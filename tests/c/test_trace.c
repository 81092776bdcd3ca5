/* Tests csrc/trace: a connection that comes back to a route is found, one that does not never is. */
#include "trace.h"

#include <stdlib.h>
#include <unistd.h>

#include "check.h"

/* Steps from the first until a route knows itself again, on a way that enters a circle after `tail`
 * routes; 0: it never does in `most` steps. circle 0: there is none. */
static uint32_t steps_until_known(uint32_t tail, uint32_t circle, uint32_t most)
{
    struct tm_trace trace = {0, 0};
    for (uint32_t step = 0; step < most; step++) {
        uint32_t route = step < tail || circle == 0 ? step : tail + (step - tail) % circle;
        if (trace.steps && trace.route == route)
            return step;
        trace = tm_trace_of(tm_trace_note(0, tm_trace_step(trace, route)));
        CHECK_EQUAL(trace.steps, step + 1);
    }
    return 0;
}

static void every_circle_is_found_and_no_chain(void)
{
    CHECK_EQUAL(steps_until_known(0, 1, 10), 1);
    CHECK_EQUAL(steps_until_known(4000, 0, 4000), 0); /* as many routes as there can be, once each */
    for (uint32_t tail = 0; tail < 40; tail++)
        for (uint32_t circle = 1; circle < 40; circle++) {
            uint32_t steps = steps_until_known(tail, circle, 1000);
            CHECK(steps >= tail + circle);
            CHECK(steps <= 3 * (tail + circle) + 1);
        }
}

static void a_note_holds_what_it_is_given(void)
{
    struct tm_trace trace = tm_trace_of(tm_trace_note((uint64_t)7 << 32, (struct tm_trace){5, TM_MAX_SLOTS}));
    CHECK_EQUAL(trace.steps, 5);
    CHECK_EQUAL(trace.route, TM_MAX_SLOTS);
    CHECK_EQUAL(tm_trace_of(tm_trace_note(0, (struct tm_trace){1 << 20, 3})).steps, TM_TRACE_STEPS);
}

static void ends_are_told_apart(void)
{
    struct tm_peer four = {AF_INET, 80, {10, 0, 0, 1}}, other = {AF_INET, 81, {10, 0, 0, 1}};
    struct tm_peer mapped = {AF_INET6, 80, {[10] = 0xff, [11] = 0xff, 10, 0, 0, 1}};
    struct tm_peer six = {AF_INET6, 80, {10, 0, 0, 1}};
    uint64_t ends = tm_trace_ends(&four, &other);
    CHECK(ends >> 32 != 0 && (uint32_t)ends == 0);
    CHECK_EQUAL(tm_trace_ends(&mapped, &other), ends);
    CHECK(tm_trace_ends(&other, &four) != ends);
    CHECK(tm_trace_ends(&six, &other) != ends);
    CHECK(tm_trace_ends(&four, &four) != ends);
    CHECK_EQUAL(tm_trace_origin(&mapped), tm_trace_origin(&four));
    CHECK(tm_trace_origin(&other) != tm_trace_origin(&four));
}

/* Both ends of a connection over loopback: [0] accepted, [1] connected. */
static void connection(int fds[2], struct tm_peer *from, struct tm_peer *to)
{
    struct tm_address address = {.length = sizeof(address.in)};
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    address.in = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    CHECK(bind(listener, &address.any, address.length) == 0 && listen(listener, 1) == 0);
    CHECK(getsockname(listener, &address.any, &address.length) == 0);
    tm_peer_from(to, &address);
    fds[1] = tm_sock_connect(&address, false);
    CHECK(fds[1] >= 0);
    while ((fds[0] = tm_sock_accept(listener, from)) == -EAGAIN)
        ;
    CHECK(fds[0] >= 0);
    close(listener);
}

static void whoever_accepts_finds_the_note(void)
{
    struct tm_traces *traces = calloc(1, sizeof(*traces));
    struct tm_peer client, middle, nobody, end;
    int first[2], second[2];
    CHECK(traces);
    connection(first, &client, &nobody);
    connection(second, &middle, &end);
    CHECK(!tm_trace_is_loop(traces, first[0], &client, 3));
    /* Not its turn to be traced, as nothing is known of where it comes from. */
    tm_trace_connect(traces, first[0], &client, second[1], &end, 3, 1);
    CHECK(!tm_trace_is_loop(traces, second[0], &middle, 3));
    tm_trace_connect(traces, first[0], &client, second[1], &end, 3, TM_TRACE_EVERY);
    CHECK(!tm_trace_is_loop(traces, second[0], &middle, 4));
    CHECK(tm_trace_is_loop(traces, second[0], &middle, 3));
    CHECK(!tm_trace_is_loop(traces, second[0], &middle, 3)); /* told once */
    /* Somebody else's note under this port. */
    tm_trace_connect(traces, first[0], &client, second[1], &nobody, 3, 0);
    CHECK(atomic_load(&traces->notes[middle.port % TM_TRACE_NOTES]) != 0);
    CHECK(!tm_trace_is_loop(traces, second[0], &middle, 3));
    /* A connection that has one is traced on, whatever its number. */
    tm_trace_connect(traces, first[0], &client, second[1], &end, 3, 0);
    tm_trace_connect(traces, second[0], &middle, first[1], &nobody, 4, 1);
    CHECK_EQUAL(tm_trace_find(traces, first[0], &client, false).steps, 2);
    CHECK(tm_trace_is_loop(traces, first[0], &client, 4));
    for (int i = 0; i < 2; i++)
        close(first[i]), close(second[i]);
    free(traces);
}

int main(void)
{
    RUN(every_circle_is_found_and_no_chain);
    RUN(a_note_holds_what_it_is_given);
    RUN(ends_are_told_apart);
    RUN(whoever_accepts_finds_the_note);
    return 0;
}
