/*
 * The spawner: a small process of the driver's that forks a supervisor for
 * every sandbox. It keeps what all of them share (the template's mount
 * namespace, the step filter) and some supervisors with sandboxes that are
 * made ahead, as far as they are the same for everybody.
 */
#include "nofx.h"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

struct shared shared = { .template_fd = -1, .step_id = STEP_UID };

/* Supervisors that have prepared a sandbox and wait for what it is for. */
#define READY 2
static int ready[READY];
static int ready_count;

static void reap(pid_t pid)
{
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

static void answer(int conn, uint8_t type, uint32_t kind, const char *text)
{
	uint8_t buf[512];
	struct wr w = { buf + 4, buf + sizeof(buf), false };
	uint32_t n;

	wr_u8(&w, type);
	if (type == A_ERROR) {
		wr_u32(&w, kind);
		wr_str(&w, text);
	}
	n = (uint32_t)(w.p - buf) - 4;
	memcpy(buf, &n, sizeof(n));
	if (!w.full)
		(void)send(conn, buf, n + 4, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void read_groups(struct rd *r, struct cgroups *c)
{
	uint32_t n;

	c->v2 = rd_str(r);
	n = rd_u32(r);
	c->n = 0;
	if (n > MAX_CGROUPS || (c->v2[0] != 0 && c->v2[0] != '/') || strlen(c->v2) > 4000)
		r->bad = true;
	for (uint32_t i = 0; i < n && !r->bad; i++) {
		const char *name = rd_str(r), *dir = rd_str(r);

		if (dir[0] != '/' || strlen(dir) > 4000) {
			r->bad = true;
			break;
		}
		c->v1[c->n++] = dir;
		if (strcmp(name, "memory") == 0)
			c->memory = dir;
		else if (strcmp(name, "pids") == 0)
			c->pids = dir;
		else if (strcmp(name, "cpuacct") == 0)
			c->cpuacct = dir;
	}
}

bool parse_sandbox(struct rd *r, struct sandbox *s)
{
	uint32_t base;

	memset(s, 0, sizeof(*s));
	s->dir = rd_str(r);
	s->until = rd_u64(r);
	base = rd_u32(r);
	s->root_id = base;
	s->step_id = base + 1;
	s->workspace = rd_str(r);
	s->workspace_uid = rd_u32(r);
	read_groups(r, &s->group);
	read_groups(r, &s->supervisor);
	return rd_done(r) && s->dir[0] == '/' && s->workspace[0] == '/' && strlen(s->dir) < 4000 &&
	       base >= 1000 && base < UINT32_MAX - 1;
}

/* parse_contained reads what a container's sandbox is. The filter goes to its
 * PID 1. */
bool parse_contained(struct rd *r, struct sandbox *s)
{
	uint32_t n;

	memset(s, 0, sizeof(*s));
	s->dir = rd_str(r);
	s->until = rd_u64(r);
	s->step_id = rd_u32(r);
	s->root_id = rd_u32(r);
	s->step_inside = rd_u32(r);
	s->root_inside = rd_u32(r);
	s->contained = (pid_t)rd_u32(r);
	s->gvisor = rd_u8(r) == 1;
	s->pids = rd_u64(r);
	shared.max_output = rd_u64(r);
	shared.filter = rd_bytes(r, &n);
	shared.filter_len = (uint16_t)(n / 8);
	read_groups(r, &s->group);
	read_groups(r, &s->supervisor);
	return rd_done(r) && s->dir[0] == '/' && strlen(s->dir) < 4000 && s->contained > 1 && n > 0 && n % 8 == 0 &&
	       n / 8 <= MAX_FILTER && s->step_id >= 1000 && s->step_id < UINT32_MAX && s->root_id >= 1000 &&
	       s->step_inside >= STEP_UID && s->step_inside < UINT32_MAX;
}

static void drop_ready(void)
{
	while (ready_count > 0)
		close(ready[--ready_count]);
}

static void close_inherited(int sock)
{
	close(sock);
	drop_ready();
}

/* make_ready forks supervisors ahead, while nobody asks for one. */
static void make_ready(int sock, uint8_t *buf)
{
	struct pollfd p = { .fd = sock, .events = POLLIN };

	while (shared.template_fd >= 0 && ready_count < READY && poll(&p, 1, 0) == 0) {
		int pair[2];
		pid_t pid;

		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
			return;
		pid = fork();
		if (pid == 0) {
			close(pair[0]);
			close_inherited(sock);
			supervisor_wait(pair[1], buf, MAX_SPAWN);
		}
		close(pair[1]);
		if (pid < 0) {
			close(pair[0]);
			return;
		}
		ready[ready_count++] = pair[0];
	}
}

/* hand_over gives the request to a supervisor that waits, if there is one. */
static bool hand_over(const uint8_t *buf, size_t n, int conn)
{
	while (ready_count > 0) {
		int to = ready[--ready_count];
		bool ok = send_fds(to, buf, n, &conn, 1, MSG_DONTWAIT) == (ssize_t)n;

		close(to);
		if (ok)
			return true;
	}
	return false;
}

/* create forks the supervisor, or takes one that is ready. It is our child
 * only while we live: then it is init's, and nothing of it depends on us. On
 * cgroup v2 it is born in its group, so that none can be ready. */
static void create(struct rd *r, const uint8_t *buf, size_t n, int sock, int conn)
{
	struct sandbox s;
	int group;
	pid_t pid;

	if (!parse_sandbox(r, &s)) {
		answer(conn, A_ERROR, E_INVALID, "the request to make a sandbox cannot be read");
		return;
	}
	if (shared.template_fd < 0) {
		answer(conn, A_ERROR, E_INTERNAL, "there is no template yet");
		return;
	}
	if (s.group.v2[0] == 0 && s.supervisor.v2[0] == 0 && hand_over(buf, n, conn))
		return;
	group = cgroup_open(&s.supervisor);
	if (group < 0 && s.supervisor.v2[0] != 0) {
		answer(conn, A_ERROR, E_INTERNAL, "no control group for the supervisor");
		return;
	}
	pid = sys_clone3(0, NULL, group);
	if (pid == 0) {
		close_inherited(sock);
		close_fd(&group);
		supervisor_main(&s, conn);
	}
	if (pid < 0)
		answer(conn, A_ERROR, E_UNAVAILABLE, "fork failed");
	close_fd(&group);
}

/* contain forks the supervisor of a sandbox whose PID 1 is an engine's: conns
 * are the driver's connection and the channel to PID 1. */
static void contain(struct rd *r, int sock, const int *conns)
{
	struct sandbox s;
	struct shared keep = shared;
	int group;
	pid_t pid = -1;

	if (!parse_contained(r, &s)) {
		shared = keep;
		answer(conns[0], A_ERROR, E_INVALID, "the request to join a container cannot be read");
		return;
	}
	group = cgroup_open(&s.supervisor);
	if (group >= 0 || s.supervisor.v2[0] == 0)
		pid = sys_clone3(0, NULL, group);
	if (pid == 0) {
		close_inherited(sock);
		close_fd(&group);
		supervisor_join(&s, conns[0], conns[1]);
	}
	shared = keep; /* the request is the child's */
	if (pid < 0)
		answer(conns[0], A_ERROR, E_UNAVAILABLE, "the container's supervisor cannot be started");
	close_fd(&group);
}

/* make_template builds in a child and keeps a descriptor of its namespace. */
static int make_template(struct rd *r, const char *stage, char *err, size_t n)
{
	char path[64];
	int fd = -1, p[2];
	ssize_t k;
	pid_t pid;

	if (pipe2(p, O_CLOEXEC) != 0)
		return -1;
	pid = fork();
	if (pid == 0) {
		close(p[0]);
		if (build_template(r, stage, err, n))
			err[0] = 0;
		(void)!write(p[1], err, strlen(err) + 1);
		for (;;) /* until the spawner has opened the namespace */
			pause();
	}
	close(p[1]);
	snprintf(err, n, "the template's builder died");
	k = pid > 0 ? read(p[0], err, n - 1) : -1;
	close(p[0]);
	if (k > 0) {
		err[k] = 0;
		if (err[0] == 0) {
			snprintf(path, sizeof(path), "/proc/%d/ns/mnt", pid);
			fd = open(path, O_RDONLY | O_CLOEXEC);
			if (fd < 0)
				snprintf(err, n, "%s: %s", path, strerror(errno));
		}
	}
	if (pid > 0) {
		kill(pid, SIGKILL);
		reap(pid);
	}
	return fd;
}

static void template(struct rd *r, int sock)
{
	char err[512] = "out of resources";
	const char *stage = rd_str(r);
	uint32_t n;
	const uint8_t *code = rd_bytes(r, &n);
	struct shared next = { .tmp_bytes = rd_u64(r), .step_id = STEP_UID };
	uint8_t *copy;

	next.home_bytes = rd_u64(r);
	next.shm_bytes = rd_u64(r);
	next.max_output = rd_u64(r);
	if (r->bad || n == 0 || n % 8 != 0 || n / 8 > MAX_FILTER) {
		answer(sock, A_ERROR, E_INVALID, "the template cannot be read");
		return;
	}
	copy = malloc(n);
	next.template_fd = copy == NULL ? -1 : make_template(r, stage, err, sizeof(err));
	if (next.template_fd < 0) {
		free(copy);
		answer(sock, A_ERROR, E_INTERNAL, err);
		return;
	}
	memcpy(copy, code, n);
	free((void *)(uintptr_t)shared.filter);
	next.filter_len = (uint16_t)(n / 8);
	next.filter = copy;
	close_fd(&shared.template_fd);
	drop_ready(); /* they have the old one */
	shared = next;
	answer(sock, A_OK, 0, "");
}

/* spawner_main serves until the driver is gone. */
int spawner_main(int sock)
{
	static uint8_t buf[MAX_SPAWN];

	if (setsid() < 0 && errno != EPERM)
		return 1;
	if (prctl(PR_SET_DUMPABLE, 0) != 0 || chdir("/") != 0 || setgroups(0, NULL) != 0 || !sys_default_signals())
		return 1;
	signal(SIGPIPE, SIG_IGN);
	signal(SIGCHLD, SIG_IGN); /* children are reaped by the kernel */
	umask(077);
	for (;;) {
		int fds[2], nfds = 2;
		ssize_t k;
		struct rd r;

		make_ready(sock, buf);
		k = recv_fds(sock, buf, sizeof(buf), fds, &nfds, 0);
		if (k <= 0)
			return k == 0 || errno == ECONNRESET ? 0 : 1;
		r = (struct rd){ buf, buf + k, false };
		switch (rd_u8(&r)) {
		case S_TEMPLATE:
			template(&r, sock);
			break;
		case S_CREATE:
			if (nfds == 1)
				create(&r, buf, (size_t)k, sock, fds[0]);
			break;
		case S_CONTAIN:
			if (nfds == 2)
				contain(&r, sock, fds);
			break;
		}
		while (nfds > 0)
			close(fds[--nfds]);
	}
}
