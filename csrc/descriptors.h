/* The owner of every open descriptor of this process. Used after the death of a worker, whose
 * descriptor table outlives it, to find descriptors that no record names.
 *
 *     tm_descriptors_list(&all)           what is open now
 *     tm_descriptors_free_to_claim(&all, fd)
 *     tm_descriptors_claim(&all, fd)      false: not open, or somebody else's already
 *     for (fd = tm_descriptors_next(&all, 0); fd >= 0; fd = tm_descriptors_next(&all, fd + 1))
 *         ...                             nobody's
 *     tm_descriptors_free(&all)
 *
 * A claim that succeeds proves that the number stands for an open descriptor and that no two
 * records have it. One thread only: what is opened after the list is not in it.
 */
#ifndef TM_DESCRIPTORS_H
#define TM_DESCRIPTORS_H

#include <stdbool.h>
#include <stdint.h>

struct tm_descriptors {
    uint8_t *states; /* by number */
    int32_t size;
};

/* 0 or -errno. */
int tm_descriptors_list(struct tm_descriptors *all) __attribute__((warn_unused_result));
bool tm_descriptors_free_to_claim(const struct tm_descriptors *all, int fd);
bool tm_descriptors_claim(struct tm_descriptors *all, int fd);
int tm_descriptors_next(const struct tm_descriptors *all, int from);
void tm_descriptors_free(struct tm_descriptors *all);

/* How many are open in this process; 0 = not known (Linux 6.2 counts them). */
uint32_t tm_descriptors_count(void);

/* What it is, whatever a record says of it. */
bool tm_is_socket(int fd);
/* AF_INET, AF_INET6 or AF_UNIX of a connection's socket; -1: it is none. */
int tm_stream_family(int fd);
bool tm_is_listening(int fd);
/* Whether it is the end of a line to the master or to another worker; no client's or endpoint's
 * socket is. */
bool tm_is_line(int fd);
/* The two ends of one pipe. */
bool tm_is_pipe(int in, int out);

#endif
