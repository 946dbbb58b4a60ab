package supervised

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nofx-run/nofx/internal/rmtree"
	"github.com/nofx-run/nofx/plugins/supervisor"
	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// goneMark begins the names of folders that are being removed. No sandbox id
// begins with a dot.
const goneMark = ".gone-"

const (
	// makingTime is how long a folder may be without its spec because somebody is
	// making the sandbox: another process of the driver's too, which is being
	// replaced by this one.
	makingTime = 10 * time.Second
	// lockTime is how long somebody here who is at work on a sandbox is waited for.
	lockTime = 100 * time.Millisecond
)

// removeRemains goes on with removals that an earlier process did not finish, and
// removes the folders of sandboxes that it had hardly begun to make.
func (b *Boxes) removeRemains(stateDir string) error {
	entries, err := os.ReadDir(stateDir)
	if err != nil {
		return step.Errorf(step.KindInternal, "state_dir: %w", err)
	}
	for _, e := range entries {
		dir := filepath.Join(stateDir, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), goneMark):
			err = rmtree.TryRemove(dir)
		case e.IsDir() && (driver.Spec{ID: e.Name(), Tags: driver.Tags{Owner: "x", ID: "x"}}).Validate() == nil:
			err = b.removeUnknown(dir)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// removeUnknown removes a folder that no list has, for it says not whose it is:
// its spec was not written, or went with the host's power. One that holds
// anything else is not ours.
func (b *Boxes) removeUnknown(dir string) error {
	if st, err := os.Lstat(dir); err != nil || time.Since(st.ModTime()) < makingTime || !unknown(dir) {
		return nil // it is gone, being made, or known
	}
	ctx, cancel := context.WithTimeout(context.Background(), lockTime)
	defer cancel()
	unlock, err := b.locks.Lock(ctx, dir)
	if err != nil {
		return nil // somebody is at work on it
	}
	defer unlock()
	life, err := supervisor.Look(dir)
	if !unknown(dir) || err != nil || life.Alive {
		return nil // it is known now, or it lives
	}
	if _, err := os.Lstat(filepath.Join(dir, specFile)); err != nil {
		_ = os.Remove(filepath.Join(dir, specFile+".part"))
		_ = os.Remove(dir) // when nothing is left in it
		return nil
	}
	gone := filepath.Join(filepath.Dir(dir), goneMark+filepath.Base(dir))
	if err := os.Rename(dir, gone); err != nil {
		return step.Errorf(step.KindInternal, "the remains of a sandbox cannot be removed: %w", err)
	}
	return rmtree.TryRemove(gone)
}

// unknown reports whether a folder has no spec, or one that is none.
func unknown(dir string) bool {
	data, err := os.ReadFile(filepath.Join(dir, specFile))
	return errors.Is(err, fs.ErrNotExist) || err == nil && !json.Valid(data)
}
