/* How long a worker takes to find the destination of a sticky client: sticky_pick DESTINATIONS
 * PICKS, ns of CPU a pick on standard output, from the client's address on.
 *
 * Clients come in a random order, as the branches of a pick are the processor's to guess. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "cpu_clock.h"
#include "route_table.h"
#include "sticky.h"

enum { CLIENTS = 1 << 12 };

int main(int argc, char **argv)
{
    static unsigned char ips[CLIENTS][16];
    static struct tm_contender contenders[TM_MAX_DESTINATIONS];
    static const uint32_t prefixes[2] = {32, 64};
    if (argc != 3)
        return 2;
    uint32_t count = (uint32_t)atoi(argv[1]), last = 0;
    uint64_t picks = strtoull(argv[2], NULL, 10), state = 88172645463325252ull, won = 0;
    if (count == 0 || count > TM_MAX_DESTINATIONS)
        return 2;
    for (uint32_t i = 0; i < count; i++) {
        char name[16];
        int size = snprintf(name, sizeof(name), "v%u", i);
        contenders[i] = (struct tm_contender){
            .hash = tm_sticky_key(0, name, (size_t)size), .weight = i % 3 + 1, .destination = i};
    }
    for (int i = 0; i < CLIENTS; i++)
        for (int byte = 0; byte < 4; byte++) {
            state ^= state << 13, state ^= state >> 7, state ^= state << 17;
            ips[i][byte] = (unsigned char)(state >> 32);
        }
    uint64_t begun = cpu_ns();
    for (uint64_t n = 0; n < picks; n++) {
        const unsigned char *ip = ips[(n * 40503 + last) % CLIENTS]; /* needs the last to begin */
        last = tm_sticky_pick(contenders, count, tm_sticky_address_key(7, AF_INET, ip, prefixes));
        won += last == 0;
    }
    printf("%.2f\n", (double)(cpu_ns() - begun) / (double)picks);
    return won == 0; /* the first has won some */
}
