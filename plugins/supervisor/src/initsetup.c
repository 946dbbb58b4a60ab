/* How PID 1 becomes what it is: from the host's root in fresh namespaces to
 * the root of the sandbox's user namespace, with three capabilities. */
#include "nofx.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <linux/securebits.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CHAN INIT_CHAN
#define TEMPLATE (INIT_CHAN + 1)
#define CAP_BIT(c) (1u << (c))

_Noreturn void set_up_failed(const char *what)
{
	struct msg m = { .type = M_FAILED, .a = errno };

	snprintf(m.text, sizeof(m.text), "%s", what);
	(void)send(CHAN, &m, sizeof(m), MSG_NOSIGNAL);
	_exit(1);
}

/* keep_only leaves the channel and the template of what was inherited. */
static void keep_only(int chan)
{
	int c = fcntl(chan, F_DUPFD_CLOEXEC, 100), t = fcntl(shared.template_fd, F_DUPFD_CLOEXEC, 100);

	if (c < 0 || t < 0 || dup2(c, CHAN) != CHAN || dup2(t, TEMPLATE) != TEMPLATE ||
	    fcntl(CHAN, F_SETFD, FD_CLOEXEC) != 0 || sys_close_from(TEMPLATE + 1, 0) != 0)
		_exit(1);
	shared.template_fd = TEMPLATE;
}

static bool loopback_up(void)
{
	struct ifreq r;
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool ok;

	if (s < 0)
		return false;
	memset(&r, 0, sizeof(r));
	memcpy(r.ifr_name, "lo", 3);
	r.ifr_flags = IFF_UP | IFF_RUNNING;
	ok = ioctl(s, SIOCSIFFLAGS, &r) == 0;
	close(s);
	return ok;
}

/* prepare does what is the same for every sandbox; it may be done long before
 * there is one to be made. */
static void prepare(void)
{
	const char *what = "";

	/* It and all its children come first when memory is short; a step can
	 * raise its own score and not lower it below this. */
	if (!write_file("/proc/self/oom_score_adj", "200"))
		set_up_failed("oom_score_adj");
	if (!loopback_up())
		set_up_failed("loopback");
	if (sethostname("sandbox", 7) != 0 || setdomainname("", 0) != 0)
		set_up_failed("host name");
	/* Keys that the daemon's session may hold stay there. ENOSYS: no keys. */
	if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0 && errno != ENOSYS)
		set_up_failed("session keyring");
	if (!build_mounts(&what))
		set_up_failed(what);
}

/* join waits to be told what the sandbox is for, and enters its groups. */
static void join(void)
{
	struct msg m;
	int fds[1 + MAX_CGROUPS], n = 1 + MAX_CGROUPS;
	const char *what = "";

	if (recv_fds(CHAN, &m, sizeof(m), fds, &n, 0) != sizeof(m) || m.type != M_GO || n < 1)
		_exit(0); /* the supervisor is gone */
	for (int i = 1; i < n; i++)
		if (!write_all(fds[i], "0", 1))
			set_up_failed("the sandbox's control group");
	if (unshare(CLONE_NEWCGROUP) != 0)
		set_up_failed("cgroup namespace");
	if (!finish_mounts(fds[0], (uint32_t)m.a, &what))
		set_up_failed(what);
	while (n > 0)
		close(fds[--n]);
}

static void enter_user_namespace(void)
{
	struct msg m = { .type = M_MAP };

	if (unshare(CLONE_NEWUSER) != 0)
		set_up_failed("user namespace");
	if (send(CHAN, &m, sizeof(m), MSG_NOSIGNAL) != sizeof(m) || recv(CHAN, &m, sizeof(m), 0) != sizeof(m))
		_exit(1);
	if (setresgid(0, 0, 0) != 0 || setresuid(0, 0, 0) != 0)
		set_up_failed("uid 0 of the sandbox");
}

/* drop_privileges leaves what it takes to become the step's user and to
 * signal it, and makes sure that no program can get more by being executed. */
void drop_privileges(void)
{
	const int bits = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_CAP_AMBIENT_RAISE |
			 SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;

	/* gVisor has none. The empty bounding set and no_new_privs below leave
	 * nothing that a program could get by being executed, with or without. */
	if (prctl(PR_SET_SECUREBITS, bits) != 0 && !(shared.gvisor && errno == EPERM))
		set_up_failed("secure bits");
	for (int c = 0; c < 64; c++)
		if (prctl(PR_CAPBSET_DROP, c) != 0) {
			if (errno == EINVAL && c > CAP_AUDIT_READ)
				break; /* one more than the kernel has */
			set_up_failed("bounding set");
		}
	if (!set_caps(CAP_BIT(CAP_KILL) | CAP_BIT(CAP_SETUID) | CAP_BIT(CAP_SETGID)))
		set_up_failed("capabilities");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
		set_up_failed("no_new_privs");
	if (prctl(PR_SET_DUMPABLE, 0) != 0)
		set_up_failed("dumpable");
}

/* init_set_up returns when the sandbox is ready but for the word. */
void init_set_up(int chan)
{
	keep_only(chan);
	prepare();
	join();
	enter_user_namespace();
	drop_privileges();
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) /* cleared by a change of credentials: last */
		set_up_failed("parent's death");
}
