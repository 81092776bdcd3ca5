/* Tests csrc/privileges: what is given away is gone, also across exec. Each case in a process of its
 * own. Runs alone, under sanitizers; as root it tests more. */
#include "privileges.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { OTHER = 4242, GROUP = 4243, BIND = CAP_NET_BIND_SERVICE };

static uint64_t permitted(void)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {0};
    CHECK(syscall(SYS_capget, &head, data) == 0);
    CHECK_EQUAL(data[0].effective, data[0].permitted);
    return data[0].permitted | (uint64_t)data[1].permitted << 32;
}

static void in_a_process(void (*test)(void))
{
    int status;
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        test();
        _exit(0);
    }
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK_EQUAL(status, 0);
}

static void is_hidden(void)
{
    struct rlimit core;
    CHECK(getrlimit(RLIMIT_CORE, &core) == 0);
    CHECK(core.rlim_cur == 0 && core.rlim_max == 0);
    CHECK_EQUAL(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), 0);
    CHECK_EQUAL(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
}

static void drop_to_another(void)
{
    gid_t groups[] = {0, 1, GROUP};
    CHECK(setgroups(3, groups) == 0);
    CHECK_EQUAL(tm_privileges_drop(OTHER, GROUP), 0);
    CHECK(getuid() == OTHER && geteuid() == OTHER && getgid() == GROUP && getegid() == GROUP);
    CHECK_EQUAL(getgroups(0, NULL), 0);
    CHECK_EQUAL(permitted(), 0);
    for (int number = 0; number < 41; number++)
        CHECK_EQUAL(prctl(PR_CAPBSET_READ, number, 0, 0, 0) == 1, 0);
    CHECK(setuid(0) < 0 && seteuid(0) < 0 && setgid(0) < 0 && setgroups(0, NULL) < 0);
    CHECK(open("/etc/shadow", O_RDONLY) < 0);
    is_hidden();
    /* Twice, as a guardian that has become another build. */
    CHECK_EQUAL(tm_privileges_drop(OTHER, GROUP), 0);
    CHECK_EQUAL(tm_privileges_drop(0, 0), -EPERM);
}

static void drop_as_oneself(void)
{
    CHECK_EQUAL(tm_privileges_drop(getuid(), getgid()), 0);
    CHECK_EQUAL(permitted(), 0);
    is_hidden();
}

static void keep_one(void)
{
    uint64_t before = permitted();
    CHECK_EQUAL(tm_privileges_keep(1u << BIND), 0);
    CHECK_EQUAL(permitted(), before & 1u << BIND);
    is_hidden();
    if (geteuid() != 0)
        return;
    CHECK_EQUAL(prctl(PR_CAPBSET_READ, BIND, 0, 0, 0), 1);
    CHECK_EQUAL(prctl(PR_CAPBSET_READ, CAP_SYS_ADMIN, 0, 0, 0), 0);
    /* Who may not become another user is told so, and must end. */
    CHECK_EQUAL(tm_privileges_drop(OTHER, GROUP), -EPERM);
}

static void of_another_user_for_good(void)
{
    if (geteuid() == 0)
        in_a_process(drop_to_another);
}

static void of_oneself_nothing_is_left(void)
{
    in_a_process(drop_as_oneself);
}

static void the_master_keeps_what_it_says(void)
{
    in_a_process(keep_one);
}

int main(void)
{
    RUN(of_another_user_for_good);
    RUN(of_oneself_nothing_is_left);
    RUN(the_master_keeps_what_it_says);
    return 0;
}
