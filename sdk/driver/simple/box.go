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
	until   driver.Deadline // 0 = for ever
	lease   *time.Timer     // ends it at until; nil = never
	over    bool            // until has passed
}

// execution is one exec.
type execution struct {
	process Process
	log     *execlog.Log
	kills   bool // that it writes too much ends it

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
	case b.over:
		return nil, step.Errorf(step.KindConflict, "sandbox %s: its time is over", b.spec.ID)
	case len(b.execs) > 0 && !several:
		return nil, step.Errorf(step.KindUnsupported, "this driver does not have %s", driver.CapMultiExec)
	}
	if s.Cwd == "" {
		s.Cwd = "/workspace"
	}
	limit, err := b.limit(s)
	if err != nil {
		return nil, err
	}
	x := &execution{log: execlog.New(limit), kills: s.OnOutput == step.OutputKill}
	if x.process, err = b.Start(s, x.log.Writer(driver.Stdout), x.log.Writer(driver.Stderr)); err != nil {
		return nil, err
	}
	b.execs[s.ID] = x
	b.order = append(b.order, s.ID)
	go x.wait()
	go x.watch(s)
	return x, nil
}

// limit is what is kept of an exec's output.
func (b *box) limit(s driver.ExecSpec) (int64, error) {
	limit := s.OutputLimit
	if limit == 0 {
		limit = b.spec.Resources.OutputKB << 10
	}
	switch {
	case s.OnOutput != "" && s.OnOutput != step.OutputTruncate && s.OnOutput != step.OutputKill:
		return 0, step.Errorf(step.KindInvalid, "on_output %.40q is not known", string(s.OnOutput))
	case limit > MaxOutput:
		return 0, step.Errorf(step.KindUnsupported, "this driver keeps no more than %d bytes of an exec's output", MaxOutput)
	case limit == 0:
		return MaxOutput, nil
	}
	return limit, nil
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
	if x.cause == "" && x.kills && x.full() { // it was done before it could be ended
		x.cause = step.CauseOutput
	}
	if x.cause != "" {
		exit.Cause = x.cause
	}
	x.log.End(exit)
}

// watch ends the exec when its time is over, or when it writes too much and is
// to be killed for it.
func (x *execution) watch(s driver.ExecSpec) {
	var timeout <-chan time.Time
	if s.Timeout > 0 {
		timer := time.NewTimer(s.Timeout)
		defer timer.Stop()
		timeout = timer.C
	}
	var full <-chan struct{}
	if x.kills {
		full = x.log.Full()
	}
	select {
	case <-timeout:
		_ = x.end(context.Background(), s.Grace, step.CauseTimeout) // no error but of the context
	case <-full:
		_ = x.end(context.Background(), 0, step.CauseOutput)
	case <-x.log.Done():
	}
}

// end ends the exec: TERM, and KILL after grace. The first cause counts.
func (x *execution) end(ctx context.Context, grace time.Duration, cause step.Cause) error {
	x.mu.Lock()
	if x.cause == "" {
		x.cause = cause
	}
	x.mu.Unlock()
	if grace > 0 {
		_ = x.process.Signal(unix.SIGTERM) // it may have ended; if it does not, it is killed
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-x.log.Done():
			return nil
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	x.process.Kill()
	select {
	case <-x.log.Done():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (x *execution) full() bool {
	select {
	case <-x.log.Full():
		return true
	default:
		return false
	}
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
	ended := make(chan error, len(running))
	for _, x := range running {
		go func() { ended <- x.end(ctx, grace, cause) }()
	}
	var first error
	for range running {
		if err := <-ended; first == nil {
			first = err
		}
	}
	return first
}

// live sets the deadline for the first time. The sandbox is not known to others yet.
func (b *box) live(until driver.Deadline) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.until = until; until != 0 {
		b.lease = time.AfterFunc(until.Left(), b.expire)
	}
}

// extend moves the deadline, never back.
func (b *box) extend(until driver.Deadline) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.gone:
		return step.Errorf(step.KindNotFound, "sandbox %s does not exist", b.spec.ID)
	case b.over:
		return step.Errorf(step.KindConflict, "sandbox %s: its time is over", b.spec.ID)
	case b.until == 0 || until != 0 && until <= b.until:
		return nil
	}
	if b.until = until; until == 0 {
		b.lease.Stop()
	} else {
		b.lease.Reset(until.Left())
	}
	return nil
}

// expire ends the sandbox at its deadline, unless that has moved.
func (b *box) expire() {
	b.mu.Lock()
	if b.until == 0 || b.gone {
		b.mu.Unlock()
		return
	}
	if left := b.until.Left(); left > 0 {
		b.lease.Reset(left)
		b.mu.Unlock()
		return
	}
	b.over = true
	b.mu.Unlock()
	_ = b.stop(context.Background(), 0, step.CauseLost) // no error but of the context
}

func (b *box) destroy(ctx context.Context) error {
	b.mu.Lock()
	b.gone = true
	if b.lease != nil {
		b.lease.Stop()
	}
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
