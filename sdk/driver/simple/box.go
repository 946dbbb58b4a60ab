package simple

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/driver/execlog"
	"github.com/nofx-run/nofx/sdk/step"
)

// box is one sandbox.
type box struct {
	Box
	spec    driver.Spec
	created time.Time
	made    chan struct{} // closed when Box is there, or failed is true
	failed  bool

	mu      sync.Mutex
	execs   map[string]*execution
	order   []string
	gone    bool // nothing may start any more
	removed bool
}

// execution is one exec.
type execution struct {
	process Process
	log     *execlog.Log

	mu    sync.Mutex
	cause step.Cause // of the stop that came before its end; "" = none
}

func (b *box) state() driver.State {
	b.mu.Lock()
	defer b.mu.Unlock()
	st := driver.State{Phase: driver.PhaseCreated}
	for _, id := range b.order {
		x := b.execs[id].log.State(id)
		st.Execs = append(st.Execs, x)
		switch {
		case x.Exit == nil:
			st.Phase = driver.PhaseRunning
		case st.Phase == driver.PhaseCreated:
			st.Phase = driver.PhaseExited
		}
	}
	return st
}

// exec starts an exec, or finds the one that has its id.
func (b *box) exec(s driver.ExecSpec, several bool) (*execution, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch x := b.execs[s.ID]; {
	case x != nil:
		return x, nil
	case b.gone:
		return nil, step.Errorf(step.KindNotFound, "sandbox %s does not exist", b.spec.ID)
	case len(b.execs) > 0 && !several:
		return nil, step.Errorf(step.KindUnsupported, "this driver does not have %s", driver.CapMultiExec)
	}
	if s.Cwd == "" {
		s.Cwd = "/workspace"
	}
	x := &execution{log: execlog.New(MaxOutput)}
	var err error
	if x.process, err = b.Start(s, x.log.Writer(driver.Stdout), x.log.Writer(driver.Stderr)); err != nil {
		return nil, err
	}
	b.execs[s.ID] = x
	b.order = append(b.order, s.ID)
	go x.wait()
	return x, nil
}

func (b *box) find(id string) (*execution, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if x := b.execs[id]; x != nil {
		return x, nil
	}
	return nil, step.Errorf(step.KindNotFound, "exec %.64q does not exist", id)
}

// wait ends the log when the process has.
func (x *execution) wait() {
	exit := x.process.Wait()
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.cause != "" {
		exit.Cause = x.cause
	}
	x.log.End(exit)
}

func (x *execution) ended() bool {
	select {
	case <-x.log.Done():
		return true
	default:
		return false
	}
}

func (x *execution) signal(name string) error {
	sig := unix.SignalNum(name)
	if sig == 0 {
		return step.Errorf(step.KindInvalid, "signal %.40q is not known", name)
	}
	if x.ended() {
		return step.Errorf(step.KindConflict, "the exec has ended")
	}
	if sig == unix.SIGKILL {
		x.process.Kill()
	} else if err := x.process.Signal(sig); err != nil && !x.ended() {
		return step.Errorf(step.KindUnavailable, "signal %s: %w", name, err)
	}
	return nil
}

// stop ends every exec.
func (b *box) stop(ctx context.Context, grace time.Duration, cause step.Cause) error {
	b.mu.Lock()
	var running []*execution
	for _, x := range b.execs {
		if !x.ended() {
			running = append(running, x)
		}
	}
	b.mu.Unlock()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	for _, x := range running {
		x.mu.Lock()
		if x.cause == "" {
			x.cause = cause
		}
		x.mu.Unlock()
		if grace > 0 {
			_ = x.process.Signal(unix.SIGTERM) // it may have ended; if it does not, it is killed
		}
	}
	for _, x := range running {
		select {
		case <-x.log.Done():
			continue
		case <-timer.C:
			timer.Reset(0) // for the next one as well
		case <-ctx.Done():
			return ctx.Err()
		}
		x.process.Kill()
		select {
		case <-x.log.Done():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (b *box) destroy(ctx context.Context) error {
	b.mu.Lock()
	b.gone = true
	b.mu.Unlock()
	if err := b.stop(ctx, 0, step.CauseCancelled); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.removed {
		return nil
	}
	if err := b.Remove(); err != nil {
		return step.Errorf(step.KindUnavailable, "removing the sandbox: %w", err)
	}
	b.removed = true
	return nil
}
