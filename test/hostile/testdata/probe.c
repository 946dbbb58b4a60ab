/* What a shell cannot try. Each line of its output is something that went
 * through; run outside of a sandbox it is the control.
 *
 *   probe calls              calls that give power over the kernel, by name
 *   probe numbers            every number of a call that is not refused; for sandboxes alone
 *   probe families           every sort of socket: family, type, protocol
 *   probe tcp|udp ADDR PORT  what a server answers
 *   probe icmp|sctp ADDR     likewise, without a port
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* apart runs f in a child with a second's time and gives its status, or -1. */
static int apart(int (*f)(long), long arg)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		alarm(1);
		_exit(f(arg));
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static int bpf(long unused)
{
	union bpf_attr a = { .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1 };
	return syscall(SYS_bpf, BPF_MAP_CREATE, &a, sizeof(a)) < 0;
}
static int io_uring(long unused)
{
	char params[256] = { 0 };
	return syscall(SYS_io_uring_setup, 1, params) < 0;
}
static int userfault(long unused) { return syscall(SYS_userfaultfd, O_CLOEXEC | 1) < 0; }
static int perf(long unused)
{
	struct perf_event_attr a = { .type = PERF_TYPE_SOFTWARE, .size = sizeof(a), .config = PERF_COUNT_SW_CPU_CLOCK };
	return syscall(SYS_perf_event_open, &a, 0, -1, -1, 0) < 0;
}
static int add_key(long unused) { return syscall(SYS_add_key, "user", "nofx", "x", 1, -1) < 0; }
static int keyring(long unused) { return syscall(SYS_keyctl, 1, NULL) < 0; }
static int by_handle(long unused)
{
	union { struct file_handle h; char room[sizeof(struct file_handle) + 128]; } u = { .h.handle_bytes = 128 };
	int mount, at = open("/tmp", O_RDONLY);
	if (name_to_handle_at(AT_FDCWD, "/tmp", &u.h, &mount, 0) != 0)
		return 1;
	return open_by_handle_at(at, &u.h, O_RDONLY) < 0;
}

static const struct { const char *name; int (*f)(long); } calls[] = {
	{ "bpf", bpf }, { "io_uring_setup", io_uring }, { "userfaultfd", userfault }, { "perf_event_open", perf },
	{ "add_key", add_key }, { "keyctl", keyring }, { "open_by_handle_at", by_handle },
};

/* number calls nr with arguments that are nothing. */
static int number(long nr)
{
	errno = 0;
	long r = syscall(nr, -1L, -1L, -1L, -1L, -1L, -1L);
	return r < 0 && (errno == EPERM || errno == ENOSYS);
}

/* A 32-bit call: getpid by the interrupt of 386, which has the number 20. */
static int i386(long unused)
{
	long r;
	__asm__ volatile("int $0x80" : "=a"(r) : "a"(20L) : "memory", "r8", "r9", "r10", "r11");
	return r <= 0;
}

/* Everybody may call these, and without arguments they would upset the probe. */
static int upsets(long nr)
{
	return nr == SYS_fork || nr == SYS_vfork || nr == SYS_clone || nr == SYS_exit || nr == SYS_exit_group || nr == SYS_rt_sigreturn ||
	       nr == SYS_pause || nr == SYS_sync;
}

static void numbers(void)
{
	for (long nr = 0; nr < 480; nr++)
		if (!upsets(nr) && apart(number, nr) != 1)
			printf("%ld\n", nr);
	if (apart(number, 0x40000000L | SYS_getpid) == 0)
		puts("x32");
	if (apart(i386, 0) == 0)
		puts("i386");
}

static void families(void)
{
	static const int types[] = { SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, SOCK_PACKET };
	for (int family = 0; family < 48; family++)
		for (size_t t = 0; t < sizeof(types) / sizeof(types[0]); t++)
			for (int proto = 0; proto < 24; proto++) {
				int fd = socket(family, types[t], proto);
				if (fd < 0)
					continue;
				printf("%d %d %d\n", family, types[t], proto);
				close(fd);
			}
}

static int answer(int fd, const char *what)
{
	char got[256];
	struct pollfd p = { .fd = fd, .events = POLLIN };
	if (poll(&p, 1, 2000) != 1)
		return 1;
	if (recv(fd, got, sizeof(got), 0) <= 0)
		return 1;
	printf("%s answers\n", what);
	return 0;
}

static int call(const char *how, const char *host, const char *port)
{
	struct sockaddr_in to4 = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)) };
	struct sockaddr_in6 to6 = { .sin6_family = AF_INET6, .sin6_port = to4.sin_port };
	int icmp = strcmp(how, "icmp") == 0, udp = strcmp(how, "udp") == 0, sctp = strcmp(how, "sctp") == 0;
	int six = strchr(host, ':') != NULL, family = six ? AF_INET6 : AF_INET;
	struct sockaddr *to = six ? (struct sockaddr *)&to6 : (struct sockaddr *)&to4;
	socklen_t len = six ? sizeof(to6) : sizeof(to4);
	if (inet_pton(family, host, six ? (void *)&to6.sin6_addr : (void *)&to4.sin_addr) != 1)
		return 2;
	if (icmp) {
		static const int types[] = { SOCK_DGRAM, SOCK_RAW };
		for (int t = 0; t < 2; t++) {
			struct icmphdr echo = { .type = ICMP_ECHO, .checksum = htons(0xf7fe), .un.echo = { htons(1), 0 } };
			int fd = socket(family, types[t], IPPROTO_ICMP);
			if (fd >= 0 && sendto(fd, &echo, sizeof(echo), 0, to, len) > 0 && answer(fd, host) == 0)
				return 0;
		}
		return 1;
	}
	int fd = socket(family, udp ? SOCK_DGRAM : SOCK_STREAM, sctp ? IPPROTO_SCTP : 0);
	struct timeval most = { 3, 0 };
	if (fd < 0)
		return 1;
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &most, sizeof(most));
	if (connect(fd, to, len) != 0 || (udp && send(fd, "x", 1, 0) != 1))
		return 1;
	return answer(fd, host);
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IONBF, 0);
	if (argc == 2 && strcmp(argv[1], "calls") == 0) {
		for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
			if (apart(calls[i].f, 0) == 0)
				puts(calls[i].name);
	} else if (argc == 2 && strcmp(argv[1], "numbers") == 0) {
		numbers();
	} else if (argc == 2 && strcmp(argv[1], "families") == 0) {
		families();
	} else if (argc > 2) {
		(void)call(argv[1], argv[2], argc > 3 ? argv[3] : "9");
	}
	puts("end");
	return 0;
}
