/*
 * nofx-supervisor: the static program that starts, watches and ends sandboxes.
 *
 * One binary, four roles, each a process that was forked, not executed anew:
 *   spawner     child of the driver; forks a supervisor for every sandbox
 *   supervisor  one a sandbox, host root, outside of it; owns the pipes, the
 *               clocks and the files that outlive the driver
 *   init        PID 1 in the sandbox; forks, signals and reaps. In a container
 *               it is what the engine executes, and joins its supervisor
 *   step, copy  what runs for the step's user inside
 *
 * Everything is single-threaded. Lengths are checked where bytes come in, and
 * a system call whose failure would weaken the sandbox ends its set-up.
 */
#ifndef NOFX_H
#define NOFX_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "proto.h"

#define STEP_UID 1000 /* inside a user namespace; on the host uid_base + 1 */
#define MAX_FILTER 4096 /* instructions */
#define MAX_CGROUPS 8

/* rd reads little-endian fields of a bounded buffer; once bad, always bad. */
struct rd {
	const uint8_t *p, *end;
	bool bad;
};
uint8_t rd_u8(struct rd *r);
uint32_t rd_u32(struct rd *r);
uint64_t rd_u64(struct rd *r);
const char *rd_str(struct rd *r);                   /* NUL-terminated in place */
const uint8_t *rd_bytes(struct rd *r, uint32_t *n); /* length, then bytes */
bool rd_done(const struct rd *r);                   /* read to the end, nothing bad */

/* wr writes the same fields; full once it overflowed. */
struct wr {
	uint8_t *p, *end;
	bool full;
};
void wr_u8(struct wr *w, uint8_t v);
void wr_u32(struct wr *w, uint32_t v);
void wr_u64(struct wr *w, uint64_t v);
void wr_str(struct wr *w, const char *s);

/* io.c */
bool write_all(int fd, const void *p, size_t n);
bool read_all(int fd, void *p, size_t n);
bool write_file(const char *path, const char *text);
ssize_t send_fds(int sock, const void *p, size_t n, const int *fds, int nfds, int flags);
ssize_t recv_fds(int sock, void *p, size_t n, int *fds, int *nfds, int flags);
uint64_t now_ns(void); /* CLOCK_BOOTTIME */
void close_fd(int *fd);

/* sys.c: calls that the C library has no wrapper for */
pid_t sys_clone3(uint64_t flags, int *pidfd, int cgroup_fd);
int sys_openat2(int dir, const char *path, int flags, unsigned mode, uint64_t resolve);
int sys_open_tree(const char *path, unsigned flags);
int sys_move_mount(int from, const char *to);
int sys_mount_attr(int dir, const char *path, unsigned flags, uint64_t set, int userns);
int sys_pivot_root(const char *new_root, const char *put_old);
int sys_pidfd_kill(int pidfd, int sig);
int sys_close_from(unsigned first, unsigned flags);
bool sys_default_signals(void);
bool set_caps(uint32_t permitted);
int userns_fd(uint32_t inside, uint32_t outside);

/* A sandbox, as the driver asked for it. Strings live in the request. */
struct cgroups {
	const char *v2;
	const char *v1[MAX_CGROUPS]; /* folders */
	int n;
	const char *memory, *pids, *cpuacct; /* of v1, NULL when not given */
};
struct sandbox {
	const char *dir;  /* its folder of state on the host */
	uint64_t until;   /* CLOCK_BOOTTIME ns, 0 = never */
	uint32_t step_id, root_id; /* on the host */
	uint32_t step_inside, root_inside; /* contained: as its PID 1 knows them */
	const char *workspace;
	uint32_t workspace_uid;
	pid_t contained; /* a container's PID 1, 0 = PID 1 is to be made */
	bool gvisor;     /* its kernel is gVisor's, a process of the host's: contained */
	uint64_t pids;   /* the cap that PID 1 is to set in there, 0 = none */
	struct cgroups group, supervisor;
};
bool parse_sandbox(struct rd *r, struct sandbox *s);
bool parse_contained(struct rd *r, struct sandbox *s);

/* What every sandbox of this spawner shares. */
struct shared {
	int template_fd; /* the mount namespace to copy, -1 = none yet */
	uint64_t tmp_bytes, home_bytes, shm_bytes, max_output;
	uint16_t filter_len; /* instructions of 8 bytes */
	const uint8_t *filter;
	uint32_t step_id, root_id; /* as init sees them */
	bool gvisor;
};
extern struct shared shared;

/* roles */
int spawner_main(int sock);
_Noreturn void supervisor_main(const struct sandbox *s, int client);
_Noreturn void supervisor_join(const struct sandbox *s, int client, int chan);
_Noreturn void supervisor_wait(int from, uint8_t *buf, size_t n);
_Noreturn void init_main(int chan);
_Noreturn void contained_main(void);
bool build_template(struct rd *ops, const char *stage, char *err, size_t n);
bool build_root(struct rd *ops, const char *stage, char *err, size_t n);
int into_main(char **arg);
bool build_mounts(const char **what);
bool finish_mounts(int workspace, uint32_t step, const char **what);

/* The channel between supervisor and init: one message a datagram. */
enum {
	M_GO = 1,    /* supervisor: what the sandbox is for; a = the step's id on the host, fds = workspace, groups;
			in a container a, b = the ids of step and root, fd = the filter,
			gvisor, and pids = the cap that it is to set */
	M_MAP,   /* init: in a user namespace that wants its map; supervisor: it has it */
	M_READY,     /* init: the sandbox is ready */
	M_FAILED,    /* init: set-up failed; a = errno, text = where */
	M_EXEC,      /* supervisor: start; fds = spec, stdout, stderr [, stdin] */
	M_SIGNAL,    /* supervisor: a = signal, to the main process and its group */
	M_KILL,      /* supervisor: kill the exec's whole tree */
	M_COPY,      /* supervisor: fd = connection for a file helper */
	M_EXITED,    /* init: the whole tree is gone; a = wait status, b = errno of a failed start,
			in gVisor pids = the most there were, denied = the forks refused meanwhile */
	M_START_ERR, /* step: a = errno, text = where */
};
struct msg {
	uint32_t type, slot;
	int32_t a, b;
	uint64_t cpu_usec, pids, denied;
	uint32_t gvisor, pad;
	char text[64];
};
#define MAX_EXECS 64 /* running at once in one sandbox */

#define INIT_CHAN 3 /* init's end of the channel */
void init_set_up(int chan);
void contained_set_up(void);
void drop_privileges(void);
_Noreturn void set_up_failed(const char *what);

/* init's own parts. The strings of a spec lie in its mapping. */
struct spec {
	bool root;
	const char *cwd;
	char **argv, **envp;
	void *map;
	size_t size;
};
bool spec_read(int fd, struct spec *sp);
void spec_free(struct spec *sp);

struct step {
	struct spec spec;
	int in, out, err; /* in = -1: /dev/null */
	int chan;
	uint32_t slot;
	uint64_t denied; /* what gvisor_denied said before it */
};
bool step_prepare(void);
pid_t step_start(const struct step *s);
_Noreturn void monitor_main(const struct step *s);
_Noreturn void copy_main(int conn);
bool copy_out(int conn, const char *path);
bool copy_reply(int conn, uint8_t type, const void *p, size_t n);
bool copy_error(int conn, int err, const char *what);

/* gvisor.c: what PID 1 does itself where the kernel is gVisor's */
void gvisor_set_up(uint64_t pids);
uint64_t gvisor_denied(void);
void gvisor_count(struct msg *m, uint64_t denied);

/* tree.c: what is left of a tree */
struct keep {
	pid_t roots[2 * MAX_EXECS];
	int n;
};
void signal_group(pid_t pid, int sig);  /* the process and its group, once each */
int kill_others(const struct keep *k);  /* all but PID 1, us and these trees; the number found */
int kill_descendants(pid_t root);       /* all below root; the number found */

/* cgroup.c */
struct usage {
	int64_t cpu_usec, memory_peak, pids_peak, io_read, io_write; /* -1 = not known */
	uint64_t oom_kills, pids_denied;
};
bool cgroup_join(const struct cgroups *c);
int cgroup_tasks(const struct cgroups *c, int *fds); /* v1: open files to write 0 to; -1 */
int cgroup_open(const struct cgroups *c); /* the v2 folder for clone3, -1 */
void cgroup_usage(const struct cgroups *c, struct usage *u, bool peaks);
int cgroup_watch_oom(const struct cgroups *c); /* v1: an eventfd, -1 */

#endif
