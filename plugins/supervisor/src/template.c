/*
 * The template: a mount namespace that holds the read-only root of every
 * sandbox and nothing else. A sandbox starts from a copy of it, so that it
 * never sees the host's mounts, not even to remove them.
 *
 * It belongs to the initial user namespace: whoever is root only in a
 * sandbox's user namespace has no power over any mount in it.
 */
#include "nofx.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define RO (MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)

/* Every path in a template is relative and plain, so that it lies below the
 * working folder, where the template is built. */
static bool plain(const char *path)
{
	if (path[0] == 0 || path[0] == '/' || strlen(path) > 1024)
		return false;
	for (const char *p = path; *p != 0;) {
		size_t n = strcspn(p, "/");

		if (n == 0 || (n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
			return false;
		p += n;
		if (*p == '/')
			p++;
	}
	return true;
}

static bool make_file(const char *path, unsigned mode, const uint8_t *data, uint32_t n)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
	bool ok;

	if (fd < 0)
		return false;
	ok = write_all(fd, data, n) && fchmod(fd, mode) == 0;
	close(fd);
	return ok;
}

static bool bind(const char *from, const char *path)
{
	struct stat st;

	if (from[0] != '/') {
		errno = EINVAL;
		return false;
	}
	if (lstat(from, &st) != 0)
		return false;
	if (S_ISDIR(st.st_mode)) {
		if (mkdir(path, 0755) != 0)
			return false;
	} else if (S_ISREG(st.st_mode)) {
		/* It may cover a file of an image, and no link. */
		if (!(lstat(path, &st) == 0 && S_ISREG(st.st_mode)) && !make_file(path, 0444, NULL, 0))
			return false;
	} else {
		errno = EINVAL;
		return false;
	}
	return mount(from, path, NULL, MS_BIND, NULL) == 0 && sys_mount_attr(AT_FDCWD, path, 0, RO, -1) == 0;
}

static bool apply(struct rd *r, uint8_t op, const char *path)
{
	uint32_t mode, major, minor, n;
	const uint8_t *data;
	const char *arg;

	switch (op) {
	case T_DIR:
		mode = rd_u32(r);
		return !r->bad && mkdir(path, 0700) == 0 && chmod(path, mode & 07777) == 0;
	case T_FILE:
		mode = rd_u32(r);
		data = rd_bytes(r, &n);
		return !r->bad && make_file(path, mode & 0777, data, n);
	case T_LINK:
		arg = rd_str(r);
		return !r->bad && symlink(arg, path) == 0;
	case T_BIND:
		arg = rd_str(r);
		return !r->bad && bind(arg, path);
	case T_NODE:
		mode = rd_u32(r);
		major = rd_u32(r);
		minor = rd_u32(r);
		return !r->bad && mknod(path, S_IFCHR | (mode & 0666), makedev(major, minor)) == 0 &&
		       chmod(path, mode & 0666) == 0;
	case T_MOUNT: /* a small file system of its own, for /dev: nodes work there */
		return mkdir(path, 0755) == 0 &&
		       mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755,size=64k,nr_inodes=64") == 0;
	default:
		errno = EINVAL;
		return false;
	}
}

static bool say(char *err, size_t n, const char *what, const char *path)
{
	snprintf(err, n, "%s %.200s: %s", what, path, strerror(errno));
	return false;
}

/* build_root makes a root on stage, which becomes the working folder, and every
 * mount in it read-only. */
bool build_root(struct rd *r, const char *stage, char *err, size_t n)
{
	uint32_t count = rd_u32(r);

	if (mount("tmpfs", stage, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=4m,nr_inodes=1024") != 0)
		return say(err, n, "mount", stage);
	if (chdir(stage) != 0)
		return say(err, n, "chdir", stage);
	umask(022);
	for (uint32_t i = 0; i < count; i++) {
		uint8_t op = rd_u8(r);
		const char *path = rd_str(r);

		errno = EINVAL;
		if (r->bad || !plain(path) || !apply(r, op, path))
			return say(err, n, "template", path);
	}
	/* Binds are read-only already; the rest is named. */
	count = rd_u32(r);

	for (uint32_t i = 0; i < count && !r->bad; i++) {
		const char *path = rd_str(r);

		if (!r->bad && sys_mount_attr(AT_FDCWD, path, 0, MOUNT_ATTR_RDONLY, -1) != 0)
			return say(err, n, "read-only", path);
	}
	if (!rd_done(r)) {
		errno = EINVAL;
		return say(err, n, "template", "end");
	}
	if (sys_mount_attr(AT_FDCWD, ".", 0, RO, -1) != 0)
		return say(err, n, "read-only", "/");
	return true;
}

/* close_root makes the template the only thing there is. */
static bool close_root(char *err, size_t n)
{
	if (sys_pivot_root(".", ".") != 0)
		return say(err, n, "pivot_root", ".");
	if (umount2(".", MNT_DETACH) != 0)
		return say(err, n, "umount", "the host's root");
	if (chdir("/") != 0)
		return say(err, n, "chdir", "/");
	return true;
}

/* build_template turns this process's mount namespace into a template. stage
 * is a folder of the host to build on; what it holds is hidden meanwhile. */
bool build_template(struct rd *r, const char *stage, char *err, size_t n)
{
	if (unshare(CLONE_NEWNS) != 0)
		return say(err, n, "unshare", "mounts");
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
		return say(err, n, "private", "/");
	return build_root(r, stage, err, n) && close_root(err, n);
}
