package diskwatch

import (
	"context"
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	mostOpen  = 64       // folders above the one that is read that stay open
	mostNames = 16 << 20 // bytes of names that wait to be looked at
	sector    = 512      // what st_blocks counts in
)

// walk adds up a tree that a hostile program may change meanwhile. It follows no
// link, leaves the file system never, and keeps few descriptors however deep the
// tree is: of a folder far above, it goes back by way of "..", and only when that
// is still the folder that it came from.
type walk struct {
	most  int64 // files; 0 = no bound
	dev   uint64
	seen  map[uint64]struct{} // folders, and inodes that have several names, or none
	names int
	size  Size
}

// level is a folder on the way.
type level struct {
	fd    int // -1 = closed
	ino   uint64
	names []string // not looked at yet
	at    int64    // where its reading goes on, while it is closed
}

func (w *walk) tree(ctx context.Context, dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	w.dev = st.Dev
	w.add(&st)
	levels := []*level{{fd: fd, ino: st.Ino}}
	defer func() {
		for _, l := range levels {
			l.close()
		}
	}()
	for n := 0; len(levels) > 0; n++ {
		if n%256 == 0 && ctx.Err() != nil {
			w.size.Part = true
			return context.Cause(ctx)
		}
		if w.most > 0 && w.size.Files > w.most || w.names > mostNames {
			w.size.Part = true
			return nil
		}
		top := levels[len(levels)-1]
		name, err := w.next(top)
		if err != nil {
			return err
		}
		if name != "" {
			below, err := w.entry(top, name)
			if err != nil {
				return err
			}
			if below != nil {
				levels = append(levels, below)
				if up := len(levels) - 1 - mostOpen; up > 0 { // the first stays open
					levels[up].suspend()
				}
			}
			continue
		}
		levels = levels[:len(levels)-1]
		if n := len(levels); n > 0 && levels[n-1].fd < 0 && !levels[n-1].resume(top.fd) {
			w.size.Part = true // it has been moved: what is left there is not seen
			for levels[len(levels)-1].fd < 0 {
				w.drop(levels[len(levels)-1])
				levels = levels[:len(levels)-1]
			}
		}
		top.close()
	}
	return nil
}

// next is a name in a folder, "" after the last.
func (w *walk) next(l *level) (string, error) {
	if len(l.names) == 0 {
		buf := make([]byte, 8<<10)
		n, err := unix.Getdents(l.fd, buf)
		if errors.Is(err, unix.ENOENT) { // removed while it is read
			return "", nil
		}
		if err != nil || n <= 0 {
			return "", err
		}
		_, _, l.names = unix.ParseDirent(buf[:n], -1, nil)
		for _, name := range l.names {
			w.names += len(name)
		}
		if len(l.names) == 0 { // "." and ".." alone
			return w.next(l)
		}
	}
	name := l.names[0]
	l.names = l.names[1:]
	w.names -= len(name)
	return name, nil
}

func (w *walk) drop(l *level) {
	for _, name := range l.names {
		w.names -= len(name)
	}
}

// entry adds what has a name in a folder, and opens it when it is one itself.
func (w *walk) entry(in *level, name string) (*level, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(in.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, unlessGone(err)
	}
	if st.Dev != w.dev {
		return nil, nil //nolint:nilnil // nothing of the workspace's
	}
	if !w.add(&st) || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil, nil //nolint:nilnil // nothing is below it, or that has been seen
	}
	fd, err := unix.Openat(in.fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NOATIME, 0)
	if err != nil {
		return nil, unlessGone(err)
	}
	if err := unix.Fstat(fd, &st); err != nil || st.Dev != w.dev {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return &level{fd: fd, ino: st.Ino}, nil
}

// unlessGone leaves out that something else has the name by now.
func unlessGone(err error) error {
	for _, e := range []error{unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.ESTALE} {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}

// add counts an inode, and reports whether it is the first time. A folder may come
// twice, when it is moved meanwhile.
func (w *walk) add(st *unix.Stat_t) bool {
	if st.Nlink != 1 || st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if _, again := w.seen[st.Ino]; again {
			return false
		}
		w.seen[st.Ino] = struct{}{}
	}
	w.size.Bytes += st.Blocks * sector
	w.size.Files++
	return true
}

func (l *level) close() {
	if l.fd >= 0 {
		_ = unix.Close(l.fd) // it was only read
		l.fd = -1
	}
}

// suspend closes a folder that is to be gone back to.
func (l *level) suspend() {
	at, err := unix.Seek(l.fd, 0, unix.SEEK_CUR)
	if err != nil {
		return // it stays open
	}
	l.at = at
	l.close()
}

// resume opens a folder again from one that was in it.
func (l *level) resume(below int) bool {
	fd, err := unix.Openat(below, "..", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NOATIME, 0)
	if err != nil {
		return false
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err == nil && st.Ino == l.ino {
		if _, err := unix.Seek(fd, l.at, unix.SEEK_SET); err == nil {
			l.fd = fd
			return true
		}
	}
	_ = unix.Close(fd)
	return false
}

// mostHeld bounds the descriptors that are looked at.
const mostHeld = 50_000

// held adds what processes hold open that has no name any more, as far as it shows
// in their descriptors.
func (w *walk) held(ctx context.Context, pids []int) {
	left := mostHeld
	for _, pid := range pids {
		process := "/proc/" + strconv.Itoa(pid)
		for _, task := range list(process+"/task", &left) {
			if ctx.Err() != nil || left <= 0 {
				w.size.Part = true
				return
			}
			at := process + "/task/" + task + "/fd"
			for _, fd := range list(at, &left) {
				var st unix.Stat_t
				// The link is the kernel's own and leads to the open file, not to a path.
				if unix.Stat(at+"/"+fd, &st) == nil && st.Nlink == 0 && st.Dev == w.dev && st.Mode&unix.S_IFMT == unix.S_IFREG {
					w.add(&st)
				}
			}
		}
	}
}

// list gives the names in a folder of /proc, as many as may still be looked at.
func list(dir string, left *int) []string {
	f, err := os.Open(dir)
	if err != nil {
		return nil // the process has ended
	}
	defer f.Close()
	if *left <= 0 {
		return nil
	}
	names, _ := f.Readdirnames(*left) // those that came
	*left -= len(names)
	return names
}
