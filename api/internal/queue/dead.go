package queue

import (
	"cmp"
	"context"
	"encoding/json"

	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/api/internal/plan"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Choice says which entries of the DLQ are meant: those with these ids, or
// those that match, behind the one that Cursor names.
type Choice struct {
	IDs    []string
	Match  *wire.DeadFilter
	Cursor string
}

// Requeue says what is to become of entries.
type Requeue struct {
	Choice
	Change plan.Change
	// Render makes a step of what was submitted, changed.
	Render    func(ctx context.Context, spec wire.PlanStep, inputs json.RawMessage) (plan.Step, error)
	DryRun    bool
	Once      Once
	RequestID string
}

func (r Requeue) changes() bool { return r.Change.Inputs != nil || r.Change.Driver != "" }

// resolved is the answer to a request about entries, with what is only of use
// for one entry: why it was refused, and what was reopened.
type resolved struct {
	wire.Resolved
	why   map[string]error
	steps map[string][]wire.ReopenedStep
}

func (r *resolved) refuse(id string, err error) {
	r.Refused = append(r.Refused, wire.RefusedOne{ID: id, Message: err.Error()})
	r.why[id] = err
}

// RequeueOne opens a new generation of the step of one entry.
func (q *Queue) RequeueOne(ctx context.Context, who auth.Principal, id string, r Requeue) (wire.Reopened, bool, error) {
	r.IDs = []string{id}
	fresh, err := q.render(ctx, who, &r)
	if err != nil {
		return wire.Reopened{}, false, err
	}
	var c *change
	out, replayed, err := once(ctx, q, who, r.Once, func(db *pgdb.Queries) (wire.Reopened, error) {
		done, re, err := q.requeue(ctx, db, who, r, fresh)
		if err != nil {
			return wire.Reopened{}, err
		}
		if err := done.why[id]; err != nil {
			return wire.Reopened{}, err
		}
		c = re.c
		for run, steps := range done.steps {
			return wire.Reopened{RunID: run, Status: step.RunStatus(c.runs[run].Status), Steps: steps}, nil
		}
		return wire.Reopened{}, step.Errorf(step.KindInternal, "entry %s was not requeued", id)
	})
	if err == nil && !replayed {
		q.announce(ctx, c)
	}
	return out, replayed, err
}

// newest is after every id.
const newest = "~"

// RequeueMany does it for all that are chosen, or tells what it would do.
func (q *Queue) RequeueMany(ctx context.Context, who auth.Principal, r Requeue) (wire.Resolved, bool, error) {
	more, err := q.choose(ctx, who, &r.Choice)
	if err != nil {
		return wire.Resolved{}, false, err
	}
	fresh, err := q.render(ctx, who, &r)
	if err != nil {
		return wire.Resolved{}, false, err
	}
	var c *change
	out, replayed, err := once(ctx, q, who, r.Once, func(db *pgdb.Queries) (wire.Resolved, error) {
		done, re, err := q.requeue(ctx, db, who, r, fresh)
		if re != nil {
			c = re.c
		}
		done.DryRun = r.DryRun
		r.goOn(&done, more)
		return done.Resolved, err
	})
	if err == nil && !replayed && !r.DryRun {
		q.announce(ctx, c)
	}
	return out, replayed, err
}

// goOn says in an answer where the next request finds the others.
func (c *Choice) goOn(out *resolved, more bool) {
	if out.More = more; more {
		out.NextCursor = c.IDs[len(c.IDs)-1]
	}
}

// choose finds the ids of entries that match; more tells whether there are
// others.
func (q *Queue) choose(ctx context.Context, who auth.Principal, c *Choice) (more bool, err error) {
	if c.Match == nil {
		return false, nil
	}
	m := c.Match
	err = q.db.Tenant(ctx, who.TenantID, func(db *pgdb.Queries) (err error) {
		c.IDs, err = db.MatchDead(ctx, pgdb.MatchDeadParams{TenantID: who.TenantID, Tool: m.Tool, Cause: string(m.Cause), Driver: m.Driver,
			Since: m.Since, Before: cmp.Or(c.Cursor, newest), Most: wire.MaxResolve + 1})
		return err
	})
	if len(c.IDs) > wire.MaxResolve {
		c.IDs, more = c.IDs[:wire.MaxResolve], true
	}
	return more, err
}

// rendering is a step as it is to be, or why it cannot be.
type rendering struct {
	generation int32
	step       plan.Step
	err        error
}

// render makes the steps of entries anew, by entry, where something of them is
// to change. It is done before the transaction: it asks others.
func (q *Queue) render(ctx context.Context, who auth.Principal, r *Requeue) (map[string]rendering, error) {
	if !r.changes() {
		return nil, nil
	}
	var rows []pgdb.DeadPlacesRow
	err := q.db.Tenant(ctx, who.TenantID, func(db *pgdb.Queries) (err error) {
		rows, err = db.DeadPlaces(ctx, who.TenantID, r.IDs)
		return err
	})
	out := make(map[string]rendering, len(rows))
	for _, row := range rows {
		var spec wire.PlanStep
		if err := json.Unmarshal(row.Spec, &spec); err != nil {
			return nil, step.Errorf(step.KindInternal, "step %s: %w", row.StepID, err)
		}
		inputs, err := q.inputsOf(who.TenantID, row)
		if err != nil && r.Change.Inputs == nil {
			out[row.ID] = rendering{row.Generation, plan.Step{}, conflict("the inputs of the step cannot be opened: %v", err)}
			continue
		}
		st, err := r.Render(ctx, spec, inputs)
		out[row.ID] = rendering{row.Generation, st, err}
	}
	return out, err
}

// requeue reopens the steps of entries, as far as that can be.
func (q *Queue) requeue(ctx context.Context, db *pgdb.Queries, who auth.Principal, r Requeue, fresh map[string]rendering) (resolved, *reopening, error) {
	out := resolved{Resolved: wire.Resolved{Done: []string{}, Refused: []wire.RefusedOne{}}, why: map[string]error{}}
	places, err := db.DeadPlaces(ctx, who.TenantID, r.IDs)
	if err != nil {
		return out, nil, err
	}
	var runIDs []string
	for _, p := range places {
		runIDs = append(runIDs, p.RunID)
	}
	re, err := q.reopen(ctx, db, who, runIDs)
	if err != nil {
		return out, nil, err
	}
	entries, err := db.LockDead(ctx, who.TenantID, r.IDs)
	if err != nil {
		return out, nil, err
	}
	byID := make(map[string]pgdb.LockDeadRow, len(entries))
	for _, e := range entries {
		byID[e.ID] = e
	}
	for _, id := range r.IDs {
		e, known := byID[id]
		if !known {
			out.refuse(id, step.Errorf(step.KindNotFound, "no entry %s in the DLQ", clip(id)))
			continue
		}
		if err := re.entry(ctx, db, e, r, fresh); err != nil {
			out.refuse(id, err)
			continue
		}
		out.Done = append(out.Done, id)
	}
	if len(out.Done) == 0 {
		return out, re, nil
	}
	if err := re.withinMonth(ctx, db); err != nil || r.DryRun {
		return out, re, err
	}
	if out.steps, err = re.write(ctx, db, "dlq.requeue"); err != nil {
		return out, re, err
	}
	for _, id := range out.Done {
		e := byID[id]
		detail := map[string]any{"run": e.RunID, "step": e.StepID, "generation": e.Generation + 1, "inputs_edited": r.Change.Inputs != nil}
		if r.Change.Driver != "" {
			detail["driver"] = r.Change.Driver
		}
		if err := re.audit(ctx, db, "dlq.requeue", id, r.RequestID, detail); err != nil {
			return out, re, err
		}
	}
	return out, re, nil
}

// entry takes the step of one entry, changed as it is to be.
func (o *reopening) entry(ctx context.Context, db *pgdb.Queries, e pgdb.LockDeadRow, r Requeue, fresh map[string]rendering) error {
	if e.State != wire.DeadOpen {
		return conflict("entry %s is %s already", e.ID, e.State)
	}
	s, err := o.step(e.RunID, e.StepID)
	if err != nil {
		return err
	}
	if s.Generation != e.Generation {
		return conflict("step %q has been tried again since: it is in generation %d", s.Name, s.Generation)
	}
	if !r.changes() {
		return o.add(s)
	}
	n, ok := fresh[e.ID]
	if !ok || n.generation != s.Generation {
		return conflict("step %q has changed meanwhile", s.Name)
	}
	if n.err != nil {
		return n.err
	}
	return o.edit(ctx, db, s, n.step, r.Change)
}
