/*
 * What PID 1 does itself where the sandbox's kernel is gVisor's. The host's
 * control groups hold that kernel with all its memory and cpu; how many
 * processes a step has, only it knows. So PID 1 sets that cap in there, in a
 * group that the step can neither see nor write to, and reads its counters.
 */
#include "nofx.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define STAGE "/dev/shm" /* the sandbox has it, and nothing runs yet */

static int events = -1, peak = -1; /* pids.events, pids.peak */

static bool number_after(int fd, const char *word, uint64_t *v)
{
	char buf[256];
	const char *p = buf;
	ssize_t n = pread(fd, buf, sizeof(buf) - 1, 0);

	if (n <= 0)
		return false;
	buf[n] = 0;
	if (*word != 0)
		p = strstr(buf, word);
	if (p == NULL)
		return false;
	*v = strtoull(p + strlen(word), NULL, 10);
	return true;
}

/* own_group moves PID 1 to a group of its own below the one that it began in,
 * whose limits it may not write: that is its namespace's root. */
static bool own_group(char *dir, size_t n)
{
	char buf[512], path[600], *p;
	int fd = open("/proc/self/cgroup", O_RDONLY | O_CLOEXEC);
	ssize_t k = fd < 0 ? -1 : read(fd, buf, sizeof(buf) - 1);

	close_fd(&fd);
	if (k <= 0)
		return false;
	buf[k] = 0;
	p = strstr(buf, "0::/");
	if (p == NULL)
		return false;
	p += 3;
	p[strcspn(p, "\n")] = 0;
	snprintf(dir, n, "%s%s/nofx", STAGE, p[1] == 0 ? "" : p);
	snprintf(path, sizeof(path), "%s/cgroup.procs", dir);
	if (mkdir(dir, 0700) != 0 || !write_file(path, "0"))
		return false;
	/* Only now: a group that gives controllers to others has no process. */
	snprintf(path, sizeof(path), "%s%s/cgroup.subtree_control", STAGE, p[1] == 0 ? "" : p);
	return write_file(path, "+pids");
}

static int counter(const char *dir, const char *file)
{
	char path[600];

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	return open(path, O_RDONLY | O_CLOEXEC);
}

/* gvisor_set_up sets the cap for PID 1 and all that it will start, and keeps
 * the counters open. */
void gvisor_set_up(uint64_t pids)
{
	char dir[560], path[600], text[32];

	if (mount("none", STAGE, "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) != 0)
		set_up_failed("gVisor's control groups: runsc needs --in-sandbox-cgroup=v2");
	if (!own_group(dir, sizeof(dir)))
		set_up_failed("gVisor's control group");
	snprintf(path, sizeof(path), "%s/pids.max", dir);
	snprintf(text, sizeof(text), "%llu", (unsigned long long)pids);
	if (pids > 0 && !write_file(path, text))
		set_up_failed("gVisor's cap on processes");
	events = counter(dir, "pids.events");
	peak = counter(dir, "pids.peak");
	if (pids > 0 && (events < 0 || peak < 0))
		set_up_failed("gVisor's counters of processes");
	if (umount2(STAGE, MNT_DETACH) != 0)
		set_up_failed("gVisor's control groups");
}

/* gvisor_denied is how many forks the cap has refused so far. */
uint64_t gvisor_denied(void)
{
	uint64_t n = 0;

	return events >= 0 && number_after(events, "max ", &n) ? n : 0;
}

/* gvisor_count adds to the word of an exec's end what only this kernel knows. */
void gvisor_count(struct msg *m, uint64_t denied)
{
	if (peak >= 0)
		(void)number_after(peak, "", &m->pids);
	m->denied = gvisor_denied() - denied;
}
