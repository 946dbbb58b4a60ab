/* nofx-supervisor spawn: serves the driver on descriptor 3.
 * nofx-supervisor into ROOT RUN FILE... -- PROGRAM ARGUMENT...: executes a
 * program in the control groups whose files of tasks these are, with the folders
 * ROOT and RUN at /mnt/root and /mnt/run, where it alone sees them: gVisor's
 * processes may not pass the folders above the one, and the other's path may be
 * longer than a socket's address can be.
 * nofx-supervisor init: PID 1 of a container, executed by its engine. */
#include "nofx.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static int into(char **arg)
{
	if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
	    mount("nofx", "/mnt", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755,size=64k") != 0 ||
	    mkdir("/mnt/root", 0755) != 0 || mkdir("/mnt/run", 0700) != 0 ||
	    mount(arg[0], "/mnt/root", NULL, MS_BIND, NULL) != 0 || mount(arg[1], "/mnt/run", NULL, MS_BIND, NULL) != 0) {
		dprintf(2, "the stage for gVisor at /mnt: %s\n", strerror(errno));
		return 125;
	}
	for (arg += 2; *arg != NULL && strcmp(*arg, "--") != 0; arg++)
		if (!write_file(*arg, "0")) {
			dprintf(2, "%s: %s\n", *arg, strerror(errno));
			return 125;
		}
	if (*arg == NULL || arg[1] == NULL)
		return 125;
	execv(arg[1], arg + 1);
	dprintf(2, "%s: %s\n", arg[1], strerror(errno));
	return 125;
}

int main(int argc, char **argv)
{
	int type = 0;
	socklen_t n = sizeof(type);

	if (argc == 2 && strcmp(argv[1], "version") == 0)
		return dprintf(1, "%u\n", PROTO_VERSION) < 0;
	if (argc > 4 && strcmp(argv[1], "into") == 0)
		return into(argv + 2);
	if (argc == 2 && strcmp(argv[1], "init") == 0 && getpid() == 1)
		contained_main();
	if (argc != 2 || strcmp(argv[1], "spawn") != 0 || getsockopt(3, SOL_SOCKET, SO_TYPE, &type, &n) != 0 ||
	    type != SOCK_SEQPACKET) {
		dprintf(2, "nofx-supervisor is started by a driver of NOFX, with a socket as descriptor 3\n");
		return 2;
	}
	if (sys_close_from(4, 0) != 0)
		return 1;
	/* What a step can see of us in /proc tells it nothing. */
	memset(argv[1], 0, strlen(argv[1]));
	prctl(PR_SET_NAME, "nofx-spawner");
	return spawner_main(3);
}
