package diskwatch

import "context"

const (
	mostReserve  = 128 << 20 // bytes of the disk that are kept for those who need little
	reserveShare = 50        // or that share of a small disk
)

// reserve is the room on the disk below which somebody has to make some.
func (u Use) reserve() int64 { return min(mostReserve, u.Size/reserveShare) }

// scarce reports whether somebody has to: when the disk has come to have less than
// its reserve, and again whenever only half of what was left then is. A disk that
// had no more when the watch began is left to its operator until then. The caller
// holds the lock.
func (w *Watch) scarce() bool {
	if reserve := w.last.reserve(); w.last.Free >= 2*reserve {
		w.alarm = reserve
	}
	return !w.calling && w.last.Free < w.alarm
}

// relieve has the steps end whose workspace is the largest of those that nothing
// bounds but this watch: better one of them than all of their neighbours. One that
// is smaller than the reserve is not what the disk is full of.
func (w *Watch) relieve(ctx context.Context) {
	w.mu.Lock()
	folders := map[*folder]bool{}
	for s := range w.stays {
		if s.f != nil && !s.ended {
			folders[s.f] = true
		}
	}
	w.mu.Unlock()
	for f := range folders {
		w.walk(ctx, f)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calling = false
	w.account()
	left := w.last.Free
	if left >= w.alarm {
		return
	}
	w.alarm = left / 2
	var largest *folder
	for s := range w.stays {
		if s.f != nil && !s.ended && (largest == nil || s.f.size.Bytes > largest.size.Bytes) {
			largest = s.f
		}
	}
	if largest == nil || largest.size.Bytes < w.last.reserve() {
		w.log.Error("the disk of data_dir is as good as full, and by none of the workspaces here", "left", left)
		return
	}
	w.log.Error("the disk of data_dir is as good as full: the steps of the largest workspace end", "left", left, "dir", largest.dir, "bytes", largest.size.Bytes)
	for s := range w.stays {
		if s.f == largest {
			s.tell(Over{Bytes: largest.size.Bytes, Limit: largest.limit, Left: max(left, 1)})
		}
	}
}
