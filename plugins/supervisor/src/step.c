/* The step's process, from fork to execve, and the monitor that stands between
 * it and init when more than one exec runs. */
#include "nofx.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* broken reports a failure of ours: the step never ran. */
static _Noreturn void broken(const struct step *s, const char *what)
{
	struct msg m = { .type = M_START_ERR, .slot = s->slot, .a = errno == 0 ? EIO : errno };

	snprintf(m.text, sizeof(m.text), "%s", what);
	(void)send(s->chan, &m, sizeof(m), MSG_NOSIGNAL);
	_exit(125);
}

/* refused reports what the step's own request led to, as a shell would. */
static _Noreturn void refused(const char *what, int code)
{
	char text[512];
	int n = snprintf(text, sizeof(text), "nofx: %.400s: %s\n", what, strerror(errno));

	if (n > 0)
		(void)write_all(2, text, (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1);
	_exit(code);
}

static char **list(struct rd *r, uint32_t most)
{
	uint32_t n = rd_u32(r);
	char **v;

	if (r->bad || n > most)
		return NULL;
	v = calloc((size_t)n + 1, sizeof(*v));
	for (uint32_t i = 0; v != NULL && i < n; i++)
		v[i] = (char *)(uintptr_t)rd_str(r);
	if (r->bad) {
		free(v);
		return NULL;
	}
	return v;
}

bool spec_read(int fd, struct spec *sp)
{
	struct stat st;
	struct rd r;

	*sp = (struct spec){ .map = MAP_FAILED };
	if (fstat(fd, &st) != 0)
		return false;
	errno = EINVAL;
	if (st.st_size <= 0 || st.st_size > MAX_FRAME)
		return false;
	sp->size = (size_t)st.st_size;
	sp->map = mmap(NULL, sp->size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	if (sp->map == MAP_FAILED)
		return false;
	r = (struct rd){ sp->map, (uint8_t *)sp->map + sp->size, false };
	sp->root = rd_u8(&r) == 1;
	sp->cwd = rd_str(&r);
	sp->argv = list(&r, 8192);
	sp->envp = list(&r, 8192);
	errno = EINVAL;
	return rd_done(&r) && sp->argv != NULL && sp->envp != NULL && sp->argv[0] != NULL;
}

void spec_free(struct spec *sp)
{
	int err = errno;

	free(sp->argv);
	free(sp->envp);
	if (sp->map != MAP_FAILED)
		munmap(sp->map, sp->size);
	errno = err;
}

static bool set_limit(int what, rlim_t soft, rlim_t hard)
{
	struct rlimit r, want = { soft, hard };

	if (getrlimit((__rlimit_resource_t)what, &r) != 0)
		return false;
	if (want.rlim_max > r.rlim_max)
		want.rlim_max = r.rlim_max;
	if (want.rlim_cur > want.rlim_max)
		want.rlim_cur = want.rlim_max;
	return setrlimit((__rlimit_resource_t)what, &want) == 0;
}

#define STACK (256u << 10)
static uint8_t *stack; /* of a step's process until it executes its program */

/* step_prepare does once, in init, what every step inherits. */
bool step_prepare(void)
{
	if (!sys_default_signals())
		return false;
	umask(022);
	stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (stack == MAP_FAILED || mprotect(stack, 4096, PROT_NONE) != 0)
		return false;
	if (!set_limit(RLIMIT_CORE, 0, 0) || !set_limit(RLIMIT_NOFILE, 1024, 16384) ||
	    !set_limit(RLIMIT_MEMLOCK, 64 << 10, 8 << 20) || !set_limit(RLIMIT_STACK, 8 << 20, RLIM_INFINITY) ||
	    !set_limit(RLIMIT_RTPRIO, 0, 0))
		return false;
	/* gVisor lets nobody set this one, and its priorities reach no scheduler. */
	return shared.gvisor || set_limit(RLIMIT_NICE, 0, 0);
}

static void set_descriptors(const struct step *s)
{
	int in = s->in >= 0 ? s->in : open("/dev/null", O_RDONLY | O_CLOEXEC);

	/* All ours are above 2: init's own 0, 1 and 2 are taken. */
	if (in < 3 || dup2(in, 0) != 0 || dup2(s->out, 1) != 1 || dup2(s->err, 2) != 2)
		broken(s, "descriptors");
	if (sys_close_from(3, CLOSE_RANGE_CLOEXEC) != 0)
		broken(s, "descriptors");
}

static void set_signals(const struct step *s)
{
	sigset_t none;

	sigemptyset(&none);
	if (sigprocmask(SIG_SETMASK, &none, NULL) != 0)
		broken(s, "signals");
}

static void become(const struct step *s, bool root)
{
	uid_t id = root ? shared.root_id : shared.step_id;

	if (setresgid(id, id, id) != 0 || setresuid(id, id, id) != 0)
		broken(s, "user");
	if (!set_caps(0) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
		broken(s, "capabilities");
}

static void filter(const struct step *s)
{
	struct sock_fprog p = { .len = shared.filter_len, .filter = (struct sock_filter *)(uintptr_t)shared.filter };

	if (p.len == 0 || syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &p) != 0)
		broken(s, "seccomp");
}

/* run is the step's process. It borrows init's memory until it executes: it
 * writes to nothing but its stack and environ. */
static int run(void *arg)
{
	const struct step *s = arg;
	const struct spec *sp = &s->spec;

	if (setsid() < 0)
		broken(s, "session");
	set_descriptors(s);
	set_signals(s);
	become(s, sp->root);
	if (chdir(sp->cwd) != 0)
		refused(sp->cwd, 126);
	filter(s);
	environ = sp->envp;
	execvp(sp->argv[0], sp->argv);
	refused(sp->argv[0], errno == ENOENT || errno == ENOTDIR ? 127 : 126);
}

/* step_start gives the process that runs the step. Nothing is copied for it:
 * we wait until it has a memory of its own. */
pid_t step_start(const struct step *s)
{
	static char *none[] = { NULL };
	pid_t pid = clone(run, stack + STACK, CLONE_VM | CLONE_VFORK | SIGCHLD, (void *)(uintptr_t)s);

	environ = none;
	return pid;
}

/* The monitor: parent and reaper of one exec's tree. */

static void report(const struct step *s, int status, uint64_t cpu)
{
	struct msg m = { .type = M_EXITED, .slot = s->slot, .a = status, .cpu_usec = cpu };

	gvisor_count(&m, s->denied);
	(void)send(s->chan, &m, sizeof(m), MSG_NOSIGNAL);
}

static bool pass_signals(int fd, pid_t child)
{
	struct signalfd_siginfo si;
	bool kill_all = false;

	while (read(fd, &si, sizeof(si)) == sizeof(si)) {
		if (si.ssi_signo == SIGUSR1)
			kill_all = true;
		if (si.ssi_signo == SIGUSR2 && child > 0) {
			signal_group(child, si.ssi_int);
		}
	}
	return kill_all;
}

_Noreturn void monitor_main(const struct step *s)
{
	struct pollfd p = { .events = POLLIN };
	bool killing = false, dead = false;
	int status, end = 0;
	uint64_t cpu = 0;
	struct rusage ru;
	sigset_t set;
	pid_t child, pid;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	p.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (p.fd < 0 || prctl(PR_SET_CHILD_SUBREAPER, 1) != 0)
		broken(s, "monitor");
	child = step_start(s);
	if (child < 0)
		broken(s, "fork");
	if (sys_close_from((unsigned)s->chan + 1, CLOSE_RANGE_CLOEXEC) != 0 || close(s->out) != 0 || close(s->err) != 0)
		broken(s, "descriptors");
	for (;;) {
		if (poll(&p, 1, killing ? 5 : -1) < 0 && errno != EINTR)
			_exit(1);
		killing |= pass_signals(p.fd, dead ? 0 : child);
		while ((pid = wait4(-1, &status, WNOHANG, &ru)) > 0)
			if (pid == child) {
				dead = killing = true;
				end = status;
				cpu = (uint64_t)(ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) * 1000000u +
				      (uint64_t)(ru.ru_utime.tv_usec + ru.ru_stime.tv_usec);
			}
		if (pid < 0 && errno == ECHILD) {
			report(s, end, cpu);
			_exit(0);
		}
		if (killing)
			(void)kill_descendants(getpid());
	}
}
