"""Control groups, of v1 and v2: what bounds processor, memory and processes."""

import glob
import itertools
import os
import time

MOUNT = "/sys/fs/cgroup"
PREFIX = "nofx-python"
CONTROLLERS = ("cpu", "cpuacct", "memory", "pids")  # of v1
PERIOD = 100000  # microseconds

# A shell writes itself into groups and becomes a program.
ENTER = 'while [ "$1" != -- ]; do echo 0 >"$1/cgroup.procs" || exit 125; shift; done; shift; exec "$@"'


class Groups:
    """Makes groups, if that can be done here; else it bounds nothing."""

    def __init__(self):
        self.number = itertools.count(1)
        self.v2 = os.path.exists(MOUNT + "/cgroup.controllers")
        self.able = True
        try:
            if self.v2:
                write(MOUNT + "/cgroup.subtree_control", "+cpu +memory +pids")
            self.sweep()
            self.make(1, 64, 64).remove()
        except OSError:
            self.able = False

    def capabilities(self):
        return ["cap.cpu", "cap.memory", "cap.pids"] if self.able else []

    def parent(self, controller):
        # cpu and cpuacct may be one hierarchy by two names
        return MOUNT if self.v2 else os.path.realpath(os.path.join(MOUNT, controller))

    def sweep(self):
        """Removes what processes that have ended left; one in use stays."""
        for c in CONTROLLERS:
            for path in glob.glob("%s/%s-*" % (self.parent(c), PREFIX)):
                pid = os.path.basename(path)[len(PREFIX) + 1:].split("-")[0]
                if pid.isdigit() and not os.path.exists("/proc/" + pid):
                    try:
                        os.rmdir(path)
                    except OSError:
                        pass

    def make(self, cpu, memory_mb, pids):
        g = Group(self, "%s-%d-%d" % (PREFIX, os.getpid(), next(self.number)))
        try:
            g.limit(cpu, memory_mb, pids)
        except OSError:
            g.remove()
            raise
        return g


class Group:
    """The group of one sandbox."""

    def __init__(self, groups, name):
        self.v2, self.able = groups.v2, groups.able
        self.dirs = {c: os.path.join(groups.parent(c), name) for c in CONTROLLERS}
        self.paths = sorted(set(self.dirs.values())) if self.able else []

    def limit(self, cpu, memory_mb, pids):
        for path in self.paths:
            os.mkdir(path)
        quota, memory = str(max(1000, int(cpu * PERIOD))), str(memory_mb << 20)
        if cpu and self.v2:
            write(self.file("cpu", "cpu.max"), "%s %d" % (quota, PERIOD))
        elif cpu:
            write(self.file("cpu", "cpu.cfs_period_us"), str(PERIOD))
            write(self.file("cpu", "cpu.cfs_quota_us"), quota)
        if memory_mb:
            write(self.file("memory", "memory.max" if self.v2 else "memory.limit_in_bytes"), memory)
            if self.v2:
                write(self.file("memory", "memory.oom.group"), "1")
            try:  # a kernel without swap accounting has no such file
                write(self.file("memory", "memory.swap.max" if self.v2 else "memory.memsw.limit_in_bytes"), "0" if self.v2 else memory)
            except FileNotFoundError:
                pass
        if pids:
            write(self.file("pids", "pids.max"), str(pids))

    def file(self, controller, name):
        return os.path.join(self.dirs[controller], name)

    def enter(self, argv):
        """A command that enters the group and then is argv."""
        return ["/bin/sh", "-c", ENTER, "sh", *self.paths, "--", *argv]

    def counts(self):
        """What the kernel has counted: kills for want of memory, processes that were refused, CPU time in microseconds."""
        if not self.able:
            return 0, 0, 0
        refused = number(self.file("pids", "pids.events"), "max")
        if self.v2:
            return number(self.file("memory", "memory.events"), "oom_kill"), refused, number(self.file("cpu", "cpu.stat"), "usage_usec")
        return number(self.file("memory", "memory.oom_control"), "oom_kill"), refused, number(self.file("cpuacct", "cpuacct.usage")) // 1000

    def peak(self):
        return number(self.file("memory", "memory.peak" if self.v2 else "memory.max_usage_in_bytes")) if self.able else 0

    def remove(self):
        """Removes the group; a process that has just ended leaves it a moment later."""
        until = time.monotonic() + 5
        for path in self.paths:
            while True:
                try:
                    os.rmdir(path)
                except FileNotFoundError:
                    pass
                except OSError:
                    if time.monotonic() > until:
                        raise
                    time.sleep(0.005)
                    continue
                break


def write(path, value):
    with open(path, "r+") as f:  # never makes one
        f.write(value)


def number(path, key=None):
    """The number of a file, or that of its line "KEY NUMBER"; 0 where there is none."""
    try:
        with open(path) as f:
            for line in f:
                words = line.split()
                if key is None and len(words) == 1 or len(words) == 2 and words[0] == key:
                    return int(words[-1])
    except OSError:
        pass
    return 0
