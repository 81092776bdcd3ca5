/* Resuming connections that are not in epoll and timers: after a death, or from another worker. */
#ifndef TM_RESUME_H
#define TM_RESUME_H

#include "worker.h"

/* With every connection of an earlier incarnation. Needs the epoll instance. */
void tm_resume_all(struct tm_worker *w);
/* With one, in whatever state it is. */
void tm_resume(struct tm_worker *w, uint32_t index);

#endif
