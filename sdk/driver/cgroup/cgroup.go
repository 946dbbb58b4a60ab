// Package cgroup bounds the processes of a sandbox with a control group of its
// own, on cgroup v1 and v2. It is for drivers that are root on the host of
// their sandboxes; one with CapHost is given its groups by the daemon.
//
// The groups lie at the top of the hierarchies and are named after the process
// that made them. What such a process leaves behind is empty as soon as its
// sandboxes are dead, and the next one removes it.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

const mountPoint = "/sys/fs/cgroup"

// controllers are what caps need of v1.
var controllers = [...]string{"cpu", "cpuacct", "memory", "pids"}

// Root makes groups.
type Root struct {
	prefix string
	v2     bool
	dirs   map[string]string // where groups are made, by controller; on v2 all the same
	err    error             // why none can be made
	next   atomic.Int64
}

// Open makes one for groups whose names begin with prefix, and removes those of
// processes that have ended. Where no group can be made, the Root has no
// capabilities, and its groups bound nothing and count nothing.
func Open(prefix string) *Root { return open(mountPoint, prefix) }

func open(mount, prefix string) *Root {
	r := &Root{prefix: prefix, dirs: map[string]string{}}
	if _, err := os.Stat(filepath.Join(mount, "cgroup.controllers")); err == nil {
		r.v2 = true
		r.err = write(filepath.Join(mount, "cgroup.subtree_control"), "+cpu +memory +pids")
		for _, c := range controllers {
			r.dirs[c] = mount
		}
	} else {
		for _, c := range controllers { // cpu and cpuacct may be one hierarchy by two names
			dir, err := filepath.EvalSymlinks(filepath.Join(mount, c))
			r.dirs[c] = dir
			r.err = errors.Join(r.err, err)
		}
	}
	if r.err != nil {
		return r
	}
	r.sweep()
	g, err := r.Make(step.Resources{CPU: 1, MemoryMB: 64, Pids: 64})
	if err == nil {
		err = g.Remove()
	}
	r.err = err
	return r
}

// Capabilities are the caps that groups enforce here.
func (r *Root) Capabilities() driver.Capabilities {
	if r.err != nil {
		return nil
	}
	return driver.Capabilities{driver.CapCPU, driver.CapMemory, driver.CapPids}
}

// paths are the folders of a name, each once.
func (r *Root) paths(name string) []string {
	var all []string
	if r.err != nil {
		return nil
	}
	for _, c := range controllers {
		if dir := filepath.Join(r.dirs[c], name); !slices.Contains(all, dir) {
			all = append(all, dir)
		}
	}
	return all
}

// sweep removes what processes of the prefix have left. A group that is in use
// cannot be removed.
func (r *Root) sweep() {
	for _, c := range controllers {
		names, _ := filepath.Glob(filepath.Join(r.dirs[c], r.prefix+"-*"))
		for _, name := range names {
			pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(name), r.prefix+"-"), "-")
			if n, err := strconv.Atoi(pid); err == nil && errors.Is(syscall.Kill(n, 0), syscall.ESRCH) {
				_ = os.Remove(name)
			}
		}
	}
}

// Make makes a group with the caps that r asks for of processor, memory and
// processes.
func (r *Root) Make(caps step.Resources) (*Group, error) {
	if r.err != nil && (caps.CPU > 0 || caps.MemoryMB > 0 || caps.Pids > 0) {
		return nil, step.Errorf(step.KindUnsupported, "no control groups: %w", r.err)
	}
	g := &Group{root: r, name: fmt.Sprintf("%s-%d-%d", r.prefix, os.Getpid(), r.next.Add(1))}
	for _, dir := range r.paths(g.name) {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, errors.Join(step.Errorf(step.KindUnavailable, "a control group: %w", err), g.Remove())
		}
	}
	if err := g.limit(caps); err != nil {
		return nil, errors.Join(step.Errorf(step.KindUnavailable, "a control group's limits: %w", err), g.Remove())
	}
	return g, nil
}

// Group is one control group.
type Group struct {
	root *Root
	name string
}

func (g *Group) file(controller, name string) string {
	return filepath.Join(g.root.dirs[controller], g.name, name)
}

// limit sets the caps; zero is none.
func (g *Group) limit(r step.Resources) error {
	var errs []error
	set := func(asked bool, controller, v2, v1, value string) {
		if file := v1; asked {
			if g.root.v2 {
				file = v2
			}
			errs = append(errs, write(g.file(controller, file), value))
		}
	}
	const period = 100_000 // µs
	quota := strconv.FormatInt(max(1000, int64(r.CPU*period)), 10)
	if r.CPU > 0 && g.root.v2 {
		quota = fmt.Sprintf("%s %d", quota, period)
	}
	set(r.CPU > 0 && !g.root.v2, "cpu", "", "cpu.cfs_period_us", strconv.Itoa(period))
	set(r.CPU > 0, "cpu", "cpu.max", "cpu.cfs_quota_us", quota)
	set(r.MemoryMB > 0, "memory", "memory.max", "memory.limit_in_bytes", strconv.FormatInt(r.MemoryMB<<20, 10))
	set(r.MemoryMB > 0 && g.root.v2, "memory", "memory.oom.group", "", "1")
	set(r.Pids > 0, "pids", "pids.max", "pids.max", strconv.FormatInt(r.Pids, 10))
	if r.MemoryMB > 0 { // a kernel without swap accounting has no such file
		name, value := "memory.memsw.limit_in_bytes", strconv.FormatInt(r.MemoryMB<<20, 10)
		if g.root.v2 {
			name, value = "memory.swap.max", "0"
		}
		if err := write(g.file("memory", name), value); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Remove removes the group, which must have no process any more. A process that
// has just ended leaves it a moment later.
func (g *Group) Remove() error {
	deadline := time.Now().Add(5 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for _, dir := range g.root.paths(g.name) {
		for {
			err := os.Remove(dir)
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				break
			}
			if !errors.Is(err, syscall.EBUSY) || time.Now().After(deadline) {
				return err
			}
			<-tick.C
		}
	}
	return nil
}

// write writes to a file that is there.
func write(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
