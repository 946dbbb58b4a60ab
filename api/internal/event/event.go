// Package event numbers and writes the events of runs. Events belong to the
// transaction of the change that they tell of; the run's row is locked in it,
// so that its events count 1..n without gaps.
package event

import (
	"cmp"
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/sdk/step"
)

// Entry is one event to write.
type Entry struct {
	Type     step.EventType
	StepID   string
	StepName string
	Attempt  int
	Region   string // of the attempt; "" = that of the run
	Payload  map[string]any
}

// Batch collects the events of one transaction, of one or many runs.
type Batch struct {
	events pgdb.InsertEventsParams
	outbox pgdb.InsertOutboxParams
	place  map[string]int // run → index in outbox
}

// Add appends an event with the number *next, which it counts up.
func (b *Batch) Add(tenant, run string, next *int64, e Entry) error {
	payload := ""
	if len(e.Payload) > 0 {
		raw, err := json.Marshal(e.Payload)
		if err != nil {
			return step.Errorf(step.KindInternal, "event payload: %w", err)
		}
		payload = string(raw)
	}
	b.events.TenantIds = append(b.events.TenantIds, tenant)
	b.events.RunIds = append(b.events.RunIds, run)
	b.events.Seqs = append(b.events.Seqs, *next)
	b.events.Types = append(b.events.Types, string(e.Type))
	b.events.StepIds = append(b.events.StepIds, e.StepID)
	b.events.StepNames = append(b.events.StepNames, e.StepName)
	b.events.Attempts = append(b.events.Attempts, int32(min(e.Attempt, 1<<30))) //nolint:gosec // bounded on this line
	b.events.Regions = append(b.events.Regions, e.Region)
	b.events.Payloads = append(b.events.Payloads, payload)
	if i, ok := b.place[run]; ok {
		b.outbox.LastSeqs[i] = *next
	} else {
		if b.place == nil {
			b.place = map[string]int{}
		}
		b.place[run] = len(b.outbox.RunIds)
		b.outbox.TenantIds = append(b.outbox.TenantIds, tenant)
		b.outbox.RunIds = append(b.outbox.RunIds, run)
		b.outbox.FirstSeqs = append(b.outbox.FirstSeqs, *next)
		b.outbox.LastSeqs = append(b.outbox.LastSeqs, *next)
	}
	*next++
	return nil
}

// Write stores the batch.
func (b *Batch) Write(ctx context.Context, q *pgdb.Queries) error {
	if len(b.events.Seqs) == 0 {
		return nil
	}
	if err := q.InsertEvents(ctx, b.events); err != nil {
		return err
	}
	return q.InsertOutbox(ctx, b.outbox)
}

// Runs are the runs that the batch has events of.
func (b *Batch) Runs() []string { return b.outbox.RunIds }

// ID is the id of a run's event, its idempotency token: the same event always
// has the same.
func ID(run string, seq int64) string { return run + "." + strconv.FormatInt(seq, 10) }

// ParseID is the number in an event's id; ok is false when the id is not one
// of that run's.
func ParseID(run, id string) (seq int64, ok bool) {
	prefix, number, found := strings.Cut(id, ".")
	seq, err := strconv.ParseInt(number, 10, 64)
	return seq, found && prefix == run && err == nil && seq > 0 && ID(run, seq) == id
}

// Run is what a run's events have in common.
type Run struct {
	ID, TenantID, Region, CorrelationID string
}

// From makes events of their rows.
func From(r Run, rows []pgdb.ListEventsRow) ([]step.Event, error) {
	out := make([]step.Event, 0, len(rows))
	for _, row := range rows {
		id := ID(r.ID, row.Seq)
		e := step.Event{
			ID: id, Seq: row.Seq, Type: step.EventType(row.Type), EventType: step.EventType(row.Type),
			TenantID: r.TenantID, Region: cmp.Or(row.Region, r.Region), RunID: r.ID, StepID: row.StepID, StepName: row.StepName,
			Attempt: int(row.Attempt), CorrelationID: r.CorrelationID, IdempotencyToken: id, CreatedAt: row.CreatedAt.In(time.UTC),
		}
		if len(row.Payload) > 0 {
			if err := json.Unmarshal(row.Payload, &e.Payload); err != nil {
				return nil, step.Errorf(step.KindInternal, "event %s: %w", id, err)
			}
		}
		out = append(out, e)
	}
	return out, nil
}
