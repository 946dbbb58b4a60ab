package daemon

import (
	"fmt"
	"log/slog"
	"math"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/nofx-run/nofx/daemon/internal/metrics"
	"github.com/nofx-run/nofx/sdk/wire"
)

const (
	// leastRoom is how much must be left on the disk that journals and workspaces
	// are on: with less, nothing new begins here.
	leastRoom = 8 << 20
	// roomAgain is when it does again.
	roomAgain = 2 * leastRoom
	// verdictPlaces bounds the room that is taken beforehand for verdicts.
	verdictPlaces = 64
)

// disk says of drivers that they cannot be had while the host's disk is full: then
// nothing is claimed, and the API finds other places for what waits.
type disk struct {
	metrics.Source
	room func() (uint64, error) // bytes that a step could write
	log  *slog.Logger

	mu   sync.Mutex
	full bool
}

// roomOf is the room on the file system that a folder is on. One that has no
// place for another file has none, and one without a size is never full.
func roomOf(dir string) func() (uint64, error) {
	return func() (uint64, error) {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil || st.Files > 0 && st.Ffree == 0 {
			return 0, err
		}
		if st.Blocks == 0 {
			return math.MaxUint64, nil
		}
		return st.Bavail * uint64(st.Bsize), nil //nolint:gosec // a size of blocks
	}
}

// Infos implements metrics.Source.
func (d *disk) Infos() []wire.DriverInfo {
	all := d.Source.Infos()
	if !d.look() {
		return all
	}
	for i := range all {
		if all[i].Full = true; all[i].Healthy {
			all[i].Healthy, all[i].Message = false, fmt.Sprintf("the disk of the worker's data_dir is full: less than %d MiB are left", leastRoom>>20)
		}
	}
	return all
}

// look reports whether the disk is full. One that cannot be asked is not.
func (d *disk) look() bool {
	room, err := d.room()
	d.mu.Lock()
	defer d.mu.Unlock()
	was := d.full
	d.full = err == nil && (room < leastRoom || was && room < roomAgain)
	switch {
	case d.full && !was:
		d.log.Error("the disk of data_dir is full: nothing new begins here", "left", room)
	case was && !d.full:
		d.log.Info("there is room on the disk of data_dir again", "left", room)
	}
	return d.full
}
