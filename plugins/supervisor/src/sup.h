/* The supervisor's own parts: its loop, its clients, its execs. */
#ifndef NOFX_SUP_H
#define NOFX_SUP_H

#include "nofx.h"

#define MAX_CLIENTS 64
#define CLIENT_OUT 8192

struct exec {
	bool used;
	char id[MAX_EXEC_ID + 1];
	int pipe[2]; /* stdout, stderr; -1 = at its end */
	int file;    /* exec-<id>.out */
	uint64_t file_size, frame_at, frame_time;
	uint32_t frame_len;
	uint8_t frame_stream; /* 0 = none open */
	uint64_t limit, kept, total;
	uint8_t on_output;
	bool truncated;
	uint64_t started, grace;
	uint64_t term_at, kill_at, give_up_at, leave_at; /* 0 = not */
	uint8_t why;
	bool exited, has_status;
	int wait_status, start_errno;
	uint64_t cpu_usec; /* of the main process and what it waited for */
	uint64_t guest_pids, guest_denied; /* as gVisor counts them */
	struct usage before;
	char note[NOTE_LEN];
};

struct client {
	int fd;
	uint8_t head[4];
	uint8_t *in; /* the frame that is being read */
	size_t have, want;
	uint8_t *out; /* CLIENT_OUT bytes, from the first answer on */
	size_t out_len;
	int watch; /* slot, -1 */
	bool note, stopping, destroying;
};

struct sup {
	const struct sandbox *box;
	int dir, listen, chan, init_fd, timer, oom, state;
	pid_t init_pid;
	bool init_alive, ended, destroyed, oom_asked; /* ended: the lease is over */
	uint64_t until, oom_check_at;
	int oom_checks;
	int high; /* slots that were ever used: what lies behind is not touched */
	struct exec execs[MAX_EXECS];
	struct client clients[MAX_CLIENTS];
};

/* exec.c */
void exec_start(struct sup *s, struct client *c, struct rd *r);
struct exec *exec_find(struct sup *s, const char *id);
bool exec_id_ok(const char *id);
void exec_read(struct sup *s, int slot, int stream, size_t most);
void exec_end(struct sup *s, int slot);
void exec_leave(struct sup *s, int slot);
void exec_kill(struct sup *s, int slot, uint8_t why);
void exec_term(struct sup *s, int slot, uint8_t why, uint64_t grace);
int execs_running(const struct sup *s);
bool has_file(const struct sup *s, const char *id, const char *end);
int sealed(const uint8_t *p, size_t n);

/* client.c */
void client_add(struct sup *s, int fd);
void client_readable(struct sup *s, int i);
void client_flush(struct sup *s, int i);
void client_drop(struct sup *s, int i);
void client_error(struct client *c, uint32_t kind, const char *text);
void client_frame(struct client *c, const struct wr *w, uint8_t *start);

/* setup.c */
_Noreturn void fail(int client, const char *what, int err);
bool begin(struct sup *s);
bool start_init(struct sup *s, int group);
void set_up(struct sup *s, const struct sandbox *b, int client);
void join_container(struct sup *s, const struct sandbox *b, int chan, int client);

/* supervisor.c */
bool tell_init(struct sup *s, uint32_t type, uint32_t slot, int a, const int *fds, int nfds);
void kill_sandbox(struct sup *s);

#endif
