/*
 * The file helper: carries out the driver's file operations inside the
 * sandbox, seen with the step user's eyes. It acts with the step's file uid
 * but keeps the sandbox root's for everything else, so that the step can
 * neither signal nor trace it, and it follows no link to a target.
 */
#include "nofx.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define INSIDE (RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS)
#define MAX_REQUEST 16384

static int base = -1;
static unsigned temp_count;

bool copy_reply(int conn, uint8_t type, const void *p, size_t n)
{
	uint8_t head[5];
	uint32_t len = (uint32_t)n + 1;

	memcpy(head, &len, sizeof(len));
	head[4] = type;
	return write_all(conn, head, sizeof(head)) && write_all(conn, p, n);
}

bool copy_error(int conn, int err, const char *what)
{
	uint8_t buf[512];
	struct wr w = { buf, buf + sizeof(buf), false };
	char text[300];

	snprintf(text, sizeof(text), "%.200s: %s", what, strerror(err));
	wr_u32(&w, (uint32_t)err);
	wr_str(&w, text);
	return copy_reply(conn, G_ERROR, buf, (size_t)(w.p - buf));
}

/* open_parent opens the folder of name below base, making what is missing,
 * and points last at the final component. */
static int open_parent(const char *name, const char **last)
{
	int dir = fcntl(base, F_DUPFD_CLOEXEC, 3);
	char part[256];
	const char *p = name;

	while (dir >= 0) {
		size_t n = strcspn(p, "/");
		int next;

		if (n == 0 || n >= sizeof(part) || (n <= 2 && memcmp(p, "..", n) == 0)) {
			errno = n >= sizeof(part) ? ENAMETOOLONG : EINVAL;
			break;
		}
		if (p[n] == 0) {
			*last = p;
			return dir;
		}
		memcpy(part, p, n);
		part[n] = 0;
		if (mkdirat(dir, part, 0755) != 0 && errno != EEXIST && errno != EROFS && errno != EACCES)
			break;
		next = sys_openat2(dir, part, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0, INSIDE);
		if (next < 0)
			break;
		close(dir);
		dir = next;
		p += n + 1;
	}
	if (dir >= 0) {
		int err = errno;

		close(dir);
		errno = err;
	}
	return -1;
}

static bool skip(int conn, uint64_t n)
{
	uint8_t buf[16384];

	while (n > 0) {
		size_t k = n < sizeof(buf) ? (size_t)n : sizeof(buf);

		if (!read_all(conn, buf, k))
			return false;
		n -= k;
	}
	return true;
}

/* receive takes n bytes off the connection, into fd as long as that works.
 * False when the connection broke; err is the file's own trouble. */
static bool receive(int conn, int fd, uint64_t n, int *err)
{
	static uint8_t buf[65536];

	while (n > 0) {
		size_t k = n < sizeof(buf) ? (size_t)n : sizeof(buf);

		if (!read_all(conn, buf, k))
			return false;
		n -= k;
		if (!write_all(fd, buf, k)) {
			*err = errno;
			return skip(conn, n);
		}
	}
	return true;
}

/* put_file writes beside the target and renames over it: a link, fifo or
 * device that stands there is replaced, never opened. */
static bool put_file(int conn, const char *name, unsigned mode, uint64_t size)
{
	char temp[64];
	const char *last = "";
	int err = 0, fd = -1, dir = open_parent(name, &last);
	bool alive;

	if (dir < 0) {
		err = errno;
		return skip(conn, size) && copy_error(conn, err, name);
	}
	snprintf(temp, sizeof(temp), ".nofx-%d-%u", getpid(), temp_count++);
	fd = openat(dir, temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0) {
		err = errno;
		close(dir);
		return skip(conn, size) && copy_error(conn, err, name);
	}
	alive = receive(conn, fd, size, &err);
	if (alive && err == 0 && (fchmod(fd, mode & 0777) != 0 || renameat(dir, temp, dir, last) != 0))
		err = errno;
	if (!alive || err != 0)
		unlinkat(dir, temp, 0);
	close(fd);
	close(dir);
	if (!alive)
		return false;
	return err == 0 ? copy_reply(conn, G_OK, NULL, 0) : copy_error(conn, err, name);
}

static bool put_dir(int conn, const char *name, unsigned mode)
{
	const char *last = "";
	int dir = open_parent(name, &last), fd = -1, err = 0;

	if (dir < 0)
		return copy_error(conn, errno, name);
	if (mkdirat(dir, last, 0755) != 0 && errno != EEXIST)
		err = errno;
	if (err == 0) {
		fd = sys_openat2(dir, last, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, INSIDE);
		if (fd < 0 || fchmod(fd, mode & 0777) != 0)
			err = errno;
		close_fd(&fd);
	}
	close(dir);
	return err == 0 ? copy_reply(conn, G_OK, NULL, 0) : copy_error(conn, err, name);
}

static bool put_link(int conn, const char *name, const char *target)
{
	char temp[64];
	const char *last = "";
	int dir = open_parent(name, &last), err = 0;

	if (dir < 0)
		return copy_error(conn, errno, name);
	snprintf(temp, sizeof(temp), ".nofx-%d-%u", getpid(), temp_count++);
	if (symlinkat(target, dir, temp) != 0) {
		err = errno;
	} else if (renameat(dir, temp, dir, last) != 0) {
		err = errno;
		unlinkat(dir, temp, 0);
	}
	close(dir);
	return err == 0 ? copy_reply(conn, G_OK, NULL, 0) : copy_error(conn, err, name);
}

/* set_base opens the folder that the next names are below, making it if it
 * is missing. A link on the way there is refused. */
static bool set_base(int conn, const char *path)
{
	const char *last = "";
	int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), dir, fd;

	if (path[0] != '/' || root < 0)
		return copy_error(conn, root < 0 ? errno : EINVAL, path);
	close_fd(&base);
	base = root;
	while (*path == '/')
		path++;
	if (*path == 0)
		return copy_reply(conn, G_OK, NULL, 0);
	dir = open_parent(path, &last);
	if (dir < 0)
		return copy_error(conn, errno, path);
	(void)mkdirat(dir, last, 0755); /* opening tells */
	fd = sys_openat2(dir, last, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0, INSIDE);
	close(dir);
	if (fd < 0)
		return copy_error(conn, errno, path);
	close_fd(&base);
	base = fd;
	return copy_reply(conn, G_OK, NULL, 0);
}

static bool serve(int conn, struct rd *r)
{
	uint8_t op = rd_u8(r);
	const char *name = rd_str(r), *target;
	uint32_t mode = 0;
	uint64_t size = 0;

	switch (op) {
	case F_BASE:
		return rd_done(r) && set_base(conn, name);
	case F_OUT:
		return rd_done(r) && copy_out(conn, name);
	case F_FILE:
		mode = rd_u32(r);
		size = rd_u64(r);
		return rd_done(r) && base >= 0 && put_file(conn, name, mode, size);
	case F_DIR:
		mode = rd_u32(r);
		return rd_done(r) && base >= 0 && put_dir(conn, name, mode);
	case F_LINK:
		target = rd_str(r);
		return rd_done(r) && base >= 0 && put_link(conn, name, target);
	default:
		return false;
	}
}

/* see_as_step makes the step's uid the one that files are judged by. gVisor has
 * no such uid apart from the effective one; real and saved stay the root's, so
 * that the step can signal us no more than elsewhere. */
static bool see_as_step(void)
{
	const uint32_t id = shared.step_id;

	if (shared.gvisor)
		return setresgid((gid_t)-1, id, (gid_t)-1) == 0 && setresuid((uid_t)-1, id, (uid_t)-1) == 0;
	setfsgid(id);
	setfsuid(id);
	return setfsuid((uid_t)-1) == (int)id && setfsgid((gid_t)-1) == (int)id;
}

/* copy_main serves until the driver closes the connection. */
_Noreturn void copy_main(int conn)
{
	static uint8_t buf[MAX_REQUEST];
	struct rlimit files = { 256, 256 }, core = { 0, 0 };
	uint32_t n;

	prctl(PR_SET_NAME, "nofx-files");
	signal(SIGPIPE, SIG_IGN);
	umask(022);
	if (!see_as_step())
		_exit(1);
	if (!set_caps(0) || prctl(PR_SET_DUMPABLE, 0) != 0 || setrlimit(RLIMIT_NOFILE, &files) != 0 ||
	    setrlimit(RLIMIT_CORE, &core) != 0 || chdir("/") != 0)
		_exit(1);
	if (!copy_reply(conn, G_OK, NULL, 0))
		_exit(1);
	for (;;) {
		struct rd r;

		if (!read_all(conn, &n, sizeof(n)) || n == 0 || n > sizeof(buf) || !read_all(conn, buf, n))
			_exit(0);
		r = (struct rd){ buf, buf + n, false };
		if (!serve(conn, &r))
			_exit(1);
	}
}
