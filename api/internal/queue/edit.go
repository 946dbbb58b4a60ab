package queue

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/api/internal/plan"
	"github.com/nofx-run/nofx/sdk/step"
)

// edit takes a step with another command.
func (o *reopening) edit(ctx context.Context, db *pgdb.Queries, s *pgdb.StepsOfRunsRow, to plan.Step, change plan.Change) error {
	steps := []plan.Step{to}
	if _, err := withinPolicy(ctx, db, o.who, steps); err != nil {
		return relocate(err)
	}
	to = steps[0]
	if err := o.q.sealable(steps, func(int) string { return "body" }); err != nil {
		return err
	}
	body, err := o.q.keep(o.who.TenantID, s.ID, to)
	if err != nil {
		return err
	}
	before := *s
	s.Driver, s.Shares = to.Driver, to.Shares()
	err = o.shareRegions(s, to.Regions)
	if err == nil {
		err = o.shareDisk(s, &to)
	}
	if err == nil {
		err = o.add(s) // the last: what is taken is reopened
	}
	if err != nil {
		*s = before
		return err
	}
	p := pgdb.EditStepParams{TenantID: o.who.TenantID, ID: s.ID, Generation: s.Generation, Driver: to.Driver, Shares: to.Shares(), Inputs: body.inputs, Command: body.command, Sealed: body.sealed,
		Reads: to.Reads, Shown: to.Shown, Image: to.Image, Workspace: string(to.Workspace), Network: string(to.Network), NetworkAllow: to.NetworkAllow,
		OnOutput: string(to.OnOutput), TimeoutMs: to.TimeoutMS, Artifacts: to.Artifacts, Idempotent: to.Idempotent,
		Tries: i32(to.Retry.Attempts), BackoffMs: to.Retry.BackoffMS}
	p.Lane, p.Drivers, p.Lanes = gatesOf(o.who.TenantID, to)
	p.OnOpen, p.Regions = string(to.OnOpen), s.Regions
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
	}{{&p.Resources, to.Caps()}, {&p.Retry, to.Retry}, {&p.Spec, to.Spec}} {
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
