package invariant

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nofx-run/nofx/sdk/step"
)

// Tables are the rows of the database, as far as an invariant is about them.
type Tables struct {
	Runs        []RunRow
	Steps       []StepRow
	Attempts    []AttemptRow
	Events      []EventRow
	Dead        []DeadRow
	Audit       []AuditRow
	Idempotency []IdempotencyRow
	Artifacts   []ArtifactRow
	Output      []OutputRow
	Workers     []WorkerRow
}

// RunRow is a row of run.
type RunRow struct {
	ID        string         `json:"id"`
	TenantID  string         `json:"tenant_id"`
	Goal      string         `json:"goal"`
	Status    step.RunStatus `json:"status"`
	StepsLeft int            `json:"steps_left"`
	NextSeq   int64          `json:"next_seq"`
	CancelAt  *time.Time     `json:"cancel_at"`
}

// StepRow is a row of step.
type StepRow struct {
	ID         string        `json:"id"`
	RunID      string        `json:"run_id"`
	Name       string        `json:"name"`
	Status     step.Status   `json:"status"`
	Generation int           `json:"generation"`
	Attempt    int           `json:"attempt"`
	Epoch      int64         `json:"epoch"`
	Verdict    *step.Verdict `json:"verdict"`
}

// AttemptRow is a row of attempt.
type AttemptRow struct {
	ID          string        `json:"id"`
	RunID       string        `json:"run_id"`
	StepID      string        `json:"step_id"`
	Generation  int           `json:"generation"`
	Number      int           `json:"number"`
	Epoch       int64         `json:"epoch"`
	Status      string        `json:"status"` // running, ended, lost or released
	WorkerID    string        `json:"worker_id"`
	JournalN    int64         `json:"journal_n"`
	OutputBytes int64         `json:"output_bytes"`
	ClaimedAt   time.Time     `json:"claimed_at"`
	EndedAt     *time.Time    `json:"ended_at"`
	Verdict     *step.Verdict `json:"verdict"`
}

// EventRow is a row of event.
type EventRow struct {
	RunID   string         `json:"run_id"`
	Seq     int64          `json:"seq"`
	Type    step.EventType `json:"type"`
	StepID  string         `json:"step_id"`
	Attempt int            `json:"attempt"`
	Payload struct {
		Generation int `json:"generation"` // of a step that was reopened
	} `json:"payload"`
}

// DeadRow is a row of step_dlq.
type DeadRow struct {
	ID         string `json:"id"`
	StepID     string `json:"step_id"`
	Generation int    `json:"generation"`
}

// AuditRow is a row of audit_log.
type AuditRow struct {
	ID      int64  `json:"id"`
	Action  string `json:"action"`
	Target  string `json:"target"`
	Outcome string `json:"outcome"`
}

// IdempotencyRow is a row of idempotency.
type IdempotencyRow struct {
	TenantID string `json:"tenant_id"`
	Route    string `json:"route"`
	Key      string `json:"key"`
	Body     string `json:"body"`
}

// ArtifactRow is a row of artifact.
type ArtifactRow struct {
	AttemptID string `json:"attempt_id"`
	StepID    string `json:"step_id"`
	Name      string `json:"name"`
}

// OutputRow is a row of output_index.
type OutputRow struct {
	AttemptID string `json:"attempt_id"`
	Start     int64  `json:"start"`
	Length    int64  `json:"length"`
}

// WorkerRow is a row of worker.
type WorkerRow struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Status string `json:"status"`
	Held   int64  `json:"held"`
}

func (t *Tables) groups() []group {
	return []group{
		list[RunRow]{"row.run", &t.Runs}, list[StepRow]{"row.step", &t.Steps}, list[AttemptRow]{"row.attempt", &t.Attempts},
		list[EventRow]{"row.event", &t.Events}, list[DeadRow]{"row.step_dlq", &t.Dead}, list[AuditRow]{"row.audit_log", &t.Audit},
		list[IdempotencyRow]{"row.idempotency", &t.Idempotency}, list[ArtifactRow]{"row.artifact", &t.Artifacts},
		list[OutputRow]{"row.output_index", &t.Output}, list[WorkerRow]{"row.worker", &t.Workers},
	}
}

// queries give each table's rows as JSON.
func (t *Tables) queries() []query {
	const all = "SELECT row_to_json(t) FROM nofx.%s t ORDER BY %s"
	sorted := func(table, by string) string { return fmt.Sprintf(all, table, by) }
	return []query{
		{sorted("run", "id"), list[RunRow]{"run", &t.Runs}},
		{sorted("step", "run_id, idx"), list[StepRow]{"step", &t.Steps}},
		{sorted("attempt", "step_id, epoch"), list[AttemptRow]{"attempt", &t.Attempts}},
		{sorted("event", "run_id, seq"), list[EventRow]{"event", &t.Events}},
		{sorted("step_dlq", "id"), list[DeadRow]{"step_dlq", &t.Dead}},
		{sorted("audit_log", "id"), list[AuditRow]{"audit_log", &t.Audit}},
		{"SELECT json_build_object('tenant_id', tenant_id, 'route', route, 'key', key, 'body', convert_from(body, 'UTF8')) FROM nofx.idempotency ORDER BY tenant_id, route, key",
			list[IdempotencyRow]{"idempotency", &t.Idempotency}},
		{sorted("artifact", "attempt_id, name"), list[ArtifactRow]{"artifact", &t.Artifacts}},
		{sorted("output_index", "attempt_id, start"), list[OutputRow]{"output_index", &t.Output}},
		{sorted("worker", "id"), list[WorkerRow]{"worker", &t.Workers}},
	}
}

type query struct {
	sql  string
	into group
}

// Dump reads the tables as they are at one moment. url is the owner's, who is
// subject to no row level security.
func Dump(ctx context.Context, url string) (Tables, error) {
	var t Tables
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return t, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		for _, q := range t.queries() {
			rows, err := tx.Query(ctx, q.sql)
			if err != nil {
				return err
			}
			if _, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (struct{}, error) {
				var raw json.RawMessage
				if err := row.Scan(&raw); err != nil {
					return struct{}{}, err
				}
				return struct{}{}, q.into.add(raw)
			}); err != nil {
				return fmt.Errorf("table %s: %w", q.into.kind(), err)
			}
		}
		return nil
	})
	return t, err
}

// Of is what the tables hold of the runs of one operation of a client's, among
// them run, and all workers.
func (t Tables) Of(op, run string) Tables {
	mine := map[string]bool{run: true}
	for _, r := range t.Runs {
		if r.Goal == op {
			mine[r.ID] = true
		}
	}
	steps, attempts := map[string]bool{}, map[string]bool{}
	out := Tables{Workers: t.Workers}
	out.Runs = only(t.Runs, func(r RunRow) bool { return mine[r.ID] })
	out.Steps = only(t.Steps, func(s StepRow) bool {
		steps[s.ID] = mine[s.RunID]
		return mine[s.RunID]
	})
	out.Attempts = only(t.Attempts, func(a AttemptRow) bool {
		attempts[a.ID] = steps[a.StepID]
		return steps[a.StepID]
	})
	out.Events = only(t.Events, func(e EventRow) bool { return mine[e.RunID] })
	out.Dead = only(t.Dead, func(d DeadRow) bool { return steps[d.StepID] })
	out.Audit = only(t.Audit, func(a AuditRow) bool { return mine[a.Target] })
	out.Idempotency = only(t.Idempotency, func(i IdempotencyRow) bool { return i.Key == op })
	out.Artifacts = only(t.Artifacts, func(a ArtifactRow) bool { return attempts[a.AttemptID] })
	out.Output = only(t.Output, func(o OutputRow) bool { return attempts[o.AttemptID] })
	return out
}

func only[T any](all []T, is func(T) bool) []T {
	var out []T
	for _, x := range all {
		if is(x) {
			out = append(out, x)
		}
	}
	return out
}
