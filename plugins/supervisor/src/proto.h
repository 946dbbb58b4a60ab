/*
 * What goes between the driver and this program, and what lies in a sandbox's
 * folder. plugins/supervisor/protocol.go says the same in Go.
 *
 * A frame is u32 length of what follows, u8 type, fields. Integers are
 * little-endian; a string is u32 length with its NUL, bytes, NUL.
 */
#ifndef NOFX_PROTO_H
#define NOFX_PROTO_H

#define PROTO_VERSION 1u
#define MAX_FRAME (4u << 20)
#define MAX_SPAWN (192u << 10) /* one datagram to the spawner */

/* driver to spawner */
enum { S_TEMPLATE = 1, S_CREATE = 2, S_CONTAIN = 3 };

/* what a template is made of */
enum { T_DIR = 1, T_FILE, T_LINK, T_BIND, T_NODE, T_MOUNT };

/* driver to supervisor */
enum {
	C_EXEC = 1,
	C_WATCH = 2,
	C_SIGNAL = 3,
	C_STOP = 4,
	C_EXTEND = 5,
	C_STATUS = 6,
	C_COPY = 7,
	C_DESTROY = 8,
};

/* supervisor to driver */
enum { A_OK = 64, A_ERROR = 65, A_NOTE = 66 };

/* kinds of error */
enum { E_INVALID = 1, E_NOT_FOUND = 2, E_CONFLICT = 3, E_UNAVAILABLE = 4, E_INTERNAL = 5 };

/* driver to file helper, and back */
enum { F_BASE = 1, F_FILE = 2, F_DIR = 3, F_LINK = 4, F_OUT = 5 };
enum { G_OK = 64, G_ERROR = 65, G_ENTRY = 66, G_DATA = 67, G_END = 68 };

/* past the output limit */
enum { OUT_TRUNCATE = 1, OUT_KILL = 2 };

/* why an exec was ended by us */
enum {
	WHY_NONE = 0,
	WHY_TIMEOUT = 1,
	WHY_OUTPUT = 2,
	WHY_CANCELLED = 3,
	WHY_LEASE = 4,
	WHY_OOM = 5,
	WHY_LOST = 6,
	WHY_START = 7, /* it never ran: start_errno */
};

#define NOTE_LEN 96
#define MAX_EXEC_ID 64
#define EXIT_MAGIC 0x4558464eu  /* "NFXE" */
#define FRAME_MAGIC 0x4f58464eu /* "NFXO" */

/* exec-<id>.exit, written whole under another name and renamed */
struct exit_record {
	uint32_t magic, version;
	uint8_t why, truncated, has_status, pad[5];
	int32_t wait_status, start_errno;
	uint64_t started_ns, ended_ns, kept, total;
	int64_t cpu_usec, memory_peak, pids_peak, io_read, io_write;
	uint64_t oom_kills, pids_denied;
	char note[NOTE_LEN];
};

/* exec-<id>.out is a row of these, each followed by length bytes. The length
 * of the last one grows: it is written after the bytes it counts. */
struct out_frame {
	uint32_t magic;
	uint8_t stream, pad[3];
	uint64_t offset, time_ns;
	uint32_t length, pad2;
};
#define MAX_OUT_FRAME (64u << 10)

/* state: who runs the sandbox, for when it cannot be asked any more */
struct state_record {
	uint32_t magic, version;
	int32_t supervisor_pid, init_pid;
	uint64_t init_start; /* field 22 of /proc/<pid>/stat */
	uint64_t created_ns;
};
#define STATE_MAGIC 0x5358464eu /* "NFXS" */

_Static_assert(sizeof(struct exit_record) == 208, "as Record in record.go");
_Static_assert(sizeof(struct out_frame) == 32, "as frameHead in output.go");
_Static_assert(sizeof(struct state_record) == 32, "as State in record.go");

#endif
