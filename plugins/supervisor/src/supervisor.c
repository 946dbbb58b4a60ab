/*
 * The supervisor: one process a sandbox, on the host. It needs nobody: when
 * driver and daemon are gone it still stores the output, keeps the clocks and
 * ends what outlives its lease.
 */
#include "sup.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <linux/mount.h>
#include <unistd.h>

static struct sup sup;

bool tell_init(struct sup *s, uint32_t type, uint32_t slot, int a, const int *fds, int nfds)
{
	struct msg m = { .type = type, .slot = slot, .a = a };

	if (!s->init_alive) {
		errno = ESRCH;
		return false;
	}
	/* An init that does not read is no longer in charge of its sandbox. */
	return send_fds(s->chan, &m, sizeof(m), fds, nfds, MSG_DONTWAIT) == sizeof(m);
}

/* kill_sandbox kills PID 1, and with it, by the kernel, all of its namespace. */
void kill_sandbox(struct sup *s)
{
	if (s->init_alive)
		(void)sys_pidfd_kill(s->init_fd, SIGKILL);
}

/* Set-up */

static _Noreturn void fail(int client, const char *what, int err)
{
	struct client c = { .fd = client };
	char text[160];

	snprintf(text, sizeof(text), "set-up of the sandbox failed: %s: %s", what, strerror(err));
	client_error(&c, err == EAGAIN || err == ENOMEM ? E_UNAVAILABLE : E_INTERNAL, text);
	(void)send(client, c.out, c.out_len, MSG_NOSIGNAL);
	_exit(1);
}

static int open_control(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = "ctl.sock" };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd >= 0 && (bind(fd, (struct sockaddr *)&a, sizeof(a)) != 0 || listen(fd, 64) != 0))
		close_fd(&fd);
	return fd;
}

/* start_time is field 22 of stat: with it a pid names one process for ever. */
static uint64_t start_time(pid_t pid)
{
	char path[64], buf[1024], *p;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n = read(fd, buf, sizeof(buf) - 1);
	close(fd);
	if (n <= 0)
		return 0;
	buf[n] = 0;
	p = strrchr(buf, ')');
	for (int field = 2; p != NULL && field < 22; field++)
		p = strchr(p + 1, ' ');
	return p == NULL ? 0 : strtoull(p, NULL, 10);
}

/* hold_state locks the file that says who runs this sandbox. A record lock is
 * this process's alone: it tells for certain whether we live, and is not
 * inherited by anything. */
static bool hold_state(struct sup *s)
{
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	s->state = openat(s->dir, "state", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	return s->state >= 0 && fcntl(s->state, F_SETLK, &l) == 0;
}

static bool write_state(struct sup *s)
{
	struct state_record r = {
		.magic = STATE_MAGIC, .version = PROTO_VERSION, .supervisor_pid = getpid(), .init_pid = s->init_pid,
		.init_start = start_time(s->init_pid), .created_ns = now_ns(),
	};

	return r.init_start != 0 && pwrite(s->state, &r, sizeof(r), 0) == sizeof(r);
}

/* open_workspace gives the workspace as a mount of its own. Its files belong
 * to workspace_uid on disk and to the step's user in the sandbox. */
static int open_workspace(const struct sandbox *b)
{
	int users = -1, fd = sys_open_tree(b->workspace, 1 /* OPEN_TREE_CLONE */ | AT_SYMLINK_NOFOLLOW);
	bool ok;

	if (fd < 0)
		return -1;
	if (b->workspace_uid != b->uid_base + 1)
		users = userns_fd(b->workspace_uid, b->uid_base + 1);
	ok = (users >= 0 || b->workspace_uid == b->uid_base + 1) &&
	     sys_mount_attr(fd, "", AT_EMPTY_PATH, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, users) == 0;
	close_fd(&users);
	if (!ok)
		close_fd(&fd);
	return fd;
}

static bool map_users(const struct sandbox *b, pid_t pid)
{
	char path[64], map[96];

	snprintf(map, sizeof(map), "0 %u 1\n%u %u 1\n", b->uid_base, STEP_UID, b->uid_base + 1);
	snprintf(path, sizeof(path), "/proc/%d/uid_map", pid);
	if (!write_file(path, map))
		return false;
	snprintf(path, sizeof(path), "/proc/%d/setgroups", pid);
	if (!write_file(path, "deny"))
		return false;
	snprintf(path, sizeof(path), "/proc/%d/gid_map", pid);
	return write_file(path, map);
}

/* start_init forks PID 1, which prepares itself and then waits for go. */
static bool start_init(struct sup *s, int group)
{
	const uint64_t flags = CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET;
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
		return false;
	s->init_pid = sys_clone3(flags, &s->init_fd, group);
	if (s->init_pid == 0)
		init_main(pair[1]);
	close(pair[1]);
	close_fd(&shared.template_fd);
	s->chan = pair[0];
	s->init_alive = s->init_pid > 0;
	return s->init_alive;
}

/* go tells PID 1 what the sandbox is for. */
static void go(struct sup *s, const struct sandbox *b, int client)
{
	int fds[1 + MAX_CGROUPS], n;

	fds[0] = open_workspace(b);
	if (fds[0] < 0)
		fail(client, "workspace", errno);
	n = cgroup_tasks(&b->group, fds + 1);
	if (n < 0)
		fail(client, "control group", errno);
	if (!tell_init(s, M_GO, 0, (int)b->uid_base, fds, n + 1))
		fail(client, "PID 1 does not listen", errno);
	for (int i = 0; i <= n; i++)
		close(fds[i]);
}

/* wait_ready answers init until it is ready. */
static void wait_ready(struct sup *s, int client)
{
	struct msg m;

	for (;;) {
		ssize_t n = recv(s->chan, &m, sizeof(m), 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n != sizeof(m))
			fail(client, "PID 1 died", n < 0 ? errno : ECHILD);
		m.text[sizeof(m.text) - 1] = 0;
		if (m.type == M_FAILED)
			fail(client, m.text, m.a);
		if (m.type == M_READY)
			return;
		if (m.type != M_MAP)
			fail(client, "PID 1 speaks out of turn", EPROTO);
		if (!map_users(s->box, s->init_pid))
			fail(client, "user map", errno);
		if (!tell_init(s, M_MAP, 0, 0, NULL, 0))
			fail(client, "user map", errno);
	}
}

/* begin makes this process a supervisor, whose sandbox is not known yet. */
static bool begin(struct sup *s)
{
	for (int i = 0; i < MAX_CLIENTS; i++)
		s->clients[i].fd = s->clients[i].watch = -1;
	s->dir = s->listen = s->chan = s->init_fd = s->timer = s->oom = s->state = -1;
	prctl(PR_SET_NAME, "nofx-supervisor");
	signal(SIGPIPE, SIG_IGN);
	signal(SIGCHLD, SIG_DFL);
	(void)write_file("/proc/self/oom_score_adj", "-900"); /* a plain container may forbid it */
	return prctl(PR_SET_DUMPABLE, 0) == 0 && setsid() >= 0;
}

static void set_up(struct sup *s, const struct sandbox *b, int client)
{
	s->box = b;
	s->until = b->until;
	go(s, b, client);
	if (!cgroup_join(&b->supervisor))
		fail(client, "the supervisor's control group", errno);
	s->dir = open(b->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (s->dir < 0 || fchdir(s->dir) != 0)
		fail(client, "state folder", errno);
	if (!hold_state(s))
		fail(client, "state", errno);
	s->listen = open_control();
	if (s->listen < 0)
		fail(client, "control socket", errno);
	s->timer = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
	if (s->timer < 0)
		fail(client, "timer", errno);
	wait_ready(s, client);
	if (!write_state(s)) /* whole only from now on: see Life.Complete in Go */
		fail(client, "state", errno);
}

/* The clocks */

static void earlier(uint64_t *t, uint64_t at)
{
	if (at != 0 && (*t == 0 || at < *t))
		*t = at;
}

static void arm(struct sup *s)
{
	static uint64_t armed;
	struct itimerspec it = { 0 };
	uint64_t at = 0;

	if (!s->ended)
		earlier(&at, s->until);
	earlier(&at, s->oom_check_at);
	for (int i = 0; i < s->high; i++)
		if (s->execs[i].used) {
			earlier(&at, s->execs[i].term_at);
			earlier(&at, s->execs[i].kill_at);
			earlier(&at, s->execs[i].give_up_at);
		}
	if (at == armed)
		return;
	armed = at;
	it.it_value.tv_sec = (time_t)(at / 1000000000u);
	it.it_value.tv_nsec = (long)(at % 1000000000u);
	if (timerfd_settime(s->timer, TFD_TIMER_ABSTIME, &it, NULL) != 0)
		kill_sandbox(s); /* a sandbox without a clock does not run */
}

static void check_oom(struct sup *s, uint64_t now)
{
	struct usage u;

	s->oom_check_at = 0;
	cgroup_usage(&s->box->group, &u, false);
	for (int i = 0; i < s->high; i++)
		if (s->execs[i].used && u.oom_kills > s->execs[i].before.oom_kills) {
			exec_kill(s, i, WHY_OOM);
			s->oom_checks = 0;
		}
	if (s->oom_checks > 0 && --s->oom_checks > 0)
		s->oom_check_at = now + 5000000;
}

static void clocks(struct sup *s)
{
	uint64_t now = now_ns();

	if (s->until != 0 && now >= s->until && !s->ended) {
		s->ended = true;
		for (int i = 0; i < s->high; i++)
			if (s->execs[i].used && s->execs[i].why == WHY_NONE)
				s->execs[i].why = WHY_LEASE;
		kill_sandbox(s);
	}
	if (s->oom_check_at != 0 && now >= s->oom_check_at)
		check_oom(s, now);
	for (int i = 0; i < s->high; i++) {
		struct exec *e = &s->execs[i];

		if (!e->used)
			continue;
		if (e->term_at != 0 && now >= e->term_at)
			exec_term(s, i, WHY_TIMEOUT, e->grace);
		if (e->kill_at != 0 && now >= e->kill_at)
			exec_kill(s, i, e->why);
		if (e->give_up_at != 0 && now >= e->give_up_at) {
			e->give_up_at = 0;
			kill_sandbox(s);
		}
	}
}

/* Messages of init, and its end */

static void hear_init(struct sup *s)
{
	struct msg m;

	while (s->chan >= 0) {
		ssize_t n = recv(s->chan, &m, sizeof(m), MSG_DONTWAIT);
		struct exec *e;

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n != sizeof(m) || m.slot >= MAX_EXECS) {
			close_fd(&s->chan);
			kill_sandbox(s);
			return;
		}
		e = &s->execs[m.slot];
		if (!e->used)
			continue;
		m.text[sizeof(m.text) - 1] = 0;
		if (m.type == M_START_ERR) {
			e->start_errno = m.a;
			e->why = WHY_START;
			snprintf(e->note, sizeof(e->note), "%s", m.text);
		} else if (m.type == M_EXITED) {
			e->exited = e->has_status = true;
			e->wait_status = m.a;
			e->cpu_usec = m.cpu_usec;
			if (m.b != 0) {
				e->why = WHY_START;
				e->start_errno = m.b;
				e->has_status = false;
			}
			exec_end(s, (int)m.slot);
		}
	}
}

static void init_died(struct sup *s)
{
	int status = 0;
	struct usage u;

	hear_init(s); /* what it said before */
	while (waitpid(s->init_pid, &status, 0) < 0 && errno == EINTR)
		;
	s->init_alive = false;
	close_fd(&s->init_fd);
	close_fd(&s->chan);
	if (s->destroyed)
		return;
	cgroup_usage(&s->box->group, &u, false);
	for (int i = 0; i < s->high; i++) {
		struct exec *e = &s->execs[i];

		if (!e->used)
			continue;
		if (e->why == WHY_NONE && u.oom_kills > e->before.oom_kills)
			e->why = WHY_OOM;
		if (e->why == WHY_NONE) {
			e->why = WHY_LOST;
			snprintf(e->note, sizeof(e->note), "the sandbox's first process ended (status %d)", status);
		}
		e->exited = true;
		exec_end(s, i);
	}
}

/* The loop */

struct event {
	uint8_t kind, index, stream;
};
enum { EV_LISTEN, EV_CHAN, EV_INIT, EV_TIMER, EV_OOM, EV_CLIENT, EV_PIPE };

static int add(struct pollfd *p, struct event *ev, int n, int fd, short want, struct event e)
{
	if (fd < 0)
		return n;
	p[n] = (struct pollfd){ .fd = fd, .events = want };
	ev[n] = e;
	return n + 1;
}

static int gather(const struct sup *s, struct pollfd *p, struct event *ev)
{
	int n = 0;

	for (int i = 0; i < s->high; i++)
		for (int k = 0; s->execs[i].used && k < 2; k++)
			n = add(p, ev, n, s->execs[i].pipe[k], POLLIN, (struct event){ EV_PIPE, (uint8_t)i, (uint8_t)k });
	n = add(p, ev, n, s->chan, POLLIN, (struct event){ EV_CHAN, 0, 0 });
	n = add(p, ev, n, s->init_alive ? s->init_fd : -1, POLLIN, (struct event){ EV_INIT, 0, 0 });
	n = add(p, ev, n, s->timer, POLLIN, (struct event){ EV_TIMER, 0, 0 });
	n = add(p, ev, n, s->oom, POLLIN, (struct event){ EV_OOM, 0, 0 });
	n = add(p, ev, n, s->listen, POLLIN, (struct event){ EV_LISTEN, 0, 0 });
	for (int i = 0; i < MAX_CLIENTS; i++)
		n = add(p, ev, n, s->clients[i].fd, (short)(POLLIN | (s->clients[i].out_len > 0 ? POLLOUT : 0)),
			(struct event){ EV_CLIENT, (uint8_t)i, 0 });
	return n;
}

static void accept_client(struct sup *s)
{
	int fd = accept4(s->listen, NULL, NULL, SOCK_CLOEXEC);

	if (fd >= 0)
		client_add(s, fd);
}

static void output(struct sup *s, const struct event *ev)
{
	exec_read(s, ev->index, ev->stream, 4 * MAX_OUT_FRAME);
	for (int i = 0; i < MAX_CLIENTS; i++)
		if (s->clients[i].fd >= 0 && s->clients[i].watch == ev->index)
			s->clients[i].note = true;
}

static void dispatch(struct sup *s, const struct event *ev)
{
	uint64_t count;

	switch (ev->kind) {
	case EV_PIPE:
		if (s->execs[ev->index].used && s->execs[ev->index].pipe[ev->stream] >= 0)
			output(s, ev);
		break;
	case EV_CHAN:
		hear_init(s);
		break;
	case EV_INIT:
		init_died(s);
		break;
	case EV_TIMER:
		(void)!read(s->timer, &count, sizeof(count));
		break;
	case EV_OOM:
		if (read(s->oom, &count, sizeof(count)) == sizeof(count)) {
			s->oom_checks = 20;
			check_oom(s, now_ns());
		}
		break;
	case EV_LISTEN:
		accept_client(s);
		break;
	case EV_CLIENT:
		if (s->clients[ev->index].fd >= 0)
			client_readable(s, ev->index);
		break;
	}
}

/* over tells that nobody needs this process any more: what it knew is in its
 * files, and the sandbox has no process left. */
static bool over(const struct sup *s)
{
	return !s->init_alive && (s->destroyed || s->ended);
}

static _Noreturn void serve(struct sup *s, const struct sandbox *b, int client)
{
	static struct pollfd p[MAX_CLIENTS + 2 * MAX_EXECS + 8];
	static struct event ev[MAX_CLIENTS + 2 * MAX_EXECS + 8];
	uint8_t buf[8];
	struct wr w = { buf + 4, buf + sizeof(buf), false };
	int n;

	set_up(s, b, client);
	client_add(s, client);
	wr_u8(&w, A_OK);
	client_frame(&s->clients[0], &w, buf);
	for (;;) {
		clocks(s);
		for (int i = 0; i < MAX_CLIENTS; i++)
			if (s->clients[i].fd >= 0)
				client_flush(s, i);
		if (over(s))
			_exit(0);
		arm(s);
		n = gather(s, p, ev);
		if (poll(p, (nfds_t)n, -1) < 0)
			continue;
		for (int i = 0; i < n; i++)
			if (p[i].revents != 0)
				dispatch(s, &ev[i]);
	}
}

/* supervisor_main makes a sandbox at once. On cgroup v2 this process was born
 * in its group, and PID 1 is in the sandbox's. */
_Noreturn void supervisor_main(const struct sandbox *b, int client)
{
	struct sup *s = &sup;
	int group = cgroup_open(&b->group);

	if (group < 0 && b->group.v2[0] != 0)
		fail(client, "control group", errno);
	if (!begin(s) || !start_init(s, group))
		fail(client, "PID 1", errno);
	close_fd(&group);
	serve(s, b, client);
}

/* supervisor_wait prepares a sandbox and waits for the spawner to say what it
 * is for. */
_Noreturn void supervisor_wait(int from, uint8_t *buf, size_t size)
{
	struct sup *s = &sup;
	struct sandbox b;
	struct rd r;
	int client, n = 1;
	bool ok = begin(s) && start_init(s, -1);
	int err = errno;
	ssize_t k = recv_fds(from, buf, size, &client, &n, 0);

	if (k <= 0 || n != 1)
		_exit(0); /* not needed any more: PID 1 ends with us */
	close(from);
	if (!ok)
		fail(client, "PID 1", err);
	r = (struct rd){ buf, buf + k, false };
	(void)rd_u8(&r);
	if (!parse_sandbox(&r, &b))
		fail(client, "request", EPROTO);
	serve(s, &b, client);
}
