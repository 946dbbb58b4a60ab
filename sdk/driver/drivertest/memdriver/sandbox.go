package memdriver

import (
	"context"
	"sync"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// sandbox is one sandbox.
type sandbox struct {
	spec        driver.Spec
	incarnation []byte
	created     time.Time
	files       *files
	use         usage // its caps and what it uses of them

	mu    sync.Mutex
	until driver.Deadline
	lease *time.Timer // kills the sandbox at until; nil = never
	dead  string      // why nothing may start in it any more
	execs map[string]*execution
	order []*execution
	gone  bool
	alive sync.WaitGroup // its tasks
}

func newSandbox(spec driver.Spec, incarnation []byte, now time.Time) *sandbox {
	sb := &sandbox{
		spec: spec, incarnation: incarnation, created: now,
		files: newFiles(spec.Resources.DiskMB << 20),
		use:   usage{caps: spec.Resources},
		execs: map[string]*execution{},
		until: spec.Until,
	}
	if spec.Until != 0 {
		sb.lease = time.AfterFunc(spec.Until.Left(), sb.leaseEnds)
	}
	return sb
}

// leaseEnds kills the sandbox when its deadline has passed.
func (sb *sandbox) leaseEnds() {
	sb.mu.Lock()
	if left := sb.until.Left(); left > 0 {
		sb.lease.Reset(left)
		sb.mu.Unlock()
		return
	}
	sb.dead = "its deadline has passed"
	running := sb.order
	sb.mu.Unlock()
	for _, x := range running {
		x.kill(step.CauseLost, "the sandbox's deadline passed")
	}
}

func (sb *sandbox) extend(until driver.Deadline) error {
	sb.mu.Lock()
	defer sb.mu.Unlock()
	if sb.dead != "" {
		return step.Errorf(step.KindConflict, "sandbox %s: %s", sb.spec.ID, sb.dead)
	}
	if sb.until != 0 && (until == 0 || until > sb.until) {
		sb.until = until
		if until == 0 {
			sb.lease.Stop()
		} else {
			sb.lease.Reset(until.Left())
		}
	}
	return nil
}

// exec starts an exec, or finds the one that has its id.
func (sb *sandbox) exec(spec driver.ExecSpec, several bool) (*execution, error) {
	sb.mu.Lock()
	defer sb.mu.Unlock()
	if x, ok := sb.execs[spec.ID]; ok {
		return x, nil
	}
	switch {
	case sb.gone:
		return nil, step.Errorf(step.KindNotFound, "sandbox %s does not exist", sb.spec.ID)
	case sb.dead != "":
		return nil, step.Errorf(step.KindConflict, "sandbox %s: %s", sb.spec.ID, sb.dead)
	case !several && len(sb.execs) > 0:
		return nil, step.Errorf(step.KindUnsupported, "sandbox %s has had its one exec", sb.spec.ID)
	}
	x := newExecution(sb, spec)
	sb.execs[spec.ID] = x
	sb.order = append(sb.order, x)
	x.start()
	return x, nil
}

func (sb *sandbox) find(execID string) (*execution, error) {
	sb.mu.Lock()
	defer sb.mu.Unlock()
	x, ok := sb.execs[execID]
	if !ok {
		return nil, step.Errorf(step.KindNotFound, "sandbox %s has no exec %.80q", sb.spec.ID, execID)
	}
	return x, nil
}

func (sb *sandbox) state() driver.State {
	sb.mu.Lock()
	defer sb.mu.Unlock()
	s := driver.State{Phase: driver.PhaseCreated}
	if sb.gone {
		return driver.State{Phase: driver.PhaseGone}
	}
	if len(sb.order) > 0 || sb.dead != "" {
		s.Phase = driver.PhaseExited
	}
	for _, x := range sb.order {
		exit, kept := x.out.end()
		if exit == nil {
			s.Phase = driver.PhaseRunning
		}
		s.Execs = append(s.Execs, driver.ExecState{ID: x.spec.ID, Exit: exit, OutputBytes: kept})
	}
	return s
}

func (sb *sandbox) stop(ctx context.Context, grace time.Duration, cause step.Cause) error {
	sb.mu.Lock()
	running := sb.order
	sb.mu.Unlock()
	for _, x := range running {
		x.terminate(grace, cause, "stopped")
	}
	for _, x := range running {
		select {
		case <-x.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (sb *sandbox) destroy() {
	sb.mu.Lock()
	sb.gone = true
	if sb.lease != nil {
		sb.lease.Stop()
	}
	running := sb.order
	sb.mu.Unlock()
	for _, x := range running {
		x.kill(step.CauseCancelled, "the sandbox was destroyed")
	}
	for _, x := range running {
		<-x.done
	}
	sb.alive.Wait()
}

func (sb *sandbox) stats() driver.Stats { return sb.use.stats() }
