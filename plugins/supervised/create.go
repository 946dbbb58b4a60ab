package supervised

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"github.com/nofx-run/nofx/internal/volume"
	"github.com/nofx-run/nofx/plugins/egress"
	"github.com/nofx-run/nofx/plugins/supervisor"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// saved is the file spec.json of a sandbox: what it was made from.
type saved struct {
	Spec      driver.Spec
	CreatedAt time.Time
	Group     driver.Cgroup // where its processes are
}

const (
	specFile      = "spec.json"
	workspaceName = "workspace" // the private one
)

// Box is a sandbox that is being made: its folder is there and has nothing of
// the supervisor's in it.
type Box struct {
	Dir          string
	Spec         driver.Spec
	Launcher     *supervisor.Launcher
	Workspace    string // on the host
	WorkspaceUID uint32
	saved        saved
}

// SetGroup records where the sandbox's processes are, when it is not the group
// that the spec gave.
func (x *Box) SetGroup(g driver.Cgroup) error {
	x.saved.Group = g
	return x.save()
}

func (x *Box) save() error {
	data, err := json.Marshal(x.saved)
	if err != nil {
		return step.Errorf(step.KindInternal, "sandbox %s: %w", x.Spec.ID, err)
	}
	part := filepath.Join(x.Dir, specFile+".part")
	if err := os.WriteFile(part, data, 0o600); err != nil {
		return step.Errorf(step.KindUnavailable, "sandbox %s: %w", x.Spec.ID, err)
	}
	if err := os.Rename(part, filepath.Join(x.Dir, specFile)); err != nil {
		return step.Errorf(step.KindUnavailable, "sandbox %s: %w", x.Spec.ID, err)
	}
	return nil
}

// CheckSpec refuses what no supervised sandbox can do, and what none can do
// without.
func (b *Boxes) CheckSpec(s driver.Spec) error {
	if err := s.Validate(); err != nil {
		return err
	}
	switch s.Network {
	case "", step.NetworkNone:
	case step.NetworkAllow, step.NetworkOpen:
		if _, err := b.Network(); err != nil {
			return err
		}
	default:
		return step.Errorf(step.KindInvalid, "network %.40q is none, allow or open", string(s.Network))
	}
	if err := b.checkLevel(s); err != nil {
		return err
	}
	if err := b.checkHost(s); err != nil {
		return err
	}
	return errors.Join(checkDisk(s), b.checkIO(s))
}

// checkHost refuses a spec whose part for the daemon's host lacks what a
// supervised sandbox needs.
func (b *Boxes) checkHost(s driver.Spec) error {
	if s.Until < 0 || s.Until > 0 && s.Until.Left() <= 0 {
		return step.Errorf(step.KindInvalid, "the deadline has passed already")
	}
	h := s.Host
	if h == nil {
		return step.Errorf(step.KindInvalid, "driver %s runs on the daemon's host and needs its part of the spec", b.name)
	}
	if h.UIDCount < 2 || h.UIDBase < 1000 || h.UIDBase > 1<<32-3 {
		return step.Errorf(step.KindInvalid, "driver %s needs two uids from 1000 on, not %d from %d", b.name, h.UIDCount, h.UIDBase)
	}
	if h.Workspace != "" && (!filepath.IsAbs(h.Workspace) || filepath.Clean(h.Workspace) != h.Workspace) {
		return step.Errorf(step.KindInvalid, "the workspace is not an absolute, clean path")
	}
	if h.Workspace != "" && h.WorkspaceUID == 0 {
		return step.Errorf(step.KindInvalid, "the workspace may not belong to root: a step could leave programs there that run as root")
	}
	return checkGroups(s)
}

// checkIO refuses a cap on block devices that nothing enforces. Where an engine
// makes the groups, it enforces the cap.
func (b *Boxes) checkIO(s driver.Spec) error {
	if _, own := b.engine.(bare); s.Resources.IOMBs == 0 || !own {
		return nil
	}
	file := filepath.Join(s.Host.Cgroup.V2, "io.max")
	if s.Host.Cgroup.V2 == "" {
		file = filepath.Join(s.Host.Cgroup.V1["blkio"], "blkio.throttle.write_bps_device")
	}
	if data, err := os.ReadFile(file); err != nil || len(data) == 0 {
		return step.Errorf(step.KindInvalid, "a cap of %d MiB a second is asked for and no control group is given that enforces it", s.Resources.IOMBs)
	}
	return nil
}

// checkDisk refuses a disk cap that nothing bounds: the workspace is the only
// disk that a step can write to, and the daemon makes it of that size.
func checkDisk(s driver.Spec) error {
	if s.Resources.DiskMB == 0 {
		return nil
	}
	if s.Host.Workspace != "" {
		own, err := volume.Mounted(s.Host.Workspace)
		if err != nil {
			return step.Errorf(step.KindInvalid, "the workspace: %w", err)
		}
		use, err := volume.Look(s.Host.Workspace)
		if err != nil {
			return step.Errorf(step.KindInternal, "the workspace: %w", err)
		}
		if own && use.Size <= s.Resources.DiskMB<<20 {
			return nil
		}
	}
	return step.Errorf(step.KindInvalid, "a disk cap of %d MiB is asked for and no workspace of that size is given", s.Resources.DiskMB)
}

func checkGroups(s driver.Spec) error {
	h := s.Host
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

// StartFunc makes a sandbox's processes and gives a connection to its supervisor.
type StartFunc func(context.Context, *Box) (*supervisor.Conn, error)

// Make makes the sandbox with start, unless it is there already, made from the
// same spec. When start fails, nothing is left.
func (b *Boxes) Make(ctx context.Context, spec driver.Spec, start StartFunc) (driver.Handle, error) {
	stateDir, launcher, err := b.configured()
	if err != nil {
		return driver.Handle{}, err
	}
	dir := filepath.Join(stateDir, spec.ID)
	unlock, err := b.locks.Lock(ctx, dir)
	if err != nil {
		return driver.Handle{}, err
	}
	defer unlock()
	h, err := b.Handle(stateDir, spec.ID)
	if err != nil {
		return driver.Handle{}, err
	}
	if same, err := b.existing(ctx, dir, spec); err != nil || same {
		return h, err
	}
	box := &Box{Dir: dir, Spec: spec, Launcher: launcher, saved: saved{Spec: spec, CreatedAt: time.Now().UTC(), Group: spec.Host.Cgroup}}
	if err := b.make(ctx, box, start); err != nil {
		return driver.Handle{}, err
	}
	return h, nil
}

// existing reports whether the sandbox is there already, made from the same
// spec. What a creation left that did not come to its end is removed.
func (b *Boxes) existing(ctx context.Context, dir string, spec driver.Spec) (bool, error) {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	life, err := supervisor.Look(dir)
	if err != nil {
		return false, step.Errorf(step.KindInternal, "sandbox %s: %w", spec.ID, err)
	}
	old, err := readSpec(dir)
	if err != nil || !life.Complete || Networked(old.Spec) && !egress.Ready(dir) {
		return false, b.wipe(ctx, dir, life)
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
func (b *Boxes) make(ctx context.Context, box *Box, start StartFunc) (err error) {
	if err := os.Mkdir(box.Dir, 0o700); err != nil {
		return step.Errorf(step.KindUnavailable, "sandbox %s: its folder cannot be made: %w", box.Spec.ID, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.undo(ctx, box.Dir))
		}
	}()
	if err := box.save(); err != nil {
		return err
	}
	box.Workspace, box.WorkspaceUID = box.Spec.Host.Workspace, box.Spec.Host.WorkspaceUID
	if box.Workspace == "" {
		if err := box.privateWorkspace(); err != nil {
			return err
		}
	}
	conn, err := start(ctx, box)
	if err != nil {
		return err
	}
	if Networked(box.Spec) {
		if err := b.connectOut(ctx, box); err != nil {
			conn.Close()
			return err
		}
	}
	b.release(box.Dir, conn)
	return nil
}

// Networked reports whether a sandbox of that spec has a way out, and so a gateway.
func Networked(s driver.Spec) bool {
	return s.Network == step.NetworkAllow || s.Network == step.NetworkOpen
}

// connectOut gives the sandbox its network, before anything runs in it.
func (b *Boxes) connectOut(ctx context.Context, box *Box) error {
	host, err := b.Network()
	if err != nil {
		return err
	}
	life, err := supervisor.Look(box.Dir)
	if err != nil {
		return step.Errorf(step.KindInternal, "sandbox %s: %w", box.Spec.ID, err)
	}
	if !life.Complete || !life.Alive {
		return step.Errorf(step.KindUnavailable, "sandbox %s ended as it began", box.Spec.ID)
	}
	return host.Start(ctx, egress.Sandbox{
		Dir: box.Dir, PID: int(life.State.InitPID), Supervisor: int(life.State.SupervisorPID),
		UID: box.Spec.Host.UIDBase, Group: box.Spec.Host.Supervisor, Made: b.GVisor(box.Spec),
		Policy: egress.Policy{Open: box.Spec.Network == step.NetworkOpen, Allow: box.Spec.Egress.Allow, Private: box.Spec.Egress.Private},
	})
}

// privateWorkspace makes one that lies in the sandbox's folder and goes with it.
func (x *Box) privateWorkspace() error {
	x.Workspace, x.WorkspaceUID = filepath.Join(x.Dir, workspaceName), x.Spec.Host.UIDBase+1
	if err := os.Mkdir(x.Workspace, 0o755); err != nil {
		return step.Errorf(step.KindUnavailable, "workspace: %w", err)
	}
	if err := os.Lchown(x.Workspace, int(x.WorkspaceUID), int(x.WorkspaceUID)); err != nil {
		return step.Errorf(step.KindInternal, "workspace: %w", err)
	}
	return nil
}

// undo removes what a failed creation made, also when its context has ended.
func (b *Boxes) undo(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	return b.remove(ctx, dir)
}

// HostOf gives the daemon's part of what the sandbox in a folder was made from.
func HostOf(dir string) (*driver.HostSpec, error) {
	s, err := readSpec(dir)
	if err != nil {
		return nil, err
	}
	return s.Spec.Host, nil
}
