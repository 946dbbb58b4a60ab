package container

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nofx-run/nofx/internal/buildinfo"
	"github.com/nofx-run/nofx/internal/keylock"
	"github.com/nofx-run/nofx/plugins/contained"
	"github.com/nofx-run/nofx/plugins/egress"
	"github.com/nofx-run/nofx/plugins/seccomp"
	"github.com/nofx-run/nofx/plugins/supervised"
	"github.com/nofx-run/nofx/plugins/supervisor"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/driverrpc"
	"github.com/nofx-run/nofx/sdk/step"
)

// Name is the driver's name in handles and plans.
const Name = "container"

// configureTime bounds what a configuration waits for the engine, of the 30 s that
// a host gives a plugin to start and to take its configuration.
const configureTime = 15 * time.Second

// Driver is the container driver. New makes one; Configure makes it useful.
type Driver struct {
	*supervised.Boxes
	log     *slog.Logger
	pulls   keylock.Locks // by image
	images  sync.Mutex    // the account of pulled images
	parents sync.RWMutex  // the groups above containers: held to remove some
	counts  counts
	vetted  vetted // images
	engines engines
	heard   heard // of containers, from the engine

	patience    time.Duration  // configureTime
	configuring sync.Mutex     // one Configure or Close at a time
	retired     sync.WaitGroup // setups whose place another took or takes

	mu    sync.Mutex
	setup *setup
}

// setup is what one configuration has led to.
type setup struct {
	config Config
	engine *engine
	filter []byte
	// resolvConf is the file that containers with a network get.
	resolvConf string

	asking  chan struct{} // capacity 1: held to ask, and to look at the two below
	checked bool
	systemd bool

	engineID atomic.Value // string, once it was asked

	tried atomic.Bool        // whether gVisor works here is known
	stop  context.CancelFunc // of what is done beside the calls; nil before it begins
	side  sync.WaitGroup
}

// end ends what is done beside the calls. An engine that hangs lets none of it
// go for a minute.
func (s *setup) end() {
	if s.stop != nil {
		s.stop()
	}
	s.side.Wait()
	s.engine.close()
}

var _ driver.Driver = (*Driver)(nil)

// New makes a driver that waits for its configuration.
func New(log *slog.Logger) *Driver {
	d := &Driver{log: log, patience: configureTime}
	d.Boxes = supervised.New(Name, d)
	return d
}

// Close ends the sweeps and the spawner. Sandboxes go on.
func (d *Driver) Close() {
	d.configuring.Lock()
	defer d.configuring.Unlock()
	d.mu.Lock()
	s := d.setup
	d.setup = nil
	d.mu.Unlock()
	if s != nil {
		s.end() // without the lock, which it takes
	}
	d.retired.Wait()
	d.Boxes.Close()
}

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
	if s, err := d.configured(); err == nil && s.config.WritableRoot {
		desc.Capabilities = slices.DeleteFunc(desc.Capabilities, func(c driver.Capability) bool { return c == driver.CapDisk })
		desc.Warnings = append(desc.Warnings, "writable_root: what steps write to the container's own layer is not bounded")
	}
	return desc, nil
}

// Configure implements driver.Driver. It ends in time, whatever the engine does.
func (d *Driver) Configure(ctx context.Context, data json.RawMessage) (err error) {
	d.configuring.Lock()
	defer d.configuring.Unlock()
	c, err := parseConfig(data)
	if err != nil {
		return err
	}
	e, err := openEngine(c.Host)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			e.close()
		}
	}()
	s := &setup{config: c, engine: e, asking: make(chan struct{}, 1)}
	ctx, cancel := context.WithTimeout(ctx, d.patience)
	defer cancel()
	// An engine that is not there yet, or not just now, is no fault of the
	// configuration: Health tells of it.
	_, away := s.ready(ctx)
	if away != nil && !step.Is(away, step.KindUnavailable) {
		return away
	}
	if s.filter, err = seccomp.Step(); err != nil {
		return err
	}
	if err := contained.CopySupervisor(c.StateDir, c.Supervisor); err != nil {
		return err
	}
	if s.resolvConf, err = egress.WriteResolvConf(c.StateDir); err != nil {
		return err
	}
	l, err := supervisor.NewJoiner(c.Supervisor)
	if err != nil {
		return err
	}
	d.UseNetwork(egress.NewHost(c.Egress, c.Resolvers))
	d.retire(ctx)
	d.mu.Lock()
	d.setup = s
	d.mu.Unlock()
	if err := d.Use(c.StateDir, l); err != nil {
		return err
	}
	d.begin(ctx, s, away)
	return nil
}

// retire ends what the setup of now does beside the calls, and gives it a moment
// to remove from its engine what it has there. d.configuring is held.
func (d *Driver) retire(ctx context.Context) {
	old, err := d.configured()
	if err != nil {
		return // there is none
	}
	ctx, cancel := context.WithTimeout(ctx, d.patience/3)
	defer cancel()
	ended := make(chan struct{})
	d.retired.Go(func() {
		defer close(ended)
		old.end()
	})
	select {
	case <-ended:
	case <-ctx.Done():
	}
}

// ready asks the engine, once it answers, whether it can do what every sandbox
// needs, and tells whether it keeps its control groups with systemd. Whoever
// waits for another's answer waits no longer than for one of his own.
func (s *setup) ready(ctx context.Context) (systemd bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	select {
	case s.asking <- struct{}{}:
		defer func() { <-s.asking }()
	case <-ctx.Done():
		return false, wrong("info", ctx.Err())
	}
	if s.checked {
		return s.systemd, nil
	}
	i, err := s.engine.info(ctx)
	if err != nil {
		return false, err
	}
	if err := s.suits(i); err != nil {
		return false, err
	}
	s.engineID.Store(i.id)
	s.systemd, s.checked = i.systemd, true
	return s.systemd, nil
}

// id is which engine it is, by its own word; "" while it was not asked.
func (s *setup) id() string {
	id, _ := s.engineID.Load().(string)
	return id
}

// suits refuses an engine that this driver cannot work with.
func (s *setup) suits(i info) error {
	if i.podman {
		return invalid("host", "this is podman; its Docker-like interface does not start containers the way this driver needs")
	}
	if i.remaps {
		return invalid("host", "the engine gives its containers other users than it is told (userns-remap or rootless); steps have ids of their own already")
	}
	for field, runtime := range map[string]string{"runtime": s.config.Runtime, "gvisor_runtime": s.config.GVisorRuntime} {
		if runtime != "" && !i.runtimes[runtime] {
			return invalid(field, "the engine has no %.40q", runtime)
		}
	}
	return nil
}

func (d *Driver) configured() (*setup, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.setup == nil {
		return nil, step.Errorf(step.KindUnavailable, "the driver has no configuration yet")
	}
	return d.setup, nil
}

// Health implements driver.Driver.
func (d *Driver) Health(ctx context.Context, sink func(driver.Health) error) error {
	return supervised.Watch(ctx, func(ctx context.Context) error {
		s, err := d.configured()
		if err != nil {
			return err
		}
		if _, err := s.ready(ctx); err != nil {
			return err
		}
		if err := errors.Join(d.Alive(), s.engine.ping(ctx)); err != nil {
			return err
		}
		if !s.isTried() { // the host asks what it can do when it is healthy
			return step.Errorf(step.KindUnavailable, "the engine is there; whether gVisor works on it is being tried")
		}
		return nil
	}, sink)
}

// Exec implements driver.Driver.
func (d *Driver) Exec(ctx context.Context, h driver.Handle, spec driver.ExecSpec, sink driver.Sink) error {
	if spec.User == "root" {
		return step.Errorf(step.KindUnsupported, "there is no root but the host's own, so none is given")
	}
	return d.Boxes.Exec(ctx, h, spec, sink)
}

// Remove implements supervised.Engine.
func (d *Driver) Remove(ctx context.Context, id, dir string) error {
	s, err := d.configured()
	if err != nil {
		return err
	}
	by, err := makerOf(dir)
	if err != nil {
		return err
	}
	systemd := by != nil && by.Systemd
	if by == nil {
		if systemd, err = s.ready(ctx); err != nil {
			return err
		}
	}
	gone, err := d.removeMade(ctx, s, by, id)
	if err != nil {
		return err
	}
	if gone {
		d.counts.add(&d.counts.removed)
	}
	host, err := supervised.HostOf(dir)
	if errors.Is(err, os.ErrNotExist) || host == nil {
		return nil
	}
	if err != nil {
		return err
	}
	above, err := parent(host.Cgroup, systemd)
	if err != nil {
		return err
	}
	d.parents.Lock()
	defer d.parents.Unlock()
	return prune(host.Cgroup, above)
}

// List implements driver.Driver: the sandboxes that have a folder, and the
// containers that have lost theirs.
func (d *Driver) List(ctx context.Context, owner string) ([]driver.Listed, error) {
	s, err := d.configured()
	if err != nil {
		return nil, err
	}
	all, err := d.Boxes.List(ctx, owner)
	if err != nil {
		return nil, err
	}
	have := map[string]bool{}
	for _, l := range all {
		have[l.Handle.ID] = true
	}
	left, err := s.engine.list(ctx, labelOwner, owner)
	if err != nil {
		return nil, err
	}
	for _, c := range left {
		if have[c.box] || !filepath.IsAbs(c.state) || c.box == "" {
			continue
		}
		h, err := d.Handle(c.state, c.box)
		if err != nil {
			return nil, err
		}
		phase := driver.PhaseExited
		if c.running {
			phase = driver.PhaseRunning
		}
		all = append(all, driver.Listed{Handle: h, Tags: c.tags, Phase: phase, CreatedAt: c.created})
	}
	return all, nil
}
