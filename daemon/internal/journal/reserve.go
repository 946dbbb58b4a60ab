package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// place is how much of a reserve one verdict gets: more than it has, but for a
// list of thousands of artifacts.
const place = 256 << 10

// Reserve is room that was taken on the disk while there was some: on a full
// disk the verdicts go there, so that it costs output, never the truth about how
// a step ended. A file system that cannot give room beforehand has none.
type Reserve struct {
	dir  string
	most int

	mu   sync.Mutex
	free []string
}

// NewReserve takes places for so many verdicts in the folder dir, which is made
// if it is missing and must be on the file system of the journals. As many as
// there is room for is no error.
func NewReserve(dir string, most int) (*Reserve, error) {
	r := &Reserve{dir: dir, most: most}
	return r, errors.Join(os.MkdirAll(dir, 0o700), r.fill())
}

// fill takes the places that are missing.
func (r *Reserve) fill() error {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.free) == r.most {
		return nil
	}
	r.free = r.free[:0]
	for i := range r.most {
		name := filepath.Join(r.dir, fmt.Sprint(i))
		switch err := take(name); {
		case errors.Is(err, unix.EOPNOTSUPP):
			return nil
		case Full(err):
			continue // the next fill tries again; what is there already needs nothing
		case err != nil:
			return err
		}
		r.free = append(r.free, name)
	}
	return nil
}

// take makes a file that is empty and has its room.
func take(name string) error {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, place), f.Close())
}

// give moves a place to the path to, and opens it.
func (r *Reserve) give(to string) (*os.File, error) {
	if r == nil {
		return nil, errNoPlace
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.free)
	if n == 0 {
		return nil, errNoPlace
	}
	name := r.free[n-1]
	r.free = r.free[:n-1]
	if err := os.Rename(name, to); err != nil {
		return nil, err
	}
	return os.OpenFile(to, os.O_RDWR, 0)
}

var errNoPlace = errors.New("nothing is left of the reserve")

// Full reports whether an error says that there is no room on the disk.
func Full(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }
