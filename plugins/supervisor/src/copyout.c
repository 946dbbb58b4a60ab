/* Reading files and folders out of a sandbox: what is there is sent, nothing
 * is followed, and what is no file, folder or link is never opened. */
#include "nofx.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define MAX_ENTRIES 1000000u
#define MAX_PENDING (64u << 20) /* bytes of names of folders to come */

/* todo is a folder that is still to be read, by its path from the top. */
struct todo {
	struct todo *next;
	char path[];
};

struct walk {
	int conn, top;
	struct todo *list;
	size_t pending;
	uint32_t entries;
};

static bool send_entry(struct walk *w, char type, const struct stat *st, const char *name, const char *target)
{
	static uint8_t buf[16384];
	struct wr b = { buf, buf + sizeof(buf), false };

	wr_u8(&b, (uint8_t)type);
	wr_u32(&b, st->st_mode & 0777);
	wr_u64(&b, (uint64_t)st->st_mtim.tv_sec);
	wr_u64(&b, type == 'f' ? (uint64_t)st->st_size : 0);
	wr_str(&b, name);
	wr_str(&b, target);
	return !b.full && copy_reply(w->conn, G_ENTRY, buf, (size_t)(b.p - buf));
}

/* send_data sends as much of the file as its entry promised, or less when it
 * shrinks meanwhile; the driver sees the difference. */
static bool send_data(struct walk *w, int fd, uint64_t size)
{
	static uint8_t buf[65536];

	while (size > 0) {
		ssize_t n = read(fd, buf, size < sizeof(buf) ? (size_t)size : sizeof(buf));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		if (!copy_reply(w->conn, G_DATA, buf, (size_t)n))
			return false;
		size -= (uint64_t)n;
	}
	return copy_reply(w->conn, G_END, NULL, 0);
}

/* send_file sends one regular file; -1 = the connection broke, 0 = it cannot
 * be read, or is not what it was. */
static int send_file(struct walk *w, int dir, const char *last, const char *name)
{
	struct stat st;
	struct statfs fs;
	int fd = sys_openat2(dir, last, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0,
			     RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
	int ret = 0;

	if (fd < 0)
		return 0;
	errno = EINVAL;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && fstatfs(fd, &fs) == 0 && fs.f_type != PROC_SUPER_MAGIC)
		ret = send_entry(w, 'f', &st, name, "") && send_data(w, fd, (uint64_t)st.st_size) ? 1 : -1;
	close(fd);
	return ret;
}

static int send_link(struct walk *w, int dir, const char *last, const char *name, const struct stat *st)
{
	char target[4096];
	ssize_t n = readlinkat(dir, last, target, sizeof(target) - 1);

	if (n < 0)
		return 0;
	target[n] = 0;
	return send_entry(w, 'l', st, name, target) ? 1 : -1;
}

static bool push(struct walk *w, const char *path)
{
	size_t n = strlen(path) + 1;
	struct todo *t;

	if (w->pending + n > MAX_PENDING || (t = malloc(sizeof(*t) + n)) == NULL) {
		errno = E2BIG;
		return false;
	}
	memcpy(t->path, path, n);
	t->next = w->list;
	w->list = t;
	w->pending += n;
	return true;
}

static int join(char *buf, size_t size, const char *a, const char *b)
{
	size_t n = strlen(a), m = strlen(b);

	if (n + m + 2 > size) {
		errno = ENAMETOOLONG;
		return -1;
	}
	memcpy(buf, a, n);
	buf[n] = '/';
	memcpy(buf + n + 1, b, m + 1);
	return 0;
}

/* entry deals with one name in a folder: 1 sent or left out, -1 broken. */
static int entry(struct walk *w, int dir, const char *last, const char *path)
{
	struct stat st;

	if (++w->entries > MAX_ENTRIES) {
		errno = E2BIG;
		return -2;
	}
	if (fstatat(dir, last, &st, AT_SYMLINK_NOFOLLOW) != 0)
		return 1; /* gone meanwhile */
	if (S_ISDIR(st.st_mode))
		return !send_entry(w, 'd', &st, path, "") ? -1 : push(w, path) ? 1 : -2;
	if (S_ISLNK(st.st_mode))
		return send_link(w, dir, last, path, &st) < 0 ? -1 : 1;
	if (S_ISREG(st.st_mode))
		return send_file(w, dir, last, path) < 0 ? -1 : 1;
	return 1;
}

/* folder sends what is in one folder, given by its path from the top. */
static int folder(struct walk *w, const char *path)
{
	char name[4096];
	const char *below = strchr(path, '/');
	int ret = 1, fd = sys_openat2(w->top, below == NULL ? "." : below + 1, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0,
				      RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	if (d == NULL) {
		if (fd >= 0)
			close(fd);
		return errno == EACCES || errno == ENOENT ? 1 : -2;
	}
	while (ret > 0 && (e = readdir(d)) != NULL) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		ret = join(name, sizeof(name), path, e->d_name) != 0 ? -2 : entry(w, fd, e->d_name, name);
	}
	closedir(d);
	return ret;
}

static bool walk_out(struct walk *w, const char *name)
{
	int ret = push(w, name) ? 1 : -2;

	while (ret > 0 && w->list != NULL) {
		struct todo *t = w->list;

		w->list = t->next;
		w->pending -= strlen(t->path) + 1;
		ret = folder(w, t->path);
		free(t);
	}
	if (ret == -2)
		return copy_error(w->conn, errno, name);
	return ret > 0 && copy_reply(w->conn, G_OK, NULL, 0);
}

/* copy_out sends the file, link or folder at an absolute path, resolved in
 * the sandbox's root. Links on the way lead nowhere else; the last component
 * is not followed. */
bool copy_out(int conn, const char *path)
{
	struct walk w = { .conn = conn, .top = -1 };
	const uint64_t in_root = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
	const char *last = strrchr(path, '/');
	char parent[4096];
	struct stat st;
	int root, dir, ret = 0;

	if (path[0] != '/' || strlen(path) >= sizeof(parent) || strcmp(last, "/..") == 0 || strcmp(last, "/.") == 0)
		return copy_error(conn, EINVAL, path);
	memcpy(parent, path, (size_t)(last - path) + 1);
	parent[last - path + 1] = 0;
	last = last[1] == 0 ? "." : last + 1;
	root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	dir = root < 0 ? -1 : sys_openat2(root, parent, O_PATH | O_DIRECTORY, 0, in_root);
	close_fd(&root);
	if (dir < 0 || fstatat(dir, last, &st, AT_SYMLINK_NOFOLLOW) != 0) {
		ret = errno;
		close_fd(&dir);
		return copy_error(conn, ret, path);
	}
	if (S_ISDIR(st.st_mode)) {
		w.top = sys_openat2(dir, last, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0, in_root);
		ret = w.top >= 0 && send_entry(&w, 'd', &st, last, "") ? 2 : w.top < 0 ? 0 : -1;
	} else if (S_ISLNK(st.st_mode)) {
		ret = send_link(&w, dir, last, last, &st);
	} else if (S_ISREG(st.st_mode)) {
		ret = send_file(&w, dir, last, last);
	} else {
		errno = EINVAL;
	}
	if (ret == 0) {
		ret = errno;
		close_fd(&dir);
		return copy_error(conn, ret, path);
	}
	close_fd(&dir);
	if (ret == 2)
		return walk_out(&w, last);
	return ret > 0 && copy_reply(conn, G_OK, NULL, 0);
}
