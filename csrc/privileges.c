/* Giving privileges away. */
#include "privileges.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MAX_CAPABILITIES = 64 };

struct capabilities {
    uint64_t effective, permitted, inheritable;
};

static int get(struct capabilities *found)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {0};
    if (syscall(SYS_capget, &head, data) < 0)
        return -errno;
    found->effective = data[0].effective | (uint64_t)data[1].effective << 32;
    found->permitted = data[0].permitted | (uint64_t)data[1].permitted << 32;
    found->inheritable = data[0].inheritable | (uint64_t)data[1].inheritable << 32;
    return 0;
}

static int set(uint64_t wanted, uint64_t inheritable)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    for (int half = 0; half < 2; half++) {
        data[half].effective = data[half].permitted = (uint32_t)(wanted >> 32 * half);
        data[half].inheritable = (uint32_t)(inheritable >> 32 * half);
    }
    return syscall(SYS_capset, &head, data) < 0 ? -errno : 0;
}

/* Of the bounding set; only who has CAP_SETPCAP may, and the others gain nothing by it. */
static void bound(uint64_t wanted)
{
    for (int number = 0; number < MAX_CAPABILITIES; number++)
        if (!(wanted >> number & 1) && prctl(PR_CAPBSET_READ, number, 0, 0, 0) == 1)
            (void)prctl(PR_CAPBSET_DROP, number, 0, 0, 0);
}

static int hide(void)
{
    struct rlimit none = {0, 0};
    if (setrlimit(RLIMIT_CORE, &none) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ||
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return -errno;
    return 0;
}

/* Whether the ids are these three times each, and no group is beside them. */
static bool is(uid_t uid, gid_t gid)
{
    uid_t users[3];
    gid_t groups[3];
    return getresuid(&users[0], &users[1], &users[2]) == 0 &&
           getresgid(&groups[0], &groups[1], &groups[2]) == 0 && users[0] == uid &&
           users[1] == uid && users[2] == uid && groups[0] == gid && groups[1] == gid &&
           groups[2] == gid;
}

static int become(uid_t uid, gid_t gid)
{
    /* As the last act of a root: later there is no right to. Without root there may be some that
     * can't be given away, as in a user namespace. */
    bool changes = !is(uid, gid);
    if (setgroups(0, NULL) < 0 && (changes || errno != EPERM))
        return -errno;
    if (changes && (setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0))
        return -errno;
    return is(uid, gid) ? 0 : -EPERM;
}

int tm_privileges_drop(uid_t uid, gid_t gid)
{
    struct capabilities left = {0};
    int error;
    bound(0);
    (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); /* Linux 4.3 */
    error = become(uid, gid);
    if (error == 0)
        error = set(0, 0);
    if (error == 0)
        error = hide();
    if (error == 0)
        error = get(&left);
    if (error == 0 && (left.effective | left.permitted | left.inheritable))
        error = -EPERM;
    if (error == 0 && uid != 0 && (setuid(0) == 0 || seteuid(0) == 0))
        error = -EPERM;
    return error;
}

int tm_privileges_keep(uint64_t wanted)
{
    struct capabilities has = {0};
    int error = get(&has);
    if (error < 0)
        return error;
    bound(wanted);
    /* What is ambient has to be inheritable, and is what a service manager has given to who is no
     * root: it is needed across exec by the next build. */
    error = set(has.permitted & wanted, has.inheritable & has.permitted & wanted);
    return error < 0 ? error : hide();
}
