package queue

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/api/internal/event"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/api/internal/quota"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// reopening opens new generations of steps that have ended, in runs whose rows
// are locked. A step takes with it those that were cancelled because of it.
type reopening struct {
	q     *Queue
	who   auth.Principal
	c     *change
	stale map[string]bool   // runs whose workspaces may be gone
	hold  map[string]string // runs that do not begin at once, and why
	resid residence
	runs  map[string]*plot
	set   map[string]bool // ids of the steps to reopen
	keys  []string        // of the steps that are reopened
	edits []pgdb.EditStepParams
	moved map[string]bool // of edits: the inputs are new ones
}

// plot is a run's steps.
type plot struct {
	steps  []*pgdb.StepsOfRunsRow // in the plan's order
	byName map[string]*pgdb.StepsOfRunsRow
	byID   map[string]*pgdb.StepsOfRunsRow
}

// reopen locks runs of the tenant's and reads their steps. A run that is not
// there is not in it.
func (q *Queue) reopen(ctx context.Context, db *pgdb.Queries, who auth.Principal, runIDs []string) (*reopening, error) {
	rows, err := db.LockReopen(ctx, pgdb.LockReopenParams{TenantID: who.TenantID, Ids: runIDs, KeepSeconds: seconds(q.cfg.WorkspaceKeep)})
	if err != nil {
		return nil, err
	}
	o := &reopening{q: q, who: who, stale: map[string]bool{}, hold: map[string]string{}, runs: map[string]*plot{}, set: map[string]bool{}, moved: map[string]bool{}}
	locked := make([]pgdb.LockRunsOfRow, len(rows))
	for i, r := range rows {
		locked[i] = pgdb.LockRunsOfRow{Layers: r.Layers, ID: r.ID, TenantID: r.TenantID, Status: r.Status, Pin: r.Pin, StepsLeft: r.StepsLeft, StepsFailed: r.StepsFailed,
			StepsCancelled: r.StepsCancelled, NextSeq: r.NextSeq, CancelAt: r.CancelAt, StartedAt: r.StartedAt, RetryBudget: r.RetryBudget, Retries: r.Retries}
		o.stale[r.ID] = r.Stale || r.Pin == ""
		o.hold[r.ID] = r.Hold
		o.runs[r.ID] = &plot{byName: map[string]*pgdb.StepsOfRunsRow{}, byID: map[string]*pgdb.StepsOfRunsRow{}}
	}
	o.c = newChange(locked)
	if o.resid, err = q.residence(ctx, db, who.TenantID, locked); err != nil {
		return nil, err
	}
	for id := range o.resid.outside {
		o.stale[id] = true
	}
	steps, err := db.StepsOfRuns(ctx, who.TenantID, runIDs)
	if err != nil {
		return nil, err
	}
	for i := range steps {
		s := &steps[i]
		if p := o.runs[s.RunID]; p != nil {
			p.steps = append(p.steps, s)
			p.byName[s.Name], p.byID[s.ID] = s, s
		}
	}
	return o, nil
}

func conflict(format string, args ...any) error {
	return step.Errorf(step.KindConflict, format, args...)
}

// step finds a step of a run.
func (o *reopening) step(runID, stepID string) (*pgdb.StepsOfRunsRow, error) {
	p := o.runs[runID]
	if p == nil {
		return nil, step.Errorf(step.KindNotFound, "no run %s", clip(runID))
	}
	s := p.byID[stepID]
	if s == nil {
		return nil, step.Errorf(step.KindNotFound, "no step %s in run %s", clip(stepID), clip(runID))
	}
	return s, nil
}

// refused reports whether the plan's policy refused the step at submission: it
// must not run, whoever asks.
func refused(s *pgdb.StepsOfRunsRow) bool {
	return s.Attempt == 0 && s.Losses == 0 && s.Cause == string(step.CausePolicy)
}

// add takes a step that did not succeed into the set, and with it what was
// cancelled because of it; or it says why not.
func (o *reopening) add(s *pgdb.StepsOfRunsRow) error {
	r, p := o.c.runs[s.RunID], o.runs[s.RunID]
	status := step.Status(s.Status)
	switch {
	case r.CancelAt != nil || r.Status == string(step.RunCancelled):
		return conflict("the run was cancelled")
	case !status.Terminal():
		return conflict("step %q has not ended: it is %s", s.Name, status)
	case status == step.StepSucceeded:
		return conflict("step %q has succeeded: run the whole run again, if that is what you want", s.Name)
	case refused(s):
		return conflict("step %q is refused by the plan's own policy", s.Name)
	}
	for _, name := range s.DependsOn {
		if on := p.byName[name]; on != nil && on.Status != string(step.StepSucceeded) && !o.set[on.ID] {
			return conflict("step %q depends on %q, which is %s: try that again", s.Name, name, on.Status)
		}
	}
	before := maps.Clone(o.set)
	o.set[s.ID] = true
	o.below(s)
	for _, s := range p.steps {
		if err := cmp.Or(o.workspace(s), o.resides(s)); err != nil {
			o.set = before
			return err
		}
	}
	return nil
}

// workspace refuses a step that would not find what others left in the run's
// workspace: it is gone, and was not saved.
func (o *reopening) workspace(s *pgdb.StepsOfRunsRow) error {
	if !o.set[s.ID] || !s.Shares || !o.stale[s.RunID] {
		return nil
	}
	for _, other := range o.runs[s.RunID].steps {
		if other.Shares && other.Status == string(step.StepSucceeded) && !other.Saved && !o.set[other.ID] {
			if host := o.resid.outside[s.RunID]; host != "" {
				return conflict("the workspace in which step %q worked is on a worker in %s, outside the tenant's residency (%s): run the whole run again (all), or submit it anew",
					other.Name, host, strings.Join(o.resid.only, ", "))
			}
			return conflict("the workspace in which step %q worked is gone: run the whole run again (all), or submit it anew", other.Name)
		}
	}
	return nil
}

// below adds the steps that were cancelled because of s and can go on now.
func (o *reopening) below(s *pgdb.StepsOfRunsRow) {
	p := o.runs[s.RunID]
	for _, id := range s.Dependants {
		d := p.byID[id]
		if d == nil || o.set[id] || d.Status != string(step.StepCancelled) {
			continue
		}
		stuck := slices.ContainsFunc(d.DependsOn, func(name string) bool {
			on := p.byName[name]
			return on != nil && !o.set[on.ID] && (on.Status == string(step.StepFailed) || on.Status == string(step.StepTimedOut) || on.Status == string(step.StepCancelled))
		})
		if !stuck {
			o.set[id] = true
			o.below(d)
		}
	}
}

// all takes every step of a run that has ended, but those that the plan's
// policy refuses, and those below them. The run begins anew, with an empty
// workspace, whether or not the one of before is still there.
func (o *reopening) all(runID string) error {
	r, p := o.c.runs[runID], o.runs[runID]
	if !step.RunStatus(r.Status).Terminal() {
		return conflict("the run has not ended: it is %s", r.Status)
	}
	out := map[string]bool{}
	var drop func(s *pgdb.StepsOfRunsRow)
	drop = func(s *pgdb.StepsOfRunsRow) {
		if out[s.ID] {
			return
		}
		out[s.ID] = true
		for _, id := range s.Dependants {
			drop(p.byID[id])
		}
	}
	for _, s := range p.steps {
		if refused(s) {
			drop(s)
		}
	}
	for _, s := range p.steps {
		o.set[s.ID] = !out[s.ID]
		if err := o.resides(s); err != nil {
			return err
		}
	}
	o.stale[runID] = true
	return nil
}

// withinMonth refuses new generations where a new run would be: it would wait
// until the month is over.
func (o *reopening) withinMonth(ctx context.Context, db *pgdb.Queries) error {
	return quota.Check(ctx, db, o.who.TenantID, time.Now())
}

// write makes it so and tells of it.
func (o *reopening) write(ctx context.Context, db *pgdb.Queries, why string) (map[string][]wire.ReopenedStep, error) {
	for _, e := range o.edits {
		if o.moved[e.ID] {
			if err := o.keepInputs(ctx, db, e.ID); err != nil {
				return nil, err
			}
		}
		if n, err := db.EditStep(ctx, e); err != nil || n != 1 {
			return nil, orElse(err, conflict("a step is not as it was"))
		}
	}
	out := map[string][]wire.ReopenedStep{}
	steps := pgdb.ReopenStepsParams{TenantID: o.who.TenantID}
	runs := pgdb.ReopenRunsParams{TenantID: o.who.TenantID}
	for id, p := range o.runs {
		n, err := o.one(ctx, id, p, &steps)
		if err != nil {
			return nil, err
		}
		if len(n) == 0 {
			delete(o.c.runs, id) // nothing of it changes
			continue
		}
		r := o.c.runs[id]
		out[id] = n
		runs.Ids, runs.StepsLeft = append(runs.Ids, id), append(runs.StepsLeft, r.StepsLeft)
		runs.StepsFailed, runs.StepsCancelled = append(runs.StepsFailed, r.StepsFailed), append(runs.StepsCancelled, r.StepsCancelled)
		runs.Pins, runs.Holds = append(runs.Pins, r.Pin), append(runs.Holds, o.hold[id])
		if err := o.tell(id, n, why); err != nil {
			return nil, err
		}
	}
	if err := ensureKeys(ctx, db, o.who.TenantID, o.keys); err != nil {
		return nil, err
	}
	if n, err := db.ReopenRuns(ctx, runs); err != nil || n != int64(len(runs.Ids)) {
		return nil, orElse(err, conflict("a run is not as it was"))
	}
	if ids, err := db.ReopenSteps(ctx, steps); err != nil || len(ids) != len(steps.Ids) {
		return nil, orElse(err, conflict("a step is not as it was"))
	}
	if err := db.ResolveDeadOf(ctx, pgdb.ResolveDeadOfParams{TenantID: o.who.TenantID, Principal: o.who.KeyID, StepIds: steps.Ids}); err != nil {
		return nil, err
	}
	return out, o.c.write(ctx, db)
}

func orElse(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// one counts the steps of a run that are reopened.
func (o *reopening) one(ctx context.Context, id string, p *plot, to *pgdb.ReopenStepsParams) ([]wire.ReopenedStep, error) {
	r := o.c.runs[id]
	var out []wire.ReopenedStep
	if o.stale[id] && step.RunStatus(r.Status).Terminal() {
		r.Pin = ""
	}
	regions, err := o.places(ctx, p, r.Pin)
	if err != nil {
		return nil, err
	}
	for _, s := range p.steps {
		if !o.set[s.ID] {
			continue
		}
		left, status, pin := 0, step.StepQueued, ""
		for _, name := range s.DependsOn {
			if on := p.byName[name]; on != nil && (o.set[on.ID] || on.Status != string(step.StepSucceeded)) {
				left++
			}
		}
		switch {
		case left > 0:
			status = step.StepWaiting
		case s.Shares:
			pin = r.Pin
		}
		if status == step.StepQueued && o.hold[id] != "" {
			status = step.StepWaiting
		}
		if s.ConcurrencyKey != "" {
			o.keys = append(o.keys, s.ConcurrencyKey)
		}
		if status == step.StepQueued {
			o.c.queued = append(o.c.queued, place{s.Driver, regions[s.ID], pin})
		}
		r.StepsLeft++
		switch step.Status(s.Status) {
		case step.StepSucceeded:
		case step.StepCancelled:
			r.StepsCancelled--
		default:
			r.StepsFailed--
		}
		to.Ids, to.Generations = append(to.Ids, s.ID), append(to.Generations, s.Generation)
		to.Statuses, to.DepsLeft, to.Pins = append(to.Statuses, string(status)), append(to.DepsLeft, i32(left)), append(to.Pins, pin)
		to.Regions = append(to.Regions, regions[s.ID])
		out = append(out, wire.ReopenedStep{ID: s.ID, Name: s.Name, Status: status, Generation: int(s.Generation) + 1})
	}
	if len(out) > 0 {
		if step.RunStatus(r.Status).Terminal() {
			r.Status = string(step.RunRunning)
			if o.hold[id] != "" {
				r.Status = string(step.RunQueued)
			}
		}
		r.CancelAt, r.Retries, r.dirty = nil, 0, true
	}
	return out, nil
}

// tell writes the events of a run's reopened steps.
func (o *reopening) tell(id string, steps []wire.ReopenedStep, why string) error {
	names := make([]string, len(steps))
	for i, s := range steps {
		names[i] = s.Name
	}
	if err := o.c.event(id, event.Entry{Type: step.EventRunResumed, Payload: map[string]any{"reason": why, "by": o.who.KeyID, "steps": names}}); err != nil {
		return err
	}
	for _, s := range steps {
		e := event.Entry{Type: step.EventStepEnqueued, StepID: s.ID, StepName: s.Name, Payload: map[string]any{"generation": s.Generation}}
		if s.Status == step.StepWaiting {
			e.Type = step.EventStepWaiting
		}
		if err := o.c.event(id, e); err != nil {
			return err
		}
	}
	return nil
}

// audit notes what a person did to a run or an entry.
func (o *reopening) audit(ctx context.Context, db *pgdb.Queries, action, target, requestID string, detail map[string]any) error {
	return auditOf(ctx, db, o.who, action, target, requestID, detail)
}

func auditOf(ctx context.Context, db *pgdb.Queries, who auth.Principal, action, target, requestID string, detail map[string]any) error {
	raw, err := json.Marshal(detail)
	if err != nil {
		return err
	}
	return db.InsertAudit(ctx, pgdb.InsertAuditParams{TenantID: who.TenantID, Principal: who.KeyID, Action: action, Target: target,
		Outcome: "allowed", RequestID: requestID, Detail: raw})
}
