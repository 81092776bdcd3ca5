/* How long a worker takes to find the rule that a connection meets, in a route table that bench.rules
 * has made: rule_match FD SOURCES NAMES PICKS, ns of CPU a pick on standard output.
 *
 * Clients are those of rule n, in a random order, so that the caches hold what they would hold. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "cpu_clock.h"
#include "pick_rules.h"

enum { CLIENTS = 1 << 16 };

int main(int argc, char **argv)
{
    static unsigned char ips[CLIENTS][16];
    static char names[CLIENTS][32];
    if (argc != 5)
        return 2;
    struct stat about;
    int fd = atoi(argv[1]);
    uint32_t sources = (uint32_t)atoi(argv[2]), hosts = (uint32_t)atoi(argv[3]), missed = 0;
    uint64_t picks = strtoull(argv[4], NULL, 10), state = 88172645463325252ull;
    if (fstat(fd, &about) < 0)
        return 1;
    const struct tm_table *table =
        mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (table == MAP_FAILED)
        return 1;
    const struct tm_image *image = tm_table_image(table, tm_table_generation(table));
    for (uint32_t i = 0; i < CLIENTS; i++) {
        state = tm_mix(state + i);
        uint32_t ip = htonl(10u << 24 | (uint32_t)(sources ? state % sources : 0) << 8 | 7);
        memcpy(ips[i], &ip, 4);
        snprintf(names[i], sizeof(names[i]), "www.host%u.example", (uint32_t)(hosts ? state % hosts : 0));
    }
    uint64_t start = cpu_ns();
    for (uint64_t i = 0; i < picks; i++) {
        uint32_t at = (uint32_t)(i % CLIENTS);
        struct tm_facts facts = {.ip = ips[at], .family = AF_INET, .tls = TM_TLS_ONLY};
        facts.sni = names[at];
        facts.sni_size = hosts ? (uint16_t)strlen(names[at]) : 0;
        missed += tm_rule_of(image, &image->routes[0], &facts) == TM_NONE;
    }
    printf("%.1f\n", (double)(cpu_ns() - start) / (double)picks);
    return (sources || hosts) && missed;
}
