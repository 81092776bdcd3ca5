/* Giving connections to other workers: handoff.h. */
#ifndef TM_GIVE_H
#define TM_GIVE_H

#include "worker.h"

/* Sends one over a line, which the record says before it does. 0 or -errno. again: it may have been
 * given before. */
int tm_give(struct tm_worker *w, uint32_t index, uint32_t line, bool again)
    __attribute__((warn_unused_result));
/* Sends once more what is on its way over a line. */
void tm_give_again(struct tm_worker *w, uint32_t line);
/* It stays here, and is served again. */
void tm_give_stop(struct tm_worker *w, uint32_t index);
/* The other worker has it: what is here goes without a word to either peer. */
void tm_given(struct tm_worker *w, uint32_t index);

#endif
