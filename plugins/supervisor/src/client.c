/* The driver's connections. A client that does not read, or that stops in the
 * middle of a frame, holds nobody up. */
#include "sup.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

void client_add(struct sup *s, int fd)
{
	struct ucred cred;
	socklen_t n = sizeof(cred);

	for (int i = 0; i < MAX_CLIENTS; i++) {
		struct client *c = &s->clients[i];

		if (c->fd >= 0)
			continue;
		if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &n) != 0 || cred.uid != 0)
			break;
		memset(c, 0, sizeof(*c));
		c->fd = fd;
		c->watch = -1;
		return;
	}
	close(fd);
}

void client_drop(struct sup *s, int i)
{
	struct client *c = &s->clients[i];

	close_fd(&c->fd);
	free(c->in);
	free(c->out);
	c->in = c->out = NULL;
	c->out_len = 0;
	c->watch = -1;
}

/* client_frame queues a frame that was written to start + 4. */
void client_frame(struct client *c, const struct wr *w, uint8_t *start)
{
	size_t n = (size_t)(w->p - start);
	uint32_t len = (uint32_t)(n - 4);

	if (c->out == NULL)
		c->out = malloc(CLIENT_OUT);
	if (c->out == NULL || w->full || c->out_len + n > CLIENT_OUT) {
		shutdown(c->fd, SHUT_RDWR); /* it does not read its answers */
		return;
	}
	memcpy(start, &len, sizeof(len));
	memcpy(c->out + c->out_len, start, n);
	c->out_len += n;
}

void client_error(struct client *c, uint32_t kind, const char *text)
{
	uint8_t buf[256];
	struct wr w = { buf + 4, buf + sizeof(buf), false };

	wr_u8(&w, A_ERROR);
	wr_u32(&w, kind);
	wr_str(&w, text);
	client_frame(c, &w, buf);
}

static void ok(struct client *c)
{
	uint8_t buf[8];
	struct wr w = { buf + 4, buf + sizeof(buf), false };

	wr_u8(&w, A_OK);
	client_frame(c, &w, buf);
}

/* queue_note tells a watcher how far its exec's file reaches. */
static void queue_note(struct sup *s, struct client *c)
{
	const struct exec *e = &s->execs[c->watch];
	uint8_t buf[64];
	struct wr w = { buf + 4, buf + sizeof(buf), false };

	wr_u8(&w, A_NOTE);
	wr_u8(&w, !e->used);
	wr_u64(&w, e->file_size);
	client_frame(c, &w, buf);
	c->note = false;
	if (!e->used)
		c->watch = -1;
}

void client_flush(struct sup *s, int i)
{
	struct client *c = &s->clients[i];
	ssize_t n;

	if (c->stopping && execs_running(s) == 0) {
		c->stopping = false;
		ok(c);
	}
	if (c->destroying && !s->init_alive) {
		c->destroying = false;
		ok(c);
	}
	for (;;) {
		if (c->note && c->watch >= 0 && c->out_len == 0)
			queue_note(s, c);
		if (c->out_len == 0)
			return;
		n = send(c->fd, c->out, c->out_len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0) {
			client_drop(s, i);
			return;
		}
		c->out_len -= (size_t)n;
		memmove(c->out, c->out + n, c->out_len);
	}
}

static void watch(struct sup *s, struct client *c, struct rd *r)
{
	const char *id = rd_str(r);
	const struct exec *e;
	uint8_t buf[16];
	struct wr w = { buf + 4, buf + sizeof(buf), false };

	if (!rd_done(r) || !exec_id_ok(id)) {
		client_error(c, E_INVALID, "not an exec's id");
		return;
	}
	e = exec_find(s, id);
	if (e == NULL && !has_file(s, id, "out")) {
		client_error(c, E_NOT_FOUND, "there is no such exec");
		return;
	}
	wr_u8(&w, A_OK);
	wr_u8(&w, e != NULL);
	client_frame(c, &w, buf);
	if (e != NULL) {
		c->watch = (int)(e - s->execs);
		c->note = true;
	}
}

static void send_signal(struct sup *s, struct client *c, struct rd *r)
{
	const char *id = rd_str(r);
	uint32_t sig = rd_u32(r);
	const struct exec *e;
	int slot;

	if (!rd_done(r) || !exec_id_ok(id) || sig < 1 || sig > 64) {
		client_error(c, E_INVALID, "not a signal to an exec");
		return;
	}
	e = exec_find(s, id);
	if (e == NULL || e->exited) {
		bool was = e != NULL || has_file(s, id, "out");

		client_error(c, was ? E_CONFLICT : E_NOT_FOUND, was ? "the exec has exited" : "there is no such exec");
		return;
	}
	slot = (int)(e - s->execs);
	if (!tell_init(s, sig == SIGKILL ? M_KILL : M_SIGNAL, (uint32_t)slot, (int)sig, NULL, 0))
		kill_sandbox(s);
	ok(c);
}

static void stop(struct sup *s, struct client *c, struct rd *r)
{
	uint64_t grace = rd_u64(r);
	uint8_t why = rd_u8(r);

	if (!rd_done(r) || (why != WHY_CANCELLED && why != WHY_TIMEOUT)) {
		client_error(c, E_INVALID, "not a stop");
		return;
	}
	for (int i = 0; i < s->high; i++)
		if (s->execs[i].used)
			exec_term(s, i, why, grace);
	c->stopping = true;
}

static void extend_lease(struct sup *s, struct client *c, struct rd *r)
{
	uint64_t until = rd_u64(r);

	if (!rd_done(r)) {
		client_error(c, E_INVALID, "not a deadline");
		return;
	}
	if (s->ended) {
		client_error(c, E_CONFLICT, "the sandbox's deadline has passed");
		return;
	}
	if (s->until != 0 && (until == 0 || until > s->until))
		s->until = until;
	ok(c);
}

static void status(struct sup *s, struct client *c)
{
	uint8_t buf[CLIENT_OUT];
	struct wr w = { buf + 4, buf + sizeof(buf), false };

	wr_u8(&w, A_OK);
	wr_u8(&w, s->init_alive);
	wr_u64(&w, s->until);
	wr_u32(&w, (uint32_t)execs_running(s));
	for (int i = 0; i < s->high; i++)
		if (s->execs[i].used) {
			wr_str(&w, s->execs[i].id);
			wr_u64(&w, s->execs[i].kept);
		}
	client_frame(c, &w, buf);
}

/* copy hands the connection itself to a helper inside the sandbox. */
static void copy(struct sup *s, int i)
{
	struct client *c = &s->clients[i];

	if (!s->init_alive || !tell_init(s, M_COPY, 0, 0, &c->fd, 1)) {
		client_error(c, E_CONFLICT, "the sandbox has ended");
		return;
	}
	client_drop(s, i);
}

static void command(struct sup *s, int i)
{
	struct client *c = &s->clients[i];
	struct rd r = { c->in, c->in + c->have, false };

	switch (rd_u8(&r)) {
	case C_EXEC:
		exec_start(s, c, &r);
		break;
	case C_WATCH:
		watch(s, c, &r);
		break;
	case C_SIGNAL:
		send_signal(s, c, &r);
		break;
	case C_STOP:
		stop(s, c, &r);
		break;
	case C_EXTEND:
		extend_lease(s, c, &r);
		break;
	case C_STATUS:
		status(s, c);
		break;
	case C_COPY:
		copy(s, i);
		break;
	case C_DESTROY:
		c->destroying = s->destroyed = true;
		kill_sandbox(s);
		break;
	default:
		client_error(c, E_INVALID, "not a command");
	}
}

/* start_frame begins the frame whose length has come. */
static bool start_frame(struct client *c)
{
	uint32_t n;

	memcpy(&n, c->head, sizeof(n));
	if (n == 0 || n > MAX_FRAME)
		return false;
	c->in = malloc(n);
	c->want = n;
	c->have = 0;
	return c->in != NULL;
}

void client_readable(struct sup *s, int i)
{
	struct client *c = &s->clients[i];
	bool head = c->in == NULL;
	uint8_t *to = head ? c->head + c->have : c->in + c->have;
	size_t most = head ? sizeof(c->head) - c->have : c->want - c->have;
	ssize_t n = recv(c->fd, to, most, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		client_drop(s, i);
		return;
	}
	c->have += (size_t)n;
	if (head) {
		if (c->have == sizeof(c->head) && !start_frame(c))
			client_drop(s, i);
		else if (c->in != NULL)
			client_readable(s, i);
		return;
	}
	if (c->have < c->want)
		return;
	command(s, i);
	free(c->in);
	c->in = NULL;
	c->have = 0;
}
