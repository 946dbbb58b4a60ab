package pluginhost

import (
	"context"
	"encoding/json"
	"io"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/driverrpc"
	"github.com/nofx-run/nofx/sdk/step"
)

// proxy is a driver that outlives its plugin's processes. A call that a process
// dies under is made once more, by the next process, where twice is the same as
// once; any other fails with unavailable: whether it took effect is for Recover
// to say.
type proxy struct {
	slot *slot
	t    Timeouts
}

var (
	_ driver.Driver  = (*proxy)(nil)
	_ driver.Invoker = (*proxy)(nil)
	_ driver.Metered = (*proxy)(nil)
)

// call runs f on the running process, within limit; 0 = the caller's own.
func (p *proxy) call(ctx context.Context, limit time.Duration, f func(context.Context, *driverrpc.Client) error) error {
	_, err := p.on(ctx, limit, f)
	return err
}

// on is call, and tells on which process; nil = there was none.
func (p *proxy) on(ctx context.Context, limit time.Duration, f func(context.Context, *driverrpc.Client) error) (*process, error) {
	proc, err := p.slot.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer proc.calls.Done()
	return proc, within(ctx, limit, proc, f)
}

// within runs f on a process that was acquired, within limit; 0 = the caller's own.
func within(ctx context.Context, limit time.Duration, proc *process, f func(context.Context, *driverrpc.Client) error) error {
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	return f(ctx, proc.driver)
}

// noticeDeath is how long after a call has broken off its process may take to be
// known as dead.
const noticeDeath = 200 * time.Millisecond

// again is call for what may be done twice. When a process dies under it, the
// next one is asked too, and nobody after that: the call may be what kills them.
// That it kills that one as well is then not held against the plugin.
func (p *proxy) again(ctx context.Context, limit time.Duration, f func(context.Context, *driverrpc.Client) error) error {
	asked, err := p.on(ctx, limit, f)
	if asked == nil || !step.Is(err, step.KindUnavailable) {
		return err
	}
	if !asked.dies(ctx) { // it is the driver that says so
		return err
	}
	p.slot.log.Warn("the plugin died under a call, which is made again", "err", err)
	next, err := p.slot.acquire(ctx)
	if err != nil {
		return err
	}
	defer next.calls.Done()
	next.repeats.Add(1) // before it can die of it
	if err = within(ctx, limit, next, f); !step.Is(err, step.KindUnavailable) || !next.dies(ctx) {
		next.repeats.Add(-1)
	}
	return err
}

// dies reports whether the process that a call has broken off on has ended.
func (p *process) dies(ctx context.Context) bool {
	timer := time.NewTimer(noticeDeath)
	defer timer.Stop()
	select {
	case <-p.child.Done():
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// Describe implements driver.Driver.
func (p *proxy) Describe(ctx context.Context) (d driver.Description, err error) {
	err = p.again(ctx, p.t.Call, func(ctx context.Context, c *driverrpc.Client) error {
		d, err = describe(ctx, c)
		return err
	})
	return d, err
}

// Configure implements driver.Driver: the host alone configures.
func (p *proxy) Configure(context.Context, json.RawMessage) error {
	return step.Errorf(step.KindUnsupported, "driver %s is configured by its host, at each start", p.slot.name)
}

// Create implements driver.Driver.
func (p *proxy) Create(ctx context.Context, spec driver.Spec) (h driver.Handle, err error) {
	err = p.again(ctx, p.t.Call, func(ctx context.Context, c *driverrpc.Client) error {
		h, err = c.Create(ctx, spec)
		return err
	})
	return h, err
}

// Recover implements driver.Driver.
func (p *proxy) Recover(ctx context.Context, h driver.Handle) (s driver.State, err error) {
	err = p.again(ctx, p.t.Call, func(ctx context.Context, c *driverrpc.Client) error {
		s, err = c.Recover(ctx, h)
		return err
	})
	return s, err
}

// Extend implements driver.Driver.
func (p *proxy) Extend(ctx context.Context, h driver.Handle, until driver.Deadline) error {
	return p.again(ctx, p.t.Call, func(ctx context.Context, c *driverrpc.Client) error { return c.Extend(ctx, h, until) })
}

// Exec implements driver.Driver. It lasts as long as the exec does; a plugin
// that hangs meanwhile is killed for its silence, and the call fails.
func (p *proxy) Exec(ctx context.Context, h driver.Handle, spec driver.ExecSpec, sink driver.Sink) error {
	return p.call(ctx, 0, func(ctx context.Context, c *driverrpc.Client) error { return c.Exec(ctx, h, spec, sink) })
}

// Attach implements driver.Driver. It lasts as long as Exec.
func (p *proxy) Attach(ctx context.Context, h driver.Handle, execID string, offset int64, sink driver.Sink) error {
	return p.call(ctx, 0, func(ctx context.Context, c *driverrpc.Client) error { return c.Attach(ctx, h, execID, offset, sink) })
}

// Signal implements driver.Driver.
func (p *proxy) Signal(ctx context.Context, h driver.Handle, execID, signal string) error {
	return p.call(ctx, p.t.Call, func(ctx context.Context, c *driverrpc.Client) error { return c.Signal(ctx, h, execID, signal) })
}

// Stop implements driver.Driver.
func (p *proxy) Stop(ctx context.Context, h driver.Handle, grace time.Duration, cause step.Cause) error {
	return p.call(ctx, max(grace, 0)+p.t.Call, func(ctx context.Context, c *driverrpc.Client) error {
		return c.Stop(ctx, h, grace, cause)
	})
}

// Destroy implements driver.Driver.
func (p *proxy) Destroy(ctx context.Context, h driver.Handle) error {
	return p.again(ctx, p.t.Call, func(ctx context.Context, c *driverrpc.Client) error { return c.Destroy(ctx, h) })
}

// CopyIn implements driver.Driver.
func (p *proxy) CopyIn(ctx context.Context, h driver.Handle, dir string, tar io.Reader) error {
	return p.call(ctx, p.t.Copy, func(ctx context.Context, c *driverrpc.Client) error { return c.CopyIn(ctx, h, dir, tar) })
}

// CopyOut implements driver.Driver.
func (p *proxy) CopyOut(ctx context.Context, h driver.Handle, path string, limit int64, tar io.Writer) error {
	return p.call(ctx, p.t.Copy, func(ctx context.Context, c *driverrpc.Client) error { return c.CopyOut(ctx, h, path, limit, tar) })
}

// Stats implements driver.Driver.
func (p *proxy) Stats(ctx context.Context, h driver.Handle) (s driver.Stats, err error) {
	err = p.call(ctx, p.t.Call, func(ctx context.Context, c *driverrpc.Client) error {
		s, err = c.Stats(ctx, h)
		return err
	})
	return s, err
}

// Health implements driver.Driver: that of the process which runs now.
func (p *proxy) Health(ctx context.Context, sink func(driver.Health) error) error {
	return p.call(ctx, 0, func(ctx context.Context, c *driverrpc.Client) error { return c.Health(ctx, sink) })
}

// List implements driver.Driver.
func (p *proxy) List(ctx context.Context, owner string) (all []driver.Listed, err error) {
	err = p.again(ctx, p.t.Call, func(ctx context.Context, c *driverrpc.Client) error {
		all, err = c.List(ctx, owner)
		return err
	})
	return all, err
}

// Invoke implements driver.Invoker.
func (p *proxy) Invoke(ctx context.Context, req driver.Invocation) (r driver.Response, err error) {
	err = p.call(ctx, max(req.Timeout, 0)+p.t.Call, func(ctx context.Context, c *driverrpc.Client) error {
		r, err = c.Invoke(ctx, req)
		return err
	})
	return r, err
}

// Metrics implements driver.Metered: unsupported for a driver that counts
// nothing. What it says is checked.
func (p *proxy) Metrics(ctx context.Context) (samples []driver.Sample, err error) {
	err = p.call(ctx, p.t.Call, func(ctx context.Context, c *driverrpc.Client) error {
		if samples, err = c.Metrics(ctx); err != nil {
			return err
		}
		return driver.CheckSamples(p.slot.name, samples)
	})
	if err != nil {
		return nil, err
	}
	return samples, nil
}
