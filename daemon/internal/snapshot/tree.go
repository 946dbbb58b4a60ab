package snapshot

import (
	"context"
	"errors"
	"io"
	"os"
	"path"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/sdk/step"
)

// tree is an open workspace.
type tree struct {
	top *os.File
	dev uint64
}

func openTree(dir string) (*tree, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, step.Errorf(step.KindInternal, "workspace: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return &tree{top: os.NewFile(uintptr(fd), "workspace"), dev: st.Dev}, nil
}

func (t *tree) close() { _ = t.top.Close() } // it was only read

// open opens what is at a path, whoever may change the folders above it
// meanwhile: nothing outside, nothing through a link.
func (t *tree) open(name string, flags int) (*os.File, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_NOFOLLOW | unix.O_CLOEXEC), //nolint:gosec // flags are not negative
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	for {
		fd, err := unix.Openat2(int(t.top.Fd()), name, &how)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) && flags&unix.O_NONBLOCK == 0 {
			continue
		}
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), "file"), nil
	}
}

// regular opens a file to be read. Errors that gone knows say that there is none.
func (t *tree) regular(name string) (*os.File, unix.Stat_t, error) {
	var st unix.Stat_t
	// A pipe must not hold us up.
	f, err := t.open(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_NOATIME)
	if err != nil {
		return nil, st, err
	}
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, st, errors.Join(err, f.Close())
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, st, errors.Join(unix.ENOENT, f.Close())
	}
	return f, st, nil
}

// target reads a link.
func (t *tree) target(name string) (string, error) {
	f, err := t.open(name, unix.O_PATH)
	if err != nil {
		return "", err
	}
	defer f.Close()
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(f.Fd()), "", buf)
	if errors.Is(err, unix.EINVAL) {
		err = unix.ENOENT // it is not a link any more
	}
	return string(buf[:max(n, 0)]), err
}

// gone reports whether an error says that something else is at the path by now.
func gone(err error) bool {
	for _, e := range []error{unix.ENOENT, unix.ELOOP, unix.ENOTDIR, unix.EXDEV, unix.ENXIO, unix.EISDIR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// scan looks at the whole tree and opens no file.
func (t *tree) scan(ctx context.Context) (map[string]entry, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(t.top.Fd()), &st); err != nil {
		return nil, err
	}
	w := walk{dev: t.dev, found: map[string]entry{".": entryOf(&st)}}
	return w.found, w.in(ctx, int(t.top.Fd()), ".", 0)
}

type walk struct {
	dev   uint64
	names int
	found map[string]entry
}

func (w *walk) in(ctx context.Context, fd int, at string, depth int) error {
	if depth > maxDepth {
		return &RefusedError{Reason: "too_deep"}
	}
	names, err := w.list(ctx, fd)
	if err != nil {
		return err
	}
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			if gone(err) {
				continue
			}
			return err
		}
		e, full := entryOf(&st), path.Join(at, name)
		if e.kind == unknown || st.Dev != w.dev {
			continue
		}
		if len(full) > maxPath {
			return &RefusedError{Reason: "too_deep"}
		}
		if w.names += len(full); w.names > maxNames {
			return &RefusedError{Reason: "too_many"}
		}
		w.found[full] = e
		if e.kind != folder {
			continue
		}
		if err := w.below(ctx, fd, name, full, depth); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) below(ctx context.Context, fd int, name, full string, depth int) error {
	sub, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NOATIME, 0)
	if err != nil {
		if gone(err) {
			return nil
		}
		return err
	}
	defer func() { _ = unix.Close(sub) }()
	return w.in(ctx, sub, full, depth+1)
}

// list gives the names in a folder in order, as far as there may be so many.
func (w *walk) list(ctx context.Context, fd int) ([]string, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	again, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOATIME, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(again), "folder")
	defer f.Close()
	var all []string
	for {
		names, err := f.Readdirnames(1024)
		all = append(all, names...)
		if len(w.found)+len(all) > MaxEntries+1 {
			return nil, &RefusedError{Reason: "too_many"}
		}
		if errors.Is(err, io.EOF) {
			slices.Sort(all)
			return all, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func entryOf(st *unix.Stat_t) entry {
	e := entry{kind: unknown, mode: st.Mode & 0o777, mtime: st.Mtim.Nano(), ctime: st.Ctim.Nano(), inode: st.Ino}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.kind, e.size = file, st.Size
	case unix.S_IFDIR:
		e.kind = folder
	case unix.S_IFLNK:
		e.kind, e.size = link, st.Size
	}
	return e
}

// fresh reports whether something has changed so shortly before now that a
// change after that might not show.
func (e entry) fresh(now time.Time) bool { return e.ctime > now.Add(-tick).UnixNano() }

// same reports whether nothing shows a change since. Of a folder all that is
// saved is compared; the daemon itself moves the last change of the workspace's.
func (e entry) same(old entry) bool {
	return e.kind == old.kind && e.mode == old.mode && e.size == old.size && e.mtime == old.mtime &&
		(e.kind == folder || e.ctime == old.ctime && e.inode == old.inode)
}

// Scan is the index of a tree that has just been put together and that nobody
// works in yet. It waits until what is written from now on will show.
func Scan(ctx context.Context, dir string) (*Index, error) {
	timer := time.NewTimer(tick)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	t, err := openTree(dir)
	if err != nil {
		return nil, err
	}
	defer t.close()
	found, err := t.scan(ctx)
	return &Index{entries: found}, err
}
