package queue

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/api/internal/plan"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Choice says which entries of the DLQ are meant: those with these ids, or
// those that match.
type Choice struct {
	IDs   []string
	Match *wire.DeadFilter
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
		q.announce(c)
	}
	return out, replayed, err
}

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
		done.DryRun, done.More = r.DryRun, more
		return done.Resolved, err
	})
	if err == nil && !replayed && !r.DryRun {
		q.announce(c)
	}
	return out, replayed, err
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
			Since: m.Since, Most: wire.MaxResolve + 1})
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
		st, err := r.Render(ctx, spec, row.Inputs)
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
	if r.DryRun || len(out.Done) == 0 {
		return out, re, nil
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

// edit takes a step with another command.
func (o *reopening) edit(ctx context.Context, db *pgdb.Queries, s *pgdb.StepsOfRunsRow, to plan.Step, change plan.Change) error {
	steps := []plan.Step{to}
	if err := withinPolicy(ctx, db, o.who, steps); err != nil {
		return relocate(err)
	}
	to = steps[0]
	before := *s
	s.Driver, s.Shares = to.Driver, to.Shares()
	if err := o.add(s); err != nil {
		*s = before
		return err
	}
	if err := o.shareDisk(s, &to); err != nil {
		return err
	}
	p := pgdb.EditStepParams{TenantID: o.who.TenantID, ID: s.ID, Generation: s.Generation, Driver: to.Driver, Shares: to.Shares(), Inputs: to.Inputs,
		Reads: to.Reads, Shown: to.Shown, Image: to.Image, Workspace: string(to.Workspace), Network: string(to.Network), NetworkAllow: to.NetworkAllow,
		OnOutput: string(to.OnOutput), TimeoutMs: to.TimeoutMS, Artifacts: to.Artifacts, Idempotent: to.Idempotent,
		Tries: i32(to.Retry.Attempts), BackoffMs: to.Retry.BackoffMS}
	if p.NetworkAllow == nil {
		p.NetworkAllow = []string{}
	}
	if p.Artifacts == nil {
		p.Artifacts = []string{}
	}
	if change.Inputs != nil {
		o.moved[s.ID] = true
		p.IdempotencyKey = plan.IdempotencyKey(s.RunID, to)
	}
	for _, f := range []struct {
		to   *[]byte
		from any
	}{{&p.Command, to.Command}, {&p.Resources, to.Resources}, {&p.Retry, to.Retry}, {&p.Spec, to.Spec}} {
		raw, err := json.Marshal(f.from)
		if err != nil {
			return err
		}
		*f.to = raw
	}
	o.edits = append(o.edits, p)
	return nil
}

// shareDisk gives a step that shares its run's workspace the one disk limit
// that the workspace has.
func (o *reopening) shareDisk(s *pgdb.StepsOfRunsRow, to *plan.Step) error {
	if !s.Shares {
		return nil
	}
	for _, other := range o.runs[s.RunID].steps {
		if !other.Shares || other == s {
			continue
		}
		var r step.Resources
		if err := json.Unmarshal(other.Resources, &r); err != nil {
			return step.Errorf(step.KindInternal, "resources of step %s: %w", other.ID, err)
		}
		to.Resources.DiskMB = r.DiskMB
		return nil
	}
	return nil
}

// relocate says of a step alone what was said of the first one of a plan.
func relocate(err error) error {
	e, ok := err.(*step.Error) //nolint:errorlint // made by package plan, not wrapped
	if !ok {
		return err
	}
	const first = "body.plan.steps[0]"
	out := *e
	out.Message = strings.Replace(e.Message, first, "body", 1)
	out.Fields = slices.Clone(e.Fields)
	for i := range out.Fields {
		out.Fields[i].Location = strings.Replace(out.Fields[i].Location, first, "body", 1)
	}
	return &out
}

// Discard says what is to become of entries that nobody wants to try again.
type Discard struct {
	Choice
	DryRun    bool
	Once      Once
	RequestID string
}

// DiscardOne ends one entry.
func (q *Queue) DiscardOne(ctx context.Context, who auth.Principal, id string, d Discard) (wire.Resolved, bool, error) {
	d.IDs = []string{id}
	return once(ctx, q, who, d.Once, func(db *pgdb.Queries) (wire.Resolved, error) {
		done, err := d.apply(ctx, db, who)
		if err == nil {
			err = done.why[id]
		}
		return done.Resolved, err
	})
}

// DiscardMany ends all that are chosen, or tells which it would end.
func (q *Queue) DiscardMany(ctx context.Context, who auth.Principal, d Discard) (wire.Resolved, bool, error) {
	more, err := q.choose(ctx, who, &d.Choice)
	if err != nil {
		return wire.Resolved{}, false, err
	}
	return once(ctx, q, who, d.Once, func(db *pgdb.Queries) (wire.Resolved, error) {
		done, err := d.apply(ctx, db, who)
		done.More = more
		return done.Resolved, err
	})
}

func (d Discard) apply(ctx context.Context, db *pgdb.Queries, who auth.Principal) (resolved, error) {
	done := resolved{Resolved: wire.Resolved{DryRun: d.DryRun, Done: []string{}, Refused: []wire.RefusedOne{}}, why: map[string]error{}}
	entries, err := db.LockDead(ctx, who.TenantID, d.IDs)
	if err != nil {
		return done, err
	}
	state := make(map[string]string, len(entries))
	for _, e := range entries {
		state[e.ID] = e.State
	}
	for _, id := range d.IDs {
		switch s, known := state[id]; {
		case !known:
			done.refuse(id, step.Errorf(step.KindNotFound, "no entry %s in the DLQ", clip(id)))
		case s != wire.DeadOpen:
			done.refuse(id, conflict("entry %s is %s already", id, s))
		default:
			done.Done = append(done.Done, id)
		}
	}
	if d.DryRun || len(done.Done) == 0 {
		return done, nil
	}
	if _, err := db.ResolveDead(ctx, pgdb.ResolveDeadParams{TenantID: who.TenantID, Principal: who.KeyID, State: wire.DeadDiscarded, Ids: done.Done}); err != nil {
		return done, err
	}
	for _, id := range done.Done {
		if err := auditOf(ctx, db, who, "dlq.discard", id, d.RequestID, map[string]any{}); err != nil {
			return done, err
		}
	}
	return done, nil
}
