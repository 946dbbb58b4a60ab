package blob

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
)

// Shares is how many parts a collection of the whole folder has.
const Shares = 256

// collectBatch is how many names are asked about at once.
const collectBatch = 500

// References tells what is still somebody's. Both give those of the names that
// are.
type References interface {
	Artifacts(ctx context.Context, tenant string, sums []string) ([]string, error)
	Attempts(ctx context.Context, tenant string, ids []string) ([]string, error)
}

// Collected counts what a collection removed.
type Collected struct {
	Artifacts, Segments, Uploads int // an upload that broke off
	Bytes                        int64
}

// Belongs makes sure that the folder is that of an installation: one that
// nobody has said so of becomes its. What another one refers to would look like
// nobody's.
func (d *Dir) Belongs(installation string) error {
	const name = "installation"
	f, err := d.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.WriteString(installation + "\n")
		return errors.Join(err, f.Sync(), f.Close(), d.syncDir("."))
	}
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if f, err = d.root.Open(name); err != nil {
		return err
	}
	raw, err := io.ReadAll(io.LimitReader(f, 200))
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if owner := strings.TrimSpace(string(raw)); owner != installation {
		return step.Errorf(step.KindConflict, "the blobs are those of the installation %.80q, the database is that of %.80q", owner, installation)
	}
	return nil
}

// Collect removes from one of the shares what is older than before and nobody's.
// Bytes that are put meanwhile stay: what is put is as new as its last byte,
// and it is looked at again under a lock right before it is removed.
func (d *Dir) Collect(ctx context.Context, share int, before time.Time, refs References) (Collected, error) {
	var c Collected
	errs := []error{d.eachTenant("artifacts", func(tenant string) error {
		dir := filepath.Join("artifacts", tenant, fmt.Sprintf("%02x", share))
		n, err := d.sift(ctx, dir, before, &c.Bytes, hashForm.MatchString, func(names []string) ([]string, error) { return refs.Artifacts(ctx, tenant, names) })
		c.Artifacts += n
		return err
	})}
	errs = append(errs, d.eachTenant("output", func(tenant string) error {
		ends, err := d.names(filepath.Join("output", tenant))
		for _, end := range ends {
			if err != nil || shareOf(end) != share {
				continue
			}
			var n int
			n, err = d.sift(ctx, filepath.Join("output", tenant, end), before, &c.Bytes, nameForm.MatchString,
				func(names []string) ([]string, error) { return refs.Attempts(ctx, tenant, names) })
			c.Segments += n
		}
		return err
	}))
	if share == 0 {
		n, err := d.sift(ctx, "incoming", before, &c.Bytes, func(string) bool { return true }, func([]string) ([]string, error) { return nil, nil })
		c.Uploads, errs = n, append(errs, err)
	}
	return c, errors.Join(errs...)
}

// shareOf spreads folders whose names are not the number of a share.
func shareOf(name string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	return int(h.Sum32() % Shares)
}

func (d *Dir) eachTenant(sub string, do func(tenant string) error) error {
	tenants, err := d.names(sub)
	errs := []error{err}
	for _, t := range tenants {
		if nameForm.MatchString(t) {
			errs = append(errs, do(t))
		}
	}
	return errors.Join(errs...)
}

// names lists a folder; one that is not there is empty.
func (d *Dir) names(path string) ([]string, error) {
	dir, err := d.root.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	names, err := dir.Readdirnames(-1)
	return names, errors.Join(err, dir.Close())
}

// sift removes the old files of a folder that are not known.
func (d *Dir) sift(ctx context.Context, path string, before time.Time, bytes *int64, ours func(string) bool, known func([]string) ([]string, error)) (removed int, err error) {
	names, err := d.names(path)
	if err != nil {
		return 0, err
	}
	old := make([]string, 0, collectBatch)
	clear := func() error {
		if len(old) == 0 {
			return nil
		}
		n, err := d.clear(path, old, before, bytes, known)
		removed, old = removed+n, old[:0]
		return err
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return removed, err
		}
		if _, is := d.oldFile(filepath.Join(path, name), before); !is || !ours(name) {
			continue
		}
		if old = append(old, name); len(old) == collectBatch {
			if err := clear(); err != nil {
				return removed, err
			}
		}
	}
	return removed, clear()
}

// clear asks about names, and removes those that are nobody's and still old.
func (d *Dir) clear(path string, names []string, before time.Time, bytes *int64, known func([]string) ([]string, error)) (removed int, err error) {
	list, err := known(names)
	if err != nil {
		return 0, err
	}
	kept := make(map[string]bool, len(list))
	for _, name := range list {
		kept[name] = true
	}
	err = d.locked(path, syscall.LOCK_EX, func(*os.File) error {
		var errs []error
		for _, name := range names {
			file := filepath.Join(path, name)
			size, is := d.oldFile(file, before)
			if kept[name] || !is {
				continue
			}
			if err := d.root.Remove(file); err != nil {
				if !errors.Is(err, fs.ErrNotExist) {
					errs = append(errs, err)
				}
				continue
			}
			removed, *bytes = removed+1, *bytes+size
		}
		return errors.Join(errs...)
	})
	return removed, err
}

// oldFile tells whether a file is there and was last written to before then.
func (d *Dir) oldFile(path string, before time.Time) (size int64, old bool) {
	info, err := d.root.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		return 0, false
	}
	return info.Size(), info.ModTime().Before(before)
}
