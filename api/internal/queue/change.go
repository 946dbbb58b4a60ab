package queue

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/nofx-run/nofx/api/internal/event"
	"github.com/nofx-run/nofx/api/internal/handler"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// runState is a run whose row is locked, as this transaction changes it.
type runState struct {
	pgdb.LockRunsOfRow
	started bool // by this transaction
	dirty   bool
}

// attemptRow is an attempt whose row is locked, with what counts of its step.
type attemptRow = pgdb.LockAttemptsRow

// change collects what one transaction does to runs, steps and attempts, so
// that it takes a few statements, however many attempts it is about. The rows
// of all its runs are locked before it begins.
type change struct {
	runs   map[string]*runState
	events event.Batch

	ends     pgdb.EndStepsParams
	tries    pgdb.RetryStepsParams
	moves    pgdb.MoveRetriedParams
	dead     pgdb.InsertDeadParams
	health   results
	green    []string // ids of dependants, once for each step that succeeded
	red      []string // ids of steps that did not succeed
	layers   layers
	queued   []place // what workers can take after the commit
	later    bool    // something is queued for later
	anywhere bool    // others may take now what was bound to one worker
	freed    keys    // steps with these do not run any more
	// tenants of steps that do not run any more, once for each
	stopped []string
	vacated []string // runs in whose workspaces they did
}

// place is where a queued step waits.
type place struct{ driver, region, pin string }

// lockedRun is a run's row as each of the statements gives it that lock runs.
type lockedRun interface {
	pgdb.LockRunsOfRow | pgdb.LockRunsRow | pgdb.LockRunsNowRow | pgdb.LockRunRow
}

func newChange[R lockedRun](rows []R) *change {
	c := &change{runs: make(map[string]*runState, len(rows))}
	for _, row := range rows {
		r := pgdb.LockRunsOfRow(row)
		c.runs[r.ID] = &runState{LockRunsOfRow: r}
	}
	return c
}

// noChange is one that no run is locked for.
func noChange() *change { return newChange[pgdb.LockRunsOfRow](nil) }

// event adds one to a run's timeline.
func (c *change) event(run string, e event.Entry) error {
	r, ok := c.runs[run]
	if !ok {
		return step.Errorf(step.KindInternal, "run %s is not locked", run)
	}
	r.dirty = true
	return c.events.Add(r.TenantID, r.ID, &r.NextSeq, e)
}

// start notes that an attempt's process exists.
func (c *change) start(a attemptRow, s wire.StartedRecord) error {
	r, ok := c.runs[a.RunID]
	if !ok {
		return step.Errorf(step.KindInternal, "run %s is not locked", a.RunID)
	}
	if r.StartedAt == nil && !r.started {
		r.started = true
		if err := c.event(a.RunID, event.Entry{Type: step.EventRunStarted}); err != nil {
			return err
		}
	}
	return c.event(a.RunID, event.Entry{Type: step.EventStepStarted, StepID: a.StepID, StepName: a.Name, Attempt: int(a.Number), Region: a.Region,
		Payload: map[string]any{"driver": s.Driver, "driver_version": s.DriverVersion}})
}

// end applies the verdict of an attempt to its step.
func (c *change) end(a attemptRow, v wire.VerdictRecord) error {
	r, ok := c.runs[a.RunID]
	if !ok {
		return step.Errorf(step.KindInternal, "run %s is not locked", a.RunID)
	}
	d, err := decide(a, r.CancelAt != nil, int(r.RetryBudget-r.Retries), v.Verdict)
	if err != nil {
		return err
	}
	return c.conclude(a, v, d)
}

// conclude does with an attempt that has ended what was decided. Its run is
// locked.
func (c *change) conclude(a attemptRow, v wire.VerdictRecord, d decision) error {
	r := c.runs[a.RunID]
	about := event.Entry{StepID: a.StepID, StepName: a.Name, Attempt: int(a.Number), Region: a.Region}
	add := func(t step.EventType, payload map[string]any) error {
		about.Type, about.Payload = t, payload
		return c.event(a.RunID, about)
	}
	summary := map[string]any{"cause": v.Verdict.Cause}
	if v.Verdict.ExitCode != nil {
		summary["exit_code"] = *v.Verdict.ExitCode
	}
	if v.Verdict.Signal != "" {
		summary["signal"] = v.Verdict.Signal
	}
	if err := add(step.EventStepFinished, summary); err != nil {
		return err
	}
	for _, f := range v.Artifacts {
		if err := add(step.EventArtifactCreated, map[string]any{"name": f.Name, "sha256": f.SHA256, "size": f.Size}); err != nil {
			return err
		}
	}
	lost := i32(0)
	if d.lost {
		lost = 1
	}
	c.health.add(a, v.Verdict)
	c.stop(a)
	// To another driver is not one more try of the same: it takes nothing from
	// the run's budget, and the number of drivers bounds it.
	next := elsewhere(a, v.Verdict)
	moves := next > 0 && r.CancelAt == nil
	if moves {
		why := "driver " + a.Driver + ": " + whatHappened(v.Verdict)
		if err := add(step.EventStepFallback, movedTo(a.Driver, a.Drivers[next-1], why)); err != nil {
			return err
		}
		d.retry, d.wait = true, 0
		a = c.move(a, next, why)
	}
	if d.retry {
		pin := ""
		if a.Shares {
			pin = r.Pin
		}
		t := &c.tries
		t.Ids, t.Generations = append(t.Ids, a.StepID), append(t.Generations, a.Generation)
		t.Attempts, t.Epochs = append(t.Attempts, a.Number), append(t.Epochs, a.Epoch)
		t.WaitsMs, t.Lost, t.Pins = append(t.WaitsMs, d.wait.Milliseconds()), append(t.Lost, lost), append(t.Pins, pin)
		if d.wait > 0 {
			c.later = true
		} else {
			c.queued = append(c.queued, place{a.Driver, a.Placed, pin})
		}
		if !moves {
			r.Retries++
		}
		r.dirty = true
		summary["wait_ms"] = d.wait.Milliseconds()
		return add(step.EventStepRetry, summary)
	}
	verdict, err := json.Marshal(v.Verdict)
	if err != nil {
		return err
	}
	e := &c.ends
	e.Ids, e.Generations = append(e.Ids, a.StepID), append(e.Generations, a.Generation)
	e.Attempts, e.Epochs = append(e.Attempts, a.Number), append(e.Epochs, a.Epoch)
	e.Statuses, e.Verdicts = append(e.Statuses, string(d.status)), append(e.Verdicts, string(verdict))
	e.Outputs, e.Lost = append(e.Outputs, string(handler.Outputs(a.Reads, a.Shown, v))), append(e.Lost, lost)
	saved := false
	if d.status == step.StepSucceeded {
		if saved, err = c.save(a, v); err != nil {
			return err
		}
		if !saved && a.Shares {
			c.layers.unsaved = append(c.layers.unsaved, a.StepID)
		}
	}
	e.Saved = append(e.Saved, saved)
	if err := add(endEvent(d.status), summary); err != nil {
		return err
	}
	c.count(r, d.status)
	if d.status == step.StepSucceeded {
		c.green = append(c.green, a.Dependants...)
	} else {
		c.red = append(c.red, a.StepID)
	}
	if !d.dead {
		return nil
	}
	summary["entry"], summary["reason"] = c.bury(a.StepID, v.Verdict.Cause, d.why), d.why
	return add(step.EventStepDead, summary)
}

// stop notes that the step of an attempt does not run any more.
func (c *change) stop(a attemptRow) {
	c.freed.add(a)
	c.stopped = append(c.stopped, a.TenantID)
	if a.Shares && !slices.Contains(c.vacated[max(0, len(c.vacated)-1):], a.RunID) { // those of a run mostly come together
		c.vacated = append(c.vacated, a.RunID)
	}
}

// bury makes the step's entry in the DLQ and returns its id.
func (c *change) bury(stepID string, cause step.Cause, why string) string {
	id := NewID("dead")
	c.dead.Ids, c.dead.StepIds = append(c.dead.Ids, id), append(c.dead.StepIds, stepID)
	c.dead.Causes, c.dead.Reasons = append(c.dead.Causes, string(cause)), append(c.dead.Reasons, why)
	return id
}

func endEvent(s step.Status) step.EventType {
	switch s {
	case step.StepSucceeded:
		return step.EventStepSucceeded
	case step.StepTimedOut:
		return step.EventStepTimeout
	case step.StepCancelled:
		return step.EventStepCancelled
	}
	return step.EventStepFailed
}

// count takes one ended step off a run.
func (c *change) count(r *runState, s step.Status) {
	r.dirty = true
	r.StepsLeft--
	switch s {
	case step.StepSucceeded:
	case step.StepCancelled:
		r.StepsCancelled++
	default:
		r.StepsFailed++
	}
}

// write stores all of it.
func (c *change) write(ctx context.Context, db *pgdb.Queries) error {
	if n := len(c.ends.Ids); n > 0 {
		ids, err := db.EndSteps(ctx, c.ends)
		if err != nil {
			return err
		}
		if len(ids) != n {
			return step.Errorf(step.KindConflict, "%d of %d steps are not at that attempt any more", n-len(ids), n)
		}
	}
	if n := len(c.moves.Ids); n > 0 {
		moved, err := db.MoveRetried(ctx, c.moves)
		if err != nil {
			return err
		}
		if moved != int64(n) {
			return step.Errorf(step.KindConflict, "%d of %d steps are not at that attempt any more", int64(n)-moved, n)
		}
	}
	if n := len(c.tries.Ids); n > 0 {
		ids, err := db.RetrySteps(ctx, c.tries)
		if err != nil {
			return err
		}
		if len(ids) != n {
			return step.Errorf(step.KindConflict, "%d of %d steps are not at that attempt any more", n-len(ids), n)
		}
	}
	if err := c.layers.write(ctx, db); err != nil {
		return err
	}
	if len(c.dead.Ids) > 0 {
		if err := db.InsertDead(ctx, c.dead); err != nil {
			return err
		}
	}
	if err := c.dependants(ctx, db); err != nil {
		return err
	}
	if err := c.finish(ctx, db); err != nil {
		return err
	}
	if err := c.events.Write(ctx, db); err != nil {
		return err
	}
	back, err := c.freed.pass(ctx, db, 0)
	c.queued = append(c.queued, back...)
	return err
}

// dependants tells the steps that waited for those that have ended.
func (c *change) dependants(ctx context.Context, db *pgdb.Queries) error {
	if len(c.red) > 0 {
		verdict, err := json.Marshal(dependencyFailed())
		if err != nil {
			return err
		}
		rows, err := db.CancelBelow(ctx, verdict, c.red)
		if err != nil {
			return err
		}
		for _, s := range rows {
			if err := c.event(s.RunID, event.Entry{Type: step.EventStepCancelled, StepID: s.ID, StepName: s.Name}); err != nil {
				return err
			}
			c.count(c.runs[s.RunID], step.StepCancelled)
		}
	}
	if len(c.green) == 0 {
		return nil
	}
	rows, err := db.CountDown(ctx, c.green)
	if err != nil {
		return err
	}
	for _, s := range rows {
		if s.Status != string(step.StepQueued) {
			continue
		}
		c.queued = append(c.queued, place{s.Driver, s.Region, s.Pin})
		if err := c.event(s.RunID, event.Entry{Type: step.EventStepEnqueued, StepID: s.ID, StepName: s.Name}); err != nil {
			return err
		}
	}
	return nil
}

// finish ends the runs that have no step left and writes the changed ones.
func (c *change) finish(ctx context.Context, db *pgdb.Queries) error {
	var p pgdb.UpdateRunsParams
	var done []string // whose workspaces nobody will need again
	for _, r := range c.runs {
		if !r.dirty && step.RunStatus(r.Status).Terminal() {
			continue // it ended before its row was locked
		}
		ended := r.StepsLeft == 0
		if ended {
			status, t := step.RunSucceeded, step.EventRunSucceeded
			switch {
			case r.CancelAt != nil && r.StepsCancelled > 0:
				status, t = step.RunCancelled, step.EventRunCancelled
			case r.StepsFailed > 0 || r.StepsCancelled > 0:
				status, t = step.RunFailed, step.EventRunFailed
			}
			r.Status = string(status)
			if r.Layers > 0 && status != step.RunFailed {
				done = append(done, r.ID)
			}
			if err := c.event(r.ID, event.Entry{Type: t}); err != nil {
				return err
			}
		}
		if !r.dirty && !r.started {
			continue
		}
		p.Ids, p.Statuses = append(p.Ids, r.ID), append(p.Statuses, r.Status)
		p.NextSeqs, p.StepsLeft = append(p.NextSeqs, r.NextSeq), append(p.StepsLeft, r.StepsLeft)
		p.StepsFailed, p.StepsCancelled = append(p.StepsFailed, r.StepsFailed), append(p.StepsCancelled, r.StepsCancelled)
		p.Retries = append(p.Retries, r.Retries)
		p.Started, p.Ended = append(p.Started, r.started), append(p.Ended, ended)
	}
	if len(p.Ids) == 0 {
		return nil
	}
	n, err := db.UpdateRuns(ctx, p)
	if err != nil {
		return err
	}
	if n != int64(len(p.Ids)) {
		return step.Errorf(step.KindConflict, "a run has ended already")
	}
	if len(done) > 0 {
		return db.ForgetLayers(ctx, done)
	}
	return nil
}

// announce wakes who waits for what was committed.
func (q *Queue) announce(ctx context.Context, c *change) {
	for _, p := range c.queued {
		q.hub.Queued(p.driver, p.region, p.pin)
	}
	if c.anywhere {
		q.hub.All()
	}
	for _, tenant := range c.stopped {
		if q.bounded.has(tenant) {
			q.hub.Room() // for one of its steps that waits
		}
	}
	for _, id := range c.vacated {
		if r := c.runs[id]; r.StepsLeft > 0 && r.Pin != "" {
			q.hub.Vacated(id, r.Pin) // for one of its steps that its worker cannot do
		}
	}
	for _, tenant := range c.ended() {
		if q.holding.has(tenant) {
			q.letGo(ctx, tenant)
		}
	}
	q.wakeRuns(c.events.Runs())
}
