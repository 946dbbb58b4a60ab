/* System calls that the C library of Debian 12 has no wrapper for. */
#include "nofx.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* sys_default_signals has each signal do what it does by itself: whoever started
 * us may have ignored some, as nohup does, and that would be inherited. It is the
 * kernel's call: the C library's refuses the two that it keeps to itself. */
bool sys_default_signals(void)
{
	static const unsigned long dfl[4]; /* SIG_DFL, no flags, restorer, mask */

	for (int i = 1; i < NSIG; i++)
		if (i != SIGKILL && i != SIGSTOP && syscall(SYS_rt_sigaction, i, dfl, NULL, 8) != 0)
			return false;
	return true;
}

/* sys_clone3 forks; cgroup_fd >= 0 lets the child be born in that v2 group. */
pid_t sys_clone3(uint64_t flags, int *pidfd, int cgroup_fd)
{
	struct clone_args a = { .flags = flags, .exit_signal = SIGCHLD };

	if (pidfd != NULL) {
		a.flags |= CLONE_PIDFD;
		a.pidfd = (uint64_t)(uintptr_t)pidfd;
	}
	if (cgroup_fd >= 0) {
		a.flags |= CLONE_INTO_CGROUP;
		a.cgroup = (uint64_t)cgroup_fd;
	}
	return (pid_t)syscall(SYS_clone3, &a, sizeof(a));
}

int sys_openat2(int dir, const char *path, int flags, unsigned mode, uint64_t resolve)
{
	struct open_how how = { .flags = (uint64_t)(flags | O_CLOEXEC), .mode = mode, .resolve = resolve };
	int fd, tries = 0;

	do { /* EAGAIN: a rename raced with the look-up of ".." */
		fd = (int)syscall(SYS_openat2, dir, path, &how, sizeof(how));
	} while (fd < 0 && errno == EAGAIN && ++tries < 64);
	return fd;
}

int sys_open_tree(const char *path, unsigned flags)
{
	return (int)syscall(SYS_open_tree, AT_FDCWD, path, flags | OPEN_TREE_CLOEXEC);
}

int sys_move_mount(int from, const char *to)
{
	return (int)syscall(SYS_move_mount, from, "", AT_FDCWD, to, MOVE_MOUNT_F_EMPTY_PATH);
}

/* sys_mount_attr sets attributes of a mount, and its id map if userns >= 0.
 * What is mounted below it elsewhere later does not come here: a clone of a
 * shared mount is shared, too. */
int sys_mount_attr(int dir, const char *path, unsigned flags, uint64_t set, int userns)
{
	struct mount_attr a = { .attr_set = set, .propagation = MS_PRIVATE };

	if (userns >= 0) {
		a.attr_set |= MOUNT_ATTR_IDMAP;
		a.userns_fd = (uint64_t)userns;
	}
	return (int)syscall(SYS_mount_setattr, dir, path, flags, &a, sizeof(a));
}

int sys_pivot_root(const char *new_root, const char *put_old)
{
	return (int)syscall(SYS_pivot_root, new_root, put_old);
}

int sys_pidfd_kill(int pidfd, int sig)
{
	return (int)syscall(SYS_pidfd_send_signal, pidfd, sig, NULL, 0);
}

int sys_close_from(unsigned first, unsigned flags)
{
	return (int)syscall(SYS_close_range, first, ~0u, flags);
}

/* set_caps leaves exactly these of the first 32 capabilities, in permitted
 * and effective; nothing inheritable. */
bool set_caps(uint32_t permitted)
{
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct d[2];

	memset(d, 0, sizeof(d));
	d[0].permitted = d[0].effective = permitted;
	return syscall(SYS_capset, &h, d) == 0;
}

static int sleep_for_ever(void *arg)
{
	(void)arg;
	for (;;)
		syscall(SYS_pause);
	return 0;
}

static bool write_maps(pid_t pid, const char *map)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/uid_map", pid);
	if (!write_file(path, map))
		return false;
	snprintf(path, sizeof(path), "/proc/%d/gid_map", pid);
	return write_file(path, map);
}

/* userns_fd gives a user namespace with nobody in it whose map has one entry:
 * it is the table by which a mount translates owners. */
int userns_fd(uint32_t inside, uint32_t outside)
{
	static uint8_t stack[8192] __attribute__((aligned(16)));
	char map[64], path[64];
	int fd = -1, err;
	pid_t pid = clone(sleep_for_ever, stack + sizeof(stack), CLONE_VM | CLONE_NEWUSER | SIGCHLD, NULL);

	if (pid < 0)
		return -1;
	snprintf(map, sizeof(map), "%u %u 1\n", inside, outside);
	if (write_maps(pid, map)) {
		snprintf(path, sizeof(path), "/proc/%d/ns/user", pid);
		fd = open(path, O_RDONLY | O_CLOEXEC);
	}
	err = errno;
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	errno = err;
	return fd;
}
