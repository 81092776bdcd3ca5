/* What a process may do beyond its own work: given away for good. Runs in every process of tcpmux,
 * once, at its start.
 *
 *     tm_privileges_drop(uid, gid)   becomes that user, with nothing left: control, log, guardians
 *     tm_privileges_keep(wanted)     stays who it is, with these capabilities at most: the master
 *
 * Neither can be undone, by exec neither: no_new_privs is set, so no file gives anything back. A
 * process that had privileges has no core files and can't be traced by others of its user, as its
 * memory may hold what that user must not see.
 *
 * What the caller is not permitted to give away (as it is no root) it does not have, so that is
 * no error; what is left is looked at in the end, and an error if it is too much. After an error
 * the process must not go on: it may have lost some.
 */
#ifndef TM_PRIVILEGES_H
#define TM_PRIVILEGES_H

#include <stdint.h>
#include <sys/types.h>

/* 0 or -errno. uid and gid: those of now, or any other as root. The process may have one thread
 * only, as capabilities are a thread's. */
int tm_privileges_drop(uid_t uid, gid_t gid) __attribute__((warn_unused_result));

/* 0 or -errno. wanted: bits by number (linux/capability.h). */
int tm_privileges_keep(uint64_t wanted) __attribute__((warn_unused_result));

#endif
