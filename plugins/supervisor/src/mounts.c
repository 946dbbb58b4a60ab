/*
 * The mounts of one sandbox, made by init while it is still the host's root
 * and outside of the sandbox's user namespace. Every target is a folder of
 * our own template, so no link of an image can lead a mount astray.
 */
#include "nofx.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mount.h>
#include <unistd.h>

static const char *const read_only[] = { "/proc/sys", "/proc/bus", "/proc/fs", "/proc/irq" };

static const char *const masked_files[] = {
	"/proc/kcore",	    "/proc/keys",	 "/proc/key-users",	"/proc/kmsg",	     "/proc/kallsyms",
	"/proc/kpagecount", "/proc/kpageflags",	 "/proc/kpagecgroup",	"/proc/timer_list",  "/proc/timer_stats",
	"/proc/sched_debug", "/proc/latency_stats", "/proc/sysrq-trigger", "/proc/interrupts", "/proc/vmallocinfo",
	"/proc/cmdline",    "/proc/sys/kernel/random/boot_id", /* which host this is */
};

static const char *const masked_dirs[] = { "/proc/acpi", "/proc/scsi", "/proc/asound" };

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static bool mount_proc(const char **what)
{
	const uint64_t ro = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;

	*what = "/proc";
	if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) != 0)
		return false;
	for (size_t i = 0; i < COUNT(read_only); i++) {
		*what = read_only[i];
		if (mount(read_only[i], read_only[i], NULL, MS_BIND | MS_REC, NULL) != 0) {
			if (errno == ENOENT)
				continue;
			return false;
		}
		if (sys_mount_attr(AT_FDCWD, read_only[i], AT_RECURSIVE, ro, -1) != 0)
			return false;
	}
	for (size_t i = 0; i < COUNT(masked_files); i++) {
		*what = masked_files[i];
		if (mount("/dev/null", masked_files[i], NULL, MS_BIND, NULL) != 0 && errno != ENOENT)
			return false;
	}
	for (size_t i = 0; i < COUNT(masked_dirs); i++) { /* /sys is an empty folder of the template */
		*what = masked_dirs[i];
		if (mount("/sys", masked_dirs[i], NULL, MS_BIND, NULL) != 0 && errno != ENOENT)
			return false;
	}
	return true;
}

/* scratch mounts an own file system that counts against the sandbox's memory. */
static bool scratch(const char *path, uint64_t bytes, unsigned mode)
{
	char opts[160];

	snprintf(opts, sizeof(opts), "mode=%o,size=%llu,nr_inodes=%llu", mode, (unsigned long long)bytes,
		 (unsigned long long)(bytes / 4096 + 64));
	return mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, opts) == 0;
}

/* build_mounts leaves this process in the sandbox's root, with all in it that
 * does not depend on whom it is for. what names the mount that failed. */
bool build_mounts(const char **what)
{
	*what = "the template";
	if (setns(shared.template_fd, CLONE_NEWNS) != 0 || unshare(CLONE_NEWNS) != 0)
		return false;
	close_fd(&shared.template_fd);
	if (!mount_proc(what))
		return false;
	*what = "/tmp";
	if (!scratch("/tmp", shared.tmp_bytes, 01777))
		return false;
	*what = "/home/step";
	if (!scratch("/home/step", shared.home_bytes, 0700))
		return false;
	*what = "/dev/shm";
	if (!scratch("/dev/shm", shared.shm_bytes, 01777))
		return false;
	*what = "/dev/pts";
	return mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620") == 0;
}

/* finish_mounts adds what is the step's. */
bool finish_mounts(int workspace, uint32_t step, const char **what)
{
	*what = "/home/step";
	if (chown("/home/step", step, step) != 0)
		return false;
	*what = "/workspace";
	if (sys_move_mount(workspace, "/workspace") != 0)
		return false;
	*what = "/";
	return chdir("/") == 0;
}
