package cgroup

import (
	"os"
	"strconv"
	"strings"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// Entry is one process tree in a group, from before its begin.
type Entry struct {
	group  *Group
	before counts
}

// counts are a group's counters.
type counts struct{ ooms, refusals, cpuUsec int64 }

// Enter begins an entry.
func (g *Group) Enter() Entry { return Entry{group: g, before: g.counts()} }

// enter is a shell's script: it writes itself into groups and becomes a program.
const enter = `while [ "$1" != -- ]; do echo 0 >"$1/cgroup.procs" || exit 125; shift; done; shift; exec "$@"`

// Argv is a command that enters the group and then is argv.
func (e Entry) Argv(argv ...string) []string {
	all := append([]string{"/bin/sh", "-c", enter, "sh"}, e.group.root.paths(e.group.name)...)
	return append(append(all, "--"), argv...)
}

// End completes an exit with what the kernel did to the tree, and what the
// group used. Of two trees in a group that end at once either may be blamed for
// what the other did.
func (e Entry) End(x *driver.Exit) {
	now := e.group.counts()
	switch failed := x.Code != 0 || x.Signal != ""; {
	case now.ooms > e.before.ooms:
		x.Cause, x.Message = step.CauseOOM, "it used more memory than it may"
	case failed && now.refusals > e.before.refusals:
		x.Cause, x.Message = step.CausePids, "it failed after it was refused a process"
	}
	x.Usage.CPUUsec = max(0, now.cpuUsec-e.before.cpuUsec)
	peak := "memory.max_usage_in_bytes"
	if e.group.root.v2 {
		peak = "memory.peak"
	}
	x.Usage.MemoryPeakBytes = number(e.group.file("memory", peak), "")
}

func (g *Group) counts() counts {
	c := counts{refusals: number(g.file("pids", "pids.events"), "max")}
	if g.root.v2 {
		c.ooms, c.cpuUsec = number(g.file("memory", "memory.events"), "oom_kill"), number(g.file("cpu", "cpu.stat"), "usage_usec")
	} else {
		c.ooms, c.cpuUsec = number(g.file("memory", "memory.oom_control"), "oom_kill"), number(g.file("cpuacct", "cpuacct.usage"), "")/1000
	}
	return c
}

// number is the one in a file, or that of a line "KEY NUMBER"; 0 where there is
// none.
func number(file, key string) int64 {
	data, _ := os.ReadFile(file)
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) == 1 && key == "" || len(f) == 2 && f[0] == key {
			n, _ := strconv.ParseInt(f[len(f)-1], 10, 64)
			return n
		}
	}
	return 0
}
