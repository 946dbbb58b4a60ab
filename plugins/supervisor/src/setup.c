/* Setting up a supervisor and its sandbox. Whatever fails here ends the
 * process, and PID 1 with it, after the driver was told. */
#include "sup.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

_Noreturn void fail(int client, const char *what, int err)
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
	if (b->workspace_uid != b->step_id)
		users = userns_fd(b->workspace_uid, b->step_id);
	ok = (users >= 0 || b->workspace_uid == b->step_id) &&
	     sys_mount_attr(fd, "", AT_EMPTY_PATH, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, users) == 0;
	close_fd(&users);
	if (!ok)
		close_fd(&fd);
	return fd;
}

static bool map_users(const struct sandbox *b, pid_t pid)
{
	char path[64], map[96];

	snprintf(map, sizeof(map), "0 %u 1\n%u %u 1\n", b->root_id, STEP_UID, b->step_id);
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
bool start_init(struct sup *s, int group)
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
	if (!tell_init(s, M_GO, 0, (int)b->step_id, fds, n + 1))
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
		if (m.type != M_MAP || s->box->contained != 0)
			fail(client, "PID 1 speaks out of turn", EPROTO);
		if (!map_users(s->box, s->init_pid))
			fail(client, "user map", errno);
		if (!tell_init(s, M_MAP, 0, 0, NULL, 0))
			fail(client, "user map", errno);
	}
}

/* begin makes this process a supervisor, whose sandbox is not known yet. */
bool begin(struct sup *s)
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

/* keep_house makes what lies in the sandbox's folder, and the clock. */
static void keep_house(struct sup *s, const struct sandbox *b, int client)
{
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
}

void set_up(struct sup *s, const struct sandbox *b, int client)
{
	s->box = b;
	s->until = b->until;
	go(s, b, client);
	keep_house(s, b, client);
	wait_ready(s, client);
	if (!write_state(s)) /* whole only from now on: see Life.Complete in Go */
		fail(client, "state", errno);
}

/* join_container takes charge of a container's PID 1, which waits on chan to
 * be told who it is to be. */
void join_container(struct sup *s, const struct sandbox *b, int chan, int client)
{
	struct msg m = {
		.type = M_GO, .a = (int32_t)b->step_inside, .b = (int32_t)b->root_inside, .gvisor = b->gvisor, .pids = b->pids,
	};
	struct timeval patience = { .tv_sec = 30 };
	int filter = sealed(shared.filter, (size_t)shared.filter_len * 8);

	s->box = b;
	s->until = b->until;
	s->chan = chan;
	s->init_pid = b->contained;
	s->init_fd = (int)syscall(SYS_pidfd_open, b->contained, 0);
	if (s->init_fd < 0)
		fail(client, "the container's first process", errno);
	s->init_alive = true;
	keep_house(s, b, client);
	if (filter < 0 || send_fds(chan, &m, sizeof(m), &filter, 1, MSG_DONTWAIT) != sizeof(m))
		fail(client, "the container's first process does not listen", errno);
	close(filter);
	if (setsockopt(chan, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) != 0)
		fail(client, "channel", errno);
	wait_ready(s, client);
	if (!write_state(s))
		fail(client, "state", errno);
}
