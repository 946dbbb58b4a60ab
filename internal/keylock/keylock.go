// Package keylock has mutexes by name.
package keylock

import (
	"context"
	"sync"
)

// Locks are mutexes by name, there while somebody holds or awaits them. The zero
// value is ready.
type Locks struct {
	mu   sync.Mutex
	held map[string]*lock
}

type lock struct {
	token chan struct{} // holds one token while it is free
	users int
}

// Lock waits for the lock of key and gives the function that frees it, to be
// called once. An error is why ctx has ended.
func (k *Locks) Lock(ctx context.Context, key string) (func(), error) {
	k.mu.Lock()
	l := k.held[key]
	if l == nil {
		l = &lock{token: make(chan struct{}, 1)}
		l.token <- struct{}{}
		if k.held == nil {
			k.held = map[string]*lock{}
		}
		k.held[key] = l
	}
	l.users++
	k.mu.Unlock()
	leave := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(k.held, key)
		}
	}
	select {
	case <-l.token:
		return func() { l.token <- struct{}{}; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, context.Cause(ctx)
	}
}
