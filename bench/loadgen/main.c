/* The load generator of the benchmark: a backend and the clients, one mode a process.
 *
 *   loadgen backend   --address 127.0.0.1:0 --role echo|source|sink
 *   loadgen stream    --address A --direction down|up|both --connections N --limit BYTES
 *                     --piece BYTES
 *   loadgen roundtrip --address A --connections N --message BYTES --limit UNITS [--rate R]
 *   loadgen connect   --address A --connections N --message BYTES --limit UNITS [--rate R]
 *                     [--close fin|rst]
 *   loadgen idle      --address A --connections N
 *   loadgen ask       --address A --role memcached|http1 --connections N --rate R
 *
 * All take --seconds. Each prints its outcome as one JSON line and exits 0 if it
 * could measure at all; errors of the run are a number in that line.
 */
#include "common.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct mode {
    const char *name;
    void (*run)(const struct options *options);
    const char *choice; /* the default of --role or --direction */
    unsigned message;
};

static const struct mode MODES[] = {
    {"backend", run_backend, "echo", 1},
    {"stream", run_stream, "down", 1},
    {"roundtrip", run_roundtrip, "", 64},
    {"connect", run_connect, "", 64},
    {"idle", run_idle, "", 1},
    {"ask", run_ask, "memcached", 1},
};

_Noreturn static void usage(const char *what)
{
    fprintf(stderr, "loadgen: %s\nusage: loadgen backend|stream|roundtrip|connect|idle|ask"
                    " --address 127.x.y.z:PORT [--role R] [--direction D] [--connections N]"
                    " [--message BYTES] [--piece BYTES] [--limit N] [--seconds S] [--rate R]"
                    " [--close fin|rst]\n", what);
    exit(2);
}

static uint64_t number(const char *text, uint64_t most, const char *complaint)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || *text == '-' || value < 1 || value > most)
        usage(complaint);
    return value;
}

static const struct mode *find_mode(const char *name)
{
    for (size_t i = 0; i < sizeof MODES / sizeof MODES[0]; i++)
        if (strcmp(name, MODES[i].name) == 0)
            return &MODES[i];
    usage("unknown mode");
}

static void parse_address(const char *text, struct options *options)
{
    int error = parse_loopback(text, &options->address);
    if (error == -EACCES)
        usage("--address: only 127.0.0.0/8 is allowed");
    if (error < 0)
        usage("--address: expected 127.x.y.z:PORT");
}

static void parse_seconds(const char *text, struct options *options)
{
    char *end;
    double seconds = strtod(text, &end);
    if (end == text || *end != '\0' || !(seconds > 0 && seconds <= MAX_SECONDS))
        usage("--seconds: expected more than 0 and at most 600");
    options->duration = (int64_t)(seconds * 1e9);
}

static bool parse_close(const char *text)
{
    if (strcmp(text, "rst") != 0 && strcmp(text, "fin") != 0)
        usage("--close: expected fin or rst");
    return strcmp(text, "rst") == 0;
}

int main(int argc, char **argv)
{
    static const struct option OPTIONS[] = {
        {"address", required_argument, NULL, 'a'},   {"role", required_argument, NULL, 'r'},
        {"direction", required_argument, NULL, 'r'}, {"connections", required_argument, NULL, 'c'},
        {"message", required_argument, NULL, 'm'},   {"limit", required_argument, NULL, 'l'},
        {"seconds", required_argument, NULL, 's'},   {"piece", required_argument, NULL, 'p'},
        {"rate", required_argument, NULL, 'R'},      {"close", required_argument, NULL, 'C'},
        {NULL, 0, NULL, 0},
    };
    if (argc < 2)
        usage("no mode given");
    const struct mode *mode = find_mode(argv[1]);
    struct options options = {
        .connections = 1,
        .message = mode->message,
        .piece = UINT64_C(1) << 20,
        .limit = UINT64_C(1) << 50,
        .duration = INT64_C(60) * 1000000000,
        .choice = mode->choice,
    };
    int letter;
    while ((letter = getopt_long(argc - 1, argv + 1, "", OPTIONS, NULL)) != -1) {
        switch (letter) {
        case 'a':
            parse_address(optarg, &options);
            break;
        case 'r':
            options.choice = optarg;
            break;
        case 'c':
            options.connections =
                (unsigned)number(optarg, MAX_CONNECTIONS, "--connections: expected 1..16384");
            break;
        case 'm':
            options.message = (unsigned)number(optarg, MAX_MESSAGE,
                                               "--message: expected 1..65536");
            break;
        case 'p':
            options.piece = number(optarg, MAX_PIECE, "--piece: expected 1..2^30");
            break;
        case 'l':
            options.limit = number(optarg, UINT64_C(1) << 50, "--limit: expected 1..2^50");
            break;
        case 'R':
            options.rate = number(optarg, MAX_RATE, "--rate: expected 1..1000000 a second");
            break;
        case 'C':
            options.reset = parse_close(optarg);
            break;
        case 's':
            parse_seconds(optarg, &options);
            break;
        default:
            usage("bad option");
        }
    }
    if (options.address.sin_family != AF_INET)
        usage("--address is missing");
    pattern_fill();
    mode->run(&options);
    return 0;
}
