package queue

import (
	"context"
	"io"

	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/api/internal/event"
	"github.com/nofx-run/nofx/api/internal/pg/pgdb"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

// layers collects what one transaction adds to workspaces.
type layers struct {
	rows     pgdb.InsertLayersParams
	anew     []string        // runs whose chain begins anew, and
	anewSeqs []int32         // the layer with which it does
	covered  []string        // runs all of whose work is saved, but for that of the steps
	unsaved  []string        // that end with this, and were not
	saved    []string        // attempts whose layers count
	missing  map[string]bool // attempts whose layer was not uploaded, or is gone
}

// save takes what a run's workspace was saved as after a step that succeeded in
// it, and reports whether the step's work is saved. A layer counts only as the
// next one of its run, since it is what has changed since the last; a full one as
// any that comes after it.
func (c *change) save(a attemptRow, v wire.VerdictRecord) (bool, error) {
	r, l := c.runs[a.RunID], v.Layer
	if l == nil || !a.Shares {
		return false, nil
	}
	last, reason := int(r.Layers), ""
	switch {
	case l.SHA256 == "" && l.Seq != last, l.SHA256 != "" && l.Seq != last+1 && (!l.Full || l.Seq <= last):
		reason = "out_of_order"
	case c.layers.missing[a.ID]:
		reason = "missing"
	}
	if reason != "" {
		return false, c.event(a.RunID, event.Entry{Type: eventNote, StepID: a.StepID, StepName: a.Name, Attempt: int(a.Number), Region: a.Region,
			Payload: map[string]any{"name": wire.NoteNotSaved, "payload": map[string]any{"reason": reason, "layer": l.Seq, "last": r.Layers}}})
	}
	c.layers.saved = append(c.layers.saved, a.ID)
	if l.SHA256 == "" {
		return true, nil // of the others it says nothing: they may have ended after its worker looked
	}
	c.layers.covered = append(c.layers.covered, a.RunID)
	r.Layers = i32(l.Seq)
	p := &c.layers.rows
	p.TenantIds, p.RunIds, p.Seqs = append(p.TenantIds, a.TenantID), append(p.RunIds, a.RunID), append(p.Seqs, r.Layers)
	p.AttemptIds, p.Sha256s = append(p.AttemptIds, a.ID), append(p.Sha256s, l.SHA256)
	p.Sizes, p.Bytes, p.Fulls = append(p.Sizes, l.Size), append(p.Bytes, l.Bytes), append(p.Fulls, l.Full)
	if l.Full {
		c.layers.anew, c.layers.anewSeqs = append(c.layers.anew, a.RunID), append(c.layers.anewSeqs, r.Layers)
	}
	return true, nil
}

// write stores them, after the steps have ended.
func (l *layers) write(ctx context.Context, db *pgdb.Queries) error {
	if len(l.rows.RunIds) > 0 {
		if err := db.InsertLayers(ctx, l.rows); err != nil {
			return err
		}
		last := map[string]int32{}
		for i, id := range l.rows.RunIds {
			last[id] = l.rows.Seqs[i]
		}
		ids, seqs := make([]string, 0, len(last)), make([]int32, 0, len(last))
		for id, seq := range last {
			ids, seqs = append(ids, id), append(seqs, seq)
		}
		if err := db.CountLayers(ctx, ids, seqs); err != nil {
			return err
		}
	}
	if len(l.anew) > 0 {
		if err := db.OutdateLayers(ctx, l.anew, l.anewSeqs); err != nil {
			return err
		}
	}
	if len(l.covered) > 0 {
		return db.CoverSteps(ctx, l.covered, append([]string{}, l.unsaved...))
	}
	return nil
}

// lookForLayer notes when the bytes of the layer that a verdict names are not
// here: the step has succeeded all the same, but its work is not saved.
func (q *Queue) lookForLayer(c *change, a attemptRow, records []wire.Record) error {
	for _, r := range records {
		if r.Verdict == nil || r.Verdict.Layer == nil || r.Verdict.Layer.SHA256 == "" {
			continue
		}
		size, err := q.blobs.Has(a.TenantID, r.Verdict.Layer.SHA256)
		if err != nil && !step.Is(err, step.KindNotFound) {
			return err
		}
		if err != nil || size != r.Verdict.Layer.Size {
			if c.layers.missing == nil {
				c.layers.missing = map[string]bool{}
			}
			c.layers.missing[a.ID] = true
		}
	}
	return nil
}

// Layer opens a layer of the run of an attempt that its worker runs.
func (q *Queue) Layer(ctx context.Context, who auth.Principal, u Upload, seq int) (content io.ReadCloser, size int64, err error) {
	var row pgdb.LayerForRow
	err = q.db.SystemQuery(ctx, func(db *pgdb.Queries) (err error) {
		row, err = db.LayerFor(ctx, pgdb.LayerForParams{Seq: i32(seq), ID: u.AttemptID, Generation: i32(u.Generation), Number: i32(u.Attempt),
			Epoch: u.Epoch, WorkerID: u.WorkerID, Incarnation: u.Incarnation, KeyID: who.KeyID})
		if none(err) {
			return step.Errorf(step.KindConflict, "the attempt is not this worker's any more, or its run has no layer %d", seq)
		}
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	f, err := q.blobs.Get(row.TenantID, row.Sha256)
	if err != nil {
		return nil, 0, err
	}
	return f, row.Size, nil
}
