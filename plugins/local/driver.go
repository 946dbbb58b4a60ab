package local

import (
	"context"
	"encoding/json"
	"path/filepath"
	"sync"
	"time"

	"github.com/nofx-run/nofx/internal/buildinfo"
	"github.com/nofx-run/nofx/plugins/supervisor"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// Name is the driver's name in handles and plans.
const Name = "local"

// Driver is the local driver. New makes one; Configure makes it useful.
type Driver struct {
	locks keyLocks // by sandbox folder: create, destroy and settle exclude one another

	mu       sync.Mutex
	config   Config
	launcher *supervisor.Launcher
	idle     map[string]*supervisor.Conn // by sandbox folder: one connection to use next
}

var _ driver.Driver = (*Driver)(nil)

// New makes a driver that waits for its configuration.
func New() *Driver { return &Driver{idle: map[string]*supervisor.Conn{}} }

// Close ends the spawner and closes the connections. Sandboxes go on.
func (d *Driver) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for dir, c := range d.idle {
		c.Close()
		delete(d.idle, dir)
	}
	if d.launcher != nil {
		d.launcher.Close()
		d.launcher = nil
	}
}

// Describe implements driver.Driver.
func (d *Driver) Describe(context.Context) (driver.Description, error) {
	desc := driver.Description{
		Name: Name, Version: buildinfo.Version(), ProtocolVersions: []int{1}, ConfigSchema: json.RawMessage(configSchema),
		Capabilities: driver.Capabilities{
			driver.CapCPU, driver.CapMemory, driver.CapPids, driver.CapWallTime, driver.CapOutput, driver.CapNetNone,
			driver.CapHost, driver.CapFiles, driver.CapMultiExec, driver.CapReattach, driver.CapLease, driver.CapStats,
		},
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.launcher != nil && d.config.RootFS == RootHost {
		desc.Warnings = append(desc.Warnings, "sandboxes show the host's own /usr: for development only; set rootfs to the folder of an image")
	}
	return desc, nil
}

// Configure implements driver.Driver.
func (d *Driver) Configure(_ context.Context, data json.RawMessage) error {
	c, err := parseConfig(data)
	if err != nil {
		return err
	}
	t, err := rootTemplate(c.RootFS)
	if err != nil {
		return err
	}
	p, err := stepPolicy()
	if err != nil {
		return err
	}
	filter, err := p.program()
	if err != nil {
		return err
	}
	l, err := supervisor.NewLauncher(c.Supervisor, c.StateDir, t, filter, supervisor.Sizes{
		Tmp: uint64(c.TmpMB) << 20, Home: uint64(c.TmpMB) << 20, Shm: uint64(c.ShmMB) << 20, MaxOutput: uint64(c.MaxOutputMB) << 20,
	})
	if err != nil {
		return err
	}
	d.mu.Lock()
	old := d.launcher
	d.config, d.launcher = c, l
	d.mu.Unlock()
	if old != nil {
		old.Close()
	}
	return removeRemains(c.StateDir)
}

// configured gives what a new sandbox is made with.
func (d *Driver) configured() (Config, *supervisor.Launcher, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.launcher == nil {
		return Config{}, nil, step.Errorf(step.KindUnavailable, "the driver has no configuration yet")
	}
	return d.config, d.launcher, nil
}

// Health implements driver.Driver.
func (d *Driver) Health(ctx context.Context, sink func(driver.Health) error) error {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		if err := sink(d.health()); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (d *Driver) health() driver.Health {
	_, l, err := d.configured()
	if err == nil {
		err = l.Alive()
	}
	if err != nil {
		return driver.Health{Message: err.Error()}
	}
	return driver.Health{Healthy: true}
}

// connect gives a connection to the supervisor of a sandbox; supervisor.ErrGone
// when it has none.
func (d *Driver) connect(ctx context.Context, dir string) (*supervisor.Conn, error) {
	d.mu.Lock()
	c := d.idle[dir]
	delete(d.idle, dir)
	d.mu.Unlock()
	if c != nil {
		return c, nil
	}
	return supervisor.Dial(ctx, dir)
}

// release keeps a connection whose last call has ended well for the next one.
func (d *Driver) release(dir string, c *supervisor.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.idle[dir] != nil || d.launcher == nil {
		c.Close()
		return
	}
	d.idle[dir] = c
}

// forget closes what is kept for a sandbox that is no more.
func (d *Driver) forget(dir string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.idle[dir]; c != nil {
		c.Close()
		delete(d.idle, dir)
	}
}

// handleVersion is that of handleData.
const handleVersion = 1

// handleData is what a handle holds: where the sandbox's folder is, whatever
// the configuration says by then.
type handleData struct {
	StateDir string `json:"state_dir"`
}

func handleOf(stateDir, id string) (driver.Handle, error) {
	data, err := json.Marshal(handleData{stateDir})
	if err != nil {
		return driver.Handle{}, step.Errorf(step.KindInternal, "handle: %w", err)
	}
	return driver.Handle{Driver: Name, ID: id, Version: handleVersion, Data: data}, nil
}

// folder gives the folder of the sandbox that a handle names.
func folder(h driver.Handle) (string, error) {
	if h.Driver != Name || h.Version != handleVersion {
		return "", step.Errorf(step.KindInvalid, "the handle is of driver %.40q, version %d; this is %s, version %d", h.Driver, h.Version, Name, handleVersion)
	}
	if err := (driver.Spec{ID: h.ID, Tags: driver.Tags{Owner: "x", ID: "x"}}).Validate(); err != nil {
		return "", err
	}
	var data handleData
	if err := json.Unmarshal(h.Data, &data); err != nil || !filepath.IsAbs(data.StateDir) || filepath.Clean(data.StateDir) != data.StateDir {
		return "", step.Errorf(step.KindInvalid, "the handle of %s cannot be read", h.ID)
	}
	return filepath.Join(data.StateDir, h.ID), nil
}
