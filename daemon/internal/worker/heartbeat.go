package worker

import (
	"context"
	"slices"
	"time"

	"github.com/nofx-run/nofx/daemon/internal/ledger"
	"github.com/nofx-run/nofx/internal/failpoint"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

const (
	extendTimeout = 10 * time.Second
	stopRetry     = 500 * time.Millisecond
)

// heartbeats renews what this worker holds. The API holds each answer for the
// length of an interval, so that cancellations arrive at once.
func (w *Worker) heartbeats(ctx context.Context) error {
	retry := newRetry()
	for {
		sent := time.Now()
		err := w.heartbeat(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		w.cfg.Observer.Heartbeat(err)
		interval := ms(w.identity().HeartbeatMS)
		switch {
		case err == nil:
			retry.reset()
			// An answer that came early brought news; the next one follows soon,
			// but never in a tight loop.
			if left := interval/10 - time.Since(sent); left > 0 {
				if !w.pauseBeat(ctx, left) {
					return nil
				}
			}
		case step.Is(err, step.KindConflict):
			w.log.Warn("the API knows this worker as another", "err", err)
			if err := w.register(ctx); err != nil {
				return err
			}
		default:
			w.log.Warn("heartbeat failed", "err", err)
			if err := retry.sleep(ctx, err); err != nil {
				return err
			}
		}
	}
}

func (w *Worker) pauseBeat(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-w.beatNow:
	case <-ctx.Done():
		return false
	}
	return true
}

// heartbeat sends one and acts on its answer.
func (w *Worker) heartbeat(ctx context.Context) error {
	me := w.identity()
	in := wire.Heartbeat{
		WorkerID: me.WorkerID, Incarnation: w.incarnation, Draining: w.isDraining(),
		Held: []wire.Fence{}, Drivers: w.cfg.Drivers.Infos(), WaitMS: me.HeartbeatMS,
	}
	for _, a := range w.all() {
		if !a.isFenced() {
			in.Held = append(in.Held, a.lease.Fence)
		}
	}
	w.mu.Lock()
	for id := range w.runs {
		in.Runs = append(in.Runs, id)
	}
	in.Swept = slices.Clone(w.swept)
	w.mu.Unlock()
	// The lease counts from before the heartbeat was sent: whatever delays the
	// answer makes it shorter here, never longer.
	sent := driver.Now()
	got, err := w.cfg.API.Heartbeat(ctx, in)
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.swept = w.swept[len(in.Swept):]
	w.mu.Unlock()
	w.heard(in.Drivers)
	w.bar(got.Barriers)
	until := sent + driver.Deadline(ms(got.LeaseMS))
	for _, id := range got.Renewed {
		if a := w.held(id); a != nil {
			a.confirm()
			go a.extend(ctx, until)
		}
	}
	for _, order := range got.Cancel {
		if a := w.held(order.AttemptID); a != nil {
			a.stop(ctx, order)
		}
	}
	for _, id := range got.Closed {
		if a := w.held(id); a != nil {
			a.fence()
		}
	}
	for _, id := range got.Ended {
		w.endRun(id)
	}
	return nil
}

// extend moves the moment at which the supervisor kills the sandbox.
func (a *attempt) extend(ctx context.Context, until driver.Deadline) {
	a.mu.Lock()
	a.until = max(a.until, until)
	a.mu.Unlock()
	h := a.handle()
	if h == nil || a.journal.Position().Verdict {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, extendTimeout)
	defer cancel()
	d, err := a.w.cfg.Drivers.Driver(a.lease.Driver)
	if err == nil {
		err = d.Extend(ctx, *h, until)
	}
	if err != nil && ctx.Err() == nil && !step.Is(err, step.KindNotFound) && !step.Is(err, step.KindConflict) {
		a.log.Warn("the lease is renewed, but not with the driver", "err", err)
	}
}

// stop has the step end: TERM, grace, KILL. It is repeated until the attempt
// has a verdict, for the order may come before the command has begun, or while
// the driver is away.
func (a *attempt) stop(ctx context.Context, order wire.CancelOrder) {
	a.mu.Lock()
	a.cancel = &order
	again := a.stopping
	a.stopping = true
	a.mu.Unlock()
	if again {
		return
	}
	a.log.Info("cancelled", "reason", order.Reason)
	go func() {
		a.hold(failpoint.Cancelling)
		a.halt(ctx, ms(order.GraceMS))
	}()
}

// halt has the step end until it has.
func (a *attempt) halt(ctx context.Context, grace time.Duration) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-a.closed:
			return
		case <-a.acked:
			return
		case <-ctx.Done():
			return
		}
		if a.journal.Position().Verdict {
			return
		}
		if h := a.handle(); h != nil {
			d, err := a.w.cfg.Drivers.Driver(a.lease.Driver)
			if err == nil {
				err = d.Stop(ctx, *h, grace, step.CauseCancelled)
			}
			if err != nil && ctx.Err() == nil {
				a.log.Warn("cannot stop it yet", "err", err)
			}
		}
		timer.Reset(stopRetry)
	}
}

// endRun removes the workspace of a run that has ended, unless a step of it is
// still here.
func (w *Worker) endRun(id string) {
	run, ok := w.letGo(id)
	if !ok {
		return
	}
	w.cfg.Disk.Forget(w.cfg.Workspaces.Path(id))
	err := w.cfg.Workspaces.Remove(id)
	if err == nil {
		if err := w.cfg.Ledger.DeleteRun(id); err != nil {
			w.log.Error("ledger", "run", id, "err", err)
		}
		w.cfg.UIDs.Free(run.UID)
	} else {
		w.log.Error("a workspace stays; the sweep tries again", "run", id, "err", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.runs[id] = run
	}
	close(w.going[id])
	delete(w.going, id)
}

// letGo takes a run off the list, unless a step of it is here. A step that
// comes from now on waits until its workspace is gone.
func (w *Worker) letGo(id string) (ledger.Run, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.attempts {
		if a.lease.RunID == id {
			return ledger.Run{}, false
		}
	}
	run, ok := w.runs[id]
	if ok {
		delete(w.runs, id)
		delete(w.ends, id)
		w.going[id] = make(chan struct{})
	}
	return run, ok
}
