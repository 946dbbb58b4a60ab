/*
 * nofx-supervisor into TEMPLATE SHARE RUN TASKS... -- PROGRAM ARGUMENT...
 *
 * Executes runsc where it is to be: in the control groups whose files of tasks
 * these are, and in a mount namespace in which /mnt/root is a sandbox's root as
 * the template says, with SHARE in it at /.nofx, and /mnt/run the folder RUN. So
 * gVisor serves one file system in place of one for each bind, its processes
 * need not pass the folders above ours, a path that is longer than a socket's
 * address can be has a short one, and nothing of it is mounted on the host.
 */
#include "nofx.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROOT "/mnt/root"
#define RUN "/mnt/run"

static int failed(const char *what)
{
	dprintf(2, "the place for gVisor: %s: %s\n", what, strerror(errno));
	return 125;
}

/* slurp reads the template. */
static uint8_t *slurp(const char *path, size_t *n)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	struct stat st;
	uint8_t *p = NULL;

	if (fd >= 0 && fstat(fd, &st) == 0 && st.st_size > 0 && st.st_size <= (off_t)MAX_SPAWN) {
		*n = (size_t)st.st_size;
		p = malloc(*n);
		if (p != NULL && !read_all(fd, p, *n)) {
			free(p);
			p = NULL;
		}
	}
	close_fd(&fd);
	return p;
}

int into_main(char **arg)
{
	char err[512] = "";
	const char *share = arg[1], *run = arg[2];
	size_t n = 0;
	uint8_t *ops = slurp(arg[0], &n);
	struct rd r = { ops, ops + n, false };

	if (ops == NULL)
		return failed(arg[0]);
	if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
	    mount("nofx", "/mnt", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755,size=64k") != 0 ||
	    mkdir(ROOT, 0755) != 0 || mkdir(RUN, 0700) != 0 || mount(run, RUN, NULL, MS_BIND, NULL) != 0)
		return failed("/mnt");
	if (!build_root(&r, ROOT, err, sizeof(err))) {
		dprintf(2, "%s\n", err);
		return 125;
	}
	if (mount(share, ROOT "/.nofx", NULL, MS_BIND, NULL) != 0 ||
	    sys_mount_attr(AT_FDCWD, ROOT "/.nofx", 0, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, -1) != 0)
		return failed(share);
	for (arg += 3; *arg != NULL && strcmp(*arg, "--") != 0; arg++)
		if (!write_file(*arg, "0"))
			return failed(*arg);
	if (*arg == NULL || arg[1] == NULL || chdir("/") != 0)
		return failed("no program");
	execv(arg[1], arg + 1);
	return failed(arg[1]);
}
