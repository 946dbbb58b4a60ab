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
	return d.CheckHost(s)
}

// Create implements driver.Driver.
func (d *Driver) Create(ctx context.Context, spec driver.Spec) (driver.Handle, error) {
	if err := d.checkSpec(spec); err != nil {
		return driver.Handle{}, err
	}
	return d.Make(ctx, spec, func(ctx context.Context, b *supervised.Box) (*supervisor.Conn, error) {
		return b.Launcher.Create(ctx, &supervisor.Sandbox{
			Dir: b.Dir, Until: spec.Until, UIDBase: spec.Host.UIDBase,
			Workspace: b.Workspace, WorkspaceUID: b.WorkspaceUID,
			Cgroup: spec.Host.Cgroup, Supervisor: spec.Host.Supervisor,
		})
	})
}
