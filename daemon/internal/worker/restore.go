package worker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/daemon/internal/ledger"
	"github.com/nofx-run/nofx/daemon/internal/snapshot"
	"github.com/nofx-run/nofx/internal/failpoint"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

const (
	restored     = "workspace.restored"
	unsure       = "workspace.unsure"
	fetchTimeout = 10 * time.Minute // for one layer
)

// workspace is the run's shared folder and the uid that it belongs to. Where this
// host has none, or an old one, it is put together of the lease's layers; and so
// it is when the step is tried again because infrastructure ended it in the
// middle, unless other steps of the run are, or have been, at work in it. What was
// here before the host's last start may be torn: it is put together anew, too, or,
// where not all of it was saved, used as it is, and the timeline tells.
func (a *attempt) workspace(ctx context.Context) (string, uint32, error) {
	w, l := a.w, a.lease
	unlock, err := w.placing.Lock(ctx, l.RunID)
	if err != nil {
		return "", 0, err
	}
	defer unlock()
	if err := w.settled(ctx, l.RunID); err != nil {
		return "", 0, err
	}
	run, err := w.runOf(l)
	if err != nil {
		return "", 0, err
	}
	torn := w.torn(run)
	switch {
	case run.Restoring || run.No < l.WorkspaceNo || (l.Restore || torn && len(l.Layers) > 0) && !a.disturbs():
		if err := a.alone(ctx); err != nil {
			return "", 0, err
		}
		if err := a.rebuild(ctx, run); err != nil {
			return "", 0, step.Errorf(fault(err), "the run's workspace: %w", err)
		}
	case run.Boot == "": // of an older daemon's
		run.Boot = w.cfg.Boot
		if err := w.putRun(run); err != nil {
			return "", 0, err
		}
	case torn:
		a.log.Warn("the host has started since the run's workspace was written, and it is not saved")
		if err := a.tellTorn(); err != nil {
			return "", 0, err
		}
		run.Boot = w.cfg.Boot
		if err := w.putRun(run); err != nil {
			return "", 0, err
		}
	}
	path, err := w.cfg.Workspaces.Make(ctx, run.ID, run.UID, l.Resources.DiskMB)
	w.mu.Lock()
	a.inside = true
	w.mu.Unlock()
	return path, run.UID, err
}

// torn reports whether the host has started anew since the workspace was known to
// be whole. A ledger of an older daemon does not say.
func (w *Worker) torn(run ledger.Run) bool { return run.Boot != "" && run.Boot != w.cfg.Boot }

// tornHere is torn of the attempt's run.
func (a *attempt) tornHere() bool {
	w := a.w
	w.mu.Lock()
	defer w.mu.Unlock()
	run, ok := w.runs[a.lease.RunID]
	return ok && w.torn(run)
}

// stale reports whether the attempt would begin in a torn workspace, from an
// earlier process's lease: whether others have been there since, nobody knows.
func (a *attempt) stale() bool {
	return a.asked == 0 && a.lease.Workspace != step.WorkspaceStep && a.tornHere()
}

// tellTorn has the timeline tell that what the step works with, or leaves, may be torn.
func (a *attempt) tellTorn() error {
	return a.append(eventRecord(unsure, map[string]any{"reason": "host_restarted"}))
}

// fault is the kind of what keeps a workspace from being put together. What a run
// itself has put into its layers is held against no driver.
func fault(err error) step.Kind {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return step.KindTooLarge
	case step.Is(err, step.KindInvalid):
		return step.KindInvalid
	}
	return step.KindUnavailable
}

// noteEnd notes that the API has the verdict of an attempt.
func (w *Worker) noteEnd(a *attempt) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.runs[a.lease.RunID]; !ok {
		return
	}
	steps := w.ends[a.lease.RunID]
	if steps == nil {
		steps = map[string]driver.Deadline{}
		w.ends[a.lease.RunID] = steps
	}
	steps[a.lease.StepID] = driver.Now()
}

// disturbs reports whether putting the workspace back would take from other
// steps: one has been in it and is not over, or one may have succeeded since the
// lease was made, whose layers do not have its work. Those that come at the same
// time and wait for the workspace have nothing there yet.
func (a *attempt) disturbs() bool {
	if a.asked == 0 {
		return true // what was before is not known
	}
	w := a.w
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range w.attempts {
		if b.lease.RunID == a.lease.RunID && b.lease.StepID != a.lease.StepID && b.lease.Workspace != step.WorkspaceStep && (b.inside || b.asked == 0) && !b.over() {
			return true
		}
	}
	for id, at := range w.ends[a.lease.RunID] {
		if id != a.lease.StepID && at >= a.asked {
			return true
		}
	}
	return false
}

// over reports whether the API has the attempt's verdict, or has closed it.
func (a *attempt) over() bool {
	select {
	case <-a.acked:
	case <-a.closed:
	default:
		return false
	}
	return true
}

// alone waits until nobody else is in the run's workspace. Those that are there
// have ended for the API, though they may not have heard so.
func (a *attempt) alone(ctx context.Context) error {
	for {
		var last *attempt
		a.w.mu.Lock()
		for _, b := range a.w.attempts {
			if b != a && b.inside && b.lease.RunID == a.lease.RunID {
				last = b
			}
		}
		a.w.mu.Unlock()
		if last == nil {
			return nil
		}
		if !last.over() {
			a.log.Warn("a stale attempt is ended", "stale", last.id)
			last.fence()
		}
		select {
		case <-last.gone:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// rebuild makes the workspace anew. The ledger says so meanwhile: what a failure
// or a death of this process leaves is not used.
func (a *attempt) rebuild(ctx context.Context, run ledger.Run) error {
	w, l := a.w, a.lease
	run.No, run.Restoring = max(run.No, l.WorkspaceNo), true
	if err := w.putRun(run); err != nil {
		return err
	}
	if err := w.cfg.Workspaces.Remove(run.ID); err != nil {
		return err
	}
	dir, err := w.cfg.Workspaces.Make(ctx, run.ID, run.UID, l.Resources.DiskMB)
	if err != nil {
		return err
	}
	if len(l.Layers) > 0 {
		began := time.Now()
		bytes, err := a.restore(ctx, dir, run.UID)
		result := "ok"
		if err != nil {
			result = "failed"
		}
		w.cfg.Observer.Workspace("restore", result, bytes, time.Since(began))
		if err != nil {
			if e := w.cfg.Workspaces.Remove(run.ID); e != nil {
				a.log.Error("half a workspace stays; it is not used", "err", e)
			}
			return err
		}
	}
	run.Restoring, run.Boot = false, w.cfg.Boot
	return w.putRun(run)
}

// putRun writes down what is known of a run's workspace.
func (w *Worker) putRun(run ledger.Run) error {
	if err := w.cfg.Ledger.PutRun(run); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.runs[run.ID] = run
	return nil
}

// restore puts the lease's layers together, which have so many bytes.
func (a *attempt) restore(ctx context.Context, dir string, uid uint32) (sum int64, err error) {
	layers := a.lease.Layers
	if len(layers) > snapshot.MaxLayers {
		return 0, step.Errorf(step.KindInvalid, "%d layers are more than %d", len(layers), snapshot.MaxLayers)
	}
	into, err := snapshot.Into(dir, uid)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, into.Close()) }()
	for i, l := range layers {
		if l.Full != (i == 0) || i > 0 && l.Seq != layers[i-1].Seq+1 || l.Size > wire.MaxArtifactBytes || l.Bytes < 0 || l.Bytes > wire.MaxArtifactBytes {
			return sum, step.Errorf(step.KindInvalid, "layer %d does not belong to the chain", l.Seq)
		}
		a.hold(failpoint.Restoring)
		if err := a.apply(ctx, into, l); err != nil {
			return sum, fmt.Errorf("layer %d: %w", l.Seq, err)
		}
		sum += l.Size
	}
	if err := into.Finish(); err != nil {
		return sum, err
	}
	last := layers[len(layers)-1].Seq
	if a.w.cfg.LayerBytes > 0 {
		index, err := snapshot.Scan(ctx, dir)
		if err != nil {
			return sum, err
		}
		index.Seq, index.Layers, index.Full, index.Rest = last, len(layers), layers[0].Size, sum-layers[0].Size
		if err := writeIndex(a.w.cfg.Workspaces.Index(a.lease.RunID), index); err != nil {
			return sum, err
		}
	}
	a.log.Info("the run's workspace was put together", "layer", last, "bytes", sum)
	return sum, a.append(eventRecord(restored, map[string]any{"layer": last, "layers": len(layers), "bytes": sum}))
}

// apply fetches a layer, and adds it once it is known to be whole.
func (a *attempt) apply(ctx context.Context, into *snapshot.Restore, l wire.Layer) (err error) {
	release, err := a.w.room(ctx, l.Size)
	if err != nil {
		return err
	}
	defer release()
	tmp, err := os.CreateTemp(a.w.cfg.JournalDir, ".layer-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tmp.Close(), os.Remove(tmp.Name())) }()
	for retry := newRetry(); ; {
		err := a.fetch(ctx, tmp, l)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !step.Is(err, step.KindUnavailable) && !step.Is(err, step.KindRateLimited) || a.left() < 0 {
			return err
		}
		a.log.Warn("a layer has not come yet", "layer", l.Seq, "err", err)
		if err := retry.sleep(ctx, err); err != nil {
			return err
		}
	}
	return into.Apply(ctx, io.NewSectionReader(tmp, 0, l.Size), l.Bytes)
}

// fetch writes a layer to a file.
func (a *attempt) fetch(ctx context.Context, to *os.File, l wire.Layer) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	if err := errors.Join(to.Truncate(0), seekStart(to)); err != nil {
		return err
	}
	body, err := a.w.cfg.API.Layer(ctx, a.w.identity().WorkerID, a.w.incarnation, a.lease.Fence, l.Seq)
	if err != nil {
		return err
	}
	defer body.Close()
	hash := sha256.New()
	n, err := io.Copy(io.MultiWriter(to, hash), io.LimitReader(body, l.Size+1))
	switch {
	case err != nil:
		return step.Errorf(step.KindUnavailable, "the layer broke off: %w", err)
	case n != l.Size || hex.EncodeToString(hash.Sum(nil)) != l.SHA256:
		return step.Errorf(step.KindConflict, "the layer is not the one that was saved")
	}
	return nil
}

func seekStart(f *os.File) error {
	_, err := f.Seek(0, io.SeekStart)
	return err
}
