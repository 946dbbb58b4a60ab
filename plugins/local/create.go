package local

import (
	"context"

	"github.com/nofx-run/nofx/plugins/supervised"
	"github.com/nofx-run/nofx/plugins/supervisor"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// checkSpec refuses what this driver cannot do, and what it cannot do without.
func (d *Driver) checkSpec(s driver.Spec) error {
	if err := d.CheckSpec(s); err != nil {
		return err
	}
	if d.GVisor(s) && s.Host.Cgroup.V2 == "" && len(s.Host.Cgroup.V1) == 0 {
		return step.Errorf(step.KindInvalid, "driver local: isolation gvisor: no control group is given, which tells gVisor's processes from others")
	}
	if s.Image != "" {
		return step.Errorf(step.KindUnsupported, "driver local: images are not chosen per step; the driver's configuration names the root file system")
	}
	return nil
}

// Create implements driver.Driver.
func (d *Driver) Create(ctx context.Context, spec driver.Spec) (driver.Handle, error) {
	if err := d.checkSpec(spec); err != nil {
		return driver.Handle{}, err
	}
	if d.GVisor(spec) {
		return d.Make(ctx, spec, d.startGVisor)
	}
	return d.Make(ctx, spec, func(ctx context.Context, b *supervised.Box) (*supervisor.Conn, error) {
		return b.Launcher.Create(ctx, &supervisor.Sandbox{
			Dir: b.Dir, Until: spec.Until, UIDBase: spec.Host.UIDBase,
			Workspace: b.Workspace, WorkspaceUID: b.WorkspaceUID,
			Cgroup: spec.Host.Cgroup, Supervisor: spec.Host.Supervisor,
		})
	})
}
