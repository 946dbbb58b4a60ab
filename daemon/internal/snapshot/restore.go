package snapshot

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/sdk/step"
)

// Restore puts a tree together in an empty folder, which nobody else may be at
// work in.
type Restore struct {
	root *os.Root
	dir  string
	uid  uint32
	n    int                    // members of all layers
	mode map[string]fs.FileMode // of folders: set at the end, with their times
	time map[string]time.Time
}

// Into begins. Everything will belong to uid. Close it after use.
func Into(dir string, uid uint32) (*Restore, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &Restore{root: root, dir: dir, uid: uid, mode: map[string]fs.FileMode{}, time: map[string]time.Time{}}, nil
}

// Close lets the folder go.
func (r *Restore) Close() error { return r.root.Close() }

// Apply adds a layer. Its files may have so many bytes in all.
func (r *Restore) Apply(ctx context.Context, layer io.Reader, most int64) error {
	z, err := gzip.NewReader(layer)
	if err != nil {
		return broken(err)
	}
	defer func() { _ = z.Close() }() // it was only read
	// Besides the files there are headers, each of which takes some.
	const perMember, perLayer = 16 << 10, 1 << 20
	a := tar.NewReader(patient(ctx, io.LimitReader(z, most+maxNames+perLayer+MaxEntries*perMember)))
	for first := true; ; first = false {
		h, err := a.Next()
		if errors.Is(err, io.EOF) && !first {
			return nil
		}
		if err != nil {
			return broken(err)
		}
		if r.n++; r.n > MaxLayers*(MaxEntries+2) {
			return step.Errorf(step.KindInvalid, "a layer has too many files")
		}
		if first != (h.Name == goneName) {
			return step.Errorf(step.KindInvalid, "a layer does not begin with what is gone")
		}
		if most -= h.Size; most < -maxNames {
			return step.Errorf(step.KindInvalid, "a layer has more bytes than it should")
		}
		if first {
			err = r.remove(a, h.Size)
		} else {
			err = r.member(h, a)
		}
		if err != nil {
			return err
		}
	}
}

func broken(err error) error { return step.Errorf(step.KindInvalid, "a layer cannot be read: %w", err) }

// remove takes away what is gone, the deepest first.
func (r *Restore) remove(list io.Reader, size int64) error {
	if size > 2*maxNames {
		return step.Errorf(step.KindInvalid, "a layer has too long a list of what is gone")
	}
	raw, err := io.ReadAll(list)
	if err != nil {
		return broken(err)
	}
	if bytes.Count(raw, []byte{0}) > MaxEntries+1 {
		return step.Errorf(step.KindInvalid, "a layer has too long a list of what is gone")
	}
	names := strings.Split(string(raw), "\x00")
	slices.Sort(names)
	for _, name := range slices.Backward(names) {
		if name == "" || name == "." {
			continue
		}
		if err := r.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			return err
		}
		delete(r.mode, name)
		delete(r.time, name)
	}
	return nil
}

// member makes one file, folder or link.
func (r *Restore) member(h *tar.Header, content io.Reader) error {
	name, ok := strings.CutPrefix(h.Name, treePrefix)
	if !ok || name != path.Clean(name) || !filepath.IsLocal(name) {
		return step.Errorf(step.KindInvalid, "a layer has the name %.100q", h.Name)
	}
	if h.Typeflag == tar.TypeDir {
		if name != "." {
			if err := r.root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
		r.mode[name], r.time[name] = fs.FileMode(h.Mode)&fs.ModePerm, h.ModTime //nolint:gosec // bits
		return nil
	}
	// Never into what is there: it may be a link, or have another name as well.
	if err := r.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg:
		return r.file(name, h, content)
	case tar.TypeSymlink:
		return r.link(name, h)
	}
	return step.Errorf(step.KindInvalid, "a layer has something that is no file, folder or link")
}

func (r *Restore) file(name string, h *tar.Header, content io.Reader) (err error) {
	f, err := r.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := fill(f, content, h.Size); err != nil {
		return err
	}
	if err := f.Chown(int(r.uid), int(r.uid)); err != nil {
		return err
	}
	if err := f.Chmod(fs.FileMode(h.Mode) & fs.ModePerm); err != nil { //nolint:gosec // bits
		return err
	}
	return setTimes(int(f.Fd()), "", h.ModTime, unix.AT_EMPTY_PATH)
}

// fill writes a file, with holes where there are only zeros: one that had them
// needs no more room here than where it was saved.
func fill(f *os.File, content io.Reader, size int64) error {
	buf, zero := make([]byte, 64<<10), make([]byte, 64<<10)
	for at := int64(0); at < size; {
		n, err := io.ReadFull(content, buf[:min(size-at, int64(len(buf)))])
		if err != nil {
			return broken(err)
		}
		if !bytes.Equal(buf[:n], zero[:n]) {
			if _, err := f.WriteAt(buf[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
	}
	return f.Truncate(size)
}

func (r *Restore) link(name string, h *tar.Header) error {
	if err := r.root.Symlink(h.Linkname, name); err != nil {
		return err
	}
	if err := r.root.Lchown(name, int(r.uid), int(r.uid)); err != nil {
		return err
	}
	above, err := r.root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer above.Close()
	return setTimes(int(above.Fd()), path.Base(name), h.ModTime, unix.AT_SYMLINK_NOFOLLOW)
}

func setTimes(fd int, name string, at time.Time, flags int) error {
	ts, err := unix.TimeToTimespec(at)
	if err != nil {
		return err
	}
	if err := unix.UtimesNanoAt(fd, name, []unix.Timespec{ts, ts}, flags); err != nil {
		return fmt.Errorf("times: %w", err)
	}
	return nil
}

// Finish gives the folders their owner, rights and times, and has all of it
// written to the disk.
func (r *Restore) Finish() error {
	names := slices.Sorted(maps.Keys(r.mode))
	for _, name := range slices.Backward(names) { // what is below first
		if err := r.folder(name); err != nil {
			return err
		}
	}
	top, err := r.root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(top.Fd())), top.Close())
}

func (r *Restore) folder(name string) (err error) {
	f, err := r.root.Open(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Chown(int(r.uid), int(r.uid)); err != nil {
		return err
	}
	if err := f.Chmod(r.mode[name]); err != nil {
		return err
	}
	return setTimes(int(f.Fd()), "", r.time[name], unix.AT_EMPTY_PATH)
}
