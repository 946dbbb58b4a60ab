package queue

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/nofx-run/nofx/api/internal/event"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/api/internal/plan"
	"github.com/nofx-run/nofx/sdk/step"
)

// denied tells of a step that its tenant's policy ends in the queue.
func (c *change) denied(ctx context.Context, db *pgdb.Queries, s pgdb.FailQueuedRow, why string) error {
	if err := c.event(s.RunID, event.Entry{Type: step.EventPolicyDenied, StepID: s.ID, StepName: s.Name, Payload: map[string]any{"reason": why}}); err != nil {
		return err
	}
	detail, err := json.Marshal(map[string]string{"reason": why, "step": s.Name, "run": s.RunID})
	if err != nil {
		return err
	}
	return db.InsertAudit(ctx, pgdb.InsertAuditParams{TenantID: c.runs[s.RunID].TenantID, Principal: "system", Action: "step.start", Target: s.ID, Outcome: "denied", Detail: detail})
}

// residence is where a tenant's runs may be, when they go on.
type residence struct {
	only    []string          // its residency; none = anywhere
	outside map[string]string // runs whose workspace is outside of it → where that is
}

func (q *Queue) residence(ctx context.Context, db *pgdb.Queries, tenant string, runs []pgdb.LockRunsOfRow) (residence, error) {
	row, err := db.TenantPolicy(ctx, nil, tenant)
	if err != nil || len(row.Residency) == 0 {
		return residence{}, err
	}
	out := residence{row.Residency, map[string]string{}}
	for _, r := range runs {
		if r.Pin == "" {
			continue
		}
		host, _, err := q.cfg.Fleet.Where(ctx, r.Pin, "")
		if err != nil {
			return out, err
		}
		if host != "" && !slices.Contains(row.Residency, host) {
			out.outside[r.ID] = host
		}
	}
	return out, nil
}

// resides refuses a step that may be nowhere.
func (o *reopening) resides(s *pgdb.StepsOfRunsRow) error {
	if _, ok := plan.Allowed(s.Regions, o.resid.only); !o.set[s.ID] || ok {
		return nil
	}
	return conflict("step %q may be in %s, of which none is in the tenant's residency (%s): submit it anew", s.Name,
		strings.Join(s.Regions, ", "), strings.Join(o.resid.only, ", "))
}

// places are the regions of a run's steps that are reopened, by id. Those that
// share its workspace are where that is, or go where the others wait that do, or
// to one.
func (o *reopening) places(ctx context.Context, p *plot, pin string) (map[string]string, error) {
	var together []string
	for _, s := range p.steps {
		if o.set[s.ID] && s.Shares && !slices.Contains(together, s.Driver) {
			together = append(together, s.Driver)
		}
	}
	wait := ""
	for _, s := range p.steps {
		if pin == "" && !o.set[s.ID] && s.Shares && (s.Status == string(step.StepWaiting) || s.Status == string(step.StepQueued)) {
			wait = s.Placed
			break
		}
	}
	out := make(map[string]string, len(p.steps))
	for _, s := range p.steps {
		if !o.set[s.ID] {
			continue
		}
		order, _ := plan.Allowed(s.Regions, o.resid.only)
		drivers := []string{s.Driver}
		if s.Shares {
			drivers = together
		}
		region, err := o.q.cfg.Fleet.Place(ctx, order, o.resid.only, drivers)
		if err != nil {
			return nil, err
		}
		if s.Shares && pin != "" && region != "" {
			_, there, err := o.q.cfg.Fleet.Where(ctx, pin, s.Driver)
			if err != nil {
				return nil, err
			}
			if slices.Contains(order, there) {
				region = there
			}
		}
		if s.Shares && wait != "" && (len(order) == 0 || slices.Contains(order, wait)) {
			region = wait
		}
		out[s.ID] = region
	}
	return out, nil
}

// shareRegions says where a step that gets another command may be: of those that
// it names, where the others are that share its run's workspace with it.
func (o *reopening) shareRegions(s *pgdb.StepsOfRunsRow, order []string) error {
	s.Regions = append([]string{}, order...)
	if !s.Shares {
		return nil
	}
	for _, other := range o.runs[s.RunID].steps {
		if !other.Shares || other == s || len(other.Regions) == 0 {
			continue
		}
		both, ok := plan.Allowed(other.Regions, order)
		if !ok {
			return conflict("step %q would share the run's workspace with %q, which has to be in %s; it has to be in %s", s.Name, other.Name,
				strings.Join(other.Regions, ", "), strings.Join(order, ", "))
		}
		s.Regions = both
		return nil
	}
	return nil
}
