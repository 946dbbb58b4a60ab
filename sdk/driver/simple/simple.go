// Package simple makes a driver of a back end that can do three things: make a
// sandbox, start a process in it, and remove it. Ids, repeats, output, phases,
// signals, stopping and refusals are this package's, and so are CapWallTime,
// CapOutput (up to MaxOutput) and CapLease, if the driver declares them.
//
// The sandboxes are known to the driver's process alone, which keeps their time,
// so they must end with it. Such a driver does not have CapReattach, CapFiles or
// CapStats.
package simple

import (
	"context"
	"encoding/json"
	"io"
	"reflect"
	"sync"
	"syscall"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// Backend makes sandboxes.
type Backend interface {
	// Create makes a sandbox. The spec asks for nothing that the description
	// does not declare; Image and Isolation are for the back end to check.
	Create(ctx context.Context, spec driver.Spec) (Box, error)
}

// Box is one sandbox.
type Box interface {
	// Start starts a process tree and returns. Everything that it writes goes to
	// the writers, which never fail, before its Wait returns.
	Start(spec driver.ExecSpec, stdout, stderr io.Writer) (Process, error)
	// Remove removes the sandbox; none of its processes runs.
	Remove() error
}

// Process is a process tree.
type Process interface {
	// Wait waits for the end of the main process and of its output, ends what it
	// left behind, and gives how it ended: Cause exit with Code, or signal with
	// Signal. It is called once.
	Wait() driver.Exit
	// Signal sends a signal to the main process and its process group.
	Signal(syscall.Signal) error
	// Kill ends the whole tree, if it has not ended.
	Kill()
}

// MaxOutput is what is kept of one exec's output, in bytes.
const MaxOutput = 64 << 20

// Driver is a driver over a Backend.
type Driver struct {
	driver.Base
	desc      driver.Description
	backend   Backend
	configure func(json.RawMessage) error

	mu    sync.Mutex
	boxes map[string]*box
}

var _ driver.Driver = (*Driver)(nil)

// New makes a driver that describes itself so. configure takes the
// configuration; nil = there is none but {}.
func New(desc driver.Description, b Backend, configure func(json.RawMessage) error) *Driver {
	return &Driver{desc: desc, backend: b, configure: configure, boxes: map[string]*box{}}
}

// Describe implements driver.Driver.
func (d *Driver) Describe(context.Context) (driver.Description, error) { return d.desc, nil }

// Configure implements driver.Driver.
func (d *Driver) Configure(_ context.Context, config json.RawMessage) error {
	if d.configure != nil {
		return d.configure(config)
	}
	if err := json.Unmarshal(config, &struct{}{}); err != nil {
		return step.Errorf(step.KindInvalid, "configuration: %w", err)
	}
	return nil
}

// Create implements driver.Driver.
func (d *Driver) Create(ctx context.Context, s driver.Spec) (driver.Handle, error) {
	if err := d.desc.Capabilities.CheckSpec(s); err != nil {
		return driver.Handle{}, err
	}
	for {
		d.mu.Lock()
		b := d.boxes[s.ID]
		if b == nil { // ours to make
			b = &box{spec: s, created: time.Now(), made: make(chan struct{}), execs: map[string]*execution{}}
			d.boxes[s.ID] = b
			d.mu.Unlock()
			return d.handle(s.ID), d.finish(ctx, b)
		}
		d.mu.Unlock()
		select {
		case <-b.made:
		case <-ctx.Done():
			return driver.Handle{}, ctx.Err()
		}
		if b.failed {
			continue
		}
		same := s
		same.Until = b.spec.Until // which only Extend moves
		if !reflect.DeepEqual(b.spec, same) {
			return driver.Handle{}, step.Errorf(step.KindConflict, "sandbox %s exists with another spec", s.ID)
		}
		return d.handle(s.ID), nil
	}
}

// finish lets the back end make the sandbox.
func (d *Driver) finish(ctx context.Context, b *box) (err error) {
	b.Box, err = d.backend.Create(ctx, b.spec)
	if err != nil {
		d.mu.Lock()
		b.failed = true
		delete(d.boxes, b.spec.ID)
		d.mu.Unlock()
	} else {
		b.live(b.spec.Until)
	}
	close(b.made)
	return err
}

func (d *Driver) handle(id string) driver.Handle {
	return driver.Handle{Driver: d.desc.Name, ID: id, Version: 1}
}

// find gives a handle's sandbox.
func (d *Driver) find(h driver.Handle) (*box, error) {
	if h.Driver != d.desc.Name || h.Version != 1 {
		return nil, step.Errorf(step.KindInvalid, "not a handle of driver %s, version 1", d.desc.Name)
	}
	d.mu.Lock()
	b := d.boxes[h.ID]
	d.mu.Unlock()
	if b != nil {
		if <-b.made; !b.failed {
			return b, nil
		}
	}
	return nil, step.Errorf(step.KindNotFound, "sandbox %s does not exist", h.ID)
}

// Recover implements driver.Driver.
func (d *Driver) Recover(_ context.Context, h driver.Handle) (driver.State, error) {
	b, err := d.find(h)
	if step.Is(err, step.KindNotFound) {
		return driver.State{Phase: driver.PhaseGone}, nil
	} else if err != nil {
		return driver.State{}, err
	}
	return b.state(), nil
}

// List implements driver.Driver.
func (d *Driver) List(_ context.Context, owner string) ([]driver.Listed, error) {
	d.mu.Lock()
	var owned []*box
	for _, b := range d.boxes {
		if b.spec.Tags.Owner == owner {
			owned = append(owned, b)
		}
	}
	d.mu.Unlock()
	var all []driver.Listed
	for _, b := range owned {
		if <-b.made; !b.failed {
			all = append(all, driver.Listed{Handle: d.handle(b.spec.ID), Tags: b.spec.Tags, Phase: b.state().Phase, CreatedAt: b.created})
		}
	}
	return all, nil
}

// Exec implements driver.Driver.
func (d *Driver) Exec(ctx context.Context, h driver.Handle, s driver.ExecSpec, sink driver.Sink) error {
	if err := d.desc.Capabilities.CheckExec(s); err != nil {
		return err
	}
	b, err := d.find(h)
	if err != nil {
		return err
	}
	x, err := b.exec(s, d.desc.Capabilities.Has(driver.CapMultiExec))
	if err != nil {
		return err
	}
	return x.log.Stream(ctx, 0, sink)
}

// Attach implements driver.Driver.
func (d *Driver) Attach(ctx context.Context, h driver.Handle, execID string, offset int64, sink driver.Sink) error {
	x, err := d.findExec(h, execID)
	if err != nil {
		return err
	}
	return x.log.Stream(ctx, offset, sink)
}

func (d *Driver) findExec(h driver.Handle, id string) (*execution, error) {
	b, err := d.find(h)
	if err != nil {
		return nil, err
	}
	return b.find(id)
}

// Signal implements driver.Driver.
func (d *Driver) Signal(_ context.Context, h driver.Handle, execID, signal string) error {
	x, err := d.findExec(h, execID)
	if err != nil {
		return err
	}
	return x.signal(signal)
}

// Stop implements driver.Driver.
func (d *Driver) Stop(ctx context.Context, h driver.Handle, grace time.Duration, cause step.Cause) error {
	b, err := d.find(h)
	if err != nil {
		return err
	}
	return b.stop(ctx, grace, cause)
}

// Extend implements driver.Driver.
func (d *Driver) Extend(ctx context.Context, h driver.Handle, until driver.Deadline) error {
	if !d.desc.Capabilities.Has(driver.CapLease) {
		return d.Base.Extend(ctx, h, until)
	}
	b, err := d.find(h)
	if err != nil {
		return err
	}
	return b.extend(until)
}

// Destroy implements driver.Driver.
func (d *Driver) Destroy(ctx context.Context, h driver.Handle) error {
	b, err := d.find(h)
	if step.Is(err, step.KindNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	if err := b.destroy(ctx); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.boxes[h.ID] == b {
		delete(d.boxes, h.ID)
	}
	return nil
}
