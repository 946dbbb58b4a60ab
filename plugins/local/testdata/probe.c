/* Tries what a step must not be able to do, one attempt a line: name, result.
 * 0 = it went through, else the errno. Run outside of a sandbox it is the
 * control that proves that the attempts are real. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static void say(const char *name, long r)
{
	printf("%s %d\n", name, r < 0 ? errno : 0);
	fflush(stdout);
}

/* apart runs f in a child, so that what it changes is gone with it. */
static void apart(const char *name, long (*f)(void))
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		long r = f();

		_exit(r < 0 ? errno : 0);
	}
	waitpid(pid, &status, 0);
	printf("%s %d\n", name, WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status));
	fflush(stdout);
}

static long unshare_user(void) { return unshare(CLONE_NEWUSER); }
static long unshare_mounts(void) { return unshare(CLONE_NEWNS); }
static long unshare_net(void) { return unshare(CLONE_NEWNET); }
static long clone_user(void) { return syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0); }
static long clone3_plain(void)
{
	uint64_t a[8] = { 0 };

	a[4] = SIGCHLD;
	return syscall(SYS_clone3, a, 64);
}
static long mount_tmpfs(void)
{
	unshare(CLONE_NEWNS);
	mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
	return mount("none", "/tmp", "tmpfs", 0, NULL);
}
static long remount_root(void) { return mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND, NULL); }
static long umount_proc(void)
{
	unshare(CLONE_NEWNS);
	mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
	mount("none", "/tmp", "tmpfs", 0, NULL);
	return umount2("/tmp", MNT_DETACH);
}
static long fsopen_tmpfs(void) { return syscall(SYS_fsopen, "tmpfs", 0); }
static long open_tree_root(void) { return syscall(SYS_open_tree, AT_FDCWD, "/", 1); }
static long chroot_tmp(void) { return chroot("/tmp"); }
static long setns_self(void) { return setns(open("/proc/self/ns/uts", O_RDONLY), 0); }
static long mknod_null(void)
{
	long r = mknod("/tmp/nofx-probe-node", S_IFCHR | 0666, makedev(1, 3));

	unlink("/tmp/nofx-probe-node");
	return r;
}
static long hostname(void)
{
	char name[64] = "";

	gethostname(name, sizeof(name) - 1);
	return sethostname(name, strlen(name));
}
static long keyctl_read(void) { return syscall(SYS_keyctl, 0, -3, 0, 0, 0); }
static long bpf_map(void)
{
	uint32_t a[32] = { 2, 4, 4, 1 };

	return syscall(SYS_bpf, 0, a, sizeof(a));
}
static long uring(void)
{
	char p[120] = { 0 };

	return syscall(425, 1, p);
}
static long userfault(void) { return syscall(SYS_userfaultfd, 0); }
static long perf(void)
{
	uint64_t a[16] = { 0 };

	a[0] = 1 | (uint64_t)sizeof(a) << 32;
	return syscall(SYS_perf_event_open, a, 0, -1, -1, 0);
}
static long handle(void)
{
	struct { unsigned n; int t; char b[8]; } h = { 8, 1, { 0 } };
	long r = syscall(SYS_open_by_handle_at, AT_FDCWD, &h, O_RDONLY);

	return r < 0 && errno == ESTALE ? 0 : r;
}
static long nice_up(void) { return setpriority(PRIO_PROCESS, 0, -5); }
static long core_limit(void)
{
	struct rlimit r = { RLIM_INFINITY, RLIM_INFINITY };

	return setrlimit(RLIMIT_CORE, &r);
}
static long limits_of_parent(void)
{
	struct rlimit r = { 100, 100 };

	return prlimit(getppid(), RLIMIT_CPU, &r, NULL);
}
static long write_pattern(void)
{
	int fd = open("/proc/sys/kernel/core_pattern", O_WRONLY);

	return fd;
}
static long i386_getpid(void)
{
#ifdef __x86_64__
	long r;

	__asm__ volatile("int $0x80" : "=a"(r) : "a"(20L) : "memory", "r8", "r9", "r10", "r11");
	if (r < 0) {
		errno = (int)-r;
		return -1;
	}
	return r;
#else
	errno = ENOSYS;
	return -1;
#endif
}
static long x32_getpid(void) { return syscall(0x40000000 | SYS_getpid); }
static long tiocsti(void)
{
	char c = 'x';
	int fd = open("/dev/ptmx", O_RDWR | O_NOCTTY);
	long r = ioctl(fd, TIOCSTI, &c);

	return r < 0 && errno == EIO ? 0 : r; /* EIO: switched off for all, but it got there */
}
static long setuid_root(void) { return setuid(0); }
static long kill_all_outside(void) { return kill(-1, 0); }

/* of puts the attacked process into a path. */
static const char *of(const char *path, pid_t pid)
{
	static char buf[256];

	if (strncmp(path, "/proc/PID/", 10) != 0)
		return path;
	snprintf(buf, sizeof(buf), "/proc/%d/%s", pid, path + 10);
	return buf;
}

static void files(pid_t pid)
{
	static const char *const paths[] = {
		"/etc/shadow", "/root", "/proc/kcore", "/proc/PID/environ", "/proc/PID/root/etc", "/proc/PID/mem", "/proc/PID/exe",
		"/dev/kmsg", "/dev/mem", "/dev/vda", "/dev/sda", "/dev/loop0", "/dev/kvm", "/dev/fuse", "/proc/kmsg",
	};
	char name[128];

	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		int fd = open(of(paths[i], pid), O_RDONLY | O_NONBLOCK);
		char b;

		snprintf(name, sizeof(name), "read:%s", paths[i]);
		if (fd >= 0 && strcmp(paths[i], "/root") != 0 && strcmp(paths[i], "/proc/PID/root/etc") != 0 && strstr(paths[i], "mem") == NULL &&
		    read(fd, &b, 1) == 0) { /* masked: it is empty */
			errno = ENODATA;
			close(fd);
			fd = -1;
		}
		say(name, fd);
		if (fd >= 0)
			close(fd);
	}
	static const char *const writes[] = {
		"/proc/sys/kernel/core_pattern", "/proc/sys/vm/overcommit_memory", "/proc/sysrq-trigger", "/proc/sys/kernel/modprobe",
		"/usr/bin/true", "/etc/passwd", "/dev/new", "/proc/PID/oom_score_adj", "/sys/new", "/new", "/proc/sys/net/ipv4/ip_forward",
	};
	for (size_t i = 0; i < sizeof(writes) / sizeof(writes[0]); i++) {
		int fd = open(of(writes[i], pid), O_WRONLY | (strstr(writes[i], "new") ? O_CREAT : 0), 0600);

		snprintf(name, sizeof(name), "write:%s", writes[i]);
		if (fd >= 0 && strncmp(writes[i], "/proc", 5) != 0 && write(fd, "", 0) < 0)
			fd = -1;
		struct stat st;
		if (fd >= 0 && fstat(fd, &st) == 0 && S_ISCHR(st.st_mode)) { /* masked by /dev/null */
			errno = ENODATA;
			fd = -1;
		}
		say(name, fd);
		if (fd >= 0 && strstr(writes[i], "new"))
			unlink(writes[i]);
	}
}

static void sockets(void)
{
	char name[64];

	for (int f = 1; f < 46; f++) {
		for (int type = 1; type <= 3; type += 2) {
			int s = socket(f, type, f == 16 ? 0 : 0);

			snprintf(name, sizeof(name), "socket:%d:%d", f, type);
			say(name, s);
			if (s >= 0)
				close(s);
		}
	}
	for (int p = 0; p < 23; p++) {
		int s = socket(AF_NETLINK, SOCK_RAW, p);

		snprintf(name, sizeof(name), "netlink:%d", p);
		say(name, s);
		if (s >= 0)
			close(s);
	}
}

int main(int argc, char **argv)
{
	pid_t pid = argc > 1 ? atoi(argv[1]) : 1; /* somebody to attack */
	char b[8];
	struct iovec l = { b, sizeof(b) }, r = { b, sizeof(b) };

	apart("unshare:user", unshare_user);
	apart("unshare:mounts", unshare_mounts);
	apart("unshare:net", unshare_net);
	apart("clone:user", clone_user);
	apart("clone3", clone3_plain);
	apart("mount", mount_tmpfs);
	apart("remount", remount_root);
	apart("umount", umount_proc);
	apart("fsopen", fsopen_tmpfs);
	apart("open_tree", open_tree_root);
	apart("chroot", chroot_tmp);
	apart("setns", setns_self);
	apart("mknod", mknod_null);
	apart("sethostname", hostname);
	apart("keyctl", keyctl_read);
	apart("bpf", bpf_map);
	apart("io_uring", uring);
	apart("userfaultfd", userfault);
	apart("perf_event_open", perf);
	apart("open_by_handle_at", handle);
	apart("nice", nice_up);
	apart("core", core_limit);
	apart("prlimit:other", limits_of_parent);
	apart("core_pattern", write_pattern);
	apart("i386", i386_getpid);
	apart("x32", x32_getpid);
	apart("TIOCSTI", tiocsti);
	apart("setuid:0", setuid_root);
	apart("kill:-1", kill_all_outside);
	say("ptrace", ptrace(PTRACE_ATTACH, pid, 0, 0));
	ptrace(PTRACE_DETACH, pid, 0, 0);
	long n = process_vm_readv(pid, &l, 1, &r, 1, 0);
	say("process_vm_readv", n < 0 && errno == EFAULT ? 0 : n); /* EFAULT: it was allowed */
	say("kill", kill(pid, 0));
	say("kcmp", syscall(SYS_kcmp, pid, getpid(), 0, 0, 0));
	files(pid);
	sockets();
	return 0;
}
