/* nofx-supervisor spawn: serves the driver on descriptor 3.
 * nofx-supervisor into: starts gVisor, see into.c.
 * nofx-supervisor init: PID 1 of a container, executed by its engine. */
#include "nofx.h"

#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int type = 0;
	socklen_t n = sizeof(type);

	if (argc == 2 && strcmp(argv[1], "version") == 0)
		return dprintf(1, "%u\n", PROTO_VERSION) < 0;
	if (argc > 6 && strcmp(argv[1], "into") == 0)
		return into_main(argv + 2);
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
