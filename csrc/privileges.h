/* Dropping privileges for good. Runs in every process of tcpmux, once, at its start.
 *
 *     tm_privileges_drop(uid, gid)   becomes that user, without any: control, log, guardians
 *     tm_privileges_keep(wanted)     keeps its user and at most these capabilities: the master
 *
 * Neither can be undone, not even by exec: no_new_privs is set, so no file grants anything. A
 * process that had privileges makes no core files and can't be traced by others of its user, as its
 * memory may hold what that user must not see.
 *
 * A process that is not permitted to drop a privilege (it is not root) does not have it, so that
 * is no error. The result is checked at the end, and too much is an error. After an error the
 * process must not go on: it may have dropped some.
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
