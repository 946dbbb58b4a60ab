// Package uids hands out host uids for sandboxes and workspaces from a range
// that belongs to this installation alone.
//
// What is handed out is not written down by itself: it is in the ledger with
// what it is for, and Reserve takes it back from there after a restart. A slot
// that was given back is not handed out again before Sweep has seen that no
// process of the host has its uids.
package uids

import (
	"maps"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/nofx-run/nofx/sdk/step"
)

// slot is how many uids a sandbox gets: its root and its step user.
const slot = 2

// Range hands out slots of two uids. It is safe for concurrent use.
type Range struct {
	base uint32
	n    uint32 // slots

	mu      sync.Mutex
	next    uint32
	used    map[uint32]bool // by the slot's number
	cooling map[uint32]bool // given back, not yet seen free
}

// New makes the range of count uids from base on.
func New(base, count uint32) (*Range, error) {
	if base < 65536 || count < 2*slot || base+count < base {
		return nil, step.Errorf(step.KindInvalid, "uid_base %d and uid_count %d: a range above 65535 with at least %d uids is needed", base, count, 2*slot)
	}
	return &Range{base: base, n: count / slot, used: map[uint32]bool{}, cooling: map[uint32]bool{}}, nil
}

// Count is how many uids one slot has.
func (r *Range) Count() uint32 { return slot }

// Reserve marks the slot that begins with uid as handed out.
func (r *Range) Reserve(uid uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if uid >= r.base && (uid-r.base)/slot < r.n {
		r.used[(uid-r.base)/slot] = true
	}
}

// Take hands out a slot and returns its first uid: unavailable when none is
// free.
func (r *Range) Take() (uint32, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for range r.n {
		i := r.next
		r.next = (r.next + 1) % r.n
		if !r.used[i] && !r.cooling[i] {
			r.used[i] = true
			return r.base + i*slot, nil
		}
	}
	return 0, step.Errorf(step.KindUnavailable, "all %d uid slots are in use", r.n)
}

// Free gives the slot that begins with uid back.
func (r *Range) Free(uid uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := (uid - r.base) / slot
	if r.used[i] {
		delete(r.used, i)
		r.cooling[i] = true
	}
}

// Sweep looks at the host's processes once and makes those slots available
// again that were given back and that no process has. It returns how many are
// still held by a process that should not be there.
func (r *Range) Sweep() (held int, err error) {
	r.mu.Lock()
	cooling := maps.Clone(r.cooling)
	r.mu.Unlock()
	if len(cooling) == 0 {
		return 0, nil
	}
	alive, err := r.alive()
	if err != nil {
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range cooling {
		if alive[i] {
			held++
			continue
		}
		delete(r.cooling, i)
	}
	return held, nil
}

// alive gives the slots that a process of the host has now.
func (r *Range) alive() (map[uint32]bool, error) {
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	found := map[uint32]bool{}
	for _, d := range dirs {
		if d.Name()[0] < '0' || d.Name()[0] > '9' {
			continue
		}
		info, err := os.Stat(filepath.Join("/proc", d.Name()))
		if err != nil {
			continue // it has ended
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid >= r.base {
			found[(st.Uid-r.base)/slot] = true
		}
	}
	return found, nil
}

// Occupied marks the slots that processes have now as not free, until a Sweep
// sees that they are: what an earlier daemon left is not known otherwise.
func (r *Range) Occupied() error {
	alive, err := r.alive()
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range alive {
		if i < r.n && !r.used[i] {
			r.cooling[i] = true
		}
	}
	return nil
}
