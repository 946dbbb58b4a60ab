package wake_test

import (
	"log/slog"
	"testing"

	"github.com/nofx-run/nofx/api/internal/wake"
)

// A step wakes the first claim that can take it: one with its driver, in its
// region as far as that is known, and no other; here as at another replica.
func TestQueuedWakesWhoCanTakeIt(t *testing.T) {
	t.Parallel()
	type claim struct{ worker, driver, region string }
	claims := []claim{{"w0", "local", "eu-1"}, {"w1", "far", "eu-2"}, {"w2", "local", "eu-2"}, {"w3", "local", ""}, {"w4", "a:b", "eu-1"}}
	for _, tc := range []struct {
		driver, region, pin string
		want                string // "" = nobody
	}{
		{"local", "", "", "w0"},
		{"local", "eu-1", "", "w0"},
		{"local", "eu-2", "", "w2"},
		{"local", "us-1", "", "w3"}, // it may be there
		{"far", "eu-2", "", "w1"},
		{"far", "eu-1", "", ""},
		{"far", "", "", "w1"},
		{"local", "eu-2", "w2", "w2"},
		{"local", "eu-1", "w2", ""},
		{"local", "", "w3", "w3"},
		{"a:b", "eu-1", "", "w4"},
		{"a", "", "", ""},
	} {
		for name, wakeUp := range map[string]func(*wake.Hub){
			"here": func(h *wake.Hub) { h.Queued(tc.driver, tc.region, tc.pin) },
			"relayed": func(h *wake.Hub) {
				relay := &wake.Relay{Hub: h, Replica: "me", Log: slog.New(slog.DiscardHandler)}
				relay.Receive("me\nq::" + ":local") // of its own: ignored
				relay.Receive("other\nq:" + tc.region + ":" + tc.pin + ":" + tc.driver)
			},
		} {
			h := wake.New()
			bells := map[string]<-chan struct{}{}
			for _, c := range claims {
				woken, cancel := h.WaitClaim(c.worker, []string{"other", c.driver}, []string{"", c.region}, 1)
				defer cancel()
				bells[c.worker] = woken
			}
			wakeUp(h)
			for worker, bell := range bells {
				if got := len(bell) > 0; got != (worker == tc.want) {
					t.Errorf("%s: %+v: %s woken: %v", name, tc, worker, got)
				}
			}
		}
	}
}

// A claim that has found something else hands its wake on.
func TestAWakeIsHandedOn(t *testing.T) {
	t.Parallel()
	h := wake.New()
	first, cancel := h.WaitClaim("w0", []string{"local"}, []string{"eu-1"}, 1)
	second, cancelSecond := h.WaitClaim("w1", []string{"local"}, []string{"eu-1"}, 1)
	defer cancelSecond()
	h.Queued("local", "eu-1", "")
	if len(first) != 1 || len(second) != 0 {
		t.Fatal("not the first was woken")
	}
	cancel()
	if len(second) != 1 {
		t.Error("the wake is lost")
	}
}
