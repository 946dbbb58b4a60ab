package keylock

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

// One holds a key at a time, another key waits for nobody, whoever gives up
// leaves nothing behind, and nothing is kept of keys that nobody wants.
func TestLocks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var k Locks
		unlock, err := k.Lock(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		other, err := k.Lock(t.Context(), "b")
		if err != nil {
			t.Fatal(err)
		}
		other()
		got := make(chan func(), 1)
		go func() {
			next, err := k.Lock(t.Context(), "a")
			if err != nil {
				t.Error(err)
			}
			got <- next
		}()
		why := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		gaveUp := make(chan error, 1)
		go func() {
			_, err := k.Lock(ctx, "a")
			gaveUp <- err
		}()
		synctest.Wait()
		if len(got) > 0 {
			t.Error("two hold it")
		}
		cancel(why)
		if err := <-gaveUp; !errors.Is(err, why) {
			t.Errorf("%v", err)
		}
		unlock()
		(<-got)()
		if len(k.held) != 0 {
			t.Errorf("%d are left", len(k.held))
		}
	})
}
