// Package blob keeps bytes in a folder: artifacts under tenant/sha256, and the
// output segments of attempts. What is stored under a hash never changes;
// tenants share nothing, not even equal bytes. A segment grows at its end, and
// only the part that the database knows of counts.
package blob

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"syscall"

	"github.com/nofx-run/nofx/sdk/step"
)

// Dir is a blob store for one replica.
type Dir struct {
	root *os.Root
}

// Open makes the folder if need be. Close it after use.
func Open(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	for _, sub := range []string{"artifacts", "output", "incoming"} {
		if err := root.Mkdir(sub, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, errors.Join(err, root.Close())
		}
	}
	return &Dir{root: root}, nil
}

// Close lets the folder go.
func (d *Dir) Close() error { return d.root.Close() }

var (
	hashForm = regexp.MustCompile(`^[0-9a-f]{64}$`)
	nameForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)
)

func artifactPath(tenant, sum string) (string, error) {
	if !nameForm.MatchString(tenant) || !hashForm.MatchString(sum) {
		return "", step.Errorf(step.KindInvalid, "not a sha256 in lower case hex")
	}
	return filepath.Join("artifacts", tenant, sum[:2], sum), nil
}

// Put stores the bytes of r, which must have this hash and, unless it is
// negative, this size. Bytes that are there already are read and compared all
// the same: who sends a hash proves that it has the bytes.
func (d *Dir) Put(ctx context.Context, tenant, sum string, size, limit int64, r io.Reader) (err error) {
	path, err := artifactPath(tenant, sum)
	if err != nil {
		return err
	}
	name := filepath.Join("incoming", fmt.Sprintf("%s-%d", sum[:16], nonce()))
	f, err := d.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if e := d.root.Remove(name); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(r, limit+1))
	switch {
	case err != nil:
		var known *step.Error
		if errors.As(err, &known) || ctx.Err() != nil {
			return err
		}
		return step.Errorf(step.KindInvalid, "the body broke off: %w", err)
	case n > limit:
		return step.Errorf(step.KindTooLarge, "an artifact has at most %d bytes", limit)
	case size >= 0 && n != size:
		return step.Errorf(step.KindInvalid, "%d bytes came, not %d", n, size)
	case hex.EncodeToString(h.Sum(nil)) != sum:
		return step.Errorf(step.KindInvalid, "the bytes do not have this sha256")
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := d.root.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	// A collector that has looked at older bytes at this place must not take
	// these for them.
	return d.locked(filepath.Dir(path), syscall.LOCK_SH, func(dir *os.File) error {
		if err := d.root.Rename(name, path); err != nil {
			return err
		}
		return dir.Sync()
	})
}

// locked runs do while it holds a lock on a folder, also against other
// processes.
func (d *Dir) locked(path string, how int, do func(*os.File) error) (err error) {
	dir, err := d.root.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }() // ends the lock
	for {
		err := syscall.Flock(int(dir.Fd()), how) //nolint:gosec // a descriptor
		if err == nil {
			return do(dir)
		}
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

func (d *Dir) syncDir(path string) error {
	dir, err := d.root.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Has is the size of a stored artifact; an error of kind not_found when it is
// not there.
func (d *Dir) Has(tenant, sum string) (size int64, err error) {
	path, err := artifactPath(tenant, sum)
	if err != nil {
		return 0, err
	}
	info, err := d.root.Stat(path)
	if err != nil {
		return 0, absent(err)
	}
	return info.Size(), nil
}

// Get opens a stored artifact.
func (d *Dir) Get(tenant, sum string) (*os.File, error) {
	path, err := artifactPath(tenant, sum)
	if err != nil {
		return nil, err
	}
	f, err := d.root.Open(path)
	return f, absent(err)
}

func absent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &step.Error{Kind: step.KindNotFound, Message: "not found", Err: err}
	}
	return err
}

// Check tells whether the folder can be written to.
func (d *Dir) Check() error {
	name := filepath.Join("incoming", fmt.Sprintf("check-%d", nonce()))
	f, err := d.root.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), d.root.Remove(name))
}
