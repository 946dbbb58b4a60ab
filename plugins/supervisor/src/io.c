/* Bounded reading and writing of fields, whole buffers, and descriptors. */
#include "nofx.h"

#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static bool rd_take(struct rd *r, size_t n)
{
	if (r->bad || (size_t)(r->end - r->p) < n)
		r->bad = true;
	return !r->bad;
}

uint8_t rd_u8(struct rd *r)
{
	return rd_take(r, 1) ? *r->p++ : 0;
}

uint32_t rd_u32(struct rd *r)
{
	uint32_t v = 0;

	if (rd_take(r, sizeof(v))) {
		memcpy(&v, r->p, sizeof(v));
		r->p += sizeof(v);
	}
	return v;
}

uint64_t rd_u64(struct rd *r)
{
	uint64_t v = 0;

	if (rd_take(r, sizeof(v))) {
		memcpy(&v, r->p, sizeof(v));
		r->p += sizeof(v);
	}
	return v;
}

const uint8_t *rd_bytes(struct rd *r, uint32_t *n)
{
	const uint8_t *p;

	*n = rd_u32(r);
	if (!rd_take(r, *n)) {
		*n = 0;
		return (const uint8_t *)"";
	}
	p = r->p;
	r->p += *n;
	return p;
}

const char *rd_str(struct rd *r)
{
	uint32_t n;
	const char *s = (const char *)rd_bytes(r, &n);

	if (r->bad || n == 0 || memchr(s, 0, n) != s + n - 1) {
		r->bad = true;
		return "";
	}
	return s;
}

bool rd_done(const struct rd *r)
{
	return !r->bad && r->p == r->end;
}

static void wr_put(struct wr *w, const void *p, size_t n)
{
	if (w->full || (size_t)(w->end - w->p) < n) {
		w->full = true;
		return;
	}
	memcpy(w->p, p, n);
	w->p += n;
}

void wr_u8(struct wr *w, uint8_t v) { wr_put(w, &v, sizeof(v)); }
void wr_u32(struct wr *w, uint32_t v) { wr_put(w, &v, sizeof(v)); }
void wr_u64(struct wr *w, uint64_t v) { wr_put(w, &v, sizeof(v)); }

void wr_str(struct wr *w, const char *s)
{
	size_t n = strlen(s) + 1;

	wr_u32(w, (uint32_t)n);
	wr_put(w, s, n);
}

bool write_all(int fd, const void *p, size_t n)
{
	const uint8_t *b = p;

	while (n > 0) {
		ssize_t k = write(fd, b, n);

		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return false;
		b += k;
		n -= (size_t)k;
	}
	return true;
}

bool read_all(int fd, void *p, size_t n)
{
	uint8_t *b = p;

	while (n > 0) {
		ssize_t k = read(fd, b, n);

		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0) {
			if (k == 0)
				errno = ECONNRESET;
			return false;
		}
		b += k;
		n -= (size_t)k;
	}
	return true;
}

/* write_file writes a short text in one call, as control files want it. */
bool write_file(const char *path, const char *text)
{
	size_t n = strlen(text);
	int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
	ssize_t k;
	int err;

	if (fd < 0)
		return false;
	do {
		k = write(fd, text, n);
	} while (k < 0 && errno == EINTR);
	err = k < 0 ? errno : k == (ssize_t)n ? 0 : EIO;
	close(fd);
	errno = err;
	return err == 0;
}

#define MAX_FDS 12

ssize_t send_fds(int sock, const void *p, size_t n, const int *fds, int nfds, int flags)
{
	union {
		char buf[CMSG_SPACE(MAX_FDS * sizeof(int))];
		struct cmsghdr align;
	} c;
	struct iovec iov = { .iov_base = (void *)(uintptr_t)p, .iov_len = n };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t k;

	if (nfds < 0 || nfds > MAX_FDS) {
		errno = EINVAL;
		return -1;
	}
	if (nfds > 0) {
		struct cmsghdr *h;

		memset(&c, 0, sizeof(c));
		m.msg_control = c.buf;
		m.msg_controllen = CMSG_SPACE((size_t)nfds * sizeof(int));
		h = CMSG_FIRSTHDR(&m);
		h->cmsg_level = SOL_SOCKET;
		h->cmsg_type = SCM_RIGHTS;
		h->cmsg_len = CMSG_LEN((size_t)nfds * sizeof(int));
		memcpy(CMSG_DATA(h), fds, (size_t)nfds * sizeof(int));
	}
	do {
		k = sendmsg(sock, &m, flags | MSG_NOSIGNAL);
	} while (k < 0 && errno == EINTR);
	return k;
}

/* recv_fds takes at most *nfds descriptors; more, or a message that does not
 * fit, is an error and nothing is kept. */
ssize_t recv_fds(int sock, void *p, size_t n, int *fds, int *nfds, int flags)
{
	union {
		char buf[CMSG_SPACE(MAX_FDS * sizeof(int))];
		struct cmsghdr align;
	} c;
	struct iovec iov = { .iov_base = p, .iov_len = n };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = c.buf, .msg_controllen = sizeof(c.buf) };
	int got = 0, max = *nfds;
	bool many = false;
	ssize_t k;

	do {
		k = recvmsg(sock, &m, flags | MSG_CMSG_CLOEXEC);
	} while (k < 0 && errno == EINTR);
	*nfds = 0;
	if (k < 0)
		return k;
	for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h != NULL; h = CMSG_NXTHDR(&m, h)) {
		size_t count;

		if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
			continue;
		count = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(h) + i * sizeof(int), sizeof(fd));
			if (got < max) {
				fds[got++] = fd;
			} else {
				close(fd);
				many = true;
			}
		}
	}
	if (many || (m.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
		while (got > 0)
			close(fds[--got]);
		errno = EMSGSIZE;
		return -1;
	}
	*nfds = got;
	return k;
}

uint64_t now_ns(void)
{
	struct timespec t;

	if (clock_gettime(CLOCK_BOOTTIME, &t) != 0)
		return 0;
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}
