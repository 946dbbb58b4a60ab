package worker

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nofx-run/nofx/daemon/internal/ledger"
	"github.com/nofx-run/nofx/internal/failpoint"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

const (
	claimWait  = 20 * time.Second     // how long the API may hold an empty answer
	gatherFree = 2 * time.Millisecond // for more slots to come free, when some are busy
)

// claims asks for leases whenever slots are free, until the drain begins. The
// attempts themselves go on until ctx ends.
func (w *Worker) claims(ctx context.Context, group *errgroup.Group) error {
	asking, stop := context.WithCancel(ctx)
	defer stop()
	group.Go(func() error { // a claim that waits is cut off by the drain
		select {
		case <-w.draining:
			stop()
		case <-asking.Done():
		}
		return nil
	})
	retry := newRetry()
	for {
		free := w.free(asking)
		if free == 0 {
			return nil
		}
		attempts, err := w.claim(asking, free)
		w.giveBack(free - len(attempts))
		w.cfg.Observer.Claimed(len(attempts))
		for _, a := range attempts {
			group.Go(func() error {
				defer w.giveBack(1)
				a.run(ctx)
				return nil
			})
		}
		if err == nil {
			retry.reset()
			continue
		}
		if asking.Err() != nil {
			return nil
		}
		w.log.Warn("claim failed", "err", err)
		if step.Is(err, step.KindConflict) {
			if err := w.register(asking); err != nil {
				return nil
			}
		}
		if retry.sleep(asking, err) != nil {
			return nil
		}
	}
}

// free takes as many slots as are free, waiting for the first: 0 when ctx
// ends. What is taken must be given back.
func (w *Worker) free(ctx context.Context) int {
	if ctx.Err() != nil {
		return 0
	}
	select {
	case w.slots <- struct{}{}:
	case <-ctx.Done():
		return 0
	}
	n := 1
	take := func() {
		for n < wire.MaxClaimBatch {
			select {
			case w.slots <- struct{}{}:
				n++
			default:
				return
			}
		}
	}
	take()
	if n < cap(w.slots) && n < wire.MaxClaimBatch {
		timer := time.NewTimer(gatherFree)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		take()
	}
	return n
}

func (w *Worker) giveBack(n int) {
	for range n {
		<-w.slots
	}
}

// claim asks once for up to max leases and makes them known. The claim's id
// is on disk before it is sent: a daemon that dies before it has written the
// leases down asks again with the same id and gets them.
func (w *Worker) claim(ctx context.Context, max int) ([]*attempt, error) {
	id, err := w.cfg.Ledger.Claim()
	if err == nil && id == "" {
		id = newID()
		err = w.cfg.Ledger.Claimed(id)
	}
	if err != nil {
		return nil, err
	}
	if err := w.tellChanges(ctx); err != nil {
		return nil, err
	}
	w.cfg.Points.Hold(failpoint.Claim, "")
	me := w.identity()
	sent := driver.Now()
	asked := w.unanswered
	w.unanswered = true
	got, err := w.cfg.API.Claim(ctx, wire.ClaimRequest{
		WorkerID: me.WorkerID, Incarnation: w.incarnation, ClaimID: id, Max: max,
		// The lease counts from before the claim was sent, so the wait must be
		// short next to it.
		WaitMS:  min(claimWait.Milliseconds(), me.LeaseMS/4),
		Drivers: w.healthy(), Layers: true,
	})
	if err != nil {
		return nil, err
	}
	if len(got.Leases) == 0 {
		// An empty answer took nothing, and its id can serve again; unless an
		// earlier one has taken leases that are gone by now: it takes no others.
		if asked {
			if err := w.cfg.Ledger.Claimed(newID()); err != nil {
				return nil, err
			}
		}
		w.unanswered = false
		return nil, nil
	}
	var fresh []ledger.Entry
	for _, lease := range got.Leases {
		w.cfg.Points.Hold(failpoint.Claimed, lease.StepName)
		if w.held(lease.AttemptID) != nil {
			continue
		}
		e := ledger.Entry{Lease: lease}
		if e.UIDBase, err = w.cfg.UIDs.Take(); err != nil {
			// Without a uid it ends as a driver error.
			w.log.Error("no uid for an attempt", "attempt", lease.AttemptID, "err", err)
		}
		fresh = append(fresh, e)
	}
	if err := w.cfg.Ledger.Claimed(newID(), fresh...); err != nil {
		return nil, err
	}
	w.unanswered = false
	attempts := make([]*attempt, 0, len(fresh))
	for _, e := range fresh {
		a, err := w.add(e, sent+driver.Deadline(ms(e.Lease.LeaseMS)))
		if err != nil {
			return attempts, err
		}
		a.asked = sent
		a.confirm()
		attempts = append(attempts, a)
	}
	return attempts, nil
}

func newID() string {
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // never fails
	return hex.EncodeToString(raw[:])
}

// healthy names the drivers that can take work.
func (w *Worker) healthy() []string {
	names := []string{}
	for _, d := range w.cfg.Drivers.Infos() {
		if d.Healthy {
			names = append(names, d.Name)
		}
	}
	return names
}
