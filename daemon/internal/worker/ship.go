package worker

import (
	"context"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

const (
	shipBudget  = 2 << 20              // bytes of records in one request, as they lie in the journals
	shipPerStep = 512 << 10            // of one attempt beside others, at least; alone it has all of the budget
	shipGather  = 2 * time.Millisecond // for more records, when the last request is not long ago
	shipIdle    = 5 * time.Millisecond // for a verdict, when it is
	shipLater   = 30 * time.Second     // before what the API could not store is offered again
)

// ship sends what the journals hold, all attempts together, one request at a
// time, and drops what is acknowledged. An API that is away is waited for.
func (w *Worker) ship(ctx context.Context) error {
	retry := newRetry()
	later := time.NewTicker(shipLater)
	defer later.Stop()
	poke(w.dirty) // what an earlier process left
	var last time.Time
	for {
		select {
		case <-w.dirty:
		case <-later.C:
		case <-ctx.Done():
			return nil
		}
		if !w.gather(ctx, time.Since(last) < 10*shipGather) {
			return nil
		}
		for {
			more, err := w.shipOnce(ctx)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				w.log.Warn("journal not shipped yet", "err", err)
				if step.Is(err, step.KindConflict) {
					if err := w.register(ctx); err != nil {
						return err
					}
				}
				if err := retry.sleep(ctx, err); err != nil {
					return err
				}
				continue
			}
			retry.reset()
			if !more {
				break
			}
		}
		last = time.Now()
	}
}

// gather waits a moment for more to ship: under load a short one, else one in
// which a short step comes to its end, so that one request tells all of it. Once
// nothing runs that could add more it does not wait at all. It reports false when
// ctx has ended.
func (w *Worker) gather(ctx context.Context, busy bool) bool {
	wait := shipIdle
	if busy {
		wait = shipGather
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			// Whoever has ended by now is told of in this request. Left where it
			// is, the word would cut the next wait short.
			select {
			case <-w.ended:
			default:
			}
			return true
		case <-w.ended:
			if !busy || w.allEnded() {
				return true
			}
		case <-ctx.Done():
			return false
		}
	}
}

// allEnded reports whether no attempt will add to its journal.
func (w *Worker) allEnded() bool {
	for _, a := range w.all() {
		if !a.journal.Position().Verdict && !a.isFenced() {
			return false
		}
	}
	return true
}

// shipOnce sends one request with what there is, and reports whether there is
// more. Only the shipper calls it.
func (w *Worker) shipOnce(ctx context.Context) (more bool, err error) {
	me := w.identity()
	in := wire.JournalRequest{WorkerID: me.WorkerID, Incarnation: w.incarnation, Refusals: true}
	var waiting []*attempt
	for _, a := range w.all() {
		if !a.isFenced() && !a.holdsBack() && a.journal.Position().Last >= a.next {
			waiting = append(waiting, a)
		}
	}
	sent := map[string]*attempt{}
	budget, records := shipBudget, 0
	share := max(shipPerStep, shipBudget/max(len(waiting), 1))
	for _, a := range waiting {
		if budget <= 0 {
			more = true
			break
		}
		recs, rest, err := a.tell(min(budget, share))
		if err != nil {
			if a.isFenced() {
				continue
			}
			// What cannot be read back cannot be told: the lease runs out.
			a.log.Error("journal unreadable", "err", err)
			a.fence()
			continue
		}
		for _, r := range recs {
			budget -= 256
			if r.Output != nil {
				budget -= len(r.Output.Data) * 4 / 3
			}
			if r.Verdict != nil {
				budget -= (len(r.Verdict.Stdout) + len(r.Verdict.Stderr)) * 4 / 3
			}
		}
		records += len(recs)
		more = more || rest
		in.Batches = append(in.Batches, wire.JournalBatch{Fence: a.lease.Fence, Records: recs})
		sent[a.id] = a
	}
	if len(in.Batches) == 0 {
		return false, nil
	}
	got, err := w.cfg.API.Journal(ctx, in)
	w.cfg.Observer.Shipped(records, err)
	if err != nil {
		if step.Is(err, step.KindInvalid) || step.Is(err, step.KindTooLarge) {
			return w.shipApart(ctx, in, sent)
		}
		return false, err
	}
	w.acknowledge(ctx, got, sent)
	return more, nil
}

// shipApart sends the batches of a request that was refused as a whole one by
// one, so that one bad one does not hold up the rest.
func (w *Worker) shipApart(ctx context.Context, in wire.JournalRequest, sent map[string]*attempt) (bool, error) {
	for _, b := range in.Batches {
		one := in
		one.Batches = []wire.JournalBatch{b}
		got, err := w.cfg.API.Journal(ctx, one)
		switch {
		case err == nil:
			w.acknowledge(ctx, got, map[string]*attempt{b.AttemptID: sent[b.AttemptID]})
		case step.Is(err, step.KindInvalid), step.Is(err, step.KindTooLarge):
			sent[b.AttemptID].refuse(wire.JournalRefusal{N: b.Records[0].N, Kind: step.KindOf(err), Message: err.Error()})
		default:
			return false, err
		}
	}
	return true, nil
}

func (w *Worker) acknowledge(ctx context.Context, got wire.JournalAnswer, sent map[string]*attempt) {
	told := make(map[string]bool, len(sent))
	for _, ack := range got.Acks {
		a := sent[ack.AttemptID]
		if a == nil {
			continue
		}
		if err := a.journal.Ack(ack.N); err != nil {
			a.log.Error("acknowledgement", "err", err)
			if step.Is(err, step.KindConflict) {
				// The API has more than the disk: a crash of the host took the
				// journal's end. What it held cannot be told: the lease runs out.
				a.fence()
			}
			continue
		}
		poke(a.shipped)
		told[a.id] = ack.N >= a.next
		a.next = max(a.next, ack.N+1)
		if ack.Ended {
			a.reported(ack.Saved)
		}
	}
	for _, r := range got.Refused {
		if a := sent[r.AttemptID]; a != nil {
			told[a.id] = true
			a.mend(ctx, r)
		}
	}
	for _, id := range got.Discard {
		if a := sent[id]; a != nil {
			a.log.Warn("the API has closed the attempt")
			a.fence()
		}
	}
	for id, a := range sent {
		if !told[id] { // it is not stored yet: the others go on meanwhile
			a.later = time.Now().Add(shipLater)
		}
	}
}
