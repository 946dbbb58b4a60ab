package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/nofx-run/nofx/internal/bandwidth"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

const pollEvery = 2 * time.Millisecond

// Group is the control group of one attempt.
type Group struct {
	tree    *Tree
	tenant  string
	attempt string
}

// Group names an attempt's group, whether it exists or not.
func (t *Tree) Group(tenant, attempt string) *Group {
	return &Group{tree: t, tenant: safe(tenant), attempt: safe(attempt)}
}

// Cgroup is where a driver puts the attempt's processes.
func (g *Group) Cgroup() driver.Cgroup {
	if g.tree.v2 {
		return driver.Cgroup{V2: filepath.Join(g.parent(), g.attempt)}
	}
	c := driver.Cgroup{V1: make(map[string]string, len(g.tree.ctl))}
	for name, dir := range g.tree.ctl {
		c.V1[name] = filepath.Join(dir, slice(g.tenant), g.attempt)
	}
	return c
}

// slice is a tenant's folder where the daemon makes it by itself.
func slice(tenant string) string { return "nofx-" + tenant + ".slice" }

// parent is the v2 group that the tenant's attempts have theirs in.
func (g *Group) parent() string {
	if g.tree.units != nil {
		return g.tree.units.scope(g.tenant)
	}
	return filepath.Join(mountPoint, g.tree.root, slice(g.tenant))
}

// folders are the group's, one a hierarchy.
func (g *Group) folders() []string {
	if g.tree.v2 {
		return []string{g.Cgroup().V2}
	}
	dirs := make([]string, 0, len(g.tree.v1))
	for _, dir := range g.tree.v1 {
		dirs = append(dirs, filepath.Join(dir, slice(g.tenant), g.attempt))
	}
	return dirs
}

// Make makes the group with its limits. A group of that name that is there
// already is refused as a conflict: it may have been killed. When it fails,
// nothing is left.
func (g *Group) Make(r step.Resources) (err error) {
	if err := g.makeParent(); err != nil {
		return err
	}
	var made []string
	defer func() {
		if err != nil {
			for _, dir := range made {
				err = errors.Join(err, os.Remove(dir))
			}
		}
	}()
	for _, dir := range g.folders() {
		err := os.Mkdir(dir, 0o755)
		if errors.Is(err, fs.ErrNotExist) {
			// v1 has no parent yet, or somebody stopped the scope.
			if err = g.makeParentAnew(dir); err == nil {
				err = os.Mkdir(dir, 0o755)
			}
		}
		if errors.Is(err, fs.ErrExist) {
			return step.Errorf(step.KindConflict, "cgroup %s is there already", dir)
		}
		if err != nil {
			return err
		}
		made = append(made, dir)
	}
	return g.limit(r)
}

// makeParent makes the v2 group above the attempt's.
func (g *Group) makeParent() error {
	switch {
	case !g.tree.v2:
		return nil
	case g.tree.units != nil:
		return g.tree.units.ensure(g.parent())
	}
	if err := g.tree.makeV2(filepath.Join(g.tree.root, slice(g.tenant))); err != nil {
		return err
	}
	return controllers(g.parent())
}

func (g *Group) makeParentAnew(dir string) error {
	if g.tree.units != nil {
		return g.makeParent()
	}
	return exists(os.Mkdir(filepath.Dir(dir), 0o755))
}

// limit sets the caps that r asks for.
func (g *Group) limit(r step.Resources) error {
	us, of := bandwidth.Of(r.CPU)
	quota, period := strconv.FormatInt(us, 10), strconv.FormatInt(of, 10)
	memory := strconv.FormatInt(r.MemoryMB<<20, 10)
	pids := strconv.FormatInt(r.Pids, 10)
	c := g.Cgroup()
	var writes [][2]string
	if g.tree.v2 {
		set := func(file, value string) { writes = append(writes, [2]string{filepath.Join(c.V2, file), value}) }
		if r.CPU > 0 {
			set("cpu.max", quota+" "+period)
		}
		if r.MemoryMB > 0 {
			set("memory.max", memory)
			set("memory.oom.group", "1")
			if _, err := os.Stat(filepath.Join(c.V2, "memory.swap.max")); err == nil {
				set("memory.swap.max", "0")
			}
		}
		if r.Pids > 0 {
			set("pids.max", pids)
		}
	} else {
		set := func(controller, file, value string) {
			writes = append(writes, [2]string{filepath.Join(c.V1[controller], file), value})
		}
		if r.CPU > 0 {
			set("cpu", "cpu.cfs_period_us", period)
			set("cpu", "cpu.cfs_quota_us", quota)
		}
		if r.MemoryMB > 0 {
			set("memory", "memory.limit_in_bytes", memory)
			// Memory and swap together may not be more: swap is off.
			if _, err := os.Stat(filepath.Join(c.V1["memory"], "memory.memsw.limit_in_bytes")); err == nil {
				set("memory", "memory.memsw.limit_in_bytes", memory)
			}
		}
		if r.Pids > 0 {
			set("pids", "pids.max", pids)
		}
	}
	for _, w := range writes {
		if err := write(w[0], w[1]); err != nil {
			return fmt.Errorf("limit: %w", err)
		}
	}
	return nil
}

// LimitIO bounds what the group reads from each device in a second, and what it
// writes: mb MiB.
func (g *Group) LimitIO(devices []string, mb int64) error {
	rate := strconv.FormatInt(mb<<20, 10)
	c := g.Cgroup()
	done := 0
	for _, d := range devices {
		var err error
		switch {
		case g.tree.v2:
			err = write(filepath.Join(c.V2, "io.max"), d+" rbps="+rate+" wbps="+rate)
		case c.V1[blkio] == "":
			err = step.Errorf(step.KindUnsupported, "the cgroup controller blkio is not mounted")
		default:
			err = errors.Join(write(filepath.Join(c.V1[blkio], "blkio.throttle.read_bps_device"), d+" "+rate),
				write(filepath.Join(c.V1[blkio], "blkio.throttle.write_bps_device"), d+" "+rate))
		}
		if errors.Is(err, syscall.ENODEV) { // one that has no queue to bound, or has just gone
			continue
		}
		if err != nil {
			return fmt.Errorf("limit of device %s: %w", d, err)
		}
		done++
	}
	if done == 0 {
		return step.Errorf(step.KindUnsupported, "none of the devices %v can be bounded", devices)
	}
	return nil
}

// Kill ends every process of the group and returns when none is left, or when
// ctx ends.
func (g *Group) Kill(ctx context.Context) error {
	for _, dir := range g.folders() {
		if err := kill(ctx, dir); err != nil {
			return err
		}
	}
	return nil
}

// kill ends every process of a group, on v2 at once, else one by one.
func kill(ctx context.Context, dir string) error {
	err := write(filepath.Join(dir, "cgroup.kill"), "1")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for oneByOne := err != nil; ; {
		pids, err := processes(dir)
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			if !oneByOne {
				break
			}
			// A pid read from the group may have ended since; its number is not
			// given to a new process this soon.
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("kill %d of %s: %w", pid, dir, err)
			}
		}
		if err := pause(ctx, dir+": processes do not die"); err != nil {
			return err
		}
	}
}

// Remove kills what is in the group and removes it. A group that is not there
// is no error.
func (g *Group) Remove(ctx context.Context) error {
	for _, dir := range g.folders() {
		if err := remove(ctx, dir); err != nil {
			return err
		}
	}
	return nil
}

// remove kills what is in a group and removes it. The kernel may call a group
// busy for a moment after its last process or child has gone.
func remove(ctx context.Context, dir string) error {
	for {
		err := os.Remove(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, syscall.EBUSY) {
			return err
		}
		if err := kill(ctx, dir); err != nil {
			return err
		}
		if err := pause(ctx, dir+": it stays busy"); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, what string) error {
	timer := time.NewTimer(pollEvery)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ended(ctx, what)
	}
}

// processes lists a group's, none when the group is not there.
func processes(dir string) ([]int, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var pids []int
	n := 0
	for _, b := range raw {
		if b == '\n' {
			if n > 0 { // 0 = a process of another pid namespace, which cannot be named
				pids = append(pids, n)
			}
			n = 0
			continue
		}
		n = n*10 + int(b-'0')
	}
	return pids, nil
}
