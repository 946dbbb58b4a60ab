/* Control groups: joining them and reading their counters. The daemon makes
 * and removes them. */
#include "nofx.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* cgroup_join puts this thread, the only one of its process, into the v1
 * groups. Writing 0 to tasks needs no grace period of the kernel's. */
bool cgroup_join(const struct cgroups *c)
{
	char path[4200];

	for (int i = 0; i < c->n; i++) {
		snprintf(path, sizeof(path), "%s/tasks", c->v1[i]);
		if (!write_file(path, "0"))
			return false;
	}
	return true;
}

/* cgroup_tasks opens the files by which another process can join, one that
 * does not see them itself. */
int cgroup_tasks(const struct cgroups *c, int *fds)
{
	char path[4200];

	for (int i = 0; i < c->n; i++) {
		snprintf(path, sizeof(path), "%s/tasks", c->v1[i]);
		fds[i] = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
		if (fds[i] < 0) {
			int err = errno;

			while (i > 0)
				close(fds[--i]);
			errno = err;
			return -1;
		}
	}
	return c->n;
}

int cgroup_open(const struct cgroups *c)
{
	if (c->v2[0] == 0)
		return -1;
	return open(c->v2, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* slurp reads a small control file. */
static bool slurp(const char *dir, const char *file, char *buf, size_t n)
{
	char path[4200];
	ssize_t k;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return false;
	k = read(fd, buf, n - 1);
	close(fd);
	if (k < 0)
		return false;
	buf[k] = 0;
	return true;
}

static int64_t number(const char *dir, const char *file)
{
	char buf[64];

	if (dir == NULL || !slurp(dir, file, buf, sizeof(buf)))
		return -1;
	if (buf[0] < '0' || buf[0] > '9')
		return -1;
	return (int64_t)strtoull(buf, NULL, 10);
}

/* keyed reads the line "key value" of a file. */
static int64_t keyed(const char *dir, const char *file, const char *key)
{
	char buf[2048], *line, *rest = buf;
	size_t n = strlen(key);

	if (dir == NULL || !slurp(dir, file, buf, sizeof(buf)))
		return -1;
	while ((line = strsep(&rest, "\n")) != NULL)
		if (strncmp(line, key, n) == 0 && line[n] == ' ')
			return (int64_t)strtoull(line + n + 1, NULL, 10);
	return -1;
}

/* io_sum adds up one field of io.stat over all devices. */
static int64_t io_sum(const char *dir, const char *field)
{
	char buf[4096], *p = buf;
	size_t n = strlen(field);
	int64_t sum = 0;

	if (!slurp(dir, "io.stat", buf, sizeof(buf)))
		return -1;
	while ((p = strstr(p, field)) != NULL) {
		p += n;
		sum += (int64_t)strtoull(p, NULL, 10);
	}
	return sum;
}

static uint64_t known(int64_t v)
{
	return v < 0 ? 0 : (uint64_t)v;
}

void cgroup_usage(const struct cgroups *c, struct usage *u, bool peaks)
{
	*u = (struct usage){ -1, -1, -1, -1, -1, 0, 0 };
	if (c->v2[0] != 0) {
		u->cpu_usec = keyed(c->v2, "cpu.stat", "usage_usec");
		u->oom_kills = known(keyed(c->v2, "memory.events", "oom_kill"));
		u->pids_denied = known(keyed(c->v2, "pids.events", "max"));
		if (peaks) {
			u->memory_peak = number(c->v2, "memory.peak");
			u->pids_peak = number(c->v2, "pids.peak");
			u->io_read = io_sum(c->v2, " rbytes=");
			u->io_write = io_sum(c->v2, " wbytes=");
		}
		return;
	}
	u->cpu_usec = number(c->cpuacct, "cpuacct.usage");
	if (u->cpu_usec > 0)
		u->cpu_usec /= 1000;
	u->oom_kills = known(keyed(c->memory, "memory.oom_control", "oom_kill"));
	u->pids_denied = known(keyed(c->pids, "pids.events", "max"));
	if (peaks) {
		u->memory_peak = number(c->memory, "memory.max_usage_in_bytes");
		u->pids_peak = number(c->pids, "pids.peak");
	}
}

/* cgroup_watch_oom gives an eventfd that counts the group's OOMs. Version 1
 * kills one process only; whoever reads the eventfd kills the rest, as
 * memory.oom.group does on version 2. */
int cgroup_watch_oom(const struct cgroups *c)
{
	char path[4200], text[32];
	int efd, ofd;
	bool ok;

	if (c->v2[0] != 0 || c->memory == NULL)
		return -1;
	snprintf(path, sizeof(path), "%s/memory.oom_control", c->memory);
	ofd = open(path, O_RDONLY | O_CLOEXEC);
	if (ofd < 0)
		return -1;
	efd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (efd >= 0) {
		snprintf(path, sizeof(path), "%s/cgroup.event_control", c->memory);
		snprintf(text, sizeof(text), "%d %d", efd, ofd);
		ok = write_file(path, text);
		if (!ok)
			close_fd(&efd);
	}
	close(ofd);
	return efd;
}
