/* One exec as the supervisor sees it: its output file, its clocks, its end. */
#include "sup.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

bool exec_id_ok(const char *id)
{
	size_t n = strlen(id);

	if (n == 0 || n > MAX_EXEC_ID || id[0] == '.')
		return false;
	return strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == n;
}

struct exec *exec_find(struct sup *s, const char *id)
{
	for (int i = 0; i < s->high; i++)
		if (s->execs[i].used && strcmp(s->execs[i].id, id) == 0)
			return &s->execs[i];
	return NULL;
}

int execs_running(const struct sup *s)
{
	int n = 0;

	for (int i = 0; i < s->high; i++)
		n += s->execs[i].used;
	return n;
}

static void file_name(char *buf, size_t n, const char *id, const char *end)
{
	snprintf(buf, n, "exec-%s.%s", id, end);
}

bool has_file(const struct sup *s, const char *id, const char *end)
{
	char name[MAX_EXEC_ID + 16];

	file_name(name, sizeof(name), id, end);
	return faccessat(s->dir, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* sealed gives a descriptor of bytes that nobody can change. */
int sealed(const uint8_t *p, size_t n)
{
	int fd = memfd_create("nofx", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return -1;
	if (!write_all(fd, p, n) || lseek(fd, 0, SEEK_SET) != 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) != 0)
		close_fd(&fd);
	return fd;
}

static bool stored(struct exec *e, bool ok)
{
	if (!ok && e->note[0] == 0) {
		snprintf(e->note, sizeof(e->note), "output could not be stored: %s", strerror(errno));
		e->truncated = true;
	}
	return ok;
}

/* whole reports whether all was written. A disk that is full in the middle of it
 * takes a part, without an error. */
static bool whole(ssize_t k, size_t n)
{
	if (k >= 0 && (size_t)k != n)
		errno = ENOSPC;
	return k >= 0 && (size_t)k == n;
}

/* extend adds to the open frame; the length is written after the bytes. */
static bool extend(struct exec *e, const uint8_t *p, size_t n)
{
	uint32_t len = e->frame_len + (uint32_t)n;
	off_t at = (off_t)(e->frame_at + sizeof(struct out_frame) + e->frame_len);

	if (!whole(pwrite(e->file, p, n, at), n) ||
	    !whole(pwrite(e->file, &len, sizeof(len), (off_t)(e->frame_at + offsetof(struct out_frame, length))), sizeof(len)))
		return false;
	e->frame_len = len;
	e->file_size += n;
	return true;
}

static bool append(struct exec *e, uint8_t stream, const uint8_t *p, size_t n)
{
	uint64_t now = now_ns();
	struct out_frame f = { .magic = FRAME_MAGIC, .stream = stream, .offset = e->kept, .time_ns = now, .length = (uint32_t)n };
	struct iovec v[2] = { { &f, sizeof(f) }, { (void *)(uintptr_t)p, n } };

	/* Small writes of one moment share a frame, or a step that writes byte
	 * by byte would cost 32 bytes of disk for each of its own. */
	if (e->frame_stream == stream && n < 4096 && e->frame_len + n <= MAX_OUT_FRAME && now - e->frame_time < 1000000000u) {
		if (!extend(e, p, n))
			return false;
	} else {
		if (!whole(pwritev(e->file, v, 2, (off_t)e->file_size), sizeof(f) + n))
			return false;
		e->frame_at = e->file_size;
		e->frame_stream = stream;
		e->frame_time = now;
		e->frame_len = (uint32_t)n;
		e->file_size += sizeof(f) + n;
	}
	e->kept += n;
	return true;
}

/* keep stores what the limit leaves of a piece of output. */
static void keep(struct sup *s, int slot, uint8_t stream, const uint8_t *p, size_t n)
{
	struct exec *e = &s->execs[slot];
	char mark[96];
	size_t fit = n;

	e->total += n;
	if (e->truncated)
		return;
	if (e->limit - e->kept < fit)
		fit = e->limit - e->kept;
	if (fit > 0 && !stored(e, append(e, stream, p, fit)))
		return;
	if (fit == n)
		return;
	e->truncated = true;
	snprintf(mark, sizeof(mark), "\n[nofx: output truncated after %llu bytes]\n", (unsigned long long)e->kept);
	stored(e, append(e, 2, (const uint8_t *)mark, strlen(mark)));
	if (e->on_output == OUT_KILL)
		exec_kill(s, slot, WHY_OUTPUT);
}

/* exec_read takes at most `most` bytes of a stream. */
void exec_read(struct sup *s, int slot, int stream, size_t most)
{
	static uint8_t buf[MAX_OUT_FRAME];
	struct exec *e = &s->execs[slot];

	while (most > 0 && e->pipe[stream] >= 0) {
		ssize_t n = read(e->pipe[stream], buf, sizeof(buf));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0) {
			close_fd(&e->pipe[stream]);
			return;
		}
		keep(s, slot, (uint8_t)(stream + 1), buf, (size_t)n);
		most -= (size_t)n < most ? (size_t)n : most;
		if ((size_t)n < sizeof(buf))
			return; /* most likely empty now: poll tells */
	}
}

static void why(struct exec *e, uint8_t reason)
{
	if (e->why == WHY_NONE)
		e->why = reason;
}

/* exec_kill kills the tree; if init does not report it dead in time, the
 * whole sandbox goes. */
void exec_kill(struct sup *s, int slot, uint8_t reason)
{
	struct exec *e = &s->execs[slot];

	why(e, reason);
	e->term_at = e->kill_at = 0;
	if (e->give_up_at == 0 && e->leave_at == 0)
		e->give_up_at = now_ns() + 5000000000u;
	if (!tell_init(s, M_KILL, (uint32_t)slot, 0, NULL, 0))
		kill_sandbox(s);
}

void exec_term(struct sup *s, int slot, uint8_t reason, uint64_t grace)
{
	struct exec *e = &s->execs[slot];
	uint64_t at = now_ns() + grace;

	why(e, reason);
	e->term_at = 0;
	if (grace == 0) {
		exec_kill(s, slot, reason);
		return;
	}
	if (e->kill_at == 0 || at < e->kill_at)
		e->kill_at = at;
	if (!tell_init(s, M_SIGNAL, (uint32_t)slot, SIGTERM, NULL, 0))
		kill_sandbox(s);
}

static bool write_record(struct sup *s, struct exec *e)
{
	struct exit_record r = { .magic = EXIT_MAGIC, .version = PROTO_VERSION };
	char name[MAX_EXEC_ID + 16], temp[MAX_EXEC_ID + 16];
	struct usage u;
	int fd;
	bool ok;

	cgroup_usage(&s->box->group, &u, true);
	r.oom_kills = u.oom_kills - e->before.oom_kills;
	r.pids_denied = u.pids_denied - e->before.pids_denied;
	if (s->box->gvisor) { /* the host's processes are not the step's */
		r.pids_denied += e->guest_denied;
		u.pids_peak = e->guest_pids > 0 ? (int64_t)e->guest_pids : -1;
	}
	if (e->why == WHY_NONE && r.oom_kills > 0 && s->box->group.v2[0] == 0)
		e->why = WHY_OOM; /* version 1: see cgroup_watch_oom */
	r.why = e->why;
	r.truncated = e->truncated;
	r.has_status = e->has_status;
	r.wait_status = e->wait_status;
	r.start_errno = e->start_errno;
	r.started_ns = e->started;
	r.ended_ns = now_ns();
	r.kept = e->kept;
	r.total = e->total;
	r.cpu_usec = u.cpu_usec >= 0 && e->before.cpu_usec >= 0 ? u.cpu_usec - e->before.cpu_usec : (int64_t)e->cpu_usec;
	r.memory_peak = u.memory_peak;
	r.pids_peak = u.pids_peak;
	r.io_read = u.io_read;
	r.io_write = u.io_write;
	memcpy(r.note, e->note, sizeof(r.note));
	file_name(name, sizeof(name), e->id, "exit");
	file_name(temp, sizeof(temp), e->id, "part");
	fd = openat(s->dir, temp, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return false;
	ok = write_all(fd, &r, sizeof(r)); /* over what reserve wrote */
	close(fd);
	return ok && renameat(s->dir, temp, s->dir, name) == 0;
}

/* exec_end drains what the dead tree left in the pipes, writes the record and
 * tells who watches. What other execs still hold of the pipes is not read. */
void exec_end(struct sup *s, int slot)
{
	struct exec *e = &s->execs[slot];

	for (int i = 0; i < 2; i++)
		for (int n = 0; n < 64 && e->pipe[i] >= 0; n++) {
			uint64_t before = e->total;

			exec_read(s, slot, i, 1);
			if (e->total == before)
				break;
		}
	/* Without its record an exec counts as lost, which is what it then is. */
	(void)write_record(s, e);
	close_fd(&e->pipe[0]);
	close_fd(&e->pipe[1]);
	close_fd(&e->file);
	e->used = false;
	for (int i = 0; i < MAX_CLIENTS; i++)
		if (s->clients[i].fd >= 0 && s->clients[i].watch == slot)
			s->clients[i].note = true;
}

/* exec_leave ends an exec that its sandbox's death does not end: the kernel holds
 * a process of it, which dies as soon as it is let go. */
void exec_leave(struct sup *s, int slot)
{
	struct exec *e = &s->execs[slot];

	if (e->note[0] == 0)
		snprintf(e->note, sizeof(e->note), "a process of it cannot be killed, and is left behind");
	exec_end(s, slot);
}

/* reserve takes the exit record's place on the disk, which may be full when
 * the exec ends. */
static bool reserve(struct sup *s, const struct exec *e)
{
	const struct exit_record none = { 0 };
	char temp[MAX_EXEC_ID + 16];
	int fd;
	bool ok;

	file_name(temp, sizeof(temp), e->id, "part");
	fd = openat(s->dir, temp, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return false;
	ok = write_all(fd, &none, sizeof(none));
	close(fd);
	return ok;
}

static bool open_exec(struct sup *s, struct exec *e, uid_t owner, int *out, int *err)
{
	char name[MAX_EXEC_ID + 16];
	int p[2];

	file_name(name, sizeof(name), e->id, "out");
	e->file = openat(s->dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (e->file < 0 || !reserve(s, e))
		return false;
	if (pipe2(p, O_CLOEXEC) != 0)
		return false;
	e->pipe[0] = p[0];
	*out = p[1];
	if (pipe2(p, O_CLOEXEC) != 0)
		return false;
	e->pipe[1] = p[0];
	*err = p[1];
	/* So that the step can open /dev/stdout and /dev/stderr. */
	return fchown(*out, owner, owner) == 0 && fchown(*err, owner, owner) == 0 &&
	       fcntl(e->pipe[0], F_SETFL, O_NONBLOCK) == 0 && fcntl(e->pipe[1], F_SETFL, O_NONBLOCK) == 0;
}

static int free_slot(const struct sup *s)
{
	for (int i = 0; i < MAX_EXECS; i++) {
		bool watched = false;

		for (int k = 0; k < MAX_CLIENTS; k++)
			watched |= s->clients[k].fd >= 0 && s->clients[k].watch == i;
		if (!s->execs[i].used && !watched)
			return i;
	}
	return -1;
}

static bool launch(struct sup *s, int slot, const uint8_t *spec, size_t spec_len, const uint8_t *in, uint32_t in_len)
{
	int fds[4] = { -1, -1, -1, -1 };
	struct exec *e = &s->execs[slot];
	uid_t owner = spec_len > 0 && spec[0] == 1 ? s->box->root_id : s->box->step_id; /* see spec_read */
	bool ok = open_exec(s, e, owner, &fds[1], &fds[2]);

	if (ok) {
		fds[0] = sealed(spec, spec_len);
		fds[3] = in_len > 0 ? sealed(in, in_len) : -1;
		ok = fds[0] >= 0 && (in_len == 0 || fds[3] >= 0) &&
		     tell_init(s, M_EXEC, (uint32_t)slot, 0, fds, in_len > 0 ? 4 : 3);
	}
	for (int i = 0; i < 4; i++)
		close_fd(&fds[i]);
	return ok;
}

void exec_start(struct sup *s, struct client *c, struct rd *r)
{
	const char *id = rd_str(r);
	uint64_t timeout = rd_u64(r), grace = rd_u64(r), limit = rd_u64(r);
	uint8_t mode = rd_u8(r), reply[32];
	uint32_t in_len;
	const uint8_t *in = rd_bytes(r, &in_len);
	struct wr w = { reply + 4, reply + sizeof(reply), false };
	struct exec *e;
	int slot;

	if (r->bad || !exec_id_ok(id)) {
		client_error(c, E_INVALID, "the exec cannot be read");
		return;
	}
	if (exec_find(s, id) != NULL || has_file(s, id, "out")) {
		wr_u8(&w, A_OK);
		wr_u8(&w, 1); /* it was there: watch it */
		client_frame(c, &w, reply);
		return;
	}
	slot = free_slot(s);
	if (!s->init_alive || slot < 0) {
		client_error(c, s->init_alive ? E_UNAVAILABLE : E_CONFLICT,
			     s->init_alive ? "too many execs run in this sandbox" : "the sandbox has ended");
		return;
	}
	if (slot >= s->high)
		s->high = slot + 1;
	e = &s->execs[slot];
	memset(e, 0, sizeof(*e));
	e->pipe[0] = e->pipe[1] = e->file = -1;
	e->used = true;
	memcpy(e->id, id, strlen(id) + 1);
	e->limit = limit == 0 || limit > shared.max_output ? shared.max_output : limit;
	e->on_output = mode;
	cgroup_usage(&s->box->group, &e->before, false);
	e->started = now_ns();
	e->grace = grace;
	e->term_at = timeout > 0 ? e->started + timeout : 0;
	c->watch = slot;
	wr_u8(&w, A_OK);
	wr_u8(&w, 0);
	client_frame(c, &w, reply);
	if (!launch(s, slot, r->p, (size_t)(r->end - r->p), in, in_len)) {
		e->why = WHY_START;
		e->start_errno = errno == 0 ? EIO : errno;
		exec_end(s, slot);
	}
	/* Off the path of the start. An OOM before it is found in the counters. */
	if (!s->oom_asked) {
		s->oom_asked = true;
		s->oom = cgroup_watch_oom(&s->box->group);
	}
}
