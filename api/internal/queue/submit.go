package queue

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/api/internal/event"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/api/internal/plan"
	"github.com/nofx-run/nofx/internal/failpoint"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Submission is a checked plan on its way into the database.
type Submission struct {
	Goal           string
	Steps          []plan.Step
	RetryBudget    int
	Turn           plan.Turn
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
	if err := q.sealable(s.Steps, func(i int) string { return fmt.Sprintf("body.plan.steps[%d]", i) }); err != nil {
		return wire.RunCreated{}, false, err
	}
	p := newPost(who, s, ctx.Done())
	q.posts.join(p)
	if batch := <-p.turn; batch != nil {
		q.storeTogether(ctx, who.TenantID, batch)
	}
	if p.err != nil {
		return wire.RunCreated{}, false, p.err
	}
	q.cfg.Points.Hold(failpoint.RunCommitted, "")
	for _, st := range p.queued {
		q.hub.Queued(st.Driver, st.Region, "")
	}
	q.admit(ctx, p.queued)
	if p.held == holdTurn {
		q.letGo(ctx, who.TenantID)
	}
	return p.answer, p.replayed, nil
}

// withinPolicy bounds steps by what their tenant's policy lets them have, and
// refuses those that ask for more. residency is the regions that they may be in;
// none = any.
func withinPolicy(ctx context.Context, db *pgdb.Queries, who auth.Principal, steps []plan.Step) (residency []string, err error) {
	p, err := policyOf(ctx, db, who.TenantID)
	if err != nil {
		return nil, err
	}
	return p.residency, p.ceiling.Apply(steps)
}

// policy is what a tenant's runs and steps may.
type policy struct {
	ceiling   plan.Ceiling
	residency []string // the regions; none = any
	bounded   bool     // only so many runs at once
	unknown   []string // projects that the tenant does not have
}

func policyOf(ctx context.Context, db *pgdb.Queries, tenant string, projects ...string) (policy, error) {
	row, err := db.TenantPolicy(ctx, projects, tenant)
	if err != nil {
		return policy{}, err
	}
	c := wire.TenantCeiling{}
	if err := json.Unmarshal(row.Ceiling, &c); err != nil {
		return policy{}, step.Errorf(step.KindInternal, "ceiling of tenant %s: %w", tenant, err)
	}
	ceiling := plan.Ceiling{Network: step.Network(row.Network), Isolation: row.Isolation, Resources: c.Resources, TimeoutMS: c.TimeoutMS, Clip: row.Clip}
	return policy{ceiling, row.Residency, row.RunsBounded, row.NewProjects}, nil
}

// fresh is a run that is being stored.
type fresh struct {
	who    auth.Principal
	s      Submission
	id     string
	status step.RunStatus
	hold   string        // why it does not begin yet
	ids    []string      // of the steps
	state  []step.Status // of the steps
	queued []plan.Step
	left   int
	failed int
	gone   int // cancelled
}

// newRun decides with which states the steps begin: those that policy refuses
// have failed, and what depends on them is cancelled. Of a run that is held all
// others wait.
func newRun(who auth.Principal, s Submission, hold string) *fresh {
	n := &fresh{who: who, s: s, id: NewID("run"), status: step.RunQueued, hold: hold,
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
		case len(st.DependsOn) == 0 && hold == "":
			n.state[i] = step.StepQueued
			n.queued = append(n.queued, st)
			n.left++
		default:
			n.state[i] = step.StepWaiting
			n.left++
		}
	}
	if n.left == 0 {
		n.status, n.hold = step.RunFailed, ""
	}
	return n
}

// store adds the run to what is to be written.
func (n *fresh) store(q *Queue, to *posting) error {
	seq := int64(1)
	add := func(e event.Entry) error { return to.events.Add(n.who.TenantID, n.id, &seq, e) }
	about := map[string]any{"steps": len(n.s.Steps)}
	if n.hold != "" {
		about["held_for"] = n.hold
	}
	if err := add(event.Entry{Type: step.EventRunCreated, Payload: about}); err != nil {
		return err
	}
	if err := n.rows(q, &to.steps); err != nil {
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
	r := &to.runs
	r.Ids, r.ProjectIds, r.Goals = append(r.Ids, n.id), append(r.ProjectIds, n.s.ProjectID), append(r.Goals, n.s.Goal)
	r.Statuses, r.CorrelationIds = append(r.Statuses, string(n.status)), append(r.CorrelationIds, n.s.CorrelationID)
	r.StepsLeft, r.StepsFailed = append(r.StepsLeft, i32(n.left)), append(r.StepsFailed, i32(n.failed))
	r.StepsCancelled, r.NextSeqs = append(r.StepsCancelled, i32(n.gone)), append(r.NextSeqs, seq)
	r.RetryBudgets = append(r.RetryBudgets, i32(n.s.RetryBudget))
	start := ""
	if at := n.s.Turn.StartAt; at != nil {
		start = at.UTC().Format(time.RFC3339Nano)
	}
	r.Ranks, r.Holds = append(r.Ranks, rank(n.s.Turn.Priority)), append(r.Holds, n.hold)
	r.StartAts, r.DelaysSeconds = append(r.StartAts, start), append(r.DelaysSeconds, n.s.Turn.Delay.Seconds())
	r.ConcurrencyKeys, r.ConcurrencyMosts = append(r.ConcurrencyKeys, n.s.Turn.Concurrency.Key), append(r.ConcurrencyMosts, i32(n.s.Turn.Concurrency.Limit))
	return n.audit(&to.audit)
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

func (n *fresh) audit(to *pgdb.InsertAuditsParams) error {
	add := func(action, target, outcome, detail string) {
		to.Principals, to.Actions, to.Targets = append(to.Principals, n.who.KeyID), append(to.Actions, action), append(to.Targets, target)
		to.Outcomes, to.RequestIds, to.Details = append(to.Outcomes, outcome), append(to.RequestIds, n.s.RequestID), append(to.Details, detail)
	}
	add("run.create", n.id, "allowed", "")
	for i, st := range n.s.Steps {
		if st.Denied == "" {
			continue
		}
		detail, err := json.Marshal(map[string]string{"reason": st.Denied, "step": st.Name, "run": n.id})
		if err != nil {
			return err
		}
		add("step.start", n.ids[i], "denied", string(detail))
	}
	return nil
}

// rows adds the steps.
func (n *fresh) rows(q *Queue, p *pgdb.InsertStepsParams) error {
	dependants := make([][]string, len(n.s.Steps))
	for i, st := range n.s.Steps {
		for _, on := range st.DependsOn {
			dependants[on] = append(dependants[on], n.ids[i])
		}
	}
	for i, st := range n.s.Steps {
		body, err := q.keep(n.who.TenantID, n.ids[i], st)
		if err != nil {
			return err
		}
		resources, err := json.Marshal(st.Caps())
		if err != nil {
			return err
		}
		policy, err := json.Marshal(st.Retry)
		if err != nil {
			return err
		}
		spec, err := json.Marshal(st.Spec)
		if err != nil {
			return err
		}
		verdict, err := firstVerdict(n.state[i], st)
		if err != nil {
			return err
		}
		names := make([]string, len(st.DependsOn))
		for j, on := range st.DependsOn {
			names[j] = n.s.Steps[on].Name
		}
		left := len(st.DependsOn)
		p.Ids, p.RunIds, p.Idxs = append(p.Ids, n.ids[i]), append(p.RunIds, n.id), append(p.Idxs, i32(i))
		p.Names = append(p.Names, st.Name)
		p.Tools = append(p.Tools, st.Tool)
		p.Drivers = append(p.Drivers, st.Driver)
		p.Statuses = append(p.Statuses, string(n.state[i]))
		p.DepsLeft = append(p.DepsLeft, i32(left))
		p.DependsOn = append(p.DependsOn, strings.Join(names, "\n"))
		p.Dependants = append(p.Dependants, strings.Join(dependants[i], "\n"))
		p.Shares = append(p.Shares, st.Shares())
		p.Inputs = append(p.Inputs, string(body.inputs))
		p.Commands = append(p.Commands, string(body.command))
		if body.sealed != nil {
			p.Sealeds = append(append(p.Sealeds, make([][]byte, len(p.Ids)-1-len(p.Sealeds))...), body.sealed)
		}
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
		p.Ranks = append(p.Ranks, rank(st.Priority))
		p.ConcurrencyKeys, p.ConcurrencyMosts = append(p.ConcurrencyKeys, st.Concurrency.Key), append(p.ConcurrencyMosts, i32(st.Concurrency.Limit))
		p.Regions, p.RegionsListed = append(p.Regions, st.Region), append(p.RegionsListed, strings.Join(st.Regions, "\n"))
		n.gates(st, p)
	}
	return nil
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
