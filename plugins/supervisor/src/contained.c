/*
 * How PID 1 of a container becomes what PID 1 of any sandbox is. The engine
 * has made its namespaces, mounts and groups and has given it five
 * capabilities; its supervisor, outside, waits at a socket that is mounted
 * into the container, and gets from then on the same channel as any other.
 */
#include "nofx.h"

#include <fcntl.h>
#include <grp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define SOCKET_PATH "/.nofx/init.sock"

/* dial connects the channel. Without it there is nobody to tell, and nothing
 * to be here for. */
static void dial(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = SOCKET_PATH };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), c;

	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) != 0)
		_exit(3); /* NoDoor in Go */
	c = fcntl(fd, F_DUPFD_CLOEXEC, 100); /* not in the way of what it becomes */
	if (c < 0 || dup2(c, INIT_CHAN) != INIT_CHAN || fcntl(INIT_CHAN, F_SETFD, FD_CLOEXEC) != 0)
		_exit(4);
	if (sys_close_from(INIT_CHAN + 1, 0) != 0)
		set_up_failed("descriptors");
}

/* be_told waits for the supervisor to say who the step is, and takes the
 * filter that it is to run under. */
static void be_told(void)
{
	struct msg m;
	struct stat st;
	uint8_t *filter;
	int fd, n = 1;

	if (recv_fds(INIT_CHAN, &m, sizeof(m), &fd, &n, 0) != sizeof(m) || m.type != M_GO || n != 1)
		_exit(0); /* the supervisor is gone */
	errno = EINVAL;
	if (fstat(fd, &st) != 0 || st.st_size <= 0 || st.st_size % 8 != 0 || st.st_size / 8 > MAX_FILTER)
		set_up_failed("filter");
	filter = malloc((size_t)st.st_size);
	if (filter == NULL || !read_all(fd, filter, (size_t)st.st_size))
		set_up_failed("filter");
	close(fd);
	shared.filter = filter;
	shared.filter_len = (uint16_t)(st.st_size / 8);
	shared.step_id = (uint32_t)m.a;
	shared.root_id = (uint32_t)m.b;
	shared.gvisor = m.gvisor == 1;
	if (shared.gvisor)
		gvisor_set_up(m.pids);
}

void contained_set_up(void)
{
	dial();
	be_told();
	if (chdir("/") != 0)
		set_up_failed("/");
	if (chmod("/tmp", 01777) != 0) /* the engine may give it the image's mode */
		set_up_failed("/tmp");
	if (chmod("/home/step", 0700) != 0 || chown("/home/step", shared.step_id, shared.step_id) != 0)
		set_up_failed("/home/step");
	if (setgroups(0, NULL) != 0) /* the engine's are root's */
		set_up_failed("groups");
	drop_privileges();
}
