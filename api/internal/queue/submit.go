package queue

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/api/internal/event"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/api/internal/plan"
	"github.com/nofx-run/nofx/api/internal/quota"
	"github.com/nofx-run/nofx/internal/failpoint"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Submission is a checked plan on its way into the database.
type Submission struct {
	Goal           string
	Steps          []plan.Step
	RetryBudget    int
	ProjectID      string
	CorrelationID  string
	RequestID      string
	IdempotencyKey string // "" = none
	Fingerprint    []byte // of the request, to tell a repeat from a mistake
}

const (
	runsRoute = "POST /api/runs"
	created   = 201
)

// Submit stores a run. A repeat with the same idempotency key gives the first
// answer again, and replayed is true.
func (q *Queue) Submit(ctx context.Context, who auth.Principal, s Submission) (answer wire.RunCreated, replayed bool, err error) {
	var queued []plan.Step
	err = q.db.Tenant(ctx, who.TenantID, func(db *pgdb.Queries) error {
		queued, replayed = nil, false
		if s.IdempotencyKey != "" {
			found, body, err := findReplay(ctx, db, who.TenantID, Once{runsRoute, s.IdempotencyKey, s.Fingerprint})
			if err != nil {
				return err
			}
			if found {
				replayed = true
				return json.Unmarshal(body, &answer)
			}
		}
		if err := db.EnsureProject(ctx, who.TenantID, s.ProjectID); err != nil {
			return err
		}
		// Of its own: the transaction may run more than once.
		s := s
		s.Steps = slices.Clone(s.Steps)
		if err := withinPolicy(ctx, db, who, s.Steps); err != nil {
			return err
		}
		if err := quota.Check(ctx, db, who.TenantID, time.Now()); err != nil {
			return err
		}
		n := newRun(who, s)
		if err := n.store(ctx, db, q.cfg.Region); err != nil {
			return err
		}
		queued = n.queued
		answer = wire.RunCreated{ID: n.id, Status: n.status, ProjectID: s.ProjectID}
		if s.IdempotencyKey == "" {
			return nil
		}
		return putReplay(ctx, db, who.TenantID, Once{runsRoute, s.IdempotencyKey, s.Fingerprint}, created, answer)
	})
	if err != nil {
		return wire.RunCreated{}, false, err
	}
	q.cfg.Points.Hold(failpoint.RunCommitted, "")
	for _, st := range queued {
		q.hub.Queued(st.Driver, "")
	}
	q.admit(ctx, queued)
	return answer, replayed, nil
}

// withinPolicy bounds steps by what their tenant's policy lets them have, and
// refuses those that ask for more.
func withinPolicy(ctx context.Context, db *pgdb.Queries, who auth.Principal, steps []plan.Step) error {
	row, err := db.TenantPolicy(ctx, who.TenantID)
	if err != nil {
		return err
	}
	c := wire.TenantCeiling{}
	if err := json.Unmarshal(row.Ceiling, &c); err != nil {
		return step.Errorf(step.KindInternal, "ceiling of tenant %s: %w", who.TenantID, err)
	}
	return plan.Ceiling{Network: step.Network(row.Network), Isolation: row.Isolation, Resources: c.Resources, TimeoutMS: c.TimeoutMS, Clip: row.Clip}.Apply(steps)
}

// fresh is a run that is being stored.
type fresh struct {
	who    auth.Principal
	s      Submission
	id     string
	status step.RunStatus
	ids    []string      // of the steps
	state  []step.Status // of the steps
	queued []plan.Step
	left   int
	failed int
	gone   int // cancelled
}

// newRun decides with which states the steps begin: those that policy refuses
// have failed, and what depends on them is cancelled.
func newRun(who auth.Principal, s Submission) *fresh {
	n := &fresh{who: who, s: s, id: NewID("run"), status: step.RunQueued,
		ids: make([]string, len(s.Steps)), state: make([]step.Status, len(s.Steps))}
	below := make([][]int, len(s.Steps))
	for i := range n.ids {
		n.ids[i] = NewID("step")
	}
	slices.Sort(n.ids) // steps that can begin at the same time are claimed in the plan's order
	for i, st := range s.Steps {
		for _, on := range st.DependsOn {
			below[on] = append(below[on], i)
		}
	}
	var cancel func(i int)
	cancel = func(i int) {
		for _, b := range below[i] {
			if n.state[b] == "" {
				n.state[b] = step.StepCancelled
				cancel(b)
			}
		}
	}
	for i, st := range s.Steps {
		if st.Denied != "" {
			n.state[i] = step.StepFailed
		}
	}
	for i, st := range s.Steps {
		if st.Denied != "" {
			cancel(i)
		}
	}
	for i, st := range s.Steps {
		switch {
		case n.state[i] == step.StepFailed:
			n.failed++
		case n.state[i] == step.StepCancelled:
			n.gone++
		case len(st.DependsOn) == 0:
			n.state[i] = step.StepQueued
			n.queued = append(n.queued, st)
			n.left++
		default:
			n.state[i] = step.StepWaiting
			n.left++
		}
	}
	if n.left == 0 {
		n.status = step.RunFailed
	}
	return n
}

func (n *fresh) store(ctx context.Context, db *pgdb.Queries, region string) error {
	var events event.Batch
	seq := int64(1)
	add := func(e event.Entry) error { return events.Add(n.who.TenantID, n.id, &seq, e) }
	if err := add(event.Entry{Type: step.EventRunCreated, Payload: map[string]any{"steps": len(n.s.Steps)}}); err != nil {
		return err
	}
	rows, err := n.rows()
	if err != nil {
		return err
	}
	for i, st := range n.s.Steps {
		for _, e := range firstEvents(n.state[i], st) {
			e.StepID, e.StepName = n.ids[i], st.Name
			if err := add(e); err != nil {
				return err
			}
		}
	}
	if n.left == 0 {
		if err := add(event.Entry{Type: step.EventRunFailed}); err != nil {
			return err
		}
	}
	_, err = db.InsertRun(ctx, pgdb.InsertRunParams{
		ID: n.id, TenantID: n.who.TenantID, ProjectID: n.s.ProjectID, Goal: n.s.Goal, Status: string(n.status), Region: region,
		CorrelationID: n.s.CorrelationID, StepsLeft: i32(n.left), StepsFailed: i32(n.failed), StepsCancelled: i32(n.gone), NextSeq: seq, RetryBudget: i32(n.s.RetryBudget),
	})
	if err != nil {
		return err
	}
	if err := db.InsertSteps(ctx, rows); err != nil {
		return err
	}
	if err := events.Write(ctx, db); err != nil {
		return err
	}
	return n.audit(ctx, db)
}

func firstEvents(s step.Status, st plan.Step) []event.Entry {
	switch s {
	case step.StepQueued:
		return []event.Entry{{Type: step.EventStepEnqueued}}
	case step.StepFailed:
		reason := map[string]any{"reason": st.Denied, "tool": st.Tool}
		return []event.Entry{{Type: step.EventPolicyDenied, Payload: reason}, {Type: step.EventStepFailed, Payload: map[string]any{"cause": step.CausePolicy}}}
	case step.StepCancelled:
		return []event.Entry{{Type: step.EventStepCancelled}}
	}
	return nil
}

func (n *fresh) audit(ctx context.Context, db *pgdb.Queries) error {
	row := pgdb.InsertAuditParams{
		TenantID: n.who.TenantID, Principal: n.who.KeyID, Action: "run.create", Target: n.id, Outcome: "allowed", RequestID: n.s.RequestID,
	}
	if err := db.InsertAudit(ctx, row); err != nil {
		return err
	}
	for i, st := range n.s.Steps {
		if st.Denied == "" {
			continue
		}
		detail, err := json.Marshal(map[string]string{"reason": st.Denied, "step": st.Name, "run": n.id})
		if err != nil {
			return err
		}
		row.Action, row.Target, row.Outcome, row.Detail = "step.start", n.ids[i], "denied", detail
		if err := db.InsertAudit(ctx, row); err != nil {
			return err
		}
	}
	return nil
}

func (n *fresh) rows() (pgdb.InsertStepsParams, error) {
	p := pgdb.InsertStepsParams{TenantID: n.who.TenantID, RunID: n.id, Ids: n.ids}
	dependants := make([][]string, len(n.s.Steps))
	for i, st := range n.s.Steps {
		for _, on := range st.DependsOn {
			dependants[on] = append(dependants[on], n.ids[i])
		}
	}
	for i, st := range n.s.Steps {
		command, err := json.Marshal(st.Command)
		if err != nil {
			return p, err
		}
		resources, err := json.Marshal(st.Resources)
		if err != nil {
			return p, err
		}
		policy, err := json.Marshal(st.Retry)
		if err != nil {
			return p, err
		}
		spec, err := json.Marshal(st.Spec)
		if err != nil {
			return p, err
		}
		verdict, err := firstVerdict(n.state[i], st)
		if err != nil {
			return p, err
		}
		names := make([]string, len(st.DependsOn))
		for j, on := range st.DependsOn {
			names[j] = n.s.Steps[on].Name
		}
		left := len(st.DependsOn)
		p.Idxs = append(p.Idxs, i32(i))
		p.Names = append(p.Names, st.Name)
		p.Tools = append(p.Tools, st.Tool)
		p.Drivers = append(p.Drivers, st.Driver)
		p.Statuses = append(p.Statuses, string(n.state[i]))
		p.DepsLeft = append(p.DepsLeft, i32(left))
		p.DependsOn = append(p.DependsOn, strings.Join(names, "\n"))
		p.Dependants = append(p.Dependants, strings.Join(dependants[i], "\n"))
		p.Shares = append(p.Shares, st.Shares())
		p.Inputs = append(p.Inputs, string(st.Inputs))
		p.Commands = append(p.Commands, string(command))
		p.Reads = append(p.Reads, st.Reads)
		p.Shown = append(p.Shown, st.Shown)
		p.Resources = append(p.Resources, string(resources))
		p.Workspaces = append(p.Workspaces, string(st.Workspace))
		p.Networks = append(p.Networks, string(st.Network))
		p.NetworksAllow = append(p.NetworksAllow, strings.Join(st.NetworkAllow, "\n"))
		p.OnOutputs = append(p.OnOutputs, string(st.OnOutput))
		p.Images = append(p.Images, st.Image)
		p.TimeoutsMs = append(p.TimeoutsMs, st.TimeoutMS)
		p.GracesMs = append(p.GracesMs, st.GraceMS)
		p.Artifacts = append(p.Artifacts, strings.Join(st.Artifacts, "\n"))
		p.Idempotents = append(p.Idempotents, st.Idempotent)
		p.Tries = append(p.Tries, i32(st.Retry.Attempts))
		p.BackoffsMs = append(p.BackoffsMs, st.Retry.BackoffMS)
		p.Retries, p.Specs = append(p.Retries, string(policy)), append(p.Specs, string(spec))
		p.IdempotencyKeys = append(p.IdempotencyKeys, plan.IdempotencyKey(n.id, st))
		p.Verdicts = append(p.Verdicts, verdict)
		n.gates(st, &p)
	}
	return p, nil
}

func firstVerdict(s step.Status, st plan.Step) (string, error) {
	var v step.Verdict
	switch s {
	case step.StepFailed:
		v = step.Verdict{Cause: step.CausePolicy, Attested: step.AttestedKernel, Message: st.Denied}
	case step.StepCancelled:
		v = dependencyFailed()
	default:
		return "", nil
	}
	raw, err := json.Marshal(v)
	return string(raw), err
}

// dependencyFailed is the verdict of a step that never ran because one that it
// depends on did not succeed.
func dependencyFailed() step.Verdict {
	return step.Verdict{Cause: step.CauseCancelled, Attested: step.AttestedKernel, Message: "a step that it depends on did not succeed"}
}
