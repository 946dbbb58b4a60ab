package worker

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

const (
	maxArtifacts     = 1000
	maxArtifactName  = 512 // bytes
	artifactMissing  = "artifact.missing"
	artifactTooLarge = "artifact.too_large"
)

// collect takes the files that the step was asked to leave out of the sandbox
// and uploads them. A file that is not there, or is too large, is an event in
// the run's timeline and not a failure of the step.
func (a *attempt) collect(ctx context.Context, d driver.Driver) ([]step.Artifact, error) {
	var all []step.Artifact
	have := map[string]bool{}
	for _, wanted := range a.lease.Artifacts {
		name := path.Clean(strings.TrimPrefix(wanted, workDir+"/"))
		if path.IsAbs(name) || name == ".." || strings.HasPrefix(name, "../") {
			return all, step.Errorf(step.KindInvalid, "artifact %.200q is not below the workspace", wanted)
		}
		found, err := a.copyOut(ctx, d, name, func(art step.Artifact) bool {
			if have[art.Name] || len(all) >= maxArtifacts {
				return false
			}
			have[art.Name] = true
			all = append(all, art)
			return true
		})
		switch {
		case err == nil && found > 0:
		case err == nil, step.Is(err, step.KindNotFound), step.Is(err, step.KindInvalid):
			err = a.append(eventRecord(artifactMissing, map[string]any{"path": name}))
		case step.Is(err, step.KindTooLarge):
			err = a.append(eventRecord(artifactTooLarge, map[string]any{"path": name}))
		}
		if err != nil {
			return all, fmt.Errorf("artifact %.200q: %w", name, err)
		}
	}
	return all, nil
}

func eventRecord(name string, payload map[string]any) wire.Record {
	return wire.Record{Type: wire.RecordEvent, Event: &wire.EventRecord{Name: name, Payload: payload}}
}

// copyOut uploads the regular files at and below a path of the workspace that
// take wants, and counts them.
func (a *attempt) copyOut(ctx context.Context, d driver.Driver, name string, take func(step.Artifact) bool) (found int, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pr, pw := io.Pipe()
	copied := make(chan error, 1)
	go func() {
		err := d.CopyOut(ctx, *a.handle(), path.Join(workDir, name), wire.MaxArtifactBytes, pw)
		_ = pw.CloseWithError(err) // nil becomes the end of the archive
		copied <- err
	}()
	defer func() {
		cancel()
		_ = pr.Close()
		// The driver's own error says more than that its archive broke off.
		if cause := <-copied; cause != nil && err != nil && !errors.Is(cause, context.Canceled) && !errors.Is(cause, io.ErrClosedPipe) {
			err = cause
		}
	}()
	for archive := tar.NewReader(pr); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return found, err
		}
		// Names in the archive are relative to the parent of what was asked for.
		full := path.Clean(path.Join(path.Dir(name), h.Name))
		if h.Typeflag != tar.TypeReg || len(full) > maxArtifactName || path.IsAbs(full) || full == ".." || strings.HasPrefix(full, "../") {
			continue
		}
		art, err := a.upload(ctx, full, archive, take)
		if err != nil {
			return found, err
		}
		if art {
			found++
		}
	}
}

// upload sends one file. It is kept on disk meanwhile: its hash is needed
// before its bytes.
func (a *attempt) upload(ctx context.Context, name string, from io.Reader, take func(step.Artifact) bool) (taken bool, err error) {
	tmp, err := os.CreateTemp(a.w.cfg.JournalDir, ".artifact-*")
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, tmp.Close(), os.Remove(tmp.Name())) }()
	hash := sha256.New()
	size, err := io.Copy(io.MultiWriter(tmp, hash), io.LimitReader(from, wire.MaxArtifactBytes+1))
	if err != nil {
		return false, err
	}
	if size > wire.MaxArtifactBytes {
		return false, step.Errorf(step.KindTooLarge, "more than %d bytes", int64(wire.MaxArtifactBytes))
	}
	art := step.Artifact{Name: name, SHA256: hex.EncodeToString(hash.Sum(nil)), Size: size}
	if !take(art) {
		return false, nil
	}
	retry := newRetry()
	for {
		me := a.w.identity()
		err := a.w.cfg.API.PutArtifact(ctx, me.WorkerID, a.w.incarnation, a.lease.Fence, art.SHA256, size, io.NewSectionReader(tmp, 0, size))
		if err == nil {
			return true, nil
		}
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		if !step.Is(err, step.KindUnavailable) && !step.Is(err, step.KindRateLimited) && !step.Is(err, step.KindInternal) {
			return false, fmt.Errorf("upload: %w", err)
		}
		a.log.Warn("artifact not uploaded yet", "name", name, "err", err)
		if err := retry.sleep(ctx, err); err != nil {
			return false, err
		}
	}
}
