// Package cgroup makes, limits, reads, kills and removes the control groups of
// attempts, on cgroup v2 and v1, with the same behaviour on both.
//
// The layout below each hierarchy's mount point is
//
//	<root>/                       the daemon's own, such as nofx.slice
//	  nofx-<tenant>.slice/        the tenant's, for caps over all of its steps
//	    <attempt>/                one per attempt: the caps of its step
//	  supervisors/                the sandboxes' supervisors, outside every cap
//	  plugin_<name>/              a driver plugin
//
// Under systemd with cgroup v2 the slices are units of systemd's, and what is
// in them is in a scope that it delegates:
//
//	nofx.slice/
//	  nofx-<tenant>.slice/nofx-<tenant>.steps.scope/<attempt>/
//	  nofx.host.scope/supervisors/, plugin_<name>/
//
// Limits are set before the first process enters. A group that was killed is
// never used again: on v2, later children would be killed with it.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/cgroups/v3"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// mountPoint is where every distribution mounts the hierarchies.
const mountPoint = "/sys/fs/cgroup"

// v1Controllers are the v1 hierarchies that an attempt's group lives in.
var v1Controllers = [...]string{"cpu", "cpuacct", "memory", "pids", "freezer"}

const blkio = "blkio"

// Tree is the daemon's part of the host's control groups.
type Tree struct {
	root  string // below a mount point
	v2    bool
	units *units   // nil without systemd, and on v1
	v1    []string // the folders that v1 groups live in, one a hierarchy
	ctl   map[string]string
}

// Open finds out which version the host has and makes the root group. On a
// hybrid host the controllers are v1's, so v1 it is. Under systemd with v2 the
// root is the name of a slice, which comes with the first scope in it.
func Open(root string) (*Tree, error) {
	if root == "" || strings.HasPrefix(root, "/") || strings.Contains("/"+root+"/", "/../") {
		return nil, step.Errorf(step.KindInvalid, "cgroup_root %q is not a path below the mount point", root)
	}
	t := &Tree{root: filepath.Clean(root), ctl: map[string]string{}}
	switch cgroups.Mode() {
	case cgroups.Unified:
		t.v2 = true
		var err error
		if t.units, err = newUnits(t.root); err != nil || t.units != nil {
			return t, err
		}
		return t, t.makeV2(t.root)
	case cgroups.Legacy, cgroups.Hybrid:
		for _, c := range v1Controllers {
			if err := t.addV1(c); err != nil {
				return nil, err
			}
		}
		// A kernel may come without it; then nobody's input and output is bounded.
		if err := t.addV1(blkio); err != nil && !step.Is(err, step.KindUnsupported) {
			return nil, err
		}
		return t, nil
	}
	return nil, step.Errorf(step.KindUnsupported, "no control groups at %s", mountPoint)
}

// addV1 takes a controller's hierarchy in. cpu and cpuacct may be one
// hierarchy by two names, which must not be made twice.
func (t *Tree) addV1(controller string) error {
	dir, err := filepath.EvalSymlinks(filepath.Join(mountPoint, controller))
	if errors.Is(err, fs.ErrNotExist) {
		return step.Errorf(step.KindUnsupported, "the cgroup controller %s is not mounted", controller)
	}
	if err != nil {
		return err
	}
	dir = filepath.Join(dir, t.root)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if controller == "memory" {
		// Below this group, what a child uses counts for its parents too.
		if err := write(filepath.Join(dir, "memory.use_hierarchy"), "1"); err != nil {
			raw, readErr := os.ReadFile(filepath.Join(dir, "memory.use_hierarchy"))
			if readErr != nil || strings.TrimSpace(string(raw)) != "1" {
				return err
			}
		}
	}
	t.ctl[controller] = dir
	for _, have := range t.v1 {
		if have == dir {
			return nil
		}
	}
	t.v1 = append(t.v1, dir)
	return nil
}

// makeV2 makes a group and every one above it, with the controllers that
// attempts need switched on for its children.
func (t *Tree) makeV2(rel string) error {
	dir := mountPoint
	for _, part := range strings.Split(rel, "/") {
		if err := controllers(dir); err != nil {
			return err
		}
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// controllers switches on what attempts need for a group's children. A kernel
// may come without io.
func controllers(dir string) error {
	file := filepath.Join(dir, "cgroup.subtree_control")
	if write(file, "+cpu +memory +pids +io") == nil {
		return nil
	}
	if err := write(file, "+cpu +memory +pids"); err != nil {
		return fmt.Errorf("cgroup %s: controllers for its children: %w", dir, err)
	}
	return nil
}

// host makes the v2 group that supervisors and plugins have theirs in.
func (t *Tree) host() (string, error) {
	if t.units != nil {
		return t.units.host(), t.units.ensure(t.units.host())
	}
	dir := filepath.Join(mountPoint, t.root)
	return dir, controllers(dir)
}

// V2 reports whether the host's controllers are cgroup v2's.
func (t *Tree) V2() bool { return t.v2 }

// Supervisors makes the group for the sandboxes' supervisors, outside every
// step's caps.
func (t *Tree) Supervisors() (driver.Cgroup, error) {
	if t.v2 {
		host, err := t.host()
		if err != nil {
			return driver.Cgroup{}, err
		}
		dir := filepath.Join(host, "supervisors")
		return driver.Cgroup{V2: dir}, exists(os.Mkdir(dir, 0o755))
	}
	g := driver.Cgroup{V1: map[string]string{}}
	for c, dir := range t.ctl {
		g.V1[c] = filepath.Join(dir, "supervisors")
		if err := exists(os.Mkdir(g.V1[c], 0o755)); err != nil {
			return driver.Cgroup{}, err
		}
	}
	return g, nil
}

func exists(err error) error {
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// write puts a value into a control file.
func write(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// Name is the name of the folder that an attempt's group has.
func Name(attempt string) string { return safe(attempt) }

// safe is a name that can be a folder's, whatever was in it: letters, digits,
// dots and underscores stay. A dash becomes a dot, for systemd reads it as a
// slash in a slice's name and an underscore could be another tenant's; neither
// a tenant's nor an attempt's id has dots. The rest becomes underscores.
func safe(name string) string {
	return strings.Map(func(r rune) rune {
		if r == '-' {
			return '.'
		}
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '.' {
			return r
		}
		return '_'
	}, name)
}

// ended reports whether ctx is over, as an error.
func ended(ctx context.Context, what string) error {
	if ctx.Err() == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, context.Cause(ctx))
}
