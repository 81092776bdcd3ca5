/* Settings in the route table of how live connections are brought to the weights. */
#ifndef TM_CONVERGENCE_H
#define TM_CONVERGENCE_H

#include <stdint.h>

/* In the order of CONVERGE_METHOD. */
enum tm_converge_method { TM_METHOD_CLOSE = 0, TM_METHOD_REHOME };

/* How live connections of a route are brought to the weights, while that lasts; control does it.
 * Read and written as one array: tcpmux/shm/image.py has the same fields in the same order. */
struct tm_convergence {
    uint64_t began_ms;     /* CLOCK_MONOTONIC; 0 = it does not */
    uint64_t by_key;       /* it follows the route's settings; 0 = somebody has asked for it */
    uint64_t rate;         /* connections per 1,000 s */
    uint64_t rate_percent; /* percent of the route's live connections per 1,000 s, instead */
    uint64_t order;        /* index of CONVERGE_ORDER: tcpmux/config/converge.py */
    uint64_t quiet_ms;
    uint64_t deadline_ms; /* after it began */
    uint64_t then;        /* index of CONVERGE_THEN */
    uint64_t tolerance;   /* connections */
    uint64_t method;      /* index of CONVERGE_METHOD */
    uint64_t goodbye;     /* 0 or 1 */
};

#endif
