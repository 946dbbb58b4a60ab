// Package runs answers what users ask about their runs. Every question is one
// transaction inside the tenant, so that another tenant's runs are not there.
package runs

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/nofx-run/nofx/api/internal/blob"
	"github.com/nofx-run/nofx/api/internal/event"
	"github.com/nofx-run/nofx/api/internal/fleet"
	"github.com/nofx-run/nofx/api/internal/pg"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/api/internal/plan"
	"github.com/nofx-run/nofx/api/internal/quota"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Reader is safe for concurrent use.
type Reader struct {
	DB    *pg.DB
	Blobs *blob.Dir
	Fleet Fleet
}

// Fleet tells what queued steps wait for.
type Fleet interface {
	// Lacks says what no worker offers that could take a step; "" = one does.
	Lacks(ctx context.Context, want fleet.Want) (string, error)
}

// missing says what is not there when err is that a query found no row.
func missing(err error, format string, args ...any) error {
	if errors.Is(err, pg.ErrNoRow) {
		return step.Errorf(step.KindNotFound, format, args...)
	}
	return err
}

// clip bounds what a user wrote in a message.
func clip(s string) string { return s[:min(len(s), 100)] }

// afterAll is after every run, whatever the clocks of this replica and of the
// database say.
var afterAll = time.Date(9999, time.January, 1, 0, 0, 0, 0, time.UTC)

// List gives the tenant's runs, the newest first.
func (r *Reader) List(ctx context.Context, tenant string, limit int, cursor string) (wire.RunList, error) {
	p := pgdb.ListRunsParams{TenantID: tenant, BeforeAt: afterAll, Most: int32(min(limit, 1000)) + 1} //nolint:gosec // bounded on this line
	if cursor != "" {
		at, id, err := parseCursor(cursor)
		if err != nil {
			return wire.RunList{}, err
		}
		p.BeforeAt, p.BeforeID = at, id
	}
	out := wire.RunList{Runs: []wire.RunSummary{}}
	err := r.DB.Tenant(ctx, tenant, func(db *pgdb.Queries) error {
		rows, err := db.ListRuns(ctx, p)
		if err != nil {
			return err
		}
		out = wire.RunList{Runs: make([]wire.RunSummary, 0, len(rows))}
		if len(rows) > limit {
			rows = rows[:limit]
			last := rows[limit-1]
			out.NextCursor = base64.RawURLEncoding.EncodeToString([]byte(last.CreatedAt.UTC().Format(time.RFC3339Nano) + "|" + last.ID))
		}
		for _, row := range rows {
			out.Runs = append(out.Runs, wire.RunSummary{ID: row.ID, Status: step.RunStatus(row.Status), Title: row.Goal,
				CreatedAt: row.CreatedAt.UTC(), ProjectID: row.ProjectID, EndedAt: utc(row.EndedAt)})
		}
		return nil
	})
	return out, err
}

func parseCursor(cursor string) (time.Time, string, error) {
	raw, err := base64.RawURLEncoding.DecodeString(cursor)
	text, id, found := strings.Cut(string(raw), "|")
	at, timeErr := time.Parse(time.RFC3339Nano, text)
	if err != nil || timeErr != nil || !found || len(id) > 100 || strings.ContainsRune(id, 0) {
		return time.Time{}, "", &step.Error{Kind: step.KindInvalid, Message: "not a cursor of a run list",
			Fields: []step.FieldError{{Location: "query.cursor", Message: "not a cursor of a run list"}}}
	}
	return at, id, nil
}

func utc(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	u := t.UTC()
	return &u
}

// Get gives a run with its steps and artifacts.
func (r *Reader) Get(ctx context.Context, tenant, id string) (wire.RunDetail, error) {
	var out wire.RunDetail
	var wants []fleet.Want
	var month wire.MonthUsage
	waits := map[string]string{}
	err := r.DB.Tenant(ctx, tenant, func(db *pgdb.Queries) error {
		wants = nil
		clear(waits)
		row, err := db.GetRun(ctx, tenant, id)
		if err != nil {
			return missing(err, "no run %s", clip(id))
		}
		out = wire.RunDetail{Steps: []wire.StepDetail{}, Artifacts: []wire.ArtifactInfo{}, Run: wire.RunSummary{
			ID: row.ID, Status: step.RunStatus(row.Status), Title: row.Goal, CreatedAt: row.CreatedAt.UTC(), ProjectID: row.ProjectID, EndedAt: utc(row.EndedAt), Priority: -int(row.Rank)}}
		turn, err := db.TenantTurn(ctx, tenant)
		if err != nil {
			return err
		}
		held(&out.Run, row, turn)
		steps, err := db.ListSteps(ctx, tenant, id)
		if err != nil {
			return err
		}
		for _, s := range steps {
			d, err := detail(s)
			if err != nil {
				return err
			}
			out.Steps, wants = append(out.Steps, d), append(wants, fleet.Want{Driver: s.Driver, Pin: s.Pin, Region: s.Region, Order: d.Regions, Residency: s.Residency,
				Layers: s.Shares && row.Layers > 0, Needs: needs(s, d)})
			if why := turnOf(s, out.Run, turn); why != "" {
				waits[s.ID] = why
			} else if s.Breaker != nil {
				waits[s.ID] = behind(s)
			} else if s.Status == string(step.StepQueued) && s.Later {
				waits[s.ID] = "its next try, at " + s.DueAt.UTC().Format(time.RFC3339)
			}
		}
		if slices.ContainsFunc(out.Steps, func(d wire.StepDetail) bool { return d.Status == step.StepQueued }) {
			if month, err = quota.Month(ctx, db, tenant); err != nil {
				return err
			}
		}
		files, err := db.ListArtifacts(ctx, tenant, id)
		if err != nil {
			return err
		}
		for _, f := range files {
			out.Artifacts = append(out.Artifacts, wire.ArtifactInfo{
				Path: "runs/" + f.RunID + "/steps/" + f.StepID + "/" + f.Name, RunID: f.RunID, StepID: f.StepID, StepName: f.StepName,
				Name: f.Name, SHA256: f.Sha256, Size: f.Size, CreatedAt: f.CreatedAt.UTC(), RemovedAt: utc(f.RemovedAt)})
		}
		return nil
	})
	if err != nil {
		return out, err
	}
	return out, r.explain(ctx, out.Steps, wants, month, waits)
}

// explain adds what queued steps wait for. wants are what they want, by place;
// month is the tenant's, when one is queued; waits says what is known of them
// already, by id.
func (r *Reader) explain(ctx context.Context, steps []wire.StepDetail, wants []fleet.Want, month wire.MonthUsage, waits map[string]string) error {
	for i := range steps {
		if steps[i].Status != step.StepQueued {
			steps[i].WaitingFor = waits[steps[i].ID]
			continue
		}
		if quota.Spent(month) {
			steps[i].WaitingFor = "a new month: " + quota.Refusal(month)
			continue
		}
		if steps[i].WaitingFor = waits[steps[i].ID]; steps[i].WaitingFor != "" {
			continue
		}
		var err error
		if steps[i].WaitingFor, err = r.Fleet.Lacks(ctx, wants[i]); err != nil {
			return err
		}
	}
	return nil
}

func detail(s pgdb.ListStepsRow) (wire.StepDetail, error) {
	d := wire.StepDetail{ID: s.ID, Name: s.Name, Tool: s.Tool, Driver: s.Driver, Status: step.Status(s.Status), Generation: int(s.Generation),
		Attempt: int(s.Attempt), DependsOn: s.DependsOn, Inputs: s.Inputs, Outputs: s.Outputs, IdempotencyKey: s.IdempotencyKey,
		CreatedAt: s.CreatedAt.UTC(), StartedAt: utc(s.StartedAt), EndedAt: utc(s.EndedAt), Priority: -int(s.Rank), TimeoutMS: s.TimeoutMs}
	if err := json.Unmarshal(s.Resources, &d.Resources); err != nil {
		return d, step.Errorf(step.KindInternal, "resources of step %s: %w", s.ID, err)
	}
	if len(s.Drivers) > 1 {
		d.Drivers, d.Fallback = s.Drivers, s.Moved
	}
	d.Region = s.Region
	if d.Status != step.StepQueued && d.Status != step.StepWaiting {
		d.Region = cmp.Or(s.RanIn, s.Region)
	}
	if order, ok := plan.Allowed(s.Regions, s.Residency); ok {
		d.Regions = order
	} else {
		d.Regions = s.Regions
	}
	if d.DependsOn == nil {
		d.DependsOn = []string{}
	}
	if len(s.Verdict) > 0 {
		d.Verdict = &step.Verdict{}
		if err := json.Unmarshal(s.Verdict, d.Verdict); err != nil {
			return d, step.Errorf(step.KindInternal, "verdict of step %s: %w", s.ID, err)
		}
	}
	return d, nil
}

// eventPage is how many events are read at once.
const eventPage = 1000

// Events gives up to a page of a run's events after the number after, and
// whether the run has ended with the last of them. An after that the run has
// not reached is invalid.
func (r *Reader) Events(ctx context.Context, tenant, id string, after int64) (events []step.Event, ended bool, err error) {
	err = r.DB.Tenant(ctx, tenant, func(db *pgdb.Queries) error {
		row, err := db.GetRun(ctx, tenant, id)
		if err != nil {
			return missing(err, "no run %s", clip(id))
		}
		if after >= row.NextSeq {
			return step.Errorf(step.KindInvalid, "run %s has no event %d", id, after)
		}
		rows, err := db.ListEvents(ctx, pgdb.ListEventsParams{TenantID: tenant, RunID: id, After: after, Most: eventPage})
		if err != nil {
			return err
		}
		events, err = event.From(event.Run{ID: row.ID, TenantID: tenant, Region: row.Region, CorrelationID: row.CorrelationID}, rows)
		if err != nil {
			return err
		}
		last := after
		if len(events) > 0 {
			last = events[len(events)-1].Seq
		}
		ended = row.EndedAt != nil && last >= row.NextSeq-1
		return nil
	})
	return events, ended, err
}

// Timeline gives all events of a run.
func (r *Reader) Timeline(ctx context.Context, tenant, id string) ([]step.Event, error) {
	all := []step.Event{}
	for {
		var after int64
		if len(all) > 0 {
			after = all[len(all)-1].Seq
		}
		page, _, err := r.Events(ctx, tenant, id, after)
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if len(page) < eventPage {
			return all, nil
		}
	}
}

// Usage adds up what the tenant's attempts used that ended in a span of time.
func (r *Reader) Usage(ctx context.Context, tenant string, since, until time.Time) (wire.UsageReport, error) {
	out := wire.UsageReport{Since: since.UTC(), Until: until.UTC(), Rows: []wire.UsageRow{}}
	err := r.DB.Tenant(ctx, tenant, func(db *pgdb.Queries) error {
		rows, err := db.TenantUsage(ctx, pgdb.TenantUsageParams{TenantID: tenant, Since: since, Until: until})
		if err != nil {
			return err
		}
		out.Rows, out.Total = make([]wire.UsageRow, 0, len(rows)), wire.UsageSum{}
		for _, u := range rows {
			row := wire.UsageRow{Tool: u.Tool, Driver: u.Driver, UsageSum: wire.UsageSum{
				Attempts: u.Attempts, Lost: u.Lost, WallMS: u.WallMs, CPUUsec: u.CpuUsec, MemoryPeakBytes: u.MemoryPeakBytes,
				IOReadBytes: u.IoReadBytes, IOWriteBytes: u.IoWriteBytes, NetRxBytes: u.NetRxBytes, NetTxBytes: u.NetTxBytes, OutputBytes: u.OutputBytes,
			}}
			out.Rows = append(out.Rows, row)
			out.Total.Add(row.UsageSum)
		}
		out.Month, err = quota.Month(ctx, db, tenant)
		return err
	})
	return out, err
}

// WorkerEvents lists what became of the tenant's worker hosts, the newest first.
func (r *Reader) WorkerEvents(ctx context.Context, tenant string, most int) (wire.WorkerEvents, error) {
	out := wire.WorkerEvents{Events: []wire.WorkerEvent{}}
	err := r.DB.Tenant(ctx, tenant, func(db *pgdb.Queries) error {
		rows, err := db.ListWorkerEvents(ctx, tenant, int32(most)) //nolint:gosec // the API bounds it
		if err != nil {
			return err
		}
		out.Events = make([]wire.WorkerEvent, 0, len(rows))
		for _, e := range rows {
			out.Events = append(out.Events, wire.WorkerEvent{
				Type: step.EventType(e.Type), WorkerID: e.WorkerID, Worker: e.Name, Driver: e.Driver, Message: e.Message, CreatedAt: e.CreatedAt.UTC(),
			})
		}
		return nil
	})
	return out, err
}

// Workers lists the tenant's worker hosts.
func (r *Reader) Workers(ctx context.Context, tenant string) (wire.WorkerList, error) {
	out := wire.WorkerList{Workers: []wire.WorkerInfo{}}
	err := r.DB.Tenant(ctx, tenant, func(db *pgdb.Queries) error {
		rows, err := db.ListWorkers(ctx, tenant)
		if err != nil {
			return err
		}
		out.Workers = make([]wire.WorkerInfo, 0, len(rows))
		for _, w := range rows {
			info := wire.WorkerInfo{ID: w.ID, Name: w.Name, Status: w.Status, Region: w.Region, Version: w.Version, Incarnation: w.Incarnation,
				Slots: int(w.Slots), Held: int(w.Held), LastSeen: w.LastSeen.UTC()}
			if err := json.Unmarshal(w.Drivers, &info.Drivers); err != nil {
				return step.Errorf(step.KindInternal, "drivers of worker %s: %w", w.ID, err)
			}
			out.Workers = append(out.Workers, info)
		}
		return nil
	})
	return out, err
}
