package auth

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nofx-run/nofx/sdk/step"
)

// keys are asked for one key, slowly.
type keys struct {
	asked atomic.Int64
	gone  atomic.Bool
	away  atomic.Bool
}

func (k *keys) UseKey(context.Context, []byte) (Principal, error) {
	k.asked.Add(1)
	time.Sleep(10 * time.Millisecond) // the bubble's clock
	switch {
	case k.gone.Load():
		return Principal{}, step.Errorf(step.KindNotFound, "gone")
	case k.away.Load():
		return Principal{}, step.Errorf(step.KindUnavailable, "away")
	}
	return Principal{KeyID: "key", TenantID: "acme", Role: User}, nil
}

func newHeader(t *testing.T) string {
	t.Helper()
	key, err := NewKey(User)
	if err != nil {
		t.Fatal(err)
	}
	return "Bearer " + key.Text
}

// Many requests at once ask the database once, also when they have asked
// before, and those that are believed do not wait.
func TestOneLookForManyRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &keys{}
		c := &Checker{Keys: k}
		header := newHeader(t)
		for _, want := range []int64{1, 2, 3} {
			var all sync.WaitGroup
			var waited atomic.Int64
			for range 20 {
				all.Go(func() {
					begin := time.Now()
					if who, err := c.Check(t.Context(), header, User); err != nil || who.KeyID != "key" {
						t.Errorf("%+v, %v", who, err)
					}
					if time.Since(begin) > 0 {
						waited.Add(1)
					}
				})
			}
			all.Wait()
			if got := k.asked.Load(); got != want {
				t.Errorf("asked %d times, want %d", got, want)
			}
			if want > 1 && waited.Load() != 1 {
				t.Errorf("%d requests waited, want 1", waited.Load())
			}
			time.Sleep(remember/2 + time.Millisecond) // the bubble's clock
		}
	})
}

// A revoked key is believed for the time that is promised and no longer, and
// one that is asked for anew no more.
func TestRevokedKeyIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &keys{}
		c := &Checker{Keys: k}
		header := newHeader(t)
		if _, err := c.Check(t.Context(), header, User); err != nil {
			t.Fatal(err)
		}
		k.gone.Store(true)
		time.Sleep(remember/2 + time.Millisecond) // the bubble's clock
		for range 2 {
			if _, err := c.Check(t.Context(), header, User); !step.Is(err, step.KindUnauthorized) {
				t.Errorf("%v, want it refused", err)
			}
		}
	})
}

// While the database is away a key is believed for the rest of its time.
func TestKeyOutlastsTheDatabase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &keys{}
		c := &Checker{Keys: k}
		header := newHeader(t)
		if _, err := c.Check(t.Context(), header, User); err != nil {
			t.Fatal(err)
		}
		k.away.Store(true)
		time.Sleep(remember/2 + time.Millisecond) // the bubble's clock
		if _, err := c.Check(t.Context(), header, User); err != nil {
			t.Error(err)
		}
		time.Sleep(remember) // the bubble's clock
		if _, err := c.Check(t.Context(), header, User); !step.Is(err, step.KindUnavailable) {
			t.Errorf("%v, want it unavailable", err)
		}
	})
}
