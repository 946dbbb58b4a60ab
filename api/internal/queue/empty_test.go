package queue

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/nofx-run/nofx/api/internal/auth"
	"github.com/nofx-run/nofx/sdk/wire"
)

// Who found nothing need not look again, for a while, as the one that it was
// and while nothing was missed.
func TestEmptyLooksAreBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		who := auth.Principal{KeyID: "key"}
		in := wire.ClaimRequest{WorkerID: "w", Incarnation: "1", Drivers: []string{"local"}}
		var e empty
		if e.left(who, in, 7) > 0 {
			t.Error("one that never looked need not look")
		}
		e.note(who, in, 7, true)
		if e.left(who, in, 7) != believeEmpty {
			t.Error("one that just looked has to look")
		}
		for name, ask := range map[string]func() time.Duration{
			"something was missed":  func() time.Duration { return e.left(who, in, 8) },
			"another key":           func() time.Duration { return e.left(auth.Principal{KeyID: "other"}, in, 7) },
			"another worker":        func() time.Duration { x := in; x.WorkerID = "x"; return e.left(who, x, 7) },
			"another incarnation":   func() time.Duration { x := in; x.Incarnation = "2"; return e.left(who, x, 7) },
			"with another driver":   func() time.Duration { x := in; x.Drivers = []string{"local", "e2b"}; return e.left(who, x, 7) },
			"after it found a step": func() time.Duration { e.note(who, in, 7, false); return e.left(who, in, 7) },
		} {
			e.note(who, in, 7, true)
			if ask() > 0 {
				t.Errorf("%s: it need not look", name)
			}
		}
		e.note(who, in, 7, true)
		time.Sleep(believeEmpty) // the bubble's clock
		if e.left(who, in, 7) > 0 {
			t.Error("it is believed for ever")
		}
	})
}
