package memdriver

import (
	"context"
	"encoding/json"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/driverrpc"
	"github.com/nofx-run/nofx/sdk/step"
)

// handleVersion is the version of this driver's handles.
const handleVersion = 1

// Options change what a driver says of itself.
type Options struct {
	Name         string              // "" = memory
	Version      string              // "" = 1.0.0
	Capabilities driver.Capabilities // nil = AllCapabilities
}

// AllCapabilities is everything that the in-memory driver can do.
func AllCapabilities() driver.Capabilities {
	return driver.Capabilities{
		driver.CapCPU, driver.CapMemory, driver.CapPids, driver.CapDisk, driver.CapBlockIO, driver.CapWallTime, driver.CapOutput,
		driver.CapNetNone, driver.CapNetAllow, driver.CapNetOpen, driver.CapNetGVisor,
		driver.CapIsolationNamespace, driver.CapIsolationGVisor,
		driver.CapFiles, driver.CapTTY, driver.CapMultiExec, driver.CapReattach, driver.CapLease, driver.CapStats,
	}
}

// Driver is one driver process over a World.
type Driver struct {
	world *World
	opts  Options

	mu      sync.Mutex
	health  driver.Health
	changed chan struct{} // closed at each change of health
	config  config
}

var _ driver.Driver = (*Driver)(nil)

// config is the driver's configuration.
type config struct {
	Message string `json:"message"` // shown in Health
}

// configSchema describes config.
const configSchema = `{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "message": {"type": "string", "maxLength": 200, "description": "shown in the driver's health"}
  }
}`

// New makes a driver over w.
func New(w *World, opts Options) *Driver {
	if opts.Name == "" {
		opts.Name = "memory"
	}
	if opts.Version == "" {
		opts.Version = "1.0.0"
	}
	if opts.Capabilities == nil {
		opts.Capabilities = AllCapabilities()
	}
	return &Driver{world: w, opts: opts, health: driver.Health{Healthy: true}, changed: make(chan struct{})}
}

// Describe implements driver.Driver.
func (d *Driver) Describe(context.Context) (driver.Description, error) {
	return driver.Description{
		Name:             d.opts.Name,
		Version:          d.opts.Version,
		ProtocolVersions: driverrpc.Versions(),
		Capabilities:     slices.Clone(d.opts.Capabilities),
		ConfigSchema:     json.RawMessage(configSchema),
		Warnings:         []string{"sandboxes live in memory and run built-in programs only"},
	}, nil
}

// Configure implements driver.Driver.
func (d *Driver) Configure(_ context.Context, raw json.RawMessage) error {
	var c config
	if err := json.Unmarshal(raw, &c); err != nil {
		return step.Errorf(step.KindInvalid, "configuration: %w", err)
	}
	d.mu.Lock()
	d.config = c
	d.mu.Unlock()
	d.SetHealth(driver.Health{Healthy: true, Message: c.Message})
	return nil
}

// SetHealth changes what Health reports.
func (d *Driver) SetHealth(h driver.Health) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.health = h
	close(d.changed)
	d.changed = make(chan struct{})
}

// Health implements driver.Driver.
func (d *Driver) Health(ctx context.Context, sink func(driver.Health) error) error {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		d.mu.Lock()
		h, changed := d.health, d.changed
		d.mu.Unlock()
		if err := sink(h); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-tick.C:
		}
	}
}

// Create implements driver.Driver.
func (d *Driver) Create(_ context.Context, spec driver.Spec) (driver.Handle, error) {
	if err := d.checkSpec(spec); err != nil {
		return driver.Handle{}, err
	}
	sb, err := d.world.create(spec)
	if err != nil {
		return driver.Handle{}, err
	}
	return d.handle(sb), nil
}

// checkSpec refuses what this driver cannot honour.
func (d *Driver) checkSpec(spec driver.Spec) error {
	if err := spec.Validate(); err != nil {
		return err
	}
	if err := checkEgress(spec.Egress); err != nil {
		return err
	}
	r := spec.Resources
	for _, need := range []struct {
		cap    driver.Capability
		wanted bool
	}{
		{driver.CapCPU, r.CPU > 0},
		{driver.CapMemory, r.MemoryMB > 0},
		{driver.CapPids, r.Pids > 0},
		{driver.CapDisk, r.DiskMB > 0},
		{driver.CapBlockIO, r.IOMBs > 0},
		{driver.CapOutput, r.OutputKB > 0},
		{driver.CapNetNone, spec.Network == step.NetworkNone},
		{driver.CapNetAllow, spec.Network == step.NetworkAllow},
		{driver.CapNetOpen, spec.Network == step.NetworkOpen},
		{driver.CapLease, spec.Until != 0},
		{driver.CapHost, spec.Host != nil},
	} {
		if need.wanted && !d.opts.Capabilities.Has(need.cap) {
			return step.Errorf(step.KindUnsupported, "driver %s cannot do %s", d.opts.Name, need.cap)
		}
	}
	switch {
	case spec.Network != "" && spec.Network != step.NetworkNone && spec.Network != step.NetworkAllow && spec.Network != step.NetworkOpen:
		return step.Errorf(step.KindInvalid, "network %.40q is not known", spec.Network)
	case spec.Image != "":
		return step.Errorf(step.KindUnsupported, "driver %s has no images", d.opts.Name)
	case spec.Isolation != "" && !d.opts.Capabilities.Has(driver.Capability("isolation."+spec.Isolation)):
		return step.Errorf(step.KindUnsupported, "driver %s has no isolation level %.40q", d.opts.Name, spec.Isolation)
	case spec.Isolation == driver.IsolationGVisor && spec.Network != "" && spec.Network != step.NetworkNone && !d.opts.Capabilities.Has(driver.CapNetGVisor):
		return step.Errorf(step.KindUnsupported, "driver %s cannot do %s", d.opts.Name, driver.CapNetGVisor)
	}
	return nil
}

func (d *Driver) handle(sb *sandbox) driver.Handle {
	return driver.Handle{Driver: d.opts.Name, ID: sb.spec.ID, Version: handleVersion, Data: sb.incarnation}
}

// lookup finds the sandbox of a handle; nil when it is gone.
func (d *Driver) lookup(h driver.Handle) (*sandbox, error) {
	if h.Driver != d.opts.Name || h.Version != handleVersion {
		return nil, step.Errorf(step.KindInvalid, "not a handle of driver %s, version %d", d.opts.Name, handleVersion)
	}
	return d.world.find(h.ID, h.Data), nil
}

// sandbox finds the sandbox of a handle or answers not_found.
func (d *Driver) sandbox(h driver.Handle) (*sandbox, error) {
	sb, err := d.lookup(h)
	if err == nil && sb == nil {
		err = step.Errorf(step.KindNotFound, "sandbox %s does not exist", h.ID)
	}
	if err != nil {
		return nil, err
	}
	return sb, nil
}

// Recover implements driver.Driver.
func (d *Driver) Recover(_ context.Context, h driver.Handle) (driver.State, error) {
	sb, err := d.lookup(h)
	if err != nil {
		return driver.State{}, err
	}
	if sb == nil {
		return driver.State{Phase: driver.PhaseGone}, nil
	}
	return sb.state(), nil
}

// Extend implements driver.Driver.
func (d *Driver) Extend(_ context.Context, h driver.Handle, until driver.Deadline) error {
	sb, err := d.sandbox(h)
	if err != nil {
		return err
	}
	if !d.opts.Capabilities.Has(driver.CapLease) {
		return step.Errorf(step.KindUnsupported, "driver %s cannot do %s", d.opts.Name, driver.CapLease)
	}
	return sb.extend(until)
}

// Exec implements driver.Driver.
func (d *Driver) Exec(ctx context.Context, h driver.Handle, spec driver.ExecSpec, sink driver.Sink) error {
	if err := spec.Validate(); err != nil {
		return err
	}
	sb, err := d.sandbox(h)
	if err != nil {
		return err
	}
	caps := d.opts.Capabilities
	switch {
	case spec.TTY != nil && !caps.Has(driver.CapTTY):
		return step.Errorf(step.KindUnsupported, "driver %s cannot do %s", d.opts.Name, driver.CapTTY)
	case spec.Timeout > 0 && !caps.Has(driver.CapWallTime):
		return step.Errorf(step.KindUnsupported, "driver %s cannot do %s", d.opts.Name, driver.CapWallTime)
	case spec.OutputLimit > 0 && !caps.Has(driver.CapOutput):
		return step.Errorf(step.KindUnsupported, "driver %s cannot do %s", d.opts.Name, driver.CapOutput)
	case spec.User != "" && spec.User != "root":
		return step.Errorf(step.KindUnsupported, "driver %s has no user %.40q", d.opts.Name, spec.User)
	case spec.OnOutput != "" && spec.OnOutput != step.OutputTruncate && spec.OnOutput != step.OutputKill:
		return step.Errorf(step.KindInvalid, "on_output %.40q is not known", spec.OnOutput)
	}
	x, err := sb.exec(spec, caps.Has(driver.CapMultiExec))
	if err != nil {
		return err
	}
	return x.out.stream(ctx, 0, sink)
}

// Attach implements driver.Driver.
func (d *Driver) Attach(ctx context.Context, h driver.Handle, execID string, offset int64, sink driver.Sink) error {
	x, err := d.find(h, execID)
	if err != nil {
		return err
	}
	if offset < 0 {
		return step.Errorf(step.KindInvalid, "offset %d", offset)
	}
	return x.out.stream(ctx, offset, sink)
}

func (d *Driver) find(h driver.Handle, execID string) (*execution, error) {
	sb, err := d.sandbox(h)
	if err != nil {
		return nil, err
	}
	return sb.find(execID)
}

// Signal implements driver.Driver.
func (d *Driver) Signal(_ context.Context, h driver.Handle, execID, signal string) error {
	x, err := d.find(h, execID)
	if err != nil {
		return err
	}
	if !knownSignal(signal) {
		return step.Errorf(step.KindInvalid, "signal %.40q is not known", signal)
	}
	return x.signal(signal)
}

// Stop implements driver.Driver.
func (d *Driver) Stop(ctx context.Context, h driver.Handle, grace time.Duration, cause step.Cause) error {
	sb, err := d.sandbox(h)
	if err != nil {
		return err
	}
	return sb.stop(ctx, grace, cause)
}

// Destroy implements driver.Driver.
func (d *Driver) Destroy(_ context.Context, h driver.Handle) error {
	sb, err := d.lookup(h)
	if err != nil || sb == nil {
		return err
	}
	d.world.destroy(sb)
	return nil
}

// CopyIn implements driver.Driver.
func (d *Driver) CopyIn(ctx context.Context, h driver.Handle, dir string, tar io.Reader) error {
	sb, err := d.files(h)
	if err != nil {
		return err
	}
	return sb.files.copyIn(ctx, dir, tar)
}

// CopyOut implements driver.Driver.
func (d *Driver) CopyOut(ctx context.Context, h driver.Handle, path string, limit int64, tar io.Writer) error {
	sb, err := d.files(h)
	if err != nil {
		return err
	}
	return sb.files.copyOut(ctx, path, limit, tar)
}

func (d *Driver) files(h driver.Handle) (*sandbox, error) {
	if !d.opts.Capabilities.Has(driver.CapFiles) {
		return nil, step.Errorf(step.KindUnsupported, "driver %s cannot do %s", d.opts.Name, driver.CapFiles)
	}
	return d.sandbox(h)
}

// Stats implements driver.Driver.
func (d *Driver) Stats(_ context.Context, h driver.Handle) (driver.Stats, error) {
	if !d.opts.Capabilities.Has(driver.CapStats) {
		return driver.Stats{}, step.Errorf(step.KindUnsupported, "driver %s cannot do %s", d.opts.Name, driver.CapStats)
	}
	sb, err := d.sandbox(h)
	if err != nil {
		return driver.Stats{}, err
	}
	return sb.stats(), nil
}

// List implements driver.Driver.
func (d *Driver) List(_ context.Context, owner string) ([]driver.Listed, error) {
	var all []driver.Listed
	for _, sb := range d.world.owned(owner) {
		all = append(all, driver.Listed{Handle: d.handle(sb), Tags: sb.spec.Tags, Phase: sb.state().Phase, CreatedAt: sb.created})
	}
	return all, nil
}
