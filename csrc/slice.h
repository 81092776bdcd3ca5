/* How soon a worker gets the processor. */
#ifndef TM_SLICE_H
#define TM_SLICE_H

#include <stdint.h>

/* Asks for turns of so many ns for this thread, which then waits less for the processor when it
 * wakes up while another program has it, and no longer in all: Linux 6.12 takes it as a wish, an
 * older one takes no notice. Its nice value and policy stay. 0 or -errno. */
int tm_slice_ask(uint64_t ns);

/* Of a worker: what it does at a time takes less. */
#define TM_SLICE_NS UINT64_C(100000)

#endif
