package runs

import (
	"context"
	"os"
	"time"

	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/api/internal/queue"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

const (
	pageBytes  = 1 << 20 // of output in one answer, about
	pagePieces = 64      // stored pieces that one answer looks at
)

// Output gives a page of the output of a step's newest attempt from an offset.
func (r *Reader) Output(ctx context.Context, tenant, runID, stepID string, offset int64) (wire.OutputPage, error) {
	var attempt pgdb.NewestAttemptRow
	var pieces []pgdb.OutputFromRow
	err := r.DB.Tenant(ctx, tenant, func(db *pgdb.Queries) (err error) {
		attempt, err = db.NewestAttempt(ctx, pgdb.NewestAttemptParams{TenantID: tenant, RunID: runID, StepID: stepID})
		if err != nil || attempt.ID == "" {
			return missing(err, "no step %s in run %s", clip(stepID), clip(runID))
		}
		pieces, err = db.OutputFrom(ctx, pgdb.OutputFromParams{AttemptID: attempt.ID, TenantID: tenant, Start: offset, Most: pagePieces})
		return err
	})
	if err != nil {
		return wire.OutputPage{}, err
	}
	p := page{OutputPage: wire.OutputPage{Chunks: []wire.OutputChunk{}, NextOffset: offset, Attempt: int(attempt.Number)},
		step: stepID, name: attempt.StepName}
	for _, piece := range pieces {
		stored := piece.Frames
		if piece.BlobStart != nil && piece.BlobLength != nil {
			if stored, err = r.Blobs.Read(tenant, attempt.ID, *piece.BlobStart, *piece.BlobLength); err != nil {
				return wire.OutputPage{}, err
			}
		}
		if err := queue.Frames(stored, piece.Start, p.add); err != nil {
			return wire.OutputPage{}, err
		}
		if p.bytes >= pageBytes {
			break
		}
	}
	p.Done = attempt.Ended && p.NextOffset >= attempt.OutputBytes
	return p.OutputPage, nil
}

type page struct {
	wire.OutputPage
	step, name string
	bytes      int
}

// add takes a piece, without what stands before the page's next offset.
func (p *page) add(stream wire.Stream, at int64, data []byte) bool {
	if p.bytes >= pageBytes {
		return false
	}
	if skip := p.NextOffset - at; skip > 0 {
		if skip >= int64(len(data)) {
			return true
		}
		data, at = data[skip:], p.NextOffset
	}
	if len(data) == 0 {
		return true
	}
	p.Chunks = append(p.Chunks, wire.OutputChunk{StepID: p.step, StepName: p.name, Attempt: p.Attempt, Offset: at, Stream: stream, Data: data})
	p.NextOffset = at + int64(len(data))
	p.bytes += len(data)
	return true
}

// File is an artifact's bytes. Close it after use.
type File struct {
	*os.File
	pgdb.FindArtifactRow
}

// Artifact opens what the newest attempt that has it stored under a name.
func (r *Reader) Artifact(ctx context.Context, tenant, runID, stepID, name string) (File, error) {
	var f File
	err := r.DB.Tenant(ctx, tenant, func(db *pgdb.Queries) (err error) {
		f.FindArtifactRow, err = db.FindArtifact(ctx, pgdb.FindArtifactParams{TenantID: tenant, RunID: runID, StepID: stepID, Name: name})
		return missing(err, "no artifact %s of step %s", clip(name), clip(stepID))
	})
	if err != nil {
		return File{}, err
	}
	if f.RemovedAt != nil {
		return File{}, step.Errorf(step.KindGone, "the artifact %s was removed at %s, when its time was over", clip(name), f.RemovedAt.UTC().Format(time.RFC3339))
	}
	f.File, err = r.Blobs.Get(tenant, f.Sha256)
	return f, err
}
