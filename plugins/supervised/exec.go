package supervised

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/nofx-run/nofx/plugins/supervisor"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// notFound is the answer about a sandbox that is not there.
func notFound(h driver.Handle) error {
	return step.Errorf(step.KindNotFound, "there is no sandbox %s", h.ID)
}

// checkExec refuses what this driver cannot do.
func checkExec(s driver.ExecSpec) error {
	if err := s.Validate(); err != nil {
		return err
	}
	switch {
	case s.TTY != nil:
		return step.Errorf(step.KindUnsupported, "the driver has no terminals")
	case s.User != "" && s.User != "root":
		return step.Errorf(step.KindInvalid, "user %.40q is neither root nor empty", s.User)
	case s.OnOutput != "" && s.OnOutput != step.OutputTruncate && s.OnOutput != step.OutputKill:
		return step.Errorf(step.KindInvalid, "on_output %.40q is truncate or kill", string(s.OnOutput))
	}
	return nil
}

// Exec implements driver.Driver.
func (b *Boxes) Exec(ctx context.Context, h driver.Handle, spec driver.ExecSpec, sink driver.Sink) error {
	dir, err := b.Folder(h)
	if err != nil {
		return err
	}
	if err := checkExec(spec); err != nil {
		return err
	}
	c, err := b.connect(ctx, dir)
	if err == nil {
		var existed bool
		existed, err = c.Exec(ctx, &spec)
		switch {
		case err == nil && !existed:
			return b.follow(ctx, h, dir, c, spec.ID, 0, sink)
		case err == nil:
			return b.attach(ctx, h, dir, c, spec.ID, 0, sink)
		}
		c.Close()
	}
	if !errors.Is(err, supervisor.ErrGone) {
		return err
	}
	// Nobody can start it any more; if it ran, it can still be read.
	err = b.attachDead(ctx, h, dir, spec.ID, 0, sink)
	if step.Is(err, step.KindNotFound) {
		if _, serr := os.Lstat(dir); serr == nil {
			return step.Errorf(step.KindConflict, "sandbox %s has ended", h.ID)
		}
	}
	return err
}

// Attach implements driver.Driver.
func (b *Boxes) Attach(ctx context.Context, h driver.Handle, execID string, offset int64, sink driver.Sink) error {
	dir, err := b.Folder(h)
	if err != nil {
		return err
	}
	if err := checkExecID(execID); err != nil {
		return err
	}
	if offset < 0 {
		return step.Errorf(step.KindInvalid, "offset %d is negative", offset)
	}
	c, err := b.connect(ctx, dir)
	if errors.Is(err, supervisor.ErrGone) {
		return b.attachDead(ctx, h, dir, execID, offset, sink)
	}
	if err != nil {
		return err
	}
	return b.attach(ctx, h, dir, c, execID, offset, sink)
}

// checkExecID refuses what cannot name an exec, or a file of one.
func checkExecID(id string) error {
	return driver.ExecSpec{ID: id, Argv: []string{"x"}}.Validate()
}

// attach watches an exec that exists, and follows it. It takes c over.
func (b *Boxes) attach(ctx context.Context, h driver.Handle, dir string, c *supervisor.Conn, id string, offset int64, sink driver.Sink) error {
	running, err := c.Watch(ctx, id)
	switch {
	case errors.Is(err, supervisor.ErrGone):
		c.Close()
		return b.attachDead(ctx, h, dir, id, offset, sink)
	case step.Is(err, step.KindNotFound):
		b.release(dir, c)
		return err
	case err != nil:
		c.Close()
		return err
	case running:
		return b.follow(ctx, h, dir, c, id, offset, sink)
	}
	b.release(dir, c)
	return b.finished(ctx, dir, id, offset, sink)
}

// follow delivers an exec's output as the supervisor tells of it, and its end.
// It takes c over.
func (b *Boxes) follow(ctx context.Context, h driver.Handle, dir string, c *supervisor.Conn, id string, offset int64, sink driver.Sink) error {
	out, err := supervisor.OpenOutput(dir, id, offset)
	if err != nil {
		c.Close()
		return b.absent(h, dir, err)
	}
	defer out.Close()
	for {
		n, err := c.Note(ctx)
		if err == nil {
			err = out.Deliver(n.Size, sink)
		} else if errors.Is(err, supervisor.ErrGone) {
			c.Close()
			return b.attachDead(ctx, h, dir, id, out.Offset(), sink)
		}
		if err != nil {
			c.Close()
			return err
		}
		if n.Ended {
			b.release(dir, c)
			return b.deliverExit(ctx, dir, id, out, sink)
		}
	}
}

// finished delivers an exec that has its record.
func (b *Boxes) finished(ctx context.Context, dir, id string, offset int64, sink driver.Sink) error {
	out, err := supervisor.OpenOutput(dir, id, offset)
	if err != nil {
		return step.Errorf(step.KindNotFound, "there is no exec %s", id)
	}
	defer out.Close()
	size, err := out.Size()
	if err != nil {
		return step.Errorf(step.KindInternal, "output: %w", err)
	}
	if err := out.Deliver(size, sink); err != nil {
		return err
	}
	return b.deliverExit(ctx, dir, id, out, sink)
}

func (b *Boxes) deliverExit(ctx context.Context, dir, id string, out *supervisor.Output, sink driver.Sink) error {
	r, err := supervisor.ReadRecord(dir, id)
	if errors.Is(err, fs.ErrNotExist) { // it has ended, so there was one
		return step.Errorf(step.KindNotFound, "the sandbox was destroyed before the end of the exec was read")
	}
	if err != nil {
		return step.Errorf(step.KindInternal, "%w", err)
	}
	x, err := b.exitOf(ctx, dir, r)
	if err != nil {
		return err
	}
	return sink(driver.ExecEvent{Offset: out.Offset(), Exit: x})
}

// attachDead delivers what is known of an exec whose supervisor has ended. An
// exec that it did not see to its end is lost.
func (b *Boxes) attachDead(ctx context.Context, h driver.Handle, dir, id string, offset int64, sink driver.Sink) error {
	if err := b.settle(ctx, dir); err != nil {
		return b.absent(h, dir, err)
	}
	return b.finished(ctx, dir, id, offset, sink)
}

// absent says not found when the sandbox's folder is gone, and err otherwise.
func (b *Boxes) absent(h driver.Handle, dir string, err error) error {
	if _, serr := os.Lstat(dir); errors.Is(serr, fs.ErrNotExist) {
		return notFound(h)
	}
	if step.KindOf(err) == step.KindInternal && errors.Is(err, fs.ErrNotExist) {
		return step.Errorf(step.KindNotFound, "there is no such exec")
	}
	return err
}

// settle brings a sandbox without a supervisor to its end: nothing of it runs
// any more, and every exec has a record. With a supervisor it does nothing.
func (b *Boxes) settle(ctx context.Context, dir string) error {
	unlock, err := b.locks.Lock(ctx, dir)
	if err != nil {
		return err
	}
	defer unlock()
	ids, err := supervisor.Execs(dir)
	if err != nil {
		return err
	}
	life, err := leaving(ctx, dir)
	if err != nil || life.Alive {
		return err
	}
	if err := killRemains(dir, life); err != nil {
		return err
	}
	for _, id := range ids {
		if _, err := supervisor.ReadRecord(dir, id); err == nil {
			continue
		}
		if err := recordLost(dir, id); err != nil {
			return err
		}
	}
	return nil
}

// leaving looks at a sandbox whose supervisor has closed its connections: it
// has ended or is about to.
func leaving(ctx context.Context, dir string) (supervisor.Life, error) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for range 1000 {
		life, err := supervisor.Look(dir)
		if err != nil || !life.Alive {
			return life, err
		}
		if c, err := supervisor.Dial(ctx, dir); err == nil {
			c.Close()
			return life, step.Errorf(step.KindUnavailable, "the connection to the supervisor broke; try again")
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return life, ctx.Err()
		}
	}
	return supervisor.Life{}, step.Errorf(step.KindUnavailable, "the supervisor lives and does not answer")
}

func recordLost(dir, id string) error {
	out, err := supervisor.OpenOutput(dir, id, 0)
	if err != nil {
		return step.Errorf(step.KindInternal, "output: %w", err)
	}
	defer out.Close()
	size, err := out.Size()
	if err == nil {
		err = out.Deliver(size, func(driver.ExecEvent) error { return nil })
	}
	if err != nil {
		return step.Errorf(step.KindInternal, "output: %w", err)
	}
	return supervisor.WriteLost(dir, id, "the supervisor died", out.Offset())
}

// Signal implements driver.Driver.
func (b *Boxes) Signal(ctx context.Context, h driver.Handle, execID, signal string) error {
	sig, err := signalOf(signal)
	if err != nil {
		return err
	}
	if err := checkExecID(execID); err != nil {
		return err
	}
	dir, err := b.Folder(h)
	if err != nil {
		return err
	}
	return b.ask(ctx, h, dir, func(c *supervisor.Conn) error { return c.Signal(ctx, execID, sig) }, func() error {
		if _, err := supervisor.ReadRecord(dir, execID); err == nil {
			return step.Errorf(step.KindConflict, "the exec has exited")
		}
		return step.Errorf(step.KindNotFound, "there is no exec %s", execID)
	})
}

// Stop implements driver.Driver.
func (b *Boxes) Stop(ctx context.Context, h driver.Handle, grace time.Duration, cause step.Cause) error {
	if cause != step.CauseCancelled && cause != step.CauseTimeout {
		return step.Errorf(step.KindInvalid, "the cause of a stop is cancelled or timeout, not %.40q", string(cause))
	}
	dir, err := b.Folder(h)
	if err != nil {
		return err
	}
	return b.ask(ctx, h, dir, func(c *supervisor.Conn) error { return c.Stop(ctx, grace, cause) }, func() error { return nil })
}

// Extend implements driver.Driver.
func (b *Boxes) Extend(ctx context.Context, h driver.Handle, until driver.Deadline) error {
	dir, err := b.Folder(h)
	if err != nil {
		return err
	}
	if until < 0 {
		return step.Errorf(step.KindInvalid, "the deadline is negative")
	}
	return b.ask(ctx, h, dir, func(c *supervisor.Conn) error { return c.Extend(ctx, until) }, func() error {
		return step.Errorf(step.KindConflict, "sandbox %s has ended", h.ID)
	})
}

// ask makes one call to the supervisor. dead answers in its place when it has
// ended and its sandbox is settled.
func (b *Boxes) ask(ctx context.Context, h driver.Handle, dir string, call func(*supervisor.Conn) error, dead func() error) error {
	c, err := b.connect(ctx, dir)
	if err == nil {
		if err = call(c); err == nil || step.Is(err, step.KindNotFound) || step.Is(err, step.KindConflict) {
			b.release(dir, c)
			return err
		}
		c.Close()
	}
	if !errors.Is(err, supervisor.ErrGone) {
		return err
	}
	if err := b.settle(ctx, dir); err != nil {
		return b.absent(h, dir, err)
	}
	return dead()
}
