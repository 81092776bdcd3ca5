/* A request is told by its first 8 bytes, no prefix of one is anything else, and what is none is so
 * whatever follows. */
#include "postgres.h"

#include "fuzz.h"

static enum tm_postgres_first parse(const uint8_t *bytes, size_t size)
{
    uint8_t *exact = exact_copy(bytes, size);
    enum tm_postgres_first first = tm_postgres_parse(exact, size);
    free(exact);
    return first;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum tm_postgres_first first = parse(data, size);
    int is_request = first == TM_POSTGRES_SSL_REQUEST || first == TM_POSTGRES_GSS_REQUEST;
    HOLDS(!is_request || size >= TM_POSTGRES_REQUEST);
    HOLDS((first == TM_POSTGRES_SSL_REQUEST) ==
          (size >= TM_POSTGRES_REQUEST &&
           memcmp(data, tm_postgres_ssl_request, TM_POSTGRES_REQUEST) == 0));
    for (size_t cut = 0; cut < size && cut < 2 * TM_POSTGRES_REQUEST; cut++) {
        enum tm_postgres_first part = parse(data, cut);
        HOLDS(part == TM_POSTGRES_MORE || (first != TM_POSTGRES_MORE && part == first));
        HOLDS(!is_request || (part == TM_POSTGRES_MORE) == (cut < TM_POSTGRES_REQUEST));
    }
    return 0;
}
