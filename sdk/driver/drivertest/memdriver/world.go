package memdriver

import (
	"bytes"
	"crypto/rand"
	"reflect"
	"sync"
	"time"

	"github.com/nofx-run/nofx/sdk/driver"
	"github.com/nofx-run/nofx/sdk/step"
)

// World holds sandboxes. It outlives the drivers over it.
type World struct {
	mu        sync.Mutex
	sandboxes map[string]*sandbox
}

// NewWorld makes an empty one.
func NewWorld() *World { return &World{sandboxes: map[string]*sandbox{}} }

// Close destroys every sandbox.
func (w *World) Close() {
	w.mu.Lock()
	all := make([]*sandbox, 0, len(w.sandboxes))
	for _, sb := range w.sandboxes {
		all = append(all, sb)
	}
	w.mu.Unlock()
	for _, sb := range all {
		w.destroy(sb)
	}
}

// Len is the number of sandboxes.
func (w *World) Len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.sandboxes)
}

func (w *World) create(spec driver.Spec) (*sandbox, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if sb, ok := w.sandboxes[spec.ID]; ok {
		// The deadline is not part of what the sandbox is: whoever repeats a
		// Create may hold a later lease by then.
		same := spec
		same.Until = sb.spec.Until
		if !reflect.DeepEqual(same, sb.spec) {
			return nil, step.Errorf(step.KindConflict, "sandbox %s exists with another spec", spec.ID)
		}
		return sb, nil
	}
	token := make([]byte, 8)
	_, _ = rand.Read(token) // never fails
	sb := newSandbox(spec, token, time.Now().UTC())
	w.sandboxes[spec.ID] = sb
	return sb, nil
}

// find is the sandbox of that id and incarnation, or nil.
func (w *World) find(id string, incarnation []byte) *sandbox {
	w.mu.Lock()
	defer w.mu.Unlock()
	sb := w.sandboxes[id]
	if sb == nil || !bytes.Equal(sb.incarnation, incarnation) {
		return nil
	}
	return sb
}

func (w *World) owned(owner string) []*sandbox {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []*sandbox
	for _, sb := range w.sandboxes {
		if sb.spec.Tags.Owner == owner {
			all = append(all, sb)
		}
	}
	return all
}

func (w *World) destroy(sb *sandbox) {
	sb.destroy()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sandboxes[sb.spec.ID] == sb {
		delete(w.sandboxes, sb.spec.ID)
	}
}
