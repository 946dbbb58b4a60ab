/* Finding and killing what is left of one exec's tree while others run. */
#include "nofx.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_PROCS 32768

struct proc {
	pid_t pid, parent;
	bool marked;
};
static struct proc procs[MAX_PROCS];

static pid_t parent_of(pid_t pid)
{
	char path[32], buf[512], *p;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	n = read(fd, buf, sizeof(buf) - 1);
	close(fd);
	if (n <= 0)
		return -1;
	buf[n] = 0;
	p = strrchr(buf, ')'); /* the name may hold anything, digits and ')' too */
	if (p == NULL || strlen(p) < 5)
		return -1;
	return (pid_t)strtol(p + 4, NULL, 10);
}

/* scan fills procs, in the order of their pids. */
static int scan(void)
{
	DIR *d = opendir("/proc");
	struct dirent *e;
	int n = 0;

	if (d == NULL)
		return 0;
	while (n < MAX_PROCS && (e = readdir(d)) != NULL) {
		pid_t pid = (pid_t)strtol(e->d_name, NULL, 10);

		if (pid <= 1)
			continue;
		procs[n] = (struct proc){ .pid = pid, .parent = parent_of(pid) };
		if (procs[n].parent >= 0)
			n++;
	}
	closedir(d);
	return n;
}

static struct proc *find(int n, pid_t pid)
{
	int lo = 0, hi = n - 1;

	while (lo <= hi) {
		int mid = lo + (hi - lo) / 2;

		if (procs[mid].pid == pid)
			return &procs[mid];
		if (procs[mid].pid < pid)
			lo = mid + 1;
		else
			hi = mid - 1;
	}
	return NULL;
}

/* spread marks the children of what is marked until nothing changes. */
static void spread(int n)
{
	bool changed = true;

	while (changed) {
		changed = false;
		for (int i = 0; i < n; i++) {
			const struct proc *p = procs[i].marked ? NULL : find(n, procs[i].parent);

			if (p != NULL && p->marked)
				procs[i].marked = changed = true;
		}
	}
}

int kill_others(const struct keep *k)
{
	int n = scan(), found = 0;

	for (int i = 0; i < k->n; i++) {
		struct proc *p = find(n, k->roots[i]);

		if (p != NULL)
			p->marked = true;
	}
	spread(n);
	for (int i = 0; i < n; i++)
		if (!procs[i].marked) {
			found++;
			kill(procs[i].pid, SIGKILL);
		}
	return found;
}

int kill_descendants(pid_t root)
{
	int n = scan(), found = 0;
	struct proc *p = find(n, root);

	if (p == NULL)
		return 0;
	p->marked = true;
	spread(n);
	for (int i = 0; i < n; i++)
		if (procs[i].marked && procs[i].pid != root) {
			found++;
			kill(procs[i].pid, SIGKILL);
		}
	return found;
}

void signal_group(pid_t pid, int sig)
{
	if (kill(-pid, sig) != 0 || getpgid(pid) != pid)
		kill(pid, sig);
}
