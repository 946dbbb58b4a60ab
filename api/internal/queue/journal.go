package queue

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/api/internal/event"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/internal/failpoint"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// inlineOutput is how much of an attempt's output stays in the database; what
// comes after that is in its segment.
const inlineOutput = 64 << 10

// eventNote is the type of a line that a worker adds to a timeline. Workers
// cannot write the events of the life cycle; those follow from state.
const eventNote step.EventType = "step.note"

// journal is one transaction for everything of a request; batches whose fence is
// stale, or whose attempt is closed, come back in Discard and change nothing.
func (q *Queue) journal(ctx context.Context, who auth.Principal, in wire.JournalRequest) (wire.JournalAnswer, error) {
	if err := checkJournal(in); err != nil {
		return wire.JournalAnswer{}, err
	}
	answer := wire.JournalAnswer{Acks: []wire.JournalAck{}, Discard: []string{}}
	if len(in.Batches) == 0 {
		return answer, nil
	}
	fences := make([]wire.Fence, len(in.Batches))
	for i, b := range in.Batches {
		fences[i] = b.Fence
	}
	f := split(fences)
	var c *change
	var j *journal
	err := q.db.System(ctx, func(db *pgdb.Queries) error {
		answer.Acks, answer.Discard = answer.Acks[:0], answer.Discard[:0]
		runs, err := db.LockRunsOf(ctx, f.ids)
		if err != nil {
			return err
		}
		rows, err := db.LockAttempts(ctx, pgdb.LockAttemptsParams{Ids: f.ids, Generations: f.generations, Numbers: f.numbers,
			Epochs: f.epochs, WorkerID: in.WorkerID, Incarnation: in.Incarnation, KeyID: who.KeyID})
		if err != nil {
			return err
		}
		if len(rows) < len(in.Batches) {
			if err := known(ctx, db, who, in.WorkerID, in.Incarnation); err != nil {
				return err
			}
		}
		j = newJournal(rows)
		c = newChange(runs)
		for _, b := range in.Batches {
			p := j.attempts[b.AttemptID]
			if p == nil || p.row.Status == "lost" || p.row.Status == "released" || !sameFence(b.Fence, p.row) {
				answer.Discard = append(answer.Discard, b.AttemptID)
				continue
			}
			if err := q.lookForLayer(c, p.row, b.Records); err != nil {
				return err
			}
			if err := p.take(c, b.Records); err != nil {
				return err
			}
		}
		if err := q.store(ctx, db, j, c, pgdb.AdvanceAttemptsParams{WorkerID: in.WorkerID, Incarnation: in.Incarnation, KeyID: who.KeyID}); err != nil {
			return err
		}
		for _, p := range j.order {
			if p.seen {
				answer.Acks = append(answer.Acks, wire.JournalAck{AttemptID: p.row.ID, N: p.n, Ended: p.row.Status == "ended" || p.verdict != nil,
					Saved: slices.Contains(c.layers.saved, p.row.ID)})
			}
		}
		q.hold(failpoint.VerdictStored, j)
		return nil
	})
	if err != nil {
		return wire.JournalAnswer{}, err
	}
	q.hold(failpoint.VerdictCommitted, j)
	q.announce(ctx, c)
	q.judge(ctx, c.health)
	return answer, nil
}

// hold is where tests hold it, for the sake of a verdict.
func (q *Queue) hold(place string, j *journal) {
	for _, p := range j.order {
		if p.verdict != nil {
			q.cfg.Points.Hold(place, p.row.Name)
		}
	}
}

// known makes sure that the request is from a worker as it is registered.
func known(ctx context.Context, db *pgdb.Queries, who auth.Principal, id, incarnation string) error {
	_, err := find(ctx, db, who, id, incarnation)
	return err
}

func find(ctx context.Context, db *pgdb.Queries, who auth.Principal, id, incarnation string) (pgdb.FindWorkerRow, error) {
	row, err := db.FindWorker(ctx, pgdb.FindWorkerParams{ID: id, Incarnation: incarnation, KeyID: who.KeyID})
	if none(err) {
		err = errUnknownWorker()
	}
	return row, err
}

func errUnknownWorker() error {
	return step.Errorf(step.KindConflict, "no worker is registered with this id, incarnation and key: register again")
}

// fenceLists are fences as the columns that statements unnest.
type fenceLists struct {
	ids         []string
	generations []int32
	numbers     []int32
	epochs      []int64
}

func split(fences []wire.Fence) fenceLists {
	n := len(fences)
	f := fenceLists{make([]string, 0, n), make([]int32, 0, n), make([]int32, 0, n), make([]int64, 0, n)}
	seen := make(map[wire.Fence]bool, n)
	for _, x := range fences {
		if seen[x] {
			continue
		}
		seen[x] = true
		f.ids, f.generations = append(f.ids, x.AttemptID), append(f.generations, i32(x.Generation))
		f.numbers, f.epochs = append(f.numbers, i32(x.Attempt)), append(f.epochs, x.Epoch)
	}
	return f
}

func sameFence(f wire.Fence, row attemptRow) bool {
	return f.AttemptID == row.ID && f.Generation == int(row.Generation) && f.Attempt == int(row.Number) && f.Epoch == row.Epoch
}

// journal is what one request adds to attempts.
type journal struct {
	attempts map[string]*progress
	order    []*progress
}

func newJournal(rows []attemptRow) *journal {
	j := &journal{attempts: make(map[string]*progress, len(rows))}
	for _, row := range rows {
		if j.attempts[row.ID] != nil {
			continue
		}
		p := &progress{row: row, n: row.JournalN, bytes: row.OutputBytes, blob: row.BlobBytes}
		j.attempts[row.ID] = p
		j.order = append(j.order, p)
	}
	return j
}

// progress is how far one attempt has come.
type progress struct {
	row     attemptRow
	seen    bool // the request has a batch for it
	n       int64
	bytes   int64  // of output
	blob    int64  // of its segment
	frames  []byte // new output
	start   *wire.StartedRecord
	usage   *step.Usage
	verdict *wire.VerdictRecord
}

// take adds the records that follow the stored ones and skips the others: a
// repeat is acknowledged again, and nothing after a gap is taken.
func (p *progress) take(c *change, records []wire.Record) error {
	p.seen = true
	for _, r := range records {
		if r.N <= p.n {
			continue
		}
		if r.N != p.n+1 || p.verdict != nil || p.row.Status != "running" {
			return nil
		}
		if err := p.one(c, r); err != nil {
			return err
		}
		p.n = r.N
	}
	return nil
}

func (p *progress) one(c *change, r wire.Record) error {
	switch r.Type {
	case wire.RecordStarted:
		if p.row.StartedAt == nil && p.start == nil {
			p.start = r.Started
			p.row.StartedAt = &r.At // for a verdict in the same request
			return c.start(p.row, *r.Started)
		}
	case wire.RecordOutput:
		if r.Output.Offset != p.bytes {
			return invalid("output.offset", "attempt %s has %d bytes of output, not %d", p.row.ID, p.bytes, r.Output.Offset)
		}
		if len(r.Output.Data) > 0 {
			p.frames = appendFrame(p.frames, r.Output.Stream, r.Output.Data)
			p.bytes += int64(len(r.Output.Data))
		}
	case wire.RecordUsage:
		p.usage = r.Usage
	case wire.RecordEvent:
		payload := map[string]any{"name": r.Event.Name}
		if len(r.Event.Payload) > 0 {
			payload["payload"] = r.Event.Payload
		}
		return c.event(p.row.RunID, event.Entry{Type: eventNote, StepID: p.row.StepID, StepName: p.row.Name, Attempt: int(p.row.Number), Region: p.row.Region, Payload: payload})
	case wire.RecordVerdict:
		p.verdict = r.Verdict
		row := p.row
		if row.StartedAt == nil && p.start != nil { // in this same request
			now := time.Now()
			row.StartedAt = &now
		}
		return c.end(row, *r.Verdict)
	}
	return nil
}

// store writes everything; fence is the worker's part of the fence.
func (q *Queue) store(ctx context.Context, db *pgdb.Queries, j *journal, c *change, p pgdb.AdvanceAttemptsParams) error {
	var output pgdb.InsertOutputParams
	var files pgdb.InsertArtifactsParams
	for _, a := range j.order {
		if a.n == a.row.JournalN {
			continue
		}
		if err := q.keepOutput(a, &output); err != nil {
			return err
		}
		if err := q.keepArtifacts(a, &files); err != nil {
			return err
		}
		if err := advance(&p, a); err != nil {
			return err
		}
	}
	if len(p.Ids) == 0 {
		return nil
	}
	n, err := db.AdvanceAttempts(ctx, p)
	if err != nil {
		return err
	}
	if n != int64(len(p.Ids)) {
		return step.Errorf(step.KindConflict, "%d of %d attempts are not as they were", int64(len(p.Ids))-n, len(p.Ids))
	}
	if len(output.Starts) > 0 {
		if err := db.InsertOutput(ctx, output); err != nil {
			return err
		}
	}
	if len(files.Names) > 0 {
		if err := db.InsertArtifacts(ctx, files); err != nil {
			return err
		}
	}
	if err := c.write(ctx, db); err != nil {
		return err
	}
	if err := q.record(ctx, db, c.health, p.WorkerID); err != nil {
		return err
	}
	return charge(ctx, db, p.WorkerID, j.order) // last, since others wait for its row
}

func advance(p *pgdb.AdvanceAttemptsParams, a *progress) error {
	var started wire.StartedRecord
	if a.start != nil {
		started = *a.start
	}
	usage, verdict := "", ""
	if a.usage != nil {
		raw, err := json.Marshal(a.usage)
		if err != nil {
			return err
		}
		usage = string(raw)
	}
	if a.verdict != nil {
		raw, err := json.Marshal(a.verdict.Verdict)
		if err != nil {
			return err
		}
		verdict = string(raw)
	}
	p.Ids, p.Generations = append(p.Ids, a.row.ID), append(p.Generations, a.row.Generation)
	p.Numbers, p.Epochs = append(p.Numbers, a.row.Number), append(p.Epochs, a.row.Epoch)
	p.FromNs, p.ToNs = append(p.FromNs, a.row.JournalN), append(p.ToNs, a.n)
	p.OutputBytes, p.BlobBytes = append(p.OutputBytes, a.bytes), append(p.BlobBytes, a.blob)
	p.Started, p.DriverVersions = append(p.Started, a.start != nil), append(p.DriverVersions, started.DriverVersion)
	p.SandboxIds, p.Usages, p.Verdicts = append(p.SandboxIds, started.SandboxID), append(p.Usages, usage), append(p.Verdicts, verdict)
	return nil
}

// keepOutput puts new output into the database while there is little, and at
// the end of the attempt's segment after that.
func (q *Queue) keepOutput(a *progress, p *pgdb.InsertOutputParams) error {
	if len(a.frames) == 0 {
		return nil
	}
	var at, length int64
	frames := a.frames
	if a.bytes > inlineOutput {
		if err := q.blobs.Append(a.row.TenantID, a.row.ID, a.row.BlobBytes, a.frames); err != nil {
			return err
		}
		at, length, frames = a.row.BlobBytes, int64(len(a.frames)), []byte{}
		a.blob = at + length
	}
	p.TenantIds, p.AttemptIds = append(p.TenantIds, a.row.TenantID), append(p.AttemptIds, a.row.ID)
	p.Starts, p.Lengths = append(p.Starts, a.row.OutputBytes), append(p.Lengths, a.bytes-a.row.OutputBytes)
	p.Frames, p.BlobStarts, p.BlobLengths = append(p.Frames, frames), append(p.BlobStarts, at), append(p.BlobLengths, length)
	return nil
}

// keepArtifacts makes the rows of a verdict's artifacts, whose bytes must be
// here already.
func (q *Queue) keepArtifacts(a *progress, p *pgdb.InsertArtifactsParams) error {
	if a.verdict == nil {
		return nil
	}
	var missing missingArtifactsError
	for _, f := range a.verdict.Artifacts {
		size, err := q.blobs.Has(a.row.TenantID, f.SHA256)
		if err != nil && !step.Is(err, step.KindNotFound) {
			return err
		}
		if err != nil || size != f.Size {
			missing.add(a.row.ID, f)
			continue
		}
		p.TenantIds, p.RunIds = append(p.TenantIds, a.row.TenantID), append(p.RunIds, a.row.RunID)
		p.StepIds, p.AttemptIds = append(p.StepIds, a.row.StepID), append(p.AttemptIds, a.row.ID)
		p.Names, p.Sha256s, p.Sizes = append(p.Names, f.Name), append(p.Sha256s, f.SHA256), append(p.Sizes, f.Size)
	}
	return missing.err()
}
