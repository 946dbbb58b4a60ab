/*
 * PID 1 of a sandbox. It joins the sandbox's groups and namespaces as the
 * host's root, then becomes the root of a user namespace with three
 * capabilities, and from then on forks, signals and reaps. It never executes
 * anything, cannot be traced, and shares no uid with the step's user.
 */
#include "nofx.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHAN INIT_CHAN

struct slot {
	bool used, direct; /* direct: the exec's process is our own child, not a monitor's */
	pid_t pid;
	bool dead; /* the main process (or the monitor) was reaped */
	int status;
	uint64_t cpu_usec, denied;
	bool killing;
	int rounds;
};
static struct slot slots[MAX_EXECS];
static pid_t helpers[MAX_EXECS];

/* Running */

static void exited(int slot, int status, int start_errno, uint64_t cpu)
{
	struct msg m = { .type = M_EXITED, .slot = (uint32_t)slot, .a = status, .b = start_errno, .cpu_usec = cpu };

	gvisor_count(&m, slots[slot].denied);
	if (send(CHAN, &m, sizeof(m), MSG_NOSIGNAL) != sizeof(m))
		_exit(1);
}

static bool alone(int slot)
{
	for (int i = 0; i < MAX_EXECS; i++)
		if ((i != slot && slots[i].used) || helpers[i] != 0)
			return false;
	return true;
}

/* kill_direct kills what belongs to the exec without a monitor: everything
 * that is not ours or in another exec's tree. Tells whether nothing is left. */
static bool kill_direct(int slot)
{
	struct keep k = { .n = 0 };

	if (alone(slot))
		return kill(-1, SIGKILL) != 0 && errno == ESRCH;
	/* Others run: find the processes one by one. A tree that multiplies
	 * faster than that takes the sandbox's other execs with it. */
	if (++slots[slot].rounds > 400)
		return kill(-1, SIGKILL) != 0 && errno == ESRCH;
	for (int i = 0; i < MAX_EXECS; i++) {
		if (i != slot && slots[i].used)
			k.roots[k.n++] = slots[i].pid;
		if (helpers[i] != 0)
			k.roots[k.n++] = helpers[i];
	}
	return kill_others(&k) == 0;
}

static int direct_slot(void)
{
	for (int i = 0; i < MAX_EXECS; i++)
		if (slots[i].used && slots[i].direct)
			return i;
	return -1;
}

/* finish ends the slots whose tree is gone. It tells whether to come back
 * soon although no child has died: a fork may have outrun the search. */
static bool finish(void)
{
	bool again = false;

	for (int i = 0; i < MAX_EXECS; i++) {
		struct slot *s = &slots[i];

		if (!s->used || !s->killing)
			continue;
		if (s->direct) {
			if (kill_direct(i) && s->dead) {
				s->used = false;
				exited(i, s->status, 0, s->cpu_usec);
			} else {
				again = true;
			}
		} else if (s->dead && WIFSIGNALED(s->status) && direct_slot() < 0) {
			s->direct = again = true; /* its monitor was killed: what it left is nobody's now */
		} else if (s->dead) { /* a monitor tells of its exec itself, unless it was killed */
			s->used = false;
			if (WIFSIGNALED(s->status))
				exited(i, s->status, 0, s->cpu_usec);
		} else {
			kill(s->pid, SIGUSR1);
			s->killing = false;
		}
	}
	return again;
}

static void child_died(pid_t pid, int status, const struct rusage *ru)
{
	for (int i = 0; i < MAX_EXECS; i++) {
		if (helpers[i] == pid)
			helpers[i] = 0;
		if (slots[i].used && slots[i].pid == pid && !slots[i].dead) {
			slots[i].dead = slots[i].killing = true;
			slots[i].status = status;
			slots[i].cpu_usec = (uint64_t)(ru->ru_utime.tv_sec + ru->ru_stime.tv_sec) * 1000000u +
					    (uint64_t)(ru->ru_utime.tv_usec + ru->ru_stime.tv_usec);
		}
	}
}

static void start(const struct msg *m, const int *fds, int n)
{
	struct step st = { .out = fds[1], .err = fds[2], .in = n > 3 ? fds[3] : -1, .chan = CHAN, .slot = m->slot };
	bool direct = direct_slot() < 0;
	pid_t pid = -1;

	st.denied = gvisor_denied();
	slots[m->slot].denied = st.denied;

	if (spec_read(fds[0], &st.spec)) {
		pid = direct ? step_start(&st) : fork();
		if (pid == 0)
			monitor_main(&st);
	}
	spec_free(&st.spec);
	if (pid < 0) {
		exited((int)m->slot, 0, errno == 0 ? EIO : errno, 0);
		return;
	}
	slots[m->slot] = (struct slot){ .used = true, .direct = direct, .pid = pid, .denied = st.denied };
}

/* vacate frees a slot whose monitor has told of its exec's end, so that it is
 * given out again, and has not been reaped yet: it is about to end. */
static bool vacate(struct slot *s)
{
	if (!s->used)
		return true;
	if (s->direct)
		return false;
	while (!s->dead && waitpid(s->pid, &s->status, 0) < 0)
		if (errno != EINTR)
			return false;
	s->used = false;
	return true;
}

/* no_copy tells the driver, which waits for the supervisor's answer. */
static void no_copy(int conn, uint32_t kind, const char *why)
{
	uint8_t buf[128];
	struct wr w = { buf, buf + sizeof(buf), false };

	wr_u32(&w, kind);
	wr_str(&w, why);
	copy_reply(conn, A_ERROR, buf, (size_t)(w.p - buf));
}

static void start_copy(int conn)
{
	for (int i = 0; i < MAX_EXECS; i++) {
		pid_t pid;

		if (helpers[i] != 0)
			continue;
		pid = fork();
		if (pid == 0) {
			if (dup2(conn, CHAN) != CHAN || sys_close_from(CHAN + 1, 0) != 0)
				_exit(1);
			copy_main(CHAN);
		}
		if (pid > 0)
			helpers[i] = pid;
		else /* of its own caps: another try would meet the same */
			no_copy(conn, E_INVALID, "the sandbox has no process left for the transfer");
		return;
	}
	no_copy(conn, E_UNAVAILABLE, "the sandbox has as many transfers as it can");
}

static void handle(const struct msg *m, const int *fds, int n)
{
	struct slot *s;

	if (m->slot >= MAX_EXECS)
		_exit(1);
	s = &slots[m->slot];
	switch (m->type) {
	case M_EXEC:
		if (n < 3 || !vacate(s))
			_exit(1);
		start(m, fds, n);
		break;
	case M_SIGNAL:
		if (s->used && !s->dead && s->direct) {
			signal_group(s->pid, m->a);
		} else if (s->used && !s->dead) {
			union sigval v = { .sival_int = m->a };

			sigqueue(s->pid, SIGUSR2, v);
		}
		break;
	case M_KILL:
		if (s->used)
			s->killing = true;
		break;
	case M_COPY:
		if (n == 1)
			start_copy(fds[0]);
		break;
	default:
		_exit(1);
	}
}

static void hear(void)
{
	struct msg m;
	int fds[4], n = 4;
	ssize_t k = recv_fds(CHAN, &m, sizeof(m), fds, &n, 0);

	if (k != sizeof(m))
		_exit(0); /* the supervisor is gone: so is the sandbox */
	handle(&m, fds, n);
	while (n > 0)
		close(fds[--n]);
}

static int watch_children(void)
{
	sigset_t set;
	int fd;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1); /* a monitor must not die of them before it listens */
	sigaddset(&set, SIGUSR2);
	sigaddset(&set, SIGCHLD);
	if (sigprocmask(SIG_BLOCK, &set, NULL) != 0)
		set_up_failed("signals");
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		set_up_failed("signalfd");
	return fd;
}

/* serve is all that PID 1 does once it is set up. */
static _Noreturn void serve(void)
{
	struct msg ready = { .type = M_READY };
	struct pollfd p[2];

	p[0] = (struct pollfd){ .fd = CHAN, .events = POLLIN };
	if (!step_prepare())
		set_up_failed("limits");
	p[1] = (struct pollfd){ .fd = watch_children(), .events = POLLIN };
	if (send(CHAN, &ready, sizeof(ready), MSG_NOSIGNAL) != sizeof(ready))
		_exit(1);
	for (;;) {
		struct signalfd_siginfo si;
		struct rusage ru;
		int status;
		pid_t pid;

		if (poll(p, 2, finish() ? 5 : -1) < 0 && errno != EINTR)
			_exit(1);
		while (read(p[1].fd, &si, sizeof(si)) == sizeof(si))
			;
		while ((pid = wait4(-1, &status, WNOHANG, &ru)) > 0)
			child_died(pid, status, &ru);
		if (p[0].revents != 0)
			hear();
	}
}

_Noreturn void init_main(int chan)
{
	prctl(PR_SET_NAME, "nofx-init");
	init_set_up(chan);
	serve();
}

/* contained_main is PID 1 of a container. */
_Noreturn void contained_main(void)
{
	prctl(PR_SET_NAME, "nofx-init");
	contained_set_up();
	serve();
}
