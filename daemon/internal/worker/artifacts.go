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
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/nofx-run/nofx/internal/failpoint"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
	"github.com/nofx-run/nofx/sdk/wire"
)

const (
	maxArtifacts     = 1000
	maxArtifactsSize = 1 << 30 // bytes of one step's artifacts in all
	maxArtifactName  = 512     // bytes
	maxLeftNames     = 20      // told of what was left out
	artifactMissing  = "artifact.missing"
	artifactTooLarge = "artifact.too_large"
	artifactLeftOut  = "artifact.left_out" // all or some of it: too many, too large together, or names that nobody could print
)

// collect takes the files that the step was asked to leave out of the sandbox
// and uploads them. A file that is not there, that its own user cannot read, or
// that is too large, is an event in the run's timeline and not a failure of the
// step.
func (a *attempt) collect(ctx context.Context, d driver.Driver) ([]step.Artifact, error) {
	c := collection{have: map[string]bool{}, room: a.w.artifactRoom}
	for _, wanted := range a.lease.Artifacts {
		name := path.Clean(strings.TrimPrefix(wanted, workDir+"/"))
		if path.IsAbs(name) || name == ".." || strings.HasPrefix(name, "../") {
			return c.all, step.Errorf(step.KindInvalid, "artifact %.200q is not below the workspace", wanted)
		}
		if c.have[name] {
			continue
		}
		found, left, err := a.copyOut(ctx, d, name, &c)
		switch {
		case err == nil && left.files > 0:
			err = a.append(eventRecord(artifactLeftOut, map[string]any{"path": name, "files": left.files, "names": left.names}))
		case step.Is(err, step.KindTooLarge) && c.room < a.w.artifactRoom:
			// The driver went no further than there was room.
			err = a.append(eventRecord(artifactLeftOut, map[string]any{"path": name, "room": c.room}))
		case err == nil && found > 0:
		case err == nil, step.Is(err, step.KindNotFound), step.Is(err, step.KindInvalid), step.Is(err, step.KindForbidden):
			err = a.append(eventRecord(artifactMissing, map[string]any{"path": name}))
		case step.Is(err, step.KindTooLarge):
			err = a.append(eventRecord(artifactTooLarge, map[string]any{"path": name}))
		}
		if err != nil {
			return c.all, fmt.Errorf("artifact %.200q: %w", name, err)
		}
	}
	return c.all, nil
}

// collection is what was taken so far, and the names of it.
type collection struct {
	all  []step.Artifact
	have map[string]bool
	room int64 // bytes that may still come
}

// leftovers are files that were not taken, with the first of their names.
type leftovers struct {
	files int
	names []string
}

func (l *leftovers) add(name string) {
	l.files++
	if len(l.names) < maxLeftNames {
		if !artifactName(name) {
			name = strconv.QuoteToASCII(name[:min(len(name), maxArtifactName)])
		}
		l.names = append(l.names, name)
	}
}

// artifactName reports whether a name that a step gave to a file can be told
// to others: below the workspace, of bounded length, and one line of text. The
// API refuses others, and with them the verdict that they come with.
func artifactName(name string) bool {
	return len(name) <= maxArtifactName && !path.IsAbs(name) && name != ".." && !strings.HasPrefix(name, "../") &&
		utf8.ValidString(name) && !strings.ContainsFunc(name, unicode.IsControl)
}

func eventRecord(name string, payload map[string]any) wire.Record {
	return wire.Record{Type: wire.RecordEvent, Event: &wire.EventRecord{Name: name, Payload: payload}}
}

// copyOut uploads the regular files at and below a path of the workspace. It
// counts those that are in the collection, and those that cannot be.
func (a *attempt) copyOut(ctx context.Context, d driver.Driver, name string, c *collection) (found int, left leftovers, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pr, pw := io.Pipe()
	copied := make(chan error, 1)
	go func() {
		err := d.CopyOut(ctx, *a.handle(), path.Join(workDir, name), max(c.room, 1), pw) // 0 would be no limit
		_ = pw.CloseWithError(err)                                                       // nil becomes the end of the archive
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
			return found, left, nil
		}
		if err != nil {
			return found, left, err
		}
		// Names in the archive are relative to the parent of what was asked for.
		full := path.Clean(path.Join(path.Dir(name), h.Name))
		switch {
		case h.Typeflag != tar.TypeReg:
			continue
		case c.have[full]:
			found++
			continue
		case len(c.all) >= maxArtifacts, !artifactName(full), h.Size > c.room:
			left.add(full)
			continue
		}
		art, err := a.upload(ctx, full, archive)
		if err != nil {
			return found, left, err
		}
		c.have[full] = true
		c.room -= art.Size
		c.all = append(c.all, art)
		found++
	}
}

// upload sends one file. It is kept on disk meanwhile: its hash is needed
// before its bytes.
func (a *attempt) upload(ctx context.Context, name string, from io.Reader) (art step.Artifact, err error) {
	if err := a.known(ctx); err != nil {
		return art, err
	}
	tmp, err := os.CreateTemp(a.w.cfg.JournalDir, ".artifact-*")
	if err != nil {
		return art, err
	}
	defer func() {
		err = errors.Join(err, tmp.Close())
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
			return
		}
		// It stays until the API has the verdict, which may miss the bytes.
		err = os.Rename(tmp.Name(), a.spooled(art.SHA256))
	}()
	hash := sha256.New()
	size, err := io.Copy(io.MultiWriter(tmp, hash), io.LimitReader(from, wire.MaxArtifactBytes+1))
	if err != nil {
		return art, err
	}
	if size > wire.MaxArtifactBytes {
		return art, step.Errorf(step.KindTooLarge, "more than %d bytes", int64(wire.MaxArtifactBytes))
	}
	art = step.Artifact{Name: name, SHA256: hex.EncodeToString(hash.Sum(nil)), Size: size}
	a.hold(failpoint.Uploading)
	return art, a.send(ctx, name, art.SHA256, size, tmp)
}
