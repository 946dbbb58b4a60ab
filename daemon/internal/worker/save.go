package worker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/nofx-run/nofx/daemon/internal/snapshot"
	"github.com/nofx-run/nofx/internal/failpoint"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

const (
	mostShots  = 2                // workspaces that are read at a time
	mostLarge  = 4                // large layers that lie on this host's disk at a time, besides those
	largeLayer = 64 << 20         // bytes
	uploadTime = 10 * time.Minute // that a step's end may take for what is only to save it
)

// save saves the run's workspace after the step has succeeded in it, for others
// to go on from. One that cannot be saved is an event in the run's timeline, and
// not a failure of the step: nil. Of one run the next one is saved when the API
// has the verdict that names this layer, or has closed the attempt.
func (a *attempt) save(ctx context.Context) (*wire.Layer, error) {
	if a.w.cfg.LayerBytes == 0 {
		return nil, nil //nolint:nilnil // not saved
	}
	if err := a.known(ctx); err != nil {
		return nil, err
	}
	unlock, err := a.w.saving.Lock(ctx, a.lease.RunID)
	if err != nil {
		return nil, err
	}
	if err := a.w.othersTold(ctx, a); err != nil {
		unlock()
		return nil, err
	}
	if a.tornHere() { // it ended before the host's last start
		a.log.Warn("the host has started since the step left the workspace that is saved now")
		if err := a.tellTorn(); err != nil {
			unlock()
			return nil, err
		}
	}
	began := time.Now()
	layer, err := a.shoot(ctx)
	result, size := "ok", int64(0)
	var no *notSavedError
	switch {
	case errors.As(err, &no):
		result = "refused"
	case err != nil:
		result = "failed"
	case layer.SHA256 == "":
		result = "unchanged"
	default:
		size = layer.Size
	}
	a.w.cfg.Observer.Workspace("save", result, size, time.Since(began))
	if no != nil {
		a.log.Warn("the workspace is not saved", "err", err)
		err = a.append(eventRecord(wire.NoteNotSaved, no.payload()))
	}
	if err != nil || layer == nil || layer.SHA256 == "" {
		unlock()
		return layer, err
	}
	a.settle = func() {
		defer unlock()
		a.mu.Lock()
		saved := a.saved
		a.mu.Unlock()
		if !saved {
			return // whether it counts is not known, which the file that stays says
		}
		if err := os.Rename(a.w.cfg.Workspaces.Next(a.lease.RunID), a.w.cfg.Workspaces.Index(a.lease.RunID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			a.log.Error("as what the workspace was saved is not written down", "err", err)
		}
	}
	return layer, nil
}

// othersTold waits until the API has the verdicts that an earlier process has
// written down of the run's other steps: nobody holds the run's lock for them.
func (w *Worker) othersTold(ctx context.Context, a *attempt) error {
	for _, b := range w.all() {
		if b == a || b.asked != 0 || b.lease.RunID != a.lease.RunID || b.lease.Workspace == step.WorkspaceStep || !b.journal.Position().Verdict {
			continue
		}
		select {
		case <-b.acked:
		case <-b.closed:
		case <-b.gone:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// settleLayer does what there is to do about the attempt's layer once the API
// has the verdict, or there will be none. The channel is closed then.
func (a *attempt) settleLayer(ctx context.Context) <-chan struct{} {
	done := make(chan struct{})
	if a.settle == nil {
		close(done)
		return done
	}
	go func() {
		defer close(done)
		select {
		case <-a.acked:
		case <-a.closed:
		case <-ctx.Done():
		}
		a.settle()
	}()
	return done
}

// notSavedError is why a workspace is not.
type notSavedError struct {
	reason string
	err    error
}

func (n *notSavedError) Error() string { return n.reason + ": " + n.err.Error() }

func (n *notSavedError) payload() map[string]any {
	out := map[string]any{"reason": n.reason}
	if refused := (*snapshot.RefusedError)(nil); errors.As(n.err, &refused) && refused.Limit > 0 {
		out["bytes"], out["limit"] = refused.Bytes, refused.Limit
	}
	return out
}

// shoot takes a snapshot and uploads what has changed. A layer without a sha256
// says that nothing has.
func (a *attempt) shoot(ctx context.Context) (*wire.Layer, error) {
	select {
	case a.w.shots <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	once := true
	done := func() {
		if once {
			once = false
			<-a.w.shots
		}
	}
	defer done()
	base, seq := a.base()
	tmp, err := os.CreateTemp(a.w.cfg.JournalDir, ".layer-*")
	if err != nil {
		return nil, &notSavedError{"failed", err}
	}
	defer func() { _ = errors.Join(tmp.Close(), os.Remove(tmp.Name())) }() // what stays goes when the daemon starts
	hash := sha256.New()
	taken, err := snapshot.Take(ctx, a.w.cfg.Workspaces.Path(a.lease.RunID), base, a.beside(), a.w.cfg.LayerBytes, io.MultiWriter(tmp, hash))
	refused := (*snapshot.RefusedError)(nil)
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.As(err, &refused):
		return nil, &notSavedError{refused.Reason, err}
	case err != nil:
		return nil, &notSavedError{"failed", err}
	case !taken.Changed, base == nil && seq == 0 && taken.Index.Len() <= 1:
		return &wire.Layer{Seq: seq}, nil
	}
	size, err := tmp.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, &notSavedError{"failed", err}
	}
	if size > wire.MaxArtifactBytes {
		return nil, &notSavedError{"too_large", &snapshot.RefusedError{Reason: "too_large", Bytes: size, Limit: wire.MaxArtifactBytes}}
	}
	layer := &wire.Layer{Seq: seq + 1, SHA256: hex.EncodeToString(hash.Sum(nil)), Size: size, Bytes: taken.Bytes, Full: taken.Full}
	taken.Index.Added(layer.Seq, layer.Full, size)
	if err := writeIndex(a.w.cfg.Workspaces.Next(a.lease.RunID), taken.Index); err != nil {
		return nil, &notSavedError{"failed", err}
	}
	taken.Index = nil // it may be large
	release, err := a.w.room(ctx, size)
	if err != nil {
		return nil, err
	}
	defer release()
	done()
	sending, cancel := context.WithTimeout(ctx, uploadTime)
	defer cancel()
	switch err := a.send(sending, "layer", layer.SHA256, size, tmp); {
	case err == nil:
	case ctx.Err() != nil, step.Is(err, step.KindConflict):
		return nil, err
	case sending.Err() != nil:
		return nil, &notSavedError{"failed", err}
	default:
		return nil, &notSavedError{"refused", err}
	}
	a.hold(failpoint.Saved)
	return layer, nil
}

// beside reports whether another step may be at work in the workspace. One that
// comes from now on has nothing mapped there yet.
func (a *attempt) beside() bool {
	a.w.mu.Lock()
	defer a.w.mu.Unlock()
	for _, b := range a.w.attempts {
		if b != a && b.inside && b.lease.RunID == a.lease.RunID {
			return true
		}
	}
	return false
}

// room waits until a layer of this size may lie on the disk, where journals are,
// too, for as long as the API takes.
func (w *Worker) room(ctx context.Context, size int64) (release func(), err error) {
	if size <= largeLayer {
		return func() {}, nil
	}
	select {
	case w.large <- struct{}{}:
		return func() { <-w.large }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// base is as what the workspace was last saved, and the number of the last layer
// that there may be; nil = all of it has to be saved.
func (a *attempt) base() (*snapshot.Index, int) {
	work, run := a.w.cfg.Workspaces, a.lease.RunID
	base, err := readIndex(work.Index(run))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.log.Warn("all of the workspace is saved anew", "err", err)
	}
	seq := a.lease.LastLayer
	if base != nil {
		if base.Seq < seq {
			base = nil // others are later
		} else {
			seq = base.Seq
		}
	}
	// Nobody could say what of one before became. When it is the last one, it
	// counts; else it may, and its number may be taken.
	next, err := readIndex(work.Next(run))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return base, seq
	case err == nil && next.Seq == a.lease.LastLayer:
		return next, next.Seq
	case err == nil:
		return nil, max(seq, next.Seq)
	}
	return nil, seq + 1
}

func readIndex(path string) (*snapshot.Index, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return snapshot.ReadIndex(f)
}

func writeIndex(path string, x *snapshot.Index) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = x.WriteTo(f)
	return errors.Join(err, f.Close())
}

// known waits until the API knows this process, in one that took the attempt up:
// it would refuse the bytes, and the step's result would be lost.
func (a *attempt) known(ctx context.Context) error {
	select {
	case <-a.confirmed:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// send uploads bytes under the attempt's lease, however long the API takes to be
// there.
func (a *attempt) send(ctx context.Context, name, sum string, size int64, from io.ReaderAt) error {
	retry := newRetry()
	for {
		err := a.w.cfg.API.PutArtifact(ctx, a.w.identity().WorkerID, a.w.incarnation, a.lease.Fence, sum, size, io.NewSectionReader(from, 0, size))
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !step.Is(err, step.KindUnavailable) && !step.Is(err, step.KindRateLimited) && !step.Is(err, step.KindInternal) {
			return fmt.Errorf("upload: %w", err)
		}
		a.log.Warn("not uploaded yet", "name", name, "err", err)
		if err := retry.sleep(ctx, err); err != nil {
			return err
		}
	}
}
