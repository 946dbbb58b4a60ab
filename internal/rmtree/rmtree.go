// Package rmtree removes folders that hostile programs have filled.
package rmtree

import (
	"errors"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/sdk/step"
)

// Remove removes a folder whatever a step has made in it: folders 10,000
// deep, odd names, no rights. It follows no link and keeps two descriptors:
// every folder is first moved to the top, so that nothing is ever deep. Of two
// that remove the same tree one waits for the other. A folder that is not
// there is no error.
func Remove(path string) error { return remove(path, 0) }

// TryRemove is Remove, but leaves a tree that somebody else is removing to him.
func TryRemove(path string) error { return remove(path, unix.LOCK_NB) }

func remove(path string, how int) error {
	top, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return step.Errorf(step.KindInternal, "remove: %w", err)
	}
	defer func() { _ = unix.Close(top) }()
	switch err := unix.Flock(top, unix.LOCK_EX|how); {
	case errors.Is(err, unix.EWOULDBLOCK):
		return nil
	case err != nil:
		return step.Errorf(step.KindInternal, "remove: %w", err)
	}
	if st := (unix.Stat_t{}); unix.Fstat(top, &st) != nil || st.Nlink == 0 {
		return nil // the other one is done
	}
	r := remover{top: top}
	if err := r.empty(".", top); err != nil {
		return err
	}
	for r.next < r.moved {
		r.next++
		if err := r.folder(folderName(r.next)); err != nil {
			return err
		}
	}
	if err := unix.Rmdir(path); err != nil && !errors.Is(err, unix.ENOENT) {
		return step.Errorf(step.KindInternal, "remove: %w", err)
	}
	return nil
}

// remover moves folders to the top under numbers and empties them in turn.
type remover struct {
	top         int
	moved, next int
}

func folderName(n int) string { return "..gone." + strconv.Itoa(n) }

// folder removes one folder that lies at the top.
func (r *remover) folder(name string) error {
	fd, err := unix.Openat(r.top, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil // moved on under another number
	}
	if err != nil {
		return step.Errorf(step.KindInternal, "remove: %w", err)
	}
	err = r.empty(name, fd)
	_ = unix.Close(fd)
	if err != nil {
		return err
	}
	if err := unix.Unlinkat(r.top, name, unix.AT_REMOVEDIR); err != nil {
		return step.Errorf(step.KindInternal, "remove: %w", err)
	}
	return nil
}

// empty removes what is in a folder and moves its folders to the top.
func (r *remover) empty(name string, fd int) error {
	dup, err := unix.Openat(r.top, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return step.Errorf(step.KindInternal, "remove: %w", err)
	}
	f := os.NewFile(uintptr(dup), name)
	defer f.Close()
	for removed := 0; ; {
		names, err := f.Readdirnames(1024)
		if errors.Is(err, io.EOF) {
			if removed == 0 {
				return nil
			}
			// A folder that changes while it is read may hide an entry.
			removed = 0
			if _, err := f.Seek(0, io.SeekStart); err != nil {
				return step.Errorf(step.KindInternal, "remove: %w", err)
			}
			continue
		}
		if err != nil {
			return step.Errorf(step.KindInternal, "remove: %w", err)
		}
		for _, n := range names {
			if fd == r.top && strings.HasPrefix(n, "..gone.") && r.ours(n) {
				continue
			}
			if err := r.entry(fd, n); err != nil {
				return err
			}
			removed++
		}
	}
}

// ours tells a folder that was moved to the top from one that lay there.
func (r *remover) ours(name string) bool {
	n, err := strconv.Atoi(strings.TrimPrefix(name, "..gone."))
	return err == nil && n > r.next && n <= r.moved
}

func (r *remover) entry(fd int, name string) error {
	err := unix.Unlinkat(fd, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return step.Errorf(step.KindInternal, "remove: %w", err)
	}
	for {
		to := folderName(r.moved + 1)
		if fd == r.top && name == to {
			r.moved++ // left by a removal that did not finish
			return nil
		}
		err := unix.Renameat2(fd, name, r.top, to, unix.RENAME_NOREPLACE)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return step.Errorf(step.KindInternal, "remove: %w", err)
		}
		r.moved++ // either way the folder of that number is at the top now
		if err == nil {
			return nil
		}
	}
}
