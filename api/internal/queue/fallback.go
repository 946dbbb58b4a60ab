package queue

import (
	"context"
	"errors"

	"github.com/nofx-run/nofx/api/internal/event"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/sdk/step"
)

// elsewhere is the place of the driver that a step goes to after its driver
// failed; 0 when it stays where it is: it has no other, or it may have done
// something already and must not do it twice, or the worker that has its run's
// workspace does not have the other.
func elsewhere(a attemptRow, v step.Verdict) int32 {
	fault := v.Cause == step.CauseDriverError || v.Cause == step.CauseLost && v.ErrorKind != ""
	if !fault || int(a.Place) >= len(a.Drivers) || !a.NextServed || (a.StartedAt != nil || a.Touched) && !a.Idempotent {
		return 0
	}
	return a.Place + 1
}

func whatHappened(v step.Verdict) string {
	if v.Message != "" {
		return v.Message
	}
	return string(v.Cause)
}

func movedTo(from, to, why string) map[string]any {
	return map[string]any{"from": from, "to": to, "reason": why}
}

// move sends the step of an attempt that has ended to another driver.
func (c *change) move(a attemptRow, next int32, why string) attemptRow {
	m := &c.moves
	m.Ids, m.Generations = append(m.Ids, a.StepID), append(m.Generations, a.Generation)
	m.Attempts, m.Epochs = append(m.Attempts, a.Number), append(m.Epochs, a.Epoch)
	m.Nexts, m.Whys = append(m.Nexts, next), append(m.Whys, bounded(why, maxText))
	a.Driver = a.Drivers[next-1]
	return a
}

// unhealthyWait is how long a step waits for its driver to be healthy on some
// worker before it goes to its next one, in heartbeats.
const unhealthyWait = 3

// detour is a queued step that goes to another of its drivers.
type detour struct {
	id, runID   string
	place, next int32
	region      string // where the next one is
	why         string
}

// settleMost bounds how often settle asks for more; the reaper's next tick goes
// on from there.
const settleMost = 20

// settle does with the queued steps what they ask for when their driver cannot
// be had: those before a breaker that lets nothing through fail or go to their
// next driver, and so do those whose driver no worker has healthy.
func (q *Queue) settle(ctx context.Context) error {
	return errors.Join(
		untilFew(q.barredOut, func(list func(context.Context, *pgdb.Queries) ([]stuck, error)) error {
			return q.failQueued(ctx, step.CauseDriverError, list)
		}),
		untilFew(q.barredOn, func(list func(context.Context, *pgdb.Queries) ([]detour, error)) error { return q.detours(ctx, list) }),
		untilFew(q.unserved, func(list func(context.Context, *pgdb.Queries) ([]detour, error)) error { return q.detours(ctx, list) }),
	)
}

// untilFew does it again while there was a whole batch.
func untilFew[T any](list func(context.Context, *pgdb.Queries) ([]T, error), do func(func(context.Context, *pgdb.Queries) ([]T, error)) error) error {
	for range settleMost {
		n := 0
		err := do(func(ctx context.Context, db *pgdb.Queries) ([]T, error) {
			found, err := list(ctx, db)
			n = len(found)
			return found, err
		})
		if err != nil || n < reapMost {
			return err
		}
	}
	return nil
}

func barredBy(r pgdb.BarredRow) string {
	return "the breaker of " + r.Handler + " on " + r.Driver + " is open: " + r.Reason
}

func (q *Queue) barredOut(ctx context.Context, db *pgdb.Queries) ([]stuck, error) {
	rows, err := db.Barred(ctx, "fail", reapMost)
	out := make([]stuck, len(rows))
	for i, r := range rows {
		out[i] = stuck{id: r.ID, runID: r.RunID, why: barredBy(r)}
	}
	return out, err
}

func (q *Queue) barredOn(ctx context.Context, db *pgdb.Queries) ([]detour, error) {
	rows, err := db.Barred(ctx, "fallback", reapMost)
	out := make([]detour, len(rows))
	for i, r := range rows {
		out[i] = detour{r.ID, r.RunID, r.Place, r.Next, r.Region, barredBy(r)}
	}
	return out, err
}

func (q *Queue) unserved(ctx context.Context, db *pgdb.Queries) ([]detour, error) {
	rows, err := db.Unserved(ctx, unhealthyWait*seconds(q.cfg.Heartbeat), reapMost)
	out := make([]detour, len(rows))
	for i, r := range rows {
		out[i] = detour{r.ID, r.RunID, r.Place, r.Next, r.Region, "no worker has the driver " + r.Driver + " healthy"}
		if r.Pin != "" {
			out[i].why = "the worker that has the run's workspace has not the driver " + r.Driver + " healthy"
		}
	}
	return out, err
}

// detours gives steps to another of their drivers, with an event that says why.
func (q *Queue) detours(ctx context.Context, list func(context.Context, *pgdb.Queries) ([]detour, error)) error {
	c := noChange()
	err := q.db.System(ctx, func(db *pgdb.Queries) error {
		c = noChange()
		found, err := list(ctx, db)
		if err != nil || len(found) == 0 {
			return err
		}
		var p pgdb.MoveQueuedParams
		var runIDs []string
		why := make(map[string]string, len(found))
		for _, d := range found {
			p.Ids, p.Places, p.Nexts, p.Whys = append(p.Ids, d.id), append(p.Places, d.place), append(p.Nexts, d.next), append(p.Whys, bounded(d.why, maxText))
			p.Regions = append(p.Regions, d.region)
			runIDs, why[d.id] = append(runIDs, d.runID), d.why
		}
		runs, err := db.LockRuns(ctx, runIDs)
		if err != nil {
			return err
		}
		c = newChange(runs)
		rows, err := db.MoveQueued(ctx, p)
		if err != nil {
			return err
		}
		for _, s := range rows {
			if err := c.event(s.RunID, event.Entry{Type: step.EventStepFallback, StepID: s.ID, StepName: s.Name, Attempt: int(s.Attempt),
				Payload: movedTo(s.From, s.Driver, why[s.ID])}); err != nil {
				return err
			}
			c.queued = append(c.queued, place{s.Driver, s.Region, s.Pin})
		}
		return c.write(ctx, db)
	})
	if err == nil {
		q.announce(ctx, c)
	}
	return err
}
