// Package snapshot saves a workspace in layers and puts it together again. The
// first layer of a chain is full, the others hold what has changed since the one
// before, and what is gone.
//
// The tree belongs to an untrusted uid and may change while it is read. Nothing
// is followed, nothing is opened but regular files, and what changes under the
// reader's eyes is saved as it was at some moment of the reading; the next layer
// has it again. Saved are regular files, folders and symbolic links with their
// times and permission bits: no owners (all of it is the run's), no set-id bits,
// no extended attributes, no devices, pipes and sockets. Hard links become files
// of their own.
package snapshot

import (
	"fmt"
	"time"
)

// Limits of what can be saved.
const (
	MaxEntries = 250_000  // files, folders and links in a tree
	maxNames   = 64 << 20 // bytes of all their paths
	maxPath    = 4000     // bytes of one
	maxDepth   = 500      // folders
	MaxLayers  = 64       // in a chain
	goodLayers = 8        // after which a full one is made, if there is room for it
)

// tick is more than the time for which a file that is written to again may show
// the same times.
const tick = 20 * time.Millisecond

// RefusedError says why a tree is not saved.
type RefusedError struct {
	Reason       string // too_large, too_many, too_deep
	Bytes, Limit int64  // with too_large
}

func (r *RefusedError) Error() string {
	if r.Limit > 0 {
		return fmt.Sprintf("the workspace is not saved: %s: %d bytes, limit %d", r.Reason, r.Bytes, r.Limit)
	}
	return "the workspace is not saved: " + r.Reason
}
