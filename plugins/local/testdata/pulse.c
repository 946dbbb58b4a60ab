/* pulse: does a small fixed piece of work again and again, a millisecond apart,
 * and prints the median and the 99th percentile of how long it took from the
 * moment it was due, in microseconds. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define BEATS 3000

static long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000L + t.tv_nsec;
}

static int order(const void *a, const void *b)
{
	long x = *(const long *)a, y = *(const long *)b;
	return (x > y) - (x < y);
}

int main(void)
{
	static long took[BEATS];
	volatile unsigned sum = 0;
	char block[4096] = { 0 };
	int i, k, fd = open("/tmp/pulse", O_RDWR | O_CREAT | O_TRUNC, 0600);

	for (i = 0; i < BEATS; i++) {
		long due = now() + 1000000;
		struct timespec at = { due / 1000000000L, due % 1000000000L };
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
		for (k = 0; k < 200000; k++)
			sum = sum * 31 + (unsigned)k;
		if (pwrite(fd, block, sizeof(block), 0) != sizeof(block))
			return 1;
		took[i] = now() - due;
	}
	qsort(took, BEATS, sizeof(took[0]), order);
	printf("%ld %ld\n", took[BEATS / 2] / 1000, took[BEATS * 99 / 100] / 1000);
	return 0;
}
