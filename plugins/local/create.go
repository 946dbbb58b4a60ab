package local

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"github.com/nofx-run/nofx/plugins/supervisor"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// saved is the file spec.json of a sandbox: what it was made from.
type saved struct {
	Spec      driver.Spec
	CreatedAt time.Time
}

const (
	specFile      = "spec.json"
	workspaceName = "workspace" // the private one
)

// checkSpec refuses what this driver cannot do, and what it cannot do without.
func checkSpec(s driver.Spec) error {
	if err := s.Validate(); err != nil {
		return err
	}
	unsupported := func(what string) error {
		return step.Errorf(step.KindUnsupported, "driver local: %s", what)
	}
	switch s.Network {
	case "", step.NetworkNone:
	case step.NetworkAllow, step.NetworkOpen:
		return unsupported("network " + string(s.Network) + " is not enforced, so it is refused; only none is")
	default:
		return step.Errorf(step.KindInvalid, "network %.40q is none, allow or open", string(s.Network))
	}
	switch {
	case s.Isolation != "" && s.Isolation != "namespace":
		return unsupported("isolation is namespace only")
	case s.Image != "":
		return unsupported("images are not chosen per step; the driver's configuration names the root file system")
	case s.Resources.DiskMB > 0:
		return unsupported("a disk cap is not enforced, so it is refused")
	}
	if s.Until < 0 || s.Until > 0 && s.Until.Left() <= 0 {
		return step.Errorf(step.KindInvalid, "the deadline has passed already")
	}
	return checkHost(s)
}

func checkHost(s driver.Spec) error {
	h := s.Host
	if h == nil {
		return step.Errorf(step.KindInvalid, "driver local runs on the daemon's host and needs its part of the spec")
	}
	if h.UIDCount < 2 || h.UIDBase < 1000 || h.UIDBase > 1<<32-3 {
		return step.Errorf(step.KindInvalid, "driver local needs two uids from 1000 on, not %d from %d", h.UIDCount, h.UIDBase)
	}
	if h.Workspace != "" && (!filepath.IsAbs(h.Workspace) || filepath.Clean(h.Workspace) != h.Workspace) {
		return step.Errorf(step.KindInvalid, "the workspace is not an absolute, clean path")
	}
	if h.Workspace != "" && h.WorkspaceUID == 0 {
		return step.Errorf(step.KindInvalid, "the workspace may not belong to root: a step could leave programs there that run as root")
	}
	for _, g := range []driver.Cgroup{h.Cgroup, h.Supervisor} {
		if g.V2 != "" && !filepath.IsAbs(g.V2) {
			return step.Errorf(step.KindInvalid, "the control group %.200q is not an absolute path", g.V2)
		}
		if len(g.V1) > 8 {
			return step.Errorf(step.KindInvalid, "%d control groups are more than 8", len(g.V1))
		}
		for _, dir := range g.V1 {
			if !filepath.IsAbs(dir) {
				return step.Errorf(step.KindInvalid, "the control group %.200q is not an absolute path", dir)
			}
		}
	}
	for controller, asked := range map[string]bool{"cpu": s.Resources.CPU > 0, "memory": s.Resources.MemoryMB > 0, "pids": s.Resources.Pids > 0} {
		if asked && h.Cgroup.V2 == "" && h.Cgroup.V1[controller] == "" {
			return step.Errorf(step.KindInvalid, "a %s cap is asked for and no control group is given that enforces it", controller)
		}
	}
	return nil
}

// Create implements driver.Driver.
func (d *Driver) Create(ctx context.Context, spec driver.Spec) (driver.Handle, error) {
	if err := checkSpec(spec); err != nil {
		return driver.Handle{}, err
	}
	c, launcher, err := d.configured()
	if err != nil {
		return driver.Handle{}, err
	}
	dir := filepath.Join(c.StateDir, spec.ID)
	unlock, err := d.locks.lock(ctx, dir)
	if err != nil {
		return driver.Handle{}, err
	}
	defer unlock()
	h, err := handleOf(c.StateDir, spec.ID)
	if err != nil {
		return driver.Handle{}, err
	}
	if same, err := existing(dir, spec); err != nil || same {
		return h, err
	}
	if err := d.make(ctx, launcher, dir, spec); err != nil {
		return driver.Handle{}, err
	}
	return h, nil
}

// existing reports whether the sandbox is there already, made from the same
// spec. What a creation left that did not come to its end is removed.
func existing(dir string, spec driver.Spec) (bool, error) {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	life, err := supervisor.Look(dir)
	if err != nil {
		return false, step.Errorf(step.KindInternal, "sandbox %s: %w", spec.ID, err)
	}
	old, err := readSpec(dir)
	if err != nil || !life.Complete {
		return false, wipe(dir, life)
	}
	old.Spec.Until, spec.Until = 0, 0
	if !reflect.DeepEqual(old.Spec, spec) {
		return false, step.Errorf(step.KindConflict, "sandbox %s exists with another spec", spec.ID)
	}
	return true, nil
}

func readSpec(dir string) (saved, error) {
	var s saved
	data, err := os.ReadFile(filepath.Join(dir, specFile))
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return s, step.Errorf(step.KindInternal, "%s: %w", specFile, err)
	}
	return s, nil
}

// make makes the folder and the sandbox; when it fails, neither is left.
func (d *Driver) make(ctx context.Context, launcher *supervisor.Launcher, dir string, spec driver.Spec) (err error) {
	data, err := json.Marshal(saved{spec, time.Now().UTC()})
	if err != nil {
		return step.Errorf(step.KindInternal, "sandbox %s: %w", spec.ID, err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return step.Errorf(step.KindUnavailable, "sandbox %s: its folder cannot be made: %w", spec.ID, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.undo(ctx, dir))
		}
	}()
	if err := os.WriteFile(filepath.Join(dir, specFile), data, 0o600); err != nil {
		return step.Errorf(step.KindUnavailable, "sandbox %s: %w", spec.ID, err)
	}
	box := supervisor.Sandbox{
		Dir: dir, Until: spec.Until, UIDBase: spec.Host.UIDBase,
		Workspace: spec.Host.Workspace, WorkspaceUID: spec.Host.WorkspaceUID,
		Cgroup: spec.Host.Cgroup, Supervisor: spec.Host.Supervisor,
	}
	if box.Workspace == "" {
		if err := privateWorkspace(dir, &box); err != nil {
			return err
		}
	}
	conn, err := launcher.Create(ctx, &box)
	if err != nil {
		return err
	}
	d.release(dir, conn)
	return nil
}

// privateWorkspace makes one that lies in the sandbox's folder and goes with it.
func privateWorkspace(dir string, box *supervisor.Sandbox) error {
	box.Workspace, box.WorkspaceUID = filepath.Join(dir, workspaceName), box.UIDBase+1
	if err := os.Mkdir(box.Workspace, 0o755); err != nil {
		return step.Errorf(step.KindUnavailable, "workspace: %w", err)
	}
	if err := os.Lchown(box.Workspace, int(box.WorkspaceUID), int(box.WorkspaceUID)); err != nil {
		return step.Errorf(step.KindInternal, "workspace: %w", err)
	}
	return nil
}

// undo removes what a failed creation made, also when its context has ended.
func (d *Driver) undo(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return d.remove(ctx, dir)
}
