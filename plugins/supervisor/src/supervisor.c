/*
 * The supervisor: one process a sandbox, on the host. It needs nobody: when
 * driver and daemon are gone it still stores the output, keeps the clocks and
 * ends what outlives its lease.
 */
#include "sup.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

static struct sup sup;

bool tell_init(struct sup *s, uint32_t type, uint32_t slot, int a, const int *fds, int nfds)
{
	struct msg m = { .type = type, .slot = slot, .a = a };

	if (!s->init_alive || s->chan < 0) {
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
			earlier(&at, s->execs[i].leave_at);
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
			e->leave_at = now + 5000000000u;
			kill_sandbox(s);
		}
		if (e->leave_at != 0 && now >= e->leave_at)
			exec_leave(s, i);
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
			e->guest_pids = m.pids;
			e->guest_denied = m.denied;
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
	while (s->box->contained == 0 && waitpid(s->init_pid, &status, 0) < 0 && errno == EINTR)
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
			if (s->box->contained != 0)
				snprintf(e->note, sizeof(e->note), "the container ended from outside");
			else
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

static _Noreturn void serve(struct sup *s, int client)
{
	static struct pollfd p[MAX_CLIENTS + 2 * MAX_EXECS + 8];
	static struct event ev[MAX_CLIENTS + 2 * MAX_EXECS + 8];
	uint8_t buf[8];
	struct wr w = { buf + 4, buf + sizeof(buf), false };
	int n;

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
	set_up(s, b, client);
	serve(s, client);
}

/* supervisor_join watches over a container's sandbox, whose PID 1 is there. */
_Noreturn void supervisor_join(const struct sandbox *b, int client, int chan)
{
	struct sup *s = &sup;

	if (!begin(s))
		fail(client, "supervisor", errno);
	join_container(s, b, chan, client);
	serve(s, client);
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
	set_up(s, &b, client);
	serve(s, client);
}
