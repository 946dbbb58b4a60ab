/* Tells what the kernel says of this process: sections of a name, a length
 * and so many bytes. It has some threads, looks from each of them, and stays
 * until it is killed, so that it can be looked at from outside meanwhile.
 * With an argument it first opens that, as something that was let in. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define THREADS 3
#define MAX (1 << 20)

static char buf[MAX];
static struct look {
	long tid;
	int securebits, dumpable;
} looks[THREADS + 1];
static pthread_barrier_t looked;

static void section(const char *name, const char *data, size_t n)
{
	printf("%s %zu\n", name, n);
	fwrite(data, 1, n, stdout);
}

static void file(const char *name, const char *path)
{
	int fd = open(path, O_RDONLY);
	size_t n = 0;
	ssize_t got;

	if (fd < 0)
		return;
	while (n < MAX && (got = read(fd, buf + n, MAX - n)) > 0)
		n += (size_t)got;
	close(fd);
	section(name, buf, n);
}

static void look(struct look *l)
{
	l->tid = syscall(SYS_gettid);
	l->securebits = prctl(PR_GET_SECUREBITS);
	l->dumpable = prctl(PR_GET_DUMPABLE);
}

static void *thread(void *arg)
{
	look(arg);
	pthread_barrier_wait(&looked);
	for (;;)
		pause();
	return NULL;
}

static const char *kind(const struct stat *st, char *text, size_t n)
{
	switch (st->st_mode & S_IFMT) {
	case S_IFDIR: return "folder";
	case S_IFREG: return "file";
	case S_IFIFO: return "pipe";
	case S_IFSOCK: return "socket";
	case S_IFBLK: return "block";
	case S_IFCHR:
		snprintf(text, n, "char:%u:%u", major(st->st_rdev), minor(st->st_rdev));
		return text;
	default: return "anonymous";
	}
}

/* Before anything else is opened. */
static size_t descriptors(char *out, size_t n)
{
	static const char *access[] = { "r", "w", "rw", "?" };
	size_t at = 0;
	struct stat st;
	char text[64];

	for (int fd = 0; fd < 65536; fd++)
		if (fstat(fd, &st) == 0)
			at += (size_t)snprintf(out + at, n - at, "%d %s %s\n", fd, kind(&st, text, sizeof(text)), access[fcntl(fd, F_GETFL) & O_ACCMODE]);
	return at;
}

static void namespaces(void)
{
	struct dirent *e;
	char path[300], link[128];
	size_t at = 0;
	DIR *d = opendir("/proc/self/ns");

	while (d != NULL && (e = readdir(d)) != NULL) {
		ssize_t n;

		snprintf(path, sizeof(path), "/proc/self/ns/%s", e->d_name);
		n = readlink(path, link, sizeof(link) - 1);
		if (n > 0)
			at += (size_t)snprintf(buf + at, MAX - at, "%s %.*s\n", e->d_name, (int)n, link);
	}
	if (d != NULL)
		closedir(d);
	section("ns", buf, at);
}

int main(int argc, char **argv)
{
	pthread_t t;
	char name[64], path[64];

	if (argc > 1 && open(argv[1], O_RDONLY) < 0)
		return 1;
	section("fd", buf, descriptors(buf, MAX));
	pthread_barrier_init(&looked, NULL, THREADS + 1);
	for (int i = 1; i <= THREADS; i++)
		if (pthread_create(&t, NULL, thread, &looks[i]) != 0)
			return 2;
	look(&looks[0]);
	pthread_barrier_wait(&looked);
	for (int i = 0; i <= THREADS; i++) {
		snprintf(name, sizeof(name), "status/%ld", looks[i].tid);
		snprintf(path, sizeof(path), "/proc/self/task/%ld/status", looks[i].tid);
		file(name, path);
		snprintf(name, sizeof(name), "prctl/%ld", looks[i].tid);
		section(name, buf, (size_t)snprintf(buf, MAX, "%d %d", looks[i].securebits, looks[i].dumpable));
	}
	for (const char **f = (const char *[]){ "mountinfo", "limits", "uid_map", "gid_map", "setgroups", "oom_score_adj", "stat", NULL }; *f != NULL; f++) {
		snprintf(path, sizeof(path), "/proc/self/%s", *f);
		file(*f, path);
	}
	namespaces();
	section("end", "", 0);
	fflush(stdout);
	for (;;)
		pause();
}
