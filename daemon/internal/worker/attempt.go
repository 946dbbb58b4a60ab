package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/nofx-run/nofx/daemon/internal/diskwatch"
	"github.com/nofx-run/nofx/daemon/internal/journal"
	"github.com/nofx-run/nofx/daemon/internal/ledger"
	"github.com/nofx-run/nofx/internal/failpoint"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// mainExec is the id of the step's own process tree in its sandbox.
const mainExec = "main"

const (
	destroyTimeout = 30 * time.Second
	removeTimeout  = 20 * time.Second
)

// attempt is one try at a step on this host.
type attempt struct {
	w       *Worker
	log     *slog.Logger
	id      string
	lease   wire.Lease
	journal *journal.Journal

	mu       sync.Mutex
	entry    ledger.Entry
	until    driver.Deadline   // the lease's end, as last heard
	cancel   *wire.CancelOrder // somebody asked for the end
	fenced   bool              // the API has closed it: nothing of it counts any more
	stopping bool              // somebody sees to Stop already
	mending  bool              // what the API misses is on its way
	refusal  *wire.JournalRefusal
	saved    bool // the API counts the layer that the verdict names

	stay   *diskwatch.Stay // in its workspace; the attempt's own goroutine's alone
	asked  driver.Deadline // when the claim was sent that gave the lease; 0 = by an earlier process
	inside bool            // it is, or may be, at work in the run's workspace; under the worker's lock
	settle func()          // what is to be done about its layer once the API has the verdict, or has closed it; nil = nothing

	confirmed chan struct{} // closed once the API has said that the lease is ours
	confirm1  sync.Once
	closed    chan struct{} // closed when fenced
	refused   chan struct{} // closed with refusal set
	cleaned   chan struct{} // closed when nothing runs any more
	shipped   chan struct{} // poked when the API has more of the journal
	later     time.Time     // nothing is shipped before; the shipper's alone
	mended    int           // times that the API missed something; the shipper's alone
	acked     chan struct{} // closed when the API has the verdict
	acked1    sync.Once
	gone      chan struct{} // closed when nothing is left of it
	next      int64         // the number of the next record to ship; the shipper's alone
}

func newAttempt(w *Worker, e ledger.Entry, j *journal.Journal, until driver.Deadline) *attempt {
	if e.Handle == nil { // else the sandbox has what an earlier process gave it
		e.Lease = w.bound(e.Lease)
	}
	return &attempt{
		w: w, id: e.Lease.AttemptID, lease: e.Lease, journal: j, entry: e, until: until,
		log:       w.log.With("attempt", e.Lease.AttemptID, "run", e.Lease.RunID, "step", e.Lease.StepName),
		confirmed: make(chan struct{}), closed: make(chan struct{}), refused: make(chan struct{}), cleaned: make(chan struct{}), shipped: make(chan struct{}, 1), acked: make(chan struct{}), gone: make(chan struct{}),
		inside: e.Handle != nil && e.Lease.Workspace != step.WorkspaceStep,
		next:   j.Position().Acked + 1,
	}
}

// confirm says that the API counts the lease as this worker's.
func (a *attempt) confirm() { a.confirm1.Do(func() { close(a.confirmed) }) }

// reported says that the API has the verdict, and whether its layer counts.
func (a *attempt) reported(saved bool) {
	a.acked1.Do(func() {
		a.mu.Lock()
		a.saved = saved
		a.mu.Unlock()
		a.w.noteEnd(a)
		close(a.acked)
	})
}

// run brings the attempt to its end: a verdict that the API has, nothing left
// on the host. It returns early when ctx ends, with everything left in place
// for the next process, or when the API has closed the attempt.
func (a *attempt) run(ctx context.Context) {
	done := a.work(ctx)
	settled := a.settleLayer(ctx)
	if !done {
		<-settled
		return
	}
	// The verdict is on its way; the sandbox goes meanwhile.
	a.hold(failpoint.Reported)
	a.clean(ctx)
	close(a.cleaned)
	poke(a.w.dirty) // what is told instead of a refused record
	select {
	case <-a.acked:
	case <-a.closed:
	case <-ctx.Done():
		<-settled
		return
	}
	<-settled
	a.hold(failpoint.Destroyed)
	if err := errors.Join(a.w.cfg.Ledger.Delete(a.id), a.journal.Remove()); err != nil {
		a.log.Error("the attempt's records stay on disk", "err", err)
	}
	a.w.forget(a)
}

// hold is where tests hold it.
func (a *attempt) hold(place string) { a.w.cfg.Points.Hold(place, a.lease.StepName) }

// work runs the step and journals the verdict. It reports false when the
// process is to end before the attempt has.
func (a *attempt) work(ctx context.Context) (done bool) {
	defer func() {
		if p := recover(); p != nil {
			a.log.Error("panic", "panic", p, "stack", string(debug.Stack()))
			a.end(wire.VerdictRecord{Verdict: failure(step.CauseDriverError, "defect in the daemon")})
			done = true
		}
	}()
	if a.journal.Position().Verdict {
		return true
	}
	inner, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() { // what the API has closed must not go on
		select {
		case <-a.closed:
			stop(errFenced)
		case <-a.refused:
			stop(errRefused)
		case <-a.w.leaving:
			stop(errLeft)
		case <-inner.Done():
		}
	}()
	if !a.sandboxed() {
		// An earlier process may have died anywhere before the sandbox was known.
		select {
		case <-a.confirmed:
		case <-inner.Done():
			return ctx.Err() == nil
		}
		if (a.w.isDraining() || a.barred() || a.stale()) && a.release(inner) {
			return true
		}
	}
	record, err := a.execute(inner)
	switch {
	case err == nil:
		a.end(record)
	case a.isFenced():
		a.log.Info("closed by the API")
	case errors.Is(context.Cause(inner), errRefused):
		a.log.Info("cut short: the API refuses its journal")
	case ctx.Err() != nil:
		return false
	case errors.Is(context.Cause(inner), errLeft):
		// Somebody else may begin it anew as soon as the API knows.
		if err := a.destroyPatiently(context.WithoutCancel(ctx), ctx); err != nil {
			a.log.Error("the sandbox stays, and so the step is not told of as lost", "err", err)
			return false
		}
		record.Verdict = failure(step.CauseLost, errLeft.Error())
		a.end(record)
	default:
		a.log.Warn("the driver could not do it", "driver", a.lease.Driver, "err", err)
		v, had := a.verdictOf(ctx, err), record.Verdict // what it used holds, if it came to its end
		had.Usage.DiskBytes = max(had.Usage.DiskBytes, v.Usage.DiskBytes)
		v.Usage, v.Output = had.Usage, had.Output
		record.Verdict = v
		a.end(record)
	}
	return true
}

// errFenced is why an attempt's context ends when the API has closed it.
var (
	errFenced = errors.New("the API has closed the attempt")
	errLeft   = errors.New("the worker was taken down while the step ran")
)

// verdictOf turns an error on the way into what the attempt ended by.
func (a *attempt) verdictOf(ctx context.Context, err error) step.Verdict {
	if why := a.overDisk(); why != "" {
		return a.diskVerdict(ctx, why)
	}
	if order := a.cancelled(); order != nil {
		return failure(step.CauseCancelled, order.Reason)
	}
	if errors.Is(err, errLost) {
		v := failure(step.CauseLost, err.Error())
		if known := (*step.Error)(nil); errors.As(err, &known) {
			v.ErrorKind = known.Kind // the driver was away, and not just the host
		}
		return v
	}
	v := failure(step.CauseDriverError, fmt.Sprintf("driver %s: %v", a.lease.Driver, err))
	v.ErrorKind = step.KindOf(err)
	var e *step.Error
	if errors.As(err, &e) {
		v.RetryAfterMS = min(max(e.RetryAfter, 0), maxRetryAfter).Milliseconds()
	}
	return v
}

// maxRetryAfter is the most that the API takes.
const maxRetryAfter = 24 * time.Hour

// errLost says that nobody can tell what became of the sandbox.
var errLost = errors.New("the sandbox is gone")

func failure(cause step.Cause, message string) step.Verdict {
	return step.Verdict{Cause: cause, Attested: step.AttestedKernel, Message: brief(message)}
}

// brief makes a message short enough for the API to store.
func brief(message string) string {
	const most = 1000 // bytes
	if len(message) > most {
		message = message[:most] + "…"
	}
	return strings.ToValidUTF8(message, "")
}

// end journals the verdict, unless there is one.
func (a *attempt) end(record wire.VerdictRecord) {
	record.Verdict.Usage.OutputBytes = max(record.Verdict.Usage.OutputBytes, record.Verdict.Output.TotalBytes)
	err := a.append(wire.Record{Type: wire.RecordVerdict, Verdict: &record})
	if err != nil && !step.Is(err, step.KindConflict) {
		// The lease runs out, and the API ends the attempt as lost.
		a.log.Error("the verdict cannot be written", "verdict", record.Verdict.String(), "err", err)
		a.fence()
		return
	}
	a.w.cfg.Observer.Ended(a.lease.Driver, record.Verdict.Cause, ms(record.Verdict.Usage.WallMS))
	a.log.Info("ended", "verdict", record.Verdict.String())
}

// append journals a record and has it shipped.
func (a *attempt) append(rec wire.Record) error {
	rec.At = time.Now().UTC()
	if _, err := a.journal.Append(rec); err != nil {
		return err
	}
	poke(a.w.dirty)
	if rec.Type == wire.RecordVerdict {
		poke(a.w.ended)
	}
	return nil
}

// clean removes what the attempt has on the host, and gives its uids back.
func (a *attempt) clean(ctx context.Context) {
	alive := ctx
	ctx = context.WithoutCancel(ctx)
	if err := a.destroyPatiently(ctx, alive); err != nil {
		a.log.Error("the sandbox stays; the sweep tries again", "err", err)
		return // its uids stay with it
	}
	rm, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	if err := a.group().Remove(rm); err != nil {
		a.log.Error("the cgroup stays; the sweep tries again", "err", err)
		return
	}
	if a.ownWorkspace() {
		if err := a.w.cfg.Workspaces.Remove(a.id); err != nil {
			a.log.Error("the workspace stays; the sweep tries again", "err", err)
			return
		}
	}
	if uid := a.uid(); uid != 0 {
		a.w.cfg.UIDs.Free(uid)
	}
}

// destroyPatiently destroys the sandbox again while the driver is away, for as
// long as one call may take and this process is to live.
func (a *attempt) destroyPatiently(ctx, alive context.Context) error {
	alive, cancel := context.WithTimeout(alive, destroyTimeout)
	defer cancel()
	for retry := newRetry(); ; {
		err := a.destroy(ctx)
		if !step.Is(err, step.KindUnavailable) || retry.sleep(alive, err) != nil {
			return err
		}
	}
}

func (a *attempt) destroy(ctx context.Context) error {
	h := a.handle()
	if h == nil {
		return nil
	}
	d, err := a.w.cfg.Drivers.Driver(a.lease.Driver)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, destroyTimeout)
	defer cancel()
	return d.Destroy(ctx, *h)
}

// release gives the lease back without having started it. It reports whether
// the API took it; then the attempt is over here.
func (a *attempt) release(ctx context.Context) bool {
	me := a.w.identity()
	got, err := a.w.cfg.API.Release(ctx, wire.ReleaseRequest{
		WorkerID: me.WorkerID, Incarnation: a.w.incarnation, Leases: []wire.Fence{a.lease.Fence},
	})
	if err != nil {
		a.log.Warn("cannot give the lease back", "err", err)
		return false
	}
	for _, id := range got.Released {
		if id == a.id {
			a.fence()
			return true
		}
	}
	return false
}

// fence makes the attempt one that nobody counts any more.
func (a *attempt) fence() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.fenced {
		a.fenced = true
		close(a.closed)
	}
}

func (a *attempt) isFenced() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.fenced
}

func (a *attempt) sandboxed() bool { return a.handle() != nil }

func (a *attempt) handle() *driver.Handle {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.entry.Handle
}

func (a *attempt) uid() uint32 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.entry.UIDBase
}

func (a *attempt) cancelled() *wire.CancelOrder {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cancel
}
