package local

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/nofx-run/nofx/internal/buildinfo"
	"github.com/nofx-run/nofx/plugins/egress"
	"github.com/nofx-run/nofx/plugins/seccomp"
	"github.com/nofx-run/nofx/plugins/supervised"
	"github.com/nofx-run/nofx/plugins/supervisor"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/driverrpc"
	"github.com/nofx-run/nofx/sdk/step"
)

// Name is the driver's name in handles and plans.
const Name = "local"

// stageFolder is where the template is built, in the state folder: no sandbox's
// id begins with a dot.
const stageFolder = ".stage"

// Driver is the local driver. New makes one; Configure makes it useful.
type Driver struct {
	*supervised.Boxes
	hostRoot atomic.Bool
	gvisor   atomic.Pointer[gvisor] // nil: not configured
}

var _ driver.Driver = (*Driver)(nil)

// New makes a driver that waits for its configuration.
func New() *Driver { return &Driver{Boxes: supervised.New(Name, nil)} }

// Describe implements driver.Driver.
func (d *Driver) Describe(context.Context) (driver.Description, error) {
	networks, warning := d.Networks()
	levels, noLevel := d.Levels()
	desc := driver.Description{
		Name: Name, Version: buildinfo.Version(), ProtocolVersions: driverrpc.Versions(), ConfigSchema: json.RawMessage(configSchema),
		Capabilities: append(append(networks, levels...),
			driver.CapCPU, driver.CapMemory, driver.CapPids, driver.CapDisk, driver.CapWallTime, driver.CapOutput,
			driver.CapHost, driver.CapFiles, driver.CapMultiExec, driver.CapReattach, driver.CapLease, driver.CapStats,
		),
	}
	if supervised.BlockIO() {
		desc.Capabilities = append(desc.Capabilities, driver.CapBlockIO)
	}
	for _, w := range []string{warning, noLevel} {
		if w != "" {
			desc.Warnings = append(desc.Warnings, w)
		}
	}
	if d.hostRoot.Load() {
		desc.Warnings = append(desc.Warnings, "sandboxes show the host's own /usr: for development only; make a root of its own with nofx rootfs, and set rootfs to its folder")
	}
	return desc, nil
}

// Configure implements driver.Driver.
func (d *Driver) Configure(ctx context.Context, data json.RawMessage) error {
	c, err := parseConfig(data)
	if err != nil {
		return err
	}
	t, err := rootTemplate(c.RootFS, c.StateDir)
	if err != nil {
		return err
	}
	filter, err := seccomp.Step()
	if err != nil {
		return err
	}
	// The template is built over a folder of its own: it hides what is there,
	// and some of what the template shows is in the state folder.
	stage := filepath.Join(c.StateDir, stageFolder)
	if err := os.MkdirAll(stage, 0o700); err != nil {
		return step.Errorf(step.KindInvalid, "configuration: state_dir: %w", err)
	}
	l, err := supervisor.NewLauncher(c.Supervisor, stage, t, filter, supervisor.Sizes{
		Tmp: uint64(c.TmpMB) << 20, Home: uint64(c.TmpMB) << 20, Shm: uint64(c.ShmMB) << 20, MaxOutput: uint64(c.MaxOutputMB) << 20,
	})
	if err != nil {
		return err
	}
	d.UseNetwork(egress.NewHost(c.Egress, c.Resolvers))
	d.hostRoot.Store(c.RootFS == RootHost)
	if err := d.Use(c.StateDir, l); err != nil {
		return err
	}
	d.useGVisor(ctx, c, filter)
	return nil
}

// Health implements driver.Driver.
func (d *Driver) Health(ctx context.Context, sink func(driver.Health) error) error {
	return supervised.Watch(ctx, func(context.Context) error { return d.Alive() }, sink)
}
